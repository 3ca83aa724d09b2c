//! What an engine has done: counts, and how long the stages of its requests took.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::ModelStatus;
use super::admission::Counts;
use crate::rank::StopReason;
use crate::{Error, ErrorKind};

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stage {
    /// From submission until a request gets its place.
    Queue,
    /// From submission of a ranking to its result.
    Rank,
    /// From submission of texts to be scored to the last score.
    Score,
    /// From submission to the end of a reply.
    Generate,
    /// From submission to the log-probabilities of a text.
    LogProbs,
    /// From submission until a prefix is in the cache.
    Warm,
}

impl Stage {
    /// All of them.
    pub const ALL: [Stage; 6] =
        [Stage::Queue, Stage::Rank, Stage::Score, Stage::Generate, Stage::LogProbs, Stage::Warm];

    /// Its name in JSON and in OpenMetrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Queue => "queue",
            Stage::Rank => "rank",
            Stage::Score => "score",
            Stage::Generate => "generate",
            Stage::LogProbs => "log_probs",
            Stage::Warm => "warm",
        }
    }
}

/// How long a stage took, in seconds; quantiles to within 1%. All are 0 before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// How often it was gone through.
    pub count: u64,
    /// Seconds in all.
    pub sum: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// How often it took at most as long as each of [`Latency::BOUNDS`]. These can be added over engines and processes.
    #[serde(skip)]
    pub buckets: [u64; Latency::BOUNDS.len()],
}

impl Latency {
    /// The bounds of [`Latency::buckets`], in seconds.
    pub const BOUNDS: [f64; 20] = [
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        60.0, 120.0, 300.0,
    ];
}

/// An engine's counters at one moment. Refreshes are not among the requests; each model counts its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Statistics {
    /// Rankings that wait for a place.
    pub queued_rankings: usize,
    /// Calls to single models that wait for one.
    pub queued_calls: usize,
    /// Rankings under way.
    pub active_rankings: usize,
    /// Texts of calls under way.
    pub active_texts: usize,
    /// Requests that were refused because the queue was full.
    pub refused: u64,
    /// Requests that were cancelled before their result was whole.
    pub cancelled: u64,
    /// Requests whose result was not whole at their deadline. It may have come later, or in part.
    pub deadlines_missed: u64,
    /// Requests that ended with an error, by its kind. Those that were refused when they were submitted are not among them.
    pub errors: BTreeMap<ErrorKind, u64>,
    /// Latencies by stage, failed requests included.
    pub stages: BTreeMap<Stage, Latency>,
    /// Counters of the local models, by name.
    pub models: BTreeMap<String, ModelStatus>,
}

type Histograms = Mutex<BTreeMap<Stage, Timed>>;

struct Timed {
    /// Microseconds.
    histogram: Histogram<u64>,
    sum: Duration,
    buckets: [u64; Latency::BOUNDS.len()],
}

/// How requests ended that did not end well.
#[derive(Default, Clone)]
pub(super) struct Outcomes {
    cancelled: u64,
    deadlines_missed: u64,
    errors: BTreeMap<ErrorKind, u64>,
}

/// Collects latencies and outcomes.
#[derive(Default)]
pub(super) struct Recorder {
    stages: Histograms,
    outcomes: Mutex<Outcomes>,
}

fn record(stages: &Histograms, stage: Stage, took: Duration) {
    let mut stages = stages.lock().unwrap_or_else(PoisonError::into_inner);
    let timed = match stages.entry(stage) {
        std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
        std::collections::btree_map::Entry::Vacant(entry) => {
            // Two digits; grows with what it sees. No number of digits from 0 to 5 is refused.
            let Ok(histogram) = Histogram::new(2) else { return };
            entry.insert(Timed { histogram, sum: Duration::ZERO, buckets: Default::default() })
        }
    };
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    // Recording makes room; what there is no memory for counts as the longest time that there is room for.
    if timed.histogram.record(micros).is_err() {
        timed.histogram.saturating_record(micros);
    }
    timed.sum += took;
    for (count, bound) in timed.buckets.iter_mut().zip(Latency::BOUNDS) {
        *count += u64::from(took.as_secs_f64() <= bound);
    }
}

impl Recorder {
    pub(super) fn record(&self, stage: Stage, took: Duration) {
        record(&self.stages, stage, took);
    }

    /// Counts a request whose time was over before its result was whole.
    pub(super) fn interrupted(&self, why: StopReason) {
        let mut outcomes = self.lock_outcomes();
        match why {
            StopReason::Cancelled => outcomes.cancelled += 1,
            StopReason::Deadline => outcomes.deadlines_missed += 1,
        }
    }

    /// Counts a request that `error` ended before the owner had it.
    pub(super) fn ended_by(&self, error: &Error) {
        match error.kind() {
            ErrorKind::Cancelled => self.interrupted(StopReason::Cancelled),
            ErrorKind::DeadlineExceeded => self.interrupted(StopReason::Deadline),
            _ => {}
        }
    }

