//! Rewrites that only the processor wants: float32 for half precision, and its own products with the norms beside them.

pub(super) mod norms;
pub(crate) mod products;
pub(crate) mod widen;
