//! How much simulated users write like real ones.
//!
//! ```text
//! conversations of both ─corpus─▶ users' messages ─features─▶ numbers per conversation ─compare─▶ differences, distance, AUC
//! ```
//!
//! The features are those in which CollabLLM's authors saw simulated and real users differ. docs/evaluation.md defines each.
//! A task is the unit: what is said about it in several conversations is not independent.
//!
//! - `corpus`: conversations out of traces, evaluations, data sets and other files.
//! - `features`: what is counted in a message; `words`: the lists that it is counted by.
//! - `classifier`: a logistic regression that tries to tell the two apart, and how well it does.

mod classifier;
mod compare;
mod corpus;
mod features;
mod words;

pub use classifier::Separability;
pub use compare::{ComparedFeature, Likeness, compare};
pub use corpus::Corpus;
