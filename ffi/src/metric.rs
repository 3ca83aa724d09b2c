//! Metrics that the host implements.

use std::ffi::c_void;

use foreturn::chat::{Message, Role};
use foreturn::reward::{Answered, Metric, MetricValue, WeightedMetric};
use foreturn::{Error, ErrorKind};

use crate::argument::{self, foreturn_str, sized};
use crate::callback::{self, Gate, Inside, UserData};
use crate::failure::Failure;

/// One message of a conversation.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_message {
    /// "system", "user" or "assistant".
    pub role: foreturn_str,
    /// What was said.
    pub content: foreturn_str,
}

impl foreturn_message {
    /// Lends a message; see [`foreturn_str::of`].
    pub(crate) fn lend(message: &Message) -> Self {
        Self::of(message.role, &message.content)
    }

    /// As [`foreturn_message::lend`].
    pub(crate) fn of(role: Role, content: &str) -> Self {
        foreturn_message { role: foreturn_str::of(role.as_str()), content: foreturn_str::of(content) }
    }
}

/// One conversation that a metric is to score. Everything in it is lent until the callback returns.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_metric_input {
    /// The whole conversation: what was before the response, the response, what was sampled after it.
    pub messages: *const foreturn_message,
    /// How many messages there are.
    pub message_count: usize,
    /// Which of them is the response that is ranked.
    pub response: usize,
    /// What the user is after, as the request's JSON object.
    pub goal_json: foreturn_str,
    /// Why the future ended: "stop_signal", "window", ….
    pub ended: foreturn_str,
}

/// Scores `count` conversations: writes a finite number for each into `values`. Returns 0, or any other number for a
/// failure, with a text in `*why` (static, or valid until the next call on this thread).
///
/// Called from threads of the library, several at once perhaps. It may call the library, foreturn_engine_free() excepted.
pub type foreturn_metric_score_fn = Option<
    unsafe extern "C" fn(
        user_data: *mut c_void,
        inputs: *const foreturn_metric_input,
        count: usize,
        values: *mut f64,
        why: *mut foreturn_str,
    ) -> i32,
>;

/// Called once, when the library is done with `user_data`; on any thread.
pub type foreturn_release_fn = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// A metric of the host's own. Its values enter the reward times `weight`, beside the metrics of the configuration.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct foreturn_metric {
    /// sizeof(foreturn_metric).
    pub size: usize,
    /// Its name in rankings.
    pub name: foreturn_str,
    /// Its factor in the reward; finite.
    pub weight: f64,
    /// Scores conversations.
    pub score: foreturn_metric_score_fn,
    /// Given to `score` and `release`; may be NULL.
    pub user_data: *mut c_void,
    /// Called when the engine is gone, or was not made; may be NULL.
    pub release: foreturn_release_fn,
}
sized!(foreturn_metric);

/// Sets a foreturn_metric to its defaults: nothing set. Give `size` as sizeof(foreturn_metric).
///
/// Errors: FORETURN_ERROR_INVALID_ARGUMENT. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn foreturn_metric_init(
    metric: *mut foreturn_metric,
    size: usize,
) -> crate::status::foreturn_status {
    // SAFETY: passed on.
    unsafe { argument::init(metric, size) }
}

/// The host's pointer, and the function that releases it.
pub(crate) struct Owned {
    pub(crate) data: UserData,
    pub(crate) gate: Gate,
    release: foreturn_release_fn,
}

impl Owned {
    pub(crate) fn new(data: *mut c_void, gate: &Gate, release: foreturn_release_fn) -> Self {
        Owned { data: UserData(data), gate: gate.clone(), release }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: the host's function, with the host's pointer, once.
            unsafe { release(self.data.0) }
        }
    }
}

struct HostMetric {
    name: String,
    score: unsafe extern "C" fn(*mut c_void, *const foreturn_metric_input, usize, *mut f64, *mut foreturn_str) -> i32,
    owned: Owned,
}

/// The metric that the host described. From here on, its `release` will be called.
///
/// # Safety
/// `given` is valid, as are the strings in it.
pub(crate) unsafe fn host_metric(given: &foreturn_metric, gate: &Gate) -> Result<WeightedMetric, Failure> {
    let owned = Owned::new(given.user_data, gate, given.release);
    // SAFETY: passed on.
    let name = unsafe { given.name.text("foreturn_metric.name")? }.to_owned();
    let Some(score) = given.score else {
        return Err(Failure::argument(format!("foreturn_metric.score of `{name}` is NULL")));
    };
    Ok(WeightedMetric::new(std::sync::Arc::new(HostMetric { name, score, owned }), given.weight))
}

impl Metric for HostMetric {
    fn kind(&self) -> &str {
        &self.name
    }

    /// Waits for whole rounds, because each call costs the host something.
    fn wants_whole_rounds(&self) -> bool {
        true
    }

    fn score(&self, batch: &[Answered<'_>]) -> Vec<foreturn::Result<MetricValue>> {
        let texts: Vec<(Vec<foreturn_message>, String)> = batch
            .iter()
            .map(|scored| {
                let goal = serde_json::to_string(scored.input.goal).unwrap_or_default();
                (scored.input.messages().map(foreturn_message::lend).collect(), goal)
            })
            .collect();
        let inputs: Vec<foreturn_metric_input> = std::iter::zip(batch, &texts)
            .map(|(scored, (messages, goal))| foreturn_metric_input {
                messages: messages.as_ptr(),
                message_count: messages.len(),
                response: scored.input.history.len(),
                goal_json: foreturn_str::of(goal),
                ended: foreturn_str::of(scored.input.ended.as_str()),
            })
            .collect();
        let what = format!("the host's metric `{}`", self.name);
        if let Err(closed) = self.owned.gate.check(&what) {
            let closed = |_| Err(Error::new(closed.kind(), closed.to_string()));
            return batch.iter().map(closed).collect();
        }
        let (mut values, mut why) = (vec![f64::NAN; batch.len()], foreturn_str::EMPTY);
        let _inside = Inside::enter_metric();
        // SAFETY: everything lent lives until the call returns, and `values` has room for each input.
        let status = unsafe {
            (self.score)(self.owned.data.0, inputs.as_ptr(), inputs.len(), values.as_mut_ptr(), &raw mut why)
        };
        if status != 0 {
            // SAFETY: the message is the host's, valid for now by its contract.
            return batch.iter().map(|_| Err(unsafe { callback::failed(&what, status, why) })).collect();
        }
        values.into_iter().map(|value| self.check(value)).collect()
    }
}

impl HostMetric {
    fn check(&self, value: f64) -> foreturn::Result<MetricValue> {
        if value.is_finite() {
            return Ok(MetricValue::from(value));
        }
        let message = format!("the host's metric `{}` gave {value}, which is no finite number", self.name);
        Err(Error::new(ErrorKind::ModelOutput, message))
    }
}
