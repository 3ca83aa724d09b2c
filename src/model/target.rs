//! The device that a paged graph is made for.
//!
//! Provider and processor decide how a graph is rewritten and how its cache is laid out. So the target is chosen before
//! a folder is opened, and the rewritten graph carries it to the executor, the scheduler and the cache.

use std::collections::HashSet;

use super::options::CacheType;
use super::rewrite::precision::Precision;
use crate::kernels::attention::{
    BLOCK_SIZE,
    layout::{Heads, Stored},
};
use crate::kernels::matmul::pack::Kind;
use crate::kernels::{dot, matmul};
use crate::onnx::tensor_proto::DataType;
use crate::runtime::Provider;
use crate::runtime::memory::{self, Element};

/// Facts of a device that outlive the rewriting of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// The provider that runs the graph.
    pub(crate) provider: Provider,
    /// Tokens per cache block; a power of two.
    pub(crate) block_size: usize,
    /// True if products with weights leave the graph for [`matmul`]'s packed ones.
    pub(crate) takes_products: bool,
    /// True if half precision becomes float32, because the provider has no products of it.
    pub(crate) widens: bool,
    /// True if the processor multiplies bytes (AVX-512 VNNI). A cache of them is then quicker than one of floats.
    pub(crate) multiplies_bytes: bool,
    /// True if a cache of bfloat16 can be read.
    has_bfloat16: bool,
}

/// What the provider can do: its own `com.microsoft.PagedAttention`, and what stands around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceAttention {
    pub(crate) provider: Provider,
    /// Takes bfloat16 beside float16.
    pub(crate) bfloat16: bool,
    /// Takes slots that say which rows are there already.
    pub(crate) slots: bool,
    /// Takes the bounds of a step, and waits for the device in each layer without them.
    pub(crate) metadata: bool,
    /// Computes windows.
    pub(crate) windows: bool,
    /// Computes soft caps.
    pub(crate) softcaps: bool,
    /// Multiplies by transposed weights (`FusedMatMul`).
    pub(crate) transposed_products: bool,
    /// Reads rotary tables up to the end of a sequence's last block.
    pub(crate) whole_tables: bool,
}

impl Target {
    /// This machine's processor.
    pub(crate) fn cpu() -> Self {
        Target {
            provider: Provider::Cpu,
            block_size: BLOCK_SIZE,
            takes_products: matmul::is_worthwhile(),
            widens: true,
            multiplies_bytes: dot::multiplies_bytes(),
            has_bfloat16: Stored::has_bfloat16(),
        }
    }

    /// The device of `provider`.
    pub(crate) fn of(provider: Provider) -> Self {
        let device = Target { provider, block_size: 64, takes_products: false, widens: false, ..Target::cpu() };
        match provider {
            Provider::Cpu => Target::cpu(),
            // Its kernels of bfloat16 are few.
            Provider::WebGpu => Target { widens: true, has_bfloat16: false, ..device },
            Provider::Cuda | Provider::TensorRt => Target { has_bfloat16: true, ..device },
        }
    }

    /// The provider's attention over a paged cache; `None` if it is ours, on the CPU.
    ///
    /// # Errors
    /// The provider has none.
    pub(crate) fn device(self) -> Result<Option<DeviceAttention>, String> {
        let provider = self.provider;
        let all = DeviceAttention {
            provider,
            bfloat16: true,
            slots: true,
            metadata: true,
            windows: true,
            softcaps: true,
            transposed_products: true,
            whole_tables: false,
        };
        match provider {
            Provider::Cpu => Ok(None),
            Provider::Cuda => Ok(Some(all)),
            // It ignores windows: results are wrong, without an error.
            Provider::WebGpu => Ok(Some(DeviceAttention {
                bfloat16: false,
                slots: false,
                windows: false,
                softcaps: false,
                transposed_products: false,
                whole_tables: true,
                ..all
            })),
            Provider::TensorRt => {
                Err("TensorRT has no paged attention and runs classifiers and encoders only; use \"cuda\" for decoders"
                    .into())
            }
        }
    }

    /// This target for attention with heads of `size`.
    pub(crate) fn for_heads(self, size: usize) -> Self {
        let block_size = match (self.provider, size) {
            // Flash attention reads a paged cache in place only in multiples of these.
            (Provider::Cuda, ..=64) => 256,
            (Provider::Cuda, ..=128) => 128,
            (Provider::Cuda, _) => 64,
            // With 16, prompts come out wrong.
            (Provider::WebGpu, _) => 64,
            _ => self.block_size,
        };
        Target { block_size, ..self }
    }

    /// The element of the cache, given the `wanted` type and what the products' weights are.
    ///
    /// # Errors
    /// The processor lacks a feature that the type needs. The text says what to ask for.
    pub(crate) fn cache(self, wanted: CacheType, weights: &HashSet<Kind>) -> Result<Stored, String> {
        let quantised = weights.contains(&Kind::Bytes) || weights.contains(&Kind::Nibbles);
        match wanted {
            CacheType::Bfloat16 if !self.has_bfloat16 => {
                Err("cache_type = \"bfloat16\" needs a processor that multiplies \
                                                             pairs of it (AVX-512 BF16), but this one does not; use \
                                                             \"float32\" or \"auto\""
                    .into())
            }
            CacheType::Bfloat16 => Ok(Stored::Bfloat16),
            CacheType::Int8 => Ok(Stored::Int8),
            CacheType::Auto if quantised && self.multiplies_bytes => Ok(Stored::Int8),
            CacheType::Auto if weights.contains(&Kind::Bfloat16) && self.has_bfloat16 => Ok(Stored::Bfloat16),
            CacheType::Auto | CacheType::Float32 => Ok(Stored::Float32),
        }
    }
}

