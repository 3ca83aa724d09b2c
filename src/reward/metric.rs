//! What a metric is.

use std::sync::Arc;

use super::extract::Extraction;
use crate::chat::{ChatOutput, ChatTask, Message, Role};
use crate::model::ModelFolder;
use crate::rollout::{Ended, Goal, ModelRole};
use crate::{Error, Result};

/// Counts the tokens of a text. The policy's tokenizer, usually.
pub type TokenCounter = Arc<dyn Fn(&str) -> usize + Send + Sync>;

/// One conversation to be scored: t_{1:j} ∪ t_j^f in the paper's terms.
#[derive(Clone, Copy)]
pub struct MetricInput<'a> {
    /// The conversation before the response.
    pub history: &'a [Message],
    /// The response under test.
    pub response: &'a Message,
    /// What was sampled after it; empty where the window is 0.
    pub future: &'a [&'a Message],
    /// What the user is after.
    pub goal: &'a Goal,
    /// Why the future ended.
    pub ended: Ended,
    /// What was distilled from the conversation, where the metric has `extract`.
    pub extracted: Option<&'a str>,
    /// Counts tokens.
    pub count_tokens: &'a (dyn Fn(&str) -> usize + Send + Sync),
}

impl<'a> MetricInput<'a> {
    /// A response by itself: nothing before it, no future, nothing extracted. For metrics tried out by hand, with struct update
    /// for what else there is.
    pub fn new(response: &'a Message, goal: &'a Goal, count_tokens: &'a (dyn Fn(&str) -> usize + Send + Sync)) -> Self {
        let (history, future, ended) = (&[][..], &[][..], Ended::Window);
        MetricInput { history, response, future, goal, ended, extracted: None, count_tokens }
    }

    /// The whole conversation: history, response, future.
    pub fn messages(&self) -> impl Iterator<Item = &'a Message> + use<'a> {
        self.history.iter().chain(std::iter::once(self.response)).chain(self.future.iter().copied())
    }

    /// The artefact that is compared, run or embedded: what was extracted, else the assistant's last message without what it
    /// reasoned.
    pub fn subject(&self) -> &'a str {
        let said = || self.future.iter().rev().find(|message| message.role == Role::Assistant);
        self.extracted.unwrap_or_else(|| said().map_or(self.response, |message| message).visible())
    }
}

/// Something a metric asks a model before it can score.
#[derive(Debug, Clone)]
pub struct Question {
    /// Who is asked, and who bears the cost: the judge, the extractor, or a reward model.
    pub role: ModelRole,
    /// The model by name, where another than the role's is asked; one of [`Metric::models`].
    pub model: Option<Arc<str>>,
    /// The prompt. What all questions on a conversation share comes first, for the sake of prefix reuse.
    pub messages: Vec<Message>,
    /// Whether a text, the probabilities of given answers or a score is wanted.
    pub task: ChatTask,
}

/// A conversation with the answers to all of a metric's questions about it, in the order they were asked.
#[derive(Clone, Copy)]
pub struct Answered<'a> {
    /// The conversation.
    pub input: MetricInput<'a>,
    /// The answers; none where the metric asked nothing.
    pub answers: &'a [ChatOutput],
}

/// A metric's value for one conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricValue {
    /// The value; finite. Its range and unit are the metric's.
    pub value: f64,
    /// For metrics with a clamp: whether it took effect, so that the value no longer tells conversations apart.
    pub saturated: Option<bool>,
    /// For judged metrics: the smallest probability mass that fell on the answers of one of its questions, in [0, 1].
    pub mass: Option<f64>,
    /// What there is to say about the value, for whoever reads a trace.
    pub note: Option<String>,
}

impl MetricValue {
    /// A value and nothing beside it.
    pub fn new(value: f64) -> Self {
        MetricValue { value, saturated: None, mass: None, note: None }
    }
}

impl From<f64> for MetricValue {
    fn from(value: f64) -> Self {
        MetricValue::new(value)
    }
}

