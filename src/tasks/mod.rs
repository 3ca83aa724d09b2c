//! A file of tasks into finished conversations, some at a time, through kills and over several machines.
//!
//! ```text
//! tasks.jsonl ──file──▶ tasks, and lines that are none ──run──▶ conversations ⇄ journal ──▶ rows in the order of the tasks
//! ```
//!
//! - `file`: [`Tasks`], what a file of tasks says; `abg_coqa`: a published file of another form.
//! - `journal`: finished conversations, appended to a file that a kill cannot spoil.
//! - `options`: how a run goes about it; `run`: workers, limits and progress; `outcome`: what has come of it. What a conversation
//!   is for is its caller's matter.
//! - `spend`: tokens and their prices.
//! - `talk`: the steps of a conversation with the best of several candidates.
//!
//! Nothing that a conversation holds depends on the order in which conversations end. Its seeds come from the seed of the run
//! and the task's id, and rows are put into the order of the tasks at the end. So the number of workers, the shards and the
//! interruptions of a run do not change its rows.

mod abg_coqa;
mod file;
mod journal;
mod options;
mod outcome;
mod run;
mod spend;
mod talk;

pub use file::{SetAside, Task, Tasks};
pub(crate) use journal::{Journal, Places, json_line, json_row, write_atomically};
pub use options::{RunOptions, Shard};
pub use outcome::{Stopped, Summary};
pub(crate) use outcome::{rows, summarise, take_over};
pub(crate) use run::{Held, Unit, is_due, run};
pub use run::{OnProgress, Progress};
pub(crate) use spend::check_prices;
pub use spend::{Estimate, Price, Spent, Tokens};
pub(crate) use talk::Talk;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::config::{Config, ModelConfig};
use crate::rank::ModelRole;
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

/// A hash of what conversations depend on in a configuration: the settings, and the models that play a role or that a metric
/// asks. Where models and libraries are and how endpoints are called does not matter, because rows name the weights.
///
/// ```
/// use foreturn::{Config, tasks};
///
/// let (mut config, same) = (Config::default(), tasks::fingerprint(&Config::default()));
/// config.runtime.threads = Some(3);
/// config.rollout.real_users = Some("real.jsonl".into());
/// assert_eq!(tasks::fingerprint(&config), same);
/// config.rollout.window = Some(1);
/// assert_ne!(tasks::fingerprint(&config), same);
/// ```
pub fn fingerprint(config: &Config) -> String {
    settings_hash(config, |_| true)
}

/// As [`fingerprint`], without the policy and its model. An evaluation names its policies by themselves.
pub fn fingerprint_without_policy(config: &Config) -> String {
    settings_hash(config, |role| role != ModelRole::Policy)
}

/// A hash of what conversations depend on in the section of a model.
pub fn fingerprint_of_model(model: &ModelConfig) -> String {
    let mut value = serde_json::to_value(model).unwrap_or_default();
    without_transport(&mut value);
    hash(value.to_string().as_bytes())
}

fn settings_hash(config: &Config, counts: impl Fn(ModelRole) -> bool) -> String {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    if let Some(sections) = value.as_object_mut() {
        sections.remove("runtime");
        // Only its number matters, and a run has one of its own.
        sections.remove("seed");
        // Whom users are compared with does not change them.
        sections.get_mut("rollout").and_then(Value::as_object_mut).map(|rollout| rollout.remove("real_users"));
        let used = config.plan(Arc::new(|_| 0)).ok().map(|plan| {
            let roles: BTreeMap<ModelRole, String> =
                plan.roles.models.iter().filter(|(role, _)| counts(**role)).map(|(r, m)| (*r, m.clone())).collect();
            (roles, plan.metric_models())
        });
        let models = sections.get_mut("models").and_then(Value::as_object_mut);
        for model in models.into_iter().flat_map(|models| models.values_mut()) {
            without_transport(model);
        }
        // A configuration that is wrong is refused elsewhere.
        if let Some((roles, asked)) = used {
            let models = sections.get_mut("models").and_then(Value::as_object_mut);
            let is_used = |name: &str| roles.values().any(|model| model == name) || asked.iter().any(|m| **m == *name);
            if let Some(models) = models {
                models.retain(|name, _| is_used(name));
            }
            sections.insert("roles".into(), serde_json::to_value(roles).unwrap_or_default());
        }
    }
    hash(value.to_string().as_bytes())
}

/// Leaves out the place of a model, and how its endpoint is called.
fn without_transport(model: &mut Value) {
    let transport = [
        "path",
        "base_url",
        "api_key_env",
        "timeout_s",
        "connect_timeout_s",
        "max_retries",
        "max_concurrent",
        "requests_per_minute",
    ];
    if let Some(keys) = model.as_object_mut() {
        keys.retain(|key, _| !transport.contains(&key.as_str()));
    }
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
    use crate::config::{ModelSource, RemoteConfig};

    #[test]
    fn seeds_are_pinned() {
        // They are part of a data set: sha256("a") begins with ca978112ca1bbdca.
        assert_eq!(task_seed(7, "a"), derive(7, &[0xcabd_1bca_1281_97ca]) >> 11);
        assert_eq!(task_seed(7, "a"), SEED_OF_A);
        assert_ne!(task_seed(7, "b"), task_seed(7, "a"));
        assert_ne!(task_seed(8, "a"), task_seed(7, "a"));
    }

    #[test]
    fn a_run_depends_on_the_models_that_it_asks() {
        let remote = |model: &str| ModelConfig::remote("http://localhost/v1", model);
        let mut config = Config::default();
        for name in ["small", "user", "judge"] {
            config.models.insert(name.into(), remote(name));
        }
        let named = |name: &str| Some(name.to_owned());
        (config.roles.policy, config.roles.user, config.roles.judge) = (named("small"), named("user"), named("judge"));
        let prints = |config: &Config| (fingerprint(config), fingerprint_without_policy(config));
        let same = prints(&config);
        // Another model joins, for another policy.
        config.models.insert("large".into(), remote("large"));
        assert_eq!(prints(&config), same);
        config.roles.policy = named("large");
        assert_ne!(fingerprint(&config), same.0);
        assert_eq!(fingerprint_without_policy(&config), same.1);
        // Endpoints may move and be called otherwise.
        let calm = |config: &mut RemoteConfig| (config.timeout_s, config.max_retries) = (Some(9), Some(8));
        let mut user = remote("user");
        let ModelSource::Remote(source) = &mut user.source else { panic!("{user:?}") };
        calm(source);
        assert_eq!(fingerprint_of_model(&user), fingerprint_of_model(&remote("user")));
        config.models.insert("user".into(), user.clone());
        assert_eq!(fingerprint_without_policy(&config), same.1);
        user.temperature = Some(0.5);
        config.models.insert("user".into(), user);
        assert_ne!(fingerprint_without_policy(&config), same.1);
    }

    const SEED_OF_A: u64 = 0x140e_16f1_c486;
}
