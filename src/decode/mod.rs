pub mod sampler;
pub use sampler::SamplingOptions;
