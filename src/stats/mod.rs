//! Means of samples, their differences, and how sure they are.
//!
//! - [`Estimate`]: a mean and its error; [`Difference`]: two means compared.
//! - [`leads`]: how far the leader is ahead of each, where chance had a say in who leads.
//! - [`probability_best`]: which candidate is the best, and how surely.
//!
//! docs/allocation.md has the measured coverage and calibration.

mod difference;
mod estimate;
mod lead;
mod linear;
mod posterior;

pub use difference::Difference;
pub use estimate::Estimate;
pub use lead::leads;
pub use posterior::{MAX_COMPARED, Posterior, probability_best};
