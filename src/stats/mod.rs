//! Means of samples, their differences, and their certainty.
//!
//! - [`Estimate`]: a mean and its error; [`Difference`]: a comparison of two means.
//! - [`leads`]: the leader's lead over each other candidate, given that chance influences who leads.
//! - [`probability_best`]: the probability of each candidate to be the best.
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
