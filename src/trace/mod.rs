//! Traces: rankings as lines of JSON, written as their rollouts end, and read again.
//!
//! ```text
//! {"kind":"request","ranking":"…","schema":1,…}     the request, with the settings in force: a TracedRequest
//! {"kind":"rollout","ranking":"…",…}                an EndedRollout, in the order in which rollouts end
//! {"kind":"ranking","ranking":"…","result":{…}}     the Ranking
//! ```
//!
//! Rankings that are made at the same time interleave their lines. `ranking` tells them apart. Of two lines about one
//! rollout, the later holds: a ranking starts over when a model gets other weights under it.
//!
//! A writer only ever appends, a whole line at a time, so a crash can cut off no more than the last line. A ranking begins
//! on a line of its own, so a line that was cut off takes nothing with it.
//!
//! - `record`: the lines as types.
//! - `write`: [`TraceWriter`], which appends rankings to a file.
//! - `lines`: a trace as bytes: one line after the other, their kinds, and what is wrong with them. The report's page reads
//!   on from there, because it shows lines that are no records.
//! - `read`: [`TraceReader`], which reads records.

pub(crate) mod lines;
mod read;
mod record;
mod write;

pub use read::{LineError, TraceReader};
pub use record::{Record, TracedMetric, TracedRequest};
pub use write::{RankingTrace, TraceWriter};
