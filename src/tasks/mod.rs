//! A file of tasks into finished conversations, some at a time, through kills and over several machines.
//!
//! ```text
//! tasks.jsonl ──file──▶ tasks, and lines that are none ──run──▶ conversations ⇄ journal ──▶ rows in the order of the tasks
//! ```
//!
//! - `file`: [`Tasks`], what a file of tasks says; `abg_coqa`: a published file of another form.
//! - `journal`: finished conversations, appended to a file that a kill cannot spoil.
//! - `run`: workers, limits and progress. What a conversation is for is its caller's matter.
//! - `spend`: tokens and their prices.
//! - `talk`: the steps of a conversation with the best of several candidates.
//!
//! Nothing that a conversation holds depends on the order in which conversations end. Its seeds come from the seed of the run
//! and the task's id, and rows are put into the order of the tasks at the end. So the number of workers, the shards and the
//! interruptions of a run do not change its rows.

mod abg_coqa;
mod file;
mod journal;
mod run;
mod spend;
mod talk;

pub use file::{SetAside, Task, Tasks};
pub(crate) use journal::{Journal, Places, json_line, write_atomically};
pub(crate) use run::{Held, Unit, is_due, rows, run, summarise, take_over};
pub use run::{OnProgress, Progress, RunOptions, Shard, Stopped, Summary};
pub(crate) use spend::check_prices;
pub use spend::{Estimate, Price, Spent, Tokens};
pub(crate) use talk::Talk;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::rollout::seed::derive;

/// The seed of the conversation about the task `id`. It has 53 bits, so that every JSON reader keeps it exactly.
pub(crate) fn task_seed(seed: u64, id: &str) -> u64 {
    seed_below(seed, &[number_of(id)])
}

/// A number that depends on the task's id alone.
pub(crate) fn number_of(id: &str) -> u64 {
    let digest = Sha256::digest(id.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

/// The seed at the end of `path` below `parent`, in 53 bits.
pub(crate) fn seed_below(parent: u64, path: &[u64]) -> u64 {
    derive(parent, path) >> 11
}

/// A hash of what conversations depend on in a configuration. Where models and libraries are does not matter, because rows
/// name the weights.
///
/// ```
/// use foreturn::{Config, tasks};
///
/// let (mut config, same) = (Config::default(), tasks::fingerprint(&Config::default()));
/// config.runtime.threads = Some(3);
/// assert_eq!(tasks::fingerprint(&config), same);
/// config.rollout.window = Some(1);
/// assert_ne!(tasks::fingerprint(&config), same);
/// ```
pub fn fingerprint(config: &Config) -> String {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    if let Some(sections) = value.as_object_mut() {
        sections.remove("runtime");
        // Only its number matters, and a run has one of its own.
        sections.remove("seed");
        let models = sections.get_mut("models").and_then(Value::as_object_mut);
        for model in models.into_iter().flat_map(|models| models.values_mut()).filter_map(Value::as_object_mut) {
            model.remove("path");
            model.remove("base_url");
        }
    }
    hash(value.to_string().as_bytes())
}

/// Sixteen hexadecimal digits of SHA-256.
pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of this program, with its version.
pub(crate) const PROGRAM: &str = concat!("foreturn ", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_pinned() {
        // They are part of a data set: sha256("a") begins with ca978112ca1bbdca.
        assert_eq!(task_seed(7, "a"), derive(7, &[0xcabd_1bca_1281_97ca]) >> 11);
        assert_eq!(task_seed(7, "a"), SEED_OF_A);
        assert_ne!(task_seed(7, "b"), task_seed(7, "a"));
        assert_ne!(task_seed(8, "a"), task_seed(7, "a"));
    }

    const SEED_OF_A: u64 = 0x140e_16f1_c486;
}
