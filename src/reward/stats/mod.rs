//! Means of samples, their differences, and how sure they are.
//!
//! - [`Estimate`]: a mean and its error; [`Difference`]: two means compared.
//! - [`probability_best`]: which candidate is the best, and how surely.
//!
//! docs/allocation.md has the measured coverage and calibration.

mod difference;
mod estimate;
mod linear;
mod posterior;

pub use difference::Difference;
pub use estimate::Estimate;
pub use posterior::{MAX_COMPARED, Posterior, probability_best};
