//! Replies held to a JSON schema while they are sampled: before each token, which ones may come; after it, one step on.
//!
//! [`Constraints`] belongs to a model: what its tokens spell, as a prefix tree, and the schemas compiled lately. A
//! [`Constraint`] is the state of one reply. The grammar is the crate `llguidance`'s; without the feature `constraints`
//! all schemas are refused.
//!
//! The allowed tokens depend only on the schema and the reply's own tokens, so constrained replies are as
//! reproducible as others.

mod schema;
pub use schema::JsonSchema;

#[cfg(feature = "constraints")]
mod json;
#[cfg(feature = "constraints")]
pub(crate) use json::{Constraint, Constraints};

#[cfg(not(feature = "constraints"))]
mod refused;
#[cfg(not(feature = "constraints"))]
pub(crate) use refused::{Constraint, Constraints};

#[cfg(all(test, feature = "constraints"))]
mod tests;