    /// Counts a result that is an error.
    pub(super) fn failed(&self, kind: ErrorKind) {
        *self.lock_outcomes().errors.entry(kind).or_default() += 1;
    }

    pub(super) fn outcomes(&self) -> Outcomes {
        self.lock_outcomes().clone()
    }

    fn lock_outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stages(&self) -> BTreeMap<Stage, Latency> {
        let stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        let latency = |stage| {
            stages.get(&stage).map_or_else(Latency::default, |Timed { histogram, sum, buckets }| {
                let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
                let (p50, p95, p99) = (at(0.5), at(0.95), at(0.99));
                Latency { count: histogram.len(), sum: sum.as_secs_f64(), p50, p95, p99, buckets: *buckets }
            })
        };
        Stage::ALL.into_iter().map(|stage| (stage, latency(stage))).collect()
    }
}

impl Statistics {
    pub(super) fn of(
        counts: Counts,
        stages: BTreeMap<Stage, Latency>,
        outcomes: Outcomes,
        models: BTreeMap<String, ModelStatus>,
    ) -> Statistics {
        let Counts { queued_rankings, queued_calls, active_rankings, active_texts, refused } = counts;
        let Outcomes { cancelled, deadlines_missed, errors } = outcomes;
        Statistics {
            queued_rankings,
            queued_calls,
            active_rankings,
            active_texts,
            refused,
            cancelled,
            deadlines_missed,
            errors,
            stages,
            models,
        }
    }

    /// The counters in the OpenMetrics text format (version 1.0.0).
    pub fn to_openmetrics(&self) -> String {
        let mut text = Text::default();
        text.family("foreturn_queued", "gauge", "Requests that wait for a place.");
        text.sample("foreturn_queued", "kind=\"rankings\"", self.queued_rankings);
        text.sample("foreturn_queued", "kind=\"calls\"", self.queued_calls);
        text.family("foreturn_active", "gauge", "Rankings, and texts of calls, under way.");
        text.sample("foreturn_active", "kind=\"rankings\"", self.active_rankings);
        text.sample("foreturn_active", "kind=\"texts\"", self.active_texts);
        text.family("foreturn_refused", "counter", "Requests refused because the queue was full.");
        text.sample("foreturn_refused_total", "", self.refused);
        text.family("foreturn_cancelled", "counter", "Requests cancelled before their result was whole.");
        text.sample("foreturn_cancelled_total", "", self.cancelled);
        text.family("foreturn_deadlines_missed", "counter", "Requests whose result was not whole at their deadline.");
        text.sample("foreturn_deadlines_missed_total", "", self.deadlines_missed);
        text.family("foreturn_errors", "counter", "Requests that ended with an error.");
        for (kind, count) in &self.errors {
            text.sample("foreturn_errors_total", &format!("kind=\"{}\"", kind.as_str()), count);
        }
        self.latencies(&mut text);
        for (name, kind, help, value) in MODEL_FAMILIES {
            text.family(name, kind, help);
            let suffix = if *kind == "counter" { "_total" } else { "" };
            for (model, status) in &self.models {
                text.sample(&format!("{name}{suffix}"), &format!("model=\"{}\"", escape(model)), value(status));
            }
        }
        text.0.push_str("# EOF\n");
        text.0
    }

    /// Buckets can be added over processes, quantiles can't.
    fn latencies(&self, text: &mut Text) {
        let (name, quantiles) = ("foreturn_latency_seconds", "foreturn_latency_quantile_seconds");
        text.family(name, "histogram", "How long the stages of requests took.");
        for (stage, latency) in &self.stages {
            let stage = format!("stage=\"{}\"", stage.as_str());
            for (count, bound) in latency.buckets.iter().zip(Latency::BOUNDS) {
                text.sample(&format!("{name}_bucket"), &format!("{stage},le=\"{bound:?}\""), count);
            }
            text.sample(&format!("{name}_bucket"), &format!("{stage},le=\"+Inf\""), latency.count);
            text.sample(&format!("{name}_count"), &stage, latency.count);
            text.sample(&format!("{name}_sum"), &stage, latency.sum);
        }
        text.family(quantiles, "gauge", "The same as quantiles, to within 1%.");
        for (stage, latency) in &self.stages {
            let stage = stage.as_str();
            for (quantile, value) in [("0.5", latency.p50), ("0.95", latency.p95), ("0.99", latency.p99)] {
                text.sample(quantiles, &format!("stage=\"{stage}\",quantile=\"{quantile}\""), value);
            }
        }
    }
}

