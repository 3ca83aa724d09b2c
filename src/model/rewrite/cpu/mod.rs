//! Rewrites that only the CPU needs: float32 for half precision, and our own products with the norms next to them.

pub(super) mod norms;
pub(crate) mod products;
pub(crate) mod widen;
