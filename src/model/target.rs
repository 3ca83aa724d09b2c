//! The device that a paged graph is made for.
//!
//! Provider and processor decide how a graph is rewritten and how its cache is laid out. So the target is chosen before
//! a folder is opened, and the rewritten graph carries it to the executor, the scheduler and the cache.

use super::layout::CacheType;
use crate::kernels::attention::{BLOCK_SIZE, layout::Stored};
use crate::kernels::{dot, matmul};

/// Facts of a device that outlive the rewriting of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// Tokens per cache block; a power of two.
    pub(crate) block_size: usize,
    /// True if products with weights leave the graph for [`matmul`]'s packed ones.
    pub(crate) takes_products: bool,
    /// True if half precision becomes float32, because the provider has no products of it.
    pub(crate) widens: bool,
    /// True if a cache of bytes is quicker than one of floats.
    multiplies_bytes: bool,
    /// True if a cache of bfloat16 can be read.
    has_bfloat16: bool,
}

impl Target {
    /// This machine's processor.
    pub(crate) fn cpu() -> Self {
        Target {
            block_size: BLOCK_SIZE,
            takes_products: matmul::is_worthwhile(),
            widens: true,
            multiplies_bytes: dot::multiplies_bytes(),
            has_bfloat16: Stored::has_bfloat16(),
        }
    }

    /// The element of the cache, given the `wanted` type and whether weights are quantised.
    ///
    /// # Errors
    /// The processor lacks a feature that the type needs. The text says what to ask for.
    pub(crate) fn cache(self, wanted: CacheType, quantised: bool) -> Result<Stored, String> {
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
            CacheType::Auto | CacheType::Float32 => Ok(Stored::Float32),
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
        assert_eq!(new.cache(CacheType::Auto, true), Ok(Stored::Int8));
        assert_eq!(new.cache(CacheType::Auto, false), Ok(Stored::Float32));
        assert_eq!(new.cache(CacheType::Bfloat16, true), Ok(Stored::Bfloat16));
        assert_eq!(old.cache(CacheType::Auto, true), Ok(Stored::Float32));
        assert_eq!(old.cache(CacheType::Int8, false), Ok(Stored::Int8));
        assert!(old.cache(CacheType::Bfloat16, false).is_err_and(|why| why.contains("AVX-512 BF16")));
    }
}
