//! Evaluation: conversations between policies and a simulated user, and the numbers that compare the policies.
//!
//! ```text
//! task ─▶ first message ─▶ policy ⇄ simulated user, up to T turns ─▶ metrics ─▶ means, and differences by task
//! ```
//!
//! A conversation is a ranking of one sampled response, whose one future is the rest of the conversation. So an evaluation
//! has the models, the metrics and the seeds of rankings. The seeds do not depend on the policy: users meet all policies in
//! the same mood.
//!
//! - `hold`: the conversations; `best`: those with the best of several candidates; `summary`: their numbers, with those of
//!   `clarified`; `table`: these as CSV; `page`: all of it as HTML.
//! - `sweep`: kinds of reward compared on the same conversations.
//!
//! docs/evaluation.md describes files and columns.

mod best;
mod clarified;
mod hold;
mod page;
mod summary;
mod sweep;
mod table;

pub use hold::{BestOf, EvaluateOptions, EvaluatedConversation, Policy, evaluate};
pub use page::page;
pub use summary::{Column, Compared, Evaluation, PolicyCost, PolicyResult, RoleCost};
pub use sweep::{
    Agreement, ComparedKinds, Kind, KindResult, Reading, Simulated, Sweep, SweepOptions, Swept, SweptFuture,
    SweptResponse, SweptTokens, sweep,
};
