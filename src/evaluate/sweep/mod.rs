//! Kinds of reward on the same conversations: how each ranks the responses of a policy, how far they agree, what chance
//! does to them, and what comes of choosing by them.
//!
//! ```text
//! task ─▶ first message ─▶ N responses ─▶ S conversations from each, to the end ─▶ R* after every turn
//!                                                                                   └▶ kinds: readings of the same numbers
//! ```
//!
//! The conversations are held once. A kind is a way to read them: a window, a discounted return, a preference between whole
//! conversations, some of the metrics, fewer samples. Another simulator holds its own conversations from the same responses.
//!
//! - `kind`: the kinds, and how they are written; `options`: how many of what; `hold`: the conversations; `scored`: rankings of them
//!   at several depths; `row`: what is kept.
//! - `numbers`: a kind's values; `summary`: what they say over all tasks; `page`: it as CSV and HTML.
//!
//! docs/evaluation.md has the formulas.

mod hold;
mod kind;
mod numbers;
mod options;
mod page;
mod row;
mod scored;
mod summary;

pub use hold::sweep;
pub use kind::{Kind, Reading, Simulated};
pub use options::SweepOptions;
pub(super) use page::html;
pub use row::{Swept, SweptFuture, SweptResponse, SweptTokens};
pub use summary::{Agreement, ComparedKinds, KindResult, Sweep};
