//! Asking all metrics' questions about one conversation.

use super::metric::{MetricInput, Question, WeightedMetric};
use crate::chat::{ChatOutput, Finish};
use crate::{Error, ErrorKind, Result};

/// Rounds of questions after which a metric is taken to be stuck.
const MAX_ROUNDS: usize = 8;

/// The state of one conversation's evaluation: which questions are out, and the answers so far.
#[derive(Default)]
pub(crate) struct Evaluation {
    metrics: Vec<Progress>,
}

/// One metric's dialogue with its models.
#[derive(Default)]
struct Progress {
    /// In the order asked; `None` while unanswered.
    answers: Vec<Option<ChatOutput>>,
    unanswered: usize,
    rounds: usize,
    failure: Option<Error>,
}

/// A question to be asked now, and where its answer belongs.
pub(crate) struct Pending {
    /// Place in the list of metrics.
    pub(crate) metric: usize,
    /// Counts the metric's questions about this conversation.
    pub(crate) number: usize,
    pub(crate) question: Question,
}

impl Evaluation {
    /// The first questions of all metrics.
    pub(crate) fn start(&mut self, metrics: &[WeightedMetric], input: &MetricInput<'_>) -> Vec<Pending> {
        self.metrics.resize_with(metrics.len(), Progress::default);
        let mut pending = Vec::new();
        for (at, weighted) in metrics.iter().enumerate() {
            self.ask(at, weighted, input, &mut pending);
        }
        pending
    }

    /// Takes the answer to one question; returns the questions that follow from it.
    pub(crate) fn on_answer(
        &mut self,
        metrics: &[WeightedMetric],
        input: &MetricInput<'_>,
        (metric, number): (usize, usize),
        answer: Result<ChatOutput>,
    ) -> Vec<Pending> {
        let mut pending = Vec::new();
        let (Some(weighted), Some(progress)) = (metrics.get(metric), self.metrics.get_mut(metric)) else {
            return pending;
        };
        progress.unanswered = progress.unanswered.saturating_sub(1);
        match answer.and_then(complete) {
            Ok(output) => progress.answers[number] = Some(output),
            Err(error) => progress.failure = Some(error.context(format!("metric `{}`", weighted.name))),
        }
        if progress.unanswered == 0 && progress.failure.is_none() {
            self.ask(metric, weighted, input, &mut pending);
        }
        pending
    }

    /// Whether no question is out.
    pub(crate) fn is_answered(&self) -> bool {
        self.metrics.iter().all(|progress| progress.unanswered == 0)
    }

    /// The first metric's failure so far.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.metrics.iter().find_map(|progress| progress.failure.as_ref())
    }

    /// The answers to a metric's questions.
    ///
    /// # Errors
    /// The failure that left them incomplete.
    pub(crate) fn answers(&self, metric: usize) -> Result<Vec<ChatOutput>> {
        let Some(progress) = self.metrics.get(metric) else {
            return Err(Error::internal(format!("metric {metric} was never asked")));
        };
        match &progress.failure {
            Some(failure) => Err(failure.duplicate()),
            None => Ok(progress.answers.iter().flatten().cloned().collect()),
        }
    }

    fn ask(&mut self, at: usize, weighted: &WeightedMetric, input: &MetricInput<'_>, pending: &mut Vec<Pending>) {
        let progress = &mut self.metrics[at];
        let so_far: Vec<ChatOutput> = progress.answers.iter().flatten().cloned().collect();
        let questions = match weighted.metric.questions(input, &so_far) {
            Ok(questions) if !questions.is_empty() && progress.rounds == MAX_ROUNDS => Err(Error::new(
                ErrorKind::ModelOutput,
                format!("it still had questions after {MAX_ROUNDS} rounds of answers"),
            )),
            questions => questions,
        };
        match questions {
            Ok(questions) => {
                progress.rounds += 1;
                progress.unanswered = questions.len();
                for question in questions {
                    pending.push(Pending { metric: at, number: progress.answers.len(), question });
                    progress.answers.push(None);
                }
            }
            Err(error) => progress.failure = Some(error.context(format!("metric `{}`", weighted.name))),
        }
    }
}

/// Passes on an answer unless it was broken off: half an extraction is not what was in the conversation.
fn complete(output: ChatOutput) -> Result<ChatOutput> {
    match output {
        ChatOutput::Text { finish: Finish::Deadline, .. } => {
            Err(Error::new(ErrorKind::DeadlineExceeded, "the deadline passed before its question was answered"))
        }
        ChatOutput::Text { finish: Finish::Cancelled, .. } => {
            Err(Error::new(ErrorKind::Cancelled, "its question was cancelled before it was answered"))
        }
        output => Ok(output),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::metric::{Metric, MetricValue, Scored};
    use super::*;
    use crate::chat::{ChatTask, Message, Role};
    use crate::decode::SamplingOptions;
    use crate::rollout::{Ended, Goal, ModelRole};

    /// Extracts a text first, then asks about what was extracted.
    struct TwoSteps;

    impl Metric for TwoSteps {
        fn kind(&self) -> &str {
            "two_steps"
        }
        fn questions(&self, _: &MetricInput<'_>, answers: &[ChatOutput]) -> Result<Vec<Question>> {
            let (role, text) = match answers {
                [] => (ModelRole::Extractor, "extract".to_owned()),
                [ChatOutput::Text { text, .. }] => (ModelRole::Judge, format!("is {text} good?")),
                _ => return Ok(Vec::new()),
            };
            let task = ChatTask::Generate { max_tokens: 8, sampling: SamplingOptions::default(), stop: vec![] };
            Ok(vec![Question { role, model: None, messages: vec![Message::new(Role::User, text)], task }])
        }
        fn score(&self, batch: &[Scored<'_>]) -> Vec<Result<MetricValue>> {
            batch.iter().map(|scored| Ok(MetricValue::from(scored.answers.len() as f64))).collect()
        }
    }

    fn text(text: &str, finish: Finish) -> ChatOutput {
        ChatOutput::Text { text: text.into(), tokens: None, finish, retokenized_differs: vec![] }
    }

    #[test]
    fn later_questions_build_on_earlier_answers() {
        let metrics = [WeightedMetric::new(Arc::new(TwoSteps), 1.0)];
        let (response, goal) = (Message::new(Role::Assistant, "r"), Goal::default());
        let input = MetricInput {
            history: &[],
            response: &response,
            future: &[],
            goal: &goal,
            ended: Ended::Window,
            count_tokens: &|text| text.len(),
        };
        let mut evaluation = Evaluation::default();
        let first = evaluation.start(&metrics, &input);
        assert_eq!((first.len(), first[0].question.role), (1, ModelRole::Extractor));
        let second = evaluation.on_answer(&metrics, &input, (0, 0), Ok(text("42", Finish::Stop)));
        assert_eq!(second[0].question.messages[0].content, "is 42 good?");
        assert!(!evaluation.is_answered());
        assert!(evaluation.on_answer(&metrics, &input, (0, 1), Ok(text("Yes", Finish::Stop))).is_empty());
        assert!(evaluation.is_answered());
        assert_eq!(evaluation.answers(0).unwrap().len(), 2);

        let mut cut = Evaluation::default();
        cut.start(&metrics, &input);
        assert!(cut.on_answer(&metrics, &input, (0, 0), Ok(text("4", Finish::Deadline))).is_empty());
        assert_eq!(cut.answers(0).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    }
}