type Family = (&'static str, &'static str, &'static str, fn(&ModelStatus) -> f64);

/// What is told of each model.
const MODEL_FAMILIES: &[Family] = &[
    ("foreturn_model_steps", "counter", "Runs of the model.", |m| m.stats.steps as f64),
    ("foreturn_model_step_seconds", "counter", "The time that they took.", |m| m.stats.step_time.as_secs_f64()),
    ("foreturn_model_computed_tokens", "counter", "Token rows computed.", |m| m.stats.computed_tokens as f64),
    ("foreturn_model_prompt_tokens", "counter", "Tokens of prompts that have ended.", |m| m.stats.prompt_tokens as f64),
    ("foreturn_model_reused_tokens", "counter", "Of these, tokens taken from the cache.", |m| {
        m.stats.reused_tokens as f64
    }),
    ("foreturn_model_preemptions", "counter", "Sequences that started over for want of memory.", |m| {
        m.stats.preemptions as f64
    }),
    ("foreturn_model_sequences", "gauge", "Sequences in the batch.", |m| m.stats.sequences as f64),
    ("foreturn_model_waiting_sequences", "gauge", "Sequences that wait for the batch.", |m| m.stats.waiting as f64),
    ("foreturn_model_cache_blocks", "gauge", "Blocks of the key-value cache.", |m| m.stats.blocks as f64),
    ("foreturn_model_cache_used_blocks", "gauge", "Of these, blocks with contents.", |m| m.stats.used_blocks as f64),
    ("foreturn_model_cache_bytes", "gauge", "Bytes of the key-value cache.", |m| bytes(m, m.stats.blocks)),
    ("foreturn_model_cache_used_bytes", "gauge", "Of these, bytes of blocks with contents.", |m| {
        bytes(m, m.stats.used_blocks)
    }),
    ("foreturn_model_refreshes", "counter", "Exchanges of the weights.", |m| m.refreshes as f64),
];

/// The bytes that so many blocks of a model's cache take.
fn bytes(model: &ModelStatus, blocks: usize) -> f64 {
    (model.block_bytes as u64 * blocks as u64) as f64
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# TYPE {name} {kind}\n# HELP {name} {help}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }
}

/// A label's value, as the format wants it.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_hundredth() {
        let recorder = Recorder::default();
        for millis in 1..=1000 {
            recorder.record(Stage::Rank, Duration::from_millis(millis));
        }
        let stages = recorder.stages();
        assert_eq!(stages[&Stage::Score].count, 0);
        let rank = stages[&Stage::Rank];
        assert_eq!((rank.count, rank.sum), (1000, 500.5));
        for (got, expected) in [(rank.p50, 0.5), (rank.p95, 0.95), (rank.p99, 0.99)] {
            assert!((got / expected - 1.0).abs() < 0.01, "{got} {expected}");
        }
    }

    #[test]
    fn openmetrics_names_each_family_once_and_ends_as_it_should() {
        let recorder = Recorder::default();
        // At a bound, between two, and beyond all.
        for micros in [100, 101, 1_000_000, 301_000_000] {
            recorder.record(Stage::Score, Duration::from_micros(micros));
        }
        let statistics = Statistics {
            queued_rankings: 1,
            queued_calls: 2,
            active_rankings: 3,
            active_texts: 4,
            refused: 5,
            cancelled: 6,
            deadlines_missed: 7,
            errors: [(ErrorKind::ContextLength, 8)].into(),
            stages: recorder.stages(),
            models: BTreeMap::new(),
        };
        let text = statistics.to_openmetrics();
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        assert!(text.contains("foreturn_refused_total 5\n"), "{text}");
        for line in [
            "foreturn_cancelled_total 6",
            "foreturn_deadlines_missed_total 7",
            "foreturn_errors_total{kind=\"context_length\"} 8",
            "# TYPE foreturn_latency_seconds histogram",
            "foreturn_latency_seconds_bucket{stage=\"score\",le=\"0.0001\"} 1",
            "foreturn_latency_seconds_bucket{stage=\"score\",le=\"0.00025\"} 2",
            "foreturn_latency_seconds_bucket{stage=\"score\",le=\"0.5\"} 2",
            "foreturn_latency_seconds_bucket{stage=\"score\",le=\"1.0\"} 3",
            "foreturn_latency_seconds_bucket{stage=\"score\",le=\"300.0\"} 3",
            "foreturn_latency_seconds_bucket{stage=\"score\",le=\"+Inf\"} 4",
            "foreturn_latency_seconds_count{stage=\"score\"} 4",
            "foreturn_latency_quantile_seconds{stage=\"queue\",quantile=\"0.99\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
        for kind in [ErrorKind::ContextLength, ErrorKind::Io, ErrorKind::DeadlineExceeded] {
            assert_eq!(serde_json::json!(kind), kind.as_str(), "the same name in JSON");
        }
        let mut families: Vec<&str> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let count = families.len();
        families.dedup();
        assert_eq!(families.len(), count);
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
