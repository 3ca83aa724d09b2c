//! Means of samples, their differences, and their errors.
//!
//! - [`Estimate`]: a mean and its error; [`Difference`]: two means compared.
//! - [`kendall`]: the agreement of two rankings.
//! - [`leads`]: the lead of the best candidate, which it may owe to chance in part.
//! - [`probability_best`]: the probability that a candidate is the best.
//!
//! docs/allocation.md has the measured coverage and calibration.

mod difference;
mod estimate;
mod kendall;
mod lead;
mod linear;
mod posterior;

pub use difference::Difference;
pub use estimate::Estimate;
pub(crate) use kendall::kendall;
pub use lead::leads;
pub use posterior::{MAX_COMPARED, Posterior, probability_best};
