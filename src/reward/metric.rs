//! The interface of metrics.

use std::sync::Arc;

use super::extract::Extraction;
use crate::chat::{ChatOutput, ChatTask, Message, Role};
use crate::model::ModelFolder;
use crate::rollout::{Ended, Goal, ModelRole};
use crate::{Error, Result};

/// Counts the tokens of a text. The policy's tokenizer, usually.
pub type TokenCounter = Arc<dyn Fn(&str) -> usize + Send + Sync>;

/// A conversation to score: t_{1:j} ∪ t_j^f in the paper's terms.
#[derive(Clone, Copy)]
pub struct MetricInput<'a> {
    /// The conversation before the response.
    pub history: &'a [Message],
    /// The response under test.
    pub response: &'a Message,
    /// The sampled messages after it; empty if the window is 0.
    pub future: &'a [&'a Message],
    /// The user's goal.
    pub goal: &'a Goal,
    /// Why the future ended.
    pub ended: Ended,
    /// The artefact extracted from the conversation, if the metric has `extract`.
    pub extracted: Option<&'a str>,
    /// Counts tokens.
    pub count_tokens: &'a (dyn Fn(&str) -> usize + Send + Sync),
}

impl std::fmt::Debug for MetricInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricInput")
            .field("history", &self.history)
            .field("response", &self.response)
            .field("future", &self.future)
            .field("goal", &self.goal)
            .field("ended", &self.ended)
            .field("extracted", &self.extracted)
            .finish_non_exhaustive()
    }
}

impl<'a> MetricInput<'a> {
    /// A response by itself, without history, future or extraction. It is for trying metrics by hand; use struct update
    /// for the other fields.
    pub fn new(response: &'a Message, goal: &'a Goal, count_tokens: &'a (dyn Fn(&str) -> usize + Send + Sync)) -> Self {
        let (history, future, ended) = (&[][..], &[][..], Ended::Window);
        MetricInput { history, response, future, goal, ended, extracted: None, count_tokens }
    }

    /// The whole conversation: history, response, future.
    pub fn messages(&self) -> impl Iterator<Item = &'a Message> + use<'a> {
        self.history.iter().chain(std::iter::once(self.response)).chain(self.future.iter().copied())
    }

    /// The artefact to compare, run or embed: the extracted one, otherwise the assistant's last message without its
    /// reasoning.
    pub fn subject(&self) -> &'a str {
        let said = || self.future.iter().rev().find(|message| message.role == Role::Assistant);
        self.extracted.unwrap_or_else(|| said().map_or(self.response, |message| message).visible())
    }
}

/// A metric's question to a model, asked before it can score.
#[derive(Debug, Clone)]
pub struct Question {
    /// The role that is asked and bears the cost: the judge, the extractor, or a reward model.
    pub role: ModelRole,
    /// The model's name, if it is not the role's model; one of [`Metric::models`].
    pub model: Option<Arc<str>>,
    /// The prompt. Text that all questions about a conversation share comes first, so that the prefix is reused.
    pub messages: Vec<Message>,
    /// The kind of reply: a text, the probabilities of given answers, or a score.
    pub task: ChatTask,
}

/// A conversation with the answers to all of a metric's questions about it, in the order of the questions.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// The conversation.
    pub input: MetricInput<'a>,
    /// The answers; empty if the metric asked nothing.
    pub answers: &'a [ChatOutput],
}

/// A metric's value for one conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricValue {
    /// The value; finite. Its range and unit are the metric's.
    pub value: f64,
    /// For metrics with a clamp: whether it took effect. If so, the value no longer distinguishes conversations.
    pub saturated: Option<bool>,
    /// For judged metrics: the smallest probability mass on the answers to one of its questions, in [0, 1].
    pub mass: Option<f64>,
    /// A note about the value, for readers of a trace.
    pub note: Option<String>,
}

impl MetricValue {
    /// A value without further information.
    pub fn new(value: f64) -> Self {
        MetricValue { value, saturated: None, mass: None, note: None }
    }
}

impl From<f64> for MetricValue {
    fn from(value: f64) -> Self {
        MetricValue::new(value)
    }
}

/// A function that gives conversations numbers.
///
/// Scoring has two steps, so that questions to models can be batched. First the metric names its
/// [`questions`](Metric::questions) about each conversation. Then it [`scores`](Metric::score) many conversations at
/// once. A metric without questions implements only `score`. So do callbacks and external programs.
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

    /// The roles that it asks. A ranking whose configuration lacks one of them is refused before it starts.
    fn roles(&self) -> &[ModelRole] {
        &[]
    }

    /// The models that it asks, by their names in `[models]`. A configuration that lacks one of them is refused.
    fn models(&self) -> Vec<Arc<str>> {
        Vec::new()
    }

    /// Refuses a local model that cannot answer, before anything is sampled. Called for each of
    /// [`models`](Metric::models).
    ///
    /// # Errors
    /// Names the kind of model and the question that it can't answer.
    fn check_model(&self, name: &str, folder: &ModelFolder) -> Result<()> {
        let _ = (name, folder);
        Ok(())
    }

    /// Refuses a request whose goal lacks a field that the metric needs.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidRequest`], naming the missing field.
    fn check(&self, goal: &Goal) -> Result<()> {
        let _ = goal;
        Ok(())
    }

    /// The next questions about a conversation, given the answers so far. It is first called without answers, and then
    /// each time all questions of the last call are answered, until it returns none. So an extraction can precede the
    /// question about its result.
    ///
    /// # Errors
    /// An error leaves the conversation without a value for this metric.
    fn questions(&self, input: &MetricInput<'_>, answers: &[ChatOutput]) -> Result<Vec<Question>> {
        let _ = (input, answers);
        Ok(Vec::new())
    }

    /// Whether it uses the result of `extract` and not only the conversation. A configuration with `extract` for a
    /// metric that doesn't use it is refused.
    fn takes_extract(&self) -> bool {
        true
    }

    /// Whether it scores all conversations of a ranking, or of an allocation's round, at once, after the last of them
    /// has ended. Otherwise it scores each soon after it has ended, while models work on others.
    fn wants_whole_rounds(&self) -> bool {
        false
    }

    /// Scores a batch and returns one result for each conversation, in order. It may block, because it is not called on
    /// the thread that drives the models.
    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>>;
}

/// A metric's place in the reward.
#[derive(Clone)]
pub struct WeightedMetric {
    /// Its name in rankings: the kind, unless a name distinguishes two metrics of one kind.
    pub name: String,
    /// Factor in the sum; finite.
    pub weight: f64,
    /// The extraction from the conversation before the metric sees it. Metrics with the same extraction share it.
    pub extract: Option<Arc<Extraction>>,
    /// The metric.
    pub metric: Arc<dyn Metric>,
}

impl std::fmt::Debug for WeightedMetric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WeightedMetric")
            .field("name", &self.name)
            .field("weight", &self.weight)
            .field("kind", &self.metric.kind())
            .finish_non_exhaustive()
    }
}

impl WeightedMetric {
    /// `metric` under the name of its kind.
    pub fn new(metric: Arc<dyn Metric>, weight: f64) -> Self {
        WeightedMetric { name: metric.kind().to_owned(), weight, extract: None, metric }
    }

    /// Refuses weights that are not finite, and duplicate names.
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
                    "metrics[{at}]: there are two metrics named `{name}`: distinguish them with name = \"…\""
                )));
            }
        }
        Ok(())
    }
}