/// Gives conversations numbers.
///
/// Scoring goes in two steps, so that whoever drives the models can batch: first the metric names its
/// [`questions`](Metric::questions) about each conversation, then it [`scores`](Metric::score) many at once. A metric
/// without questions, and one that is somebody else's callback or program, implements `score` alone.
///
/// ```
/// use foreturn::reward::{Metric, MetricValue, Answered};
///
/// /// Messages the user has to read, as a cost.
/// struct Replies;
///
/// impl Metric for Replies {
///     fn kind(&self) -> &str {
///         "replies"
///     }
///     fn score(&self, batch: &[Answered<'_>]) -> Vec<foreturn::Result<MetricValue>> {
///         batch.iter().map(|scored| Ok(MetricValue::from(-(scored.input.messages().count() as f64)))).collect()
///     }
/// }
/// ```
pub trait Metric: Send + Sync {
    /// The metric's kind, as in `[[metrics]] kind = "…"`.
    fn kind(&self) -> &str;

    /// The models it asks. A ranking whose configuration lacks one of them is refused before it starts.
    fn roles(&self) -> &[ModelRole] {
        &[]
    }

    /// The models that it asks by their names in `[models]`. A configuration that lacks one of them is refused.
    fn models(&self) -> Vec<Arc<str>> {
        Vec::new()
    }

    /// Refuses a local model that cannot answer, before anything is sampled. Called for each of
    /// [`models`](Metric::models).
    ///
    /// # Errors
    /// Says what the model is, and what is asked of it.
    fn check_model(&self, name: &str, folder: &ModelFolder) -> Result<()> {
        let _ = (name, folder);
        Ok(())
    }

    /// Refuses a request whose goal lacks what the metric compares with.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidRequest`], naming the missing field.
    fn check(&self, goal: &Goal) -> Result<()> {
        let _ = goal;
        Ok(())
    }

    /// What to ask next about a conversation, given the answers so far. Called with no answers first, then each time all
    /// questions of the last call are answered, until it returns none: so an extraction can come before the question
    /// about what was extracted.
    ///
    /// # Errors
    /// An error leaves the conversation without a value for this metric.
    fn questions(&self, input: &MetricInput<'_>, answers: &[ChatOutput]) -> Result<Vec<Question>> {
        let _ = (input, answers);
        Ok(Vec::new())
    }

    /// Whether it looks at what `extract` distils, rather than at the conversation alone. A configuration that has something
    /// extracted for one that doesn't is refused.
    fn takes_extract(&self) -> bool {
        true
    }

    /// Whether it scores a ranking's conversations, or those of a round of an allocation, all at once, when the last of them
    /// has ended. Otherwise it scores each soon after it has ended, while models are at work on others.
    fn wants_whole_rounds(&self) -> bool {
        false
    }

    /// Scores a batch; one result for each conversation, in order. May block: it is called on a thread of its own, not on
    /// the one that drives the models.
    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>>;
}

/// A metric's place in the reward.
#[derive(Clone)]
pub struct WeightedMetric {
    /// Its name in rankings; the kind, unless two metrics of one kind are told apart by name.
    pub name: String,
    /// Factor in the sum; finite.
    pub weight: f64,
    /// What is distilled from the conversation before the metric sees it. Metrics with the same extraction share it.
    pub extract: Option<Arc<Extraction>>,
    /// The metric.
    pub metric: Arc<dyn Metric>,
}

impl WeightedMetric {
    /// `metric` under the name of its kind.
    pub fn new(metric: Arc<dyn Metric>, weight: f64) -> Self {
        WeightedMetric { name: metric.kind().to_owned(), weight, extract: None, metric }
    }

    /// Refuses weights that are not finite, and names that don't tell metrics apart.
    pub(crate) fn check_all(metrics: &[WeightedMetric]) -> Result<()> {
        for (at, WeightedMetric { name, weight, .. }) in metrics.iter().enumerate() {
            if !weight.is_finite() {
                return Err(Error::invalid_config(format!(
                    "metrics[{at}] (`{name}`): weight = {weight} is not a finite number"
                )));
            }
            if name.trim().is_empty() {
                return Err(Error::invalid_config(format!(
                    "metrics[{at}]: name is empty: give a text, or leave it out"
                )));
            }
            if metrics[..at].iter().any(|other| other.name == *name) {
                return Err(Error::invalid_config(format!(
                    "metrics[{at}]: there are two metrics named `{name}`: tell them apart with name = \"…\""
                )));
            }
        }
        Ok(())
    }
}
