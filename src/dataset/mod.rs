//! Data sets of preferences, built turn by turn from single-turn tasks.
//!
//! ```text
//! task ─▶ first message ─▶ N candidates, ranked ─▶ the best goes on ─▶ the simulated user replies ─▶ … up to T turns
//! ```
//!
//! At each turn, candidates are sampled from the policy and ranked by the futures that they lead to. Rows keep all of them,
//! with their rewards. `export` makes of them what trainers read.
//!
//! - `conversation`: the rows; `build`: how they come about; `export`: the formats of TRL and collabllm;
//!   `parquet`: rows as Parquet.
//!
//! docs/datasets.md describes files and formats.

mod build;
mod conversation;
mod export;
#[cfg(feature = "parquet")]
mod parquet;

pub use build::{BuildOptions, build, merge};
pub use conversation::{Conversation, Ending, ScoredResponse, Turn, UnscoredResponse};
pub use export::{ExportOptions, Exported, Format, export};