impl DeviceAttention {
    /// The precision of a graph whose caches have `native`, given the `wanted` type of cache.
    ///
    /// # Errors
    /// The device has no such cache. The text says what to ask for.
    pub(crate) fn precision(self, wanted: CacheType, native: Precision) -> Result<Precision, String> {
        let name = self.provider.as_str();
        match (wanted, native) {
            (CacheType::Bfloat16, _) if self.bfloat16 => Ok(Precision::Bfloat16),
            (CacheType::Auto, Precision::Bfloat16) if self.bfloat16 => Ok(Precision::Bfloat16),
            (CacheType::Auto, _) => Ok(Precision::Float16),
            (wanted, _) => Err(format!(
                "cache_type = \"{}\": the cache of `{name}` holds float16{}; use \"auto\"",
                serde_json::to_value(wanted).unwrap_or_default().as_str().unwrap_or_default(),
                if self.bfloat16 { " or bfloat16" } else { "" }
            )),
        }
    }
}

/// What a paged cache holds, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cache {
    /// The layout of our own attention, in host memory.
    Host(Stored),
    /// Plain rows, in the device's memory.
    Device(Precision),
}

impl Cache {
    /// The type of the tensors that hold it.
    pub(crate) fn data_type(self) -> DataType {
        match self {
            Cache::Host(stored) => memory::data_type(stored.element()),
            Cache::Device(precision) => precision.data_type(),
        }
    }

    /// The same, as ONNX Runtime calls it.
    pub(crate) fn element(self) -> Element {
        match self {
            Cache::Host(stored) => stored.element(),
            Cache::Device(Precision::Float32) => Element::Float32,
            Cache::Device(Precision::Float16) => Element::Float16,
            Cache::Device(Precision::Bfloat16) => Element::Bfloat16,
        }
    }

    /// Numbers that a token takes for one key-value head.
    pub(crate) fn row(self, heads: Heads) -> usize {
        match self {
            Cache::Host(stored) => stored.row(heads),
            Cache::Device(_) => heads.size,
        }
    }

    /// Bytes of a block of `tokens` in the cache of keys, and in that of values.
    pub(crate) fn block_bytes(self, heads: Heads, tokens: usize) -> usize {
        match self {
            Cache::Host(stored) => stored.block_bytes(heads),
            Cache::Device(precision) => tokens * heads.kv * heads.size * precision.bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_follows_the_weights_and_the_processor() {
        let new = Target { multiplies_bytes: true, has_bfloat16: true, ..Target::cpu() };
        let old = Target { multiplies_bytes: false, has_bfloat16: false, ..new };
        let [none, floats, halves, few] =
            [vec![], vec![Kind::Floats], vec![Kind::Bfloat16], vec![Kind::Bytes, Kind::Nibbles]]
                .map(HashSet::from_iter);
        assert_eq!(new.cache(CacheType::Auto, &few), Ok(Stored::Int8));
        assert_eq!(new.cache(CacheType::Auto, &floats), Ok(Stored::Float32));
        assert_eq!(new.cache(CacheType::Auto, &none), Ok(Stored::Float32));
        assert_eq!(new.cache(CacheType::Auto, &halves), Ok(Stored::Bfloat16));
        assert_eq!(new.cache(CacheType::Float32, &halves), Ok(Stored::Float32));
        assert_eq!(new.cache(CacheType::Bfloat16, &few), Ok(Stored::Bfloat16));
        assert_eq!(old.cache(CacheType::Auto, &few), Ok(Stored::Float32));
        assert_eq!(old.cache(CacheType::Auto, &halves), Ok(Stored::Float32));
        assert_eq!(old.cache(CacheType::Int8, &floats), Ok(Stored::Int8));
        assert!(old.cache(CacheType::Bfloat16, &floats).is_err_and(|why| why.contains("AVX-512 BF16")));
    }

    #[test]
    fn blocks_are_those_that_the_providers_fast_kernels_read() {
        let size = |provider, head| Target::of(provider).for_heads(head).block_size;
        assert_eq!([16, 64, 80, 128, 256].map(|head| size(Provider::Cuda, head)), [256, 256, 128, 128, 64]);
        assert_eq!([16, 128].map(|head| size(Provider::WebGpu, head)), [64, 64]);
        assert_eq!(size(Provider::Cpu, 64), BLOCK_SIZE);
    }

    #[test]
    fn a_devices_precision_follows_the_graph_and_the_wish() {
        use Precision::{Bfloat16, Float16, Float32};
        let of = |provider| Target::of(provider).device().expect("decoders").expect("a device");
        let (cuda, web) = (of(Provider::Cuda), of(Provider::WebGpu));
        for (wanted, native, on_cuda, on_web) in [
            (CacheType::Auto, Float32, Some(Float16), Some(Float16)),
            (CacheType::Auto, Bfloat16, Some(Bfloat16), Some(Float16)),
            (CacheType::Bfloat16, Float32, Some(Bfloat16), None),
            (CacheType::Int8, Float16, None, None),
            (CacheType::Float32, Float32, None, None),
        ] {
            assert_eq!(cuda.precision(wanted, native).ok(), on_cuda, "{wanted:?} {native:?}");
            assert_eq!(web.precision(wanted, native).ok(), on_web, "{wanted:?} {native:?}");
        }
        let why = web.precision(CacheType::Bfloat16, Float32).expect_err("refused");
        assert_eq!(why, "cache_type = \"bfloat16\": the cache of `webgpu` holds float16; use \"auto\"");
        assert!(Target::of(Provider::TensorRt).device().is_err_and(|why| why.contains("use \"cuda\"")));
    }
}
