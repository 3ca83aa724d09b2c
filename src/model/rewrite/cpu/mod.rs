//! Rewrites that only the CPU needs: our own products with the norms next to them.

pub(super) mod norms;
pub(crate) mod products;
