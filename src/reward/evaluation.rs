//! The questions of all extractions and metrics about one conversation.

use std::sync::Arc;

use super::extract::Extraction;
use super::metric::{MetricInput, Question, WeightedMetric};
use crate::chat::{ChatOutput, Finish};
use crate::{Error, ErrorKind, Result};

/// Number of rounds of questions after which a metric counts as stuck.
const MAX_ROUNDS: usize = 8;

/// The state of one conversation's evaluation: the open questions, and the answers so far.
#[derive(Default)]
pub(crate) struct Evaluation {
    /// Each distinct extraction of the metrics, and its result.
    artefacts: Vec<Artefact>,
    metrics: Vec<Progress>,
}

struct Artefact {
    extraction: Arc<Extraction>,
    /// `None` until it is known.
    text: Option<Result<String>>,
}

/// One metric's dialogue with its models.
#[derive(Default)]
struct Progress {
    /// In the order of the questions; `None` while unanswered.
    answers: Vec<Option<ChatOutput>>,
    unanswered: usize,
    rounds: usize,
    failure: Option<Error>,
}

/// The source of a question: a metric by its place in the list, or one of the extractions that precede them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Extraction(usize),
    Metric(usize),
}

impl Asker {
    /// A unique number, for its random stream.
    pub(crate) fn number(self) -> usize {
        match self {
            // Beyond the numbers of metrics, so that these don't change when extractions are added or removed.
            Asker::Extraction(at) => (1 << 16) + at,
            Asker::Metric(at) => at,
        }
    }
}

/// A question to ask now, and the place of its answer.
pub(crate) struct Pending {
    pub(crate) asker: Asker,
    /// Counts the asker's questions about this conversation.
    pub(crate) number: usize,
    pub(crate) question: Question,
}

impl Evaluation {
    /// The first questions: all extractions', and those of the metrics that need none.
    pub(crate) fn start(&mut self, metrics: &[WeightedMetric], input: &MetricInput<'_>) -> Vec<Pending> {
        self.metrics.resize_with(metrics.len(), Progress::default);
        for extraction in metrics.iter().filter_map(|weighted| weighted.extract.as_ref()) {
            if !self.artefacts.iter().any(|artefact| artefact.extraction == *extraction) {
                self.artefacts.push(Artefact { extraction: Arc::clone(extraction), text: None });
            }
        }
        let question = |(at, artefact): (usize, &Artefact)| {
            let question = artefact.extraction.question(input);
            Pending { asker: Asker::Extraction(at), number: 0, question }
        };
        let mut pending: Vec<Pending> = self.artefacts.iter().enumerate().map(question).collect();
        for (at, weighted) in metrics.iter().enumerate().filter(|(_, weighted)| weighted.extract.is_none()) {
            self.ask(at, weighted, input, &mut pending);
        }
        pending
    }

    /// Takes the answer to one question; returns the questions that follow from it.
    pub(crate) fn on_answer(
        &mut self,
        metrics: &[WeightedMetric],
        input: &MetricInput<'_>,
        (asker, number): (Asker, usize),
        answer: Result<ChatOutput>,
    ) -> Vec<Pending> {
        let mut pending = Vec::new();
        let answer = answer.and_then(complete);
        match asker {
            Asker::Extraction(at) => self.on_artefact(at, metrics, input, answer, &mut pending),
            Asker::Metric(at) => {
                let (Some(weighted), Some(progress)) = (metrics.get(at), self.metrics.get_mut(at)) else {
                    return pending;
                };
                progress.unanswered = progress.unanswered.saturating_sub(1);
                match answer {
                    Ok(output) => progress.answers[number] = Some(output),
                    Err(error) => progress.fail(weighted, error),
                }
                if progress.unanswered == 0 && progress.failure.is_none() {
                    self.ask(at, weighted, input, &mut pending);
                }
            }
        }
        pending
    }

    /// Whether no question is open.
    pub(crate) fn is_answered(&self) -> bool {
        self.artefacts.iter().all(|artefact| artefact.text.is_some())
            && self.metrics.iter().all(|progress| progress.unanswered == 0)
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

    /// The failure that left a metric's answers incomplete.
    pub(crate) fn failure_of(&self, metric: usize) -> Option<&Error> {
        self.metrics.get(metric)?.failure.as_ref()
    }

    /// The answers to a metric's questions so far, whatever happened to the others.
    pub(crate) fn raw_answers(&self, metric: usize) -> impl Iterator<Item = &ChatOutput> {
        self.metrics.get(metric).into_iter().flat_map(|progress| progress.answers.iter().flatten())
    }

    /// Whether something was asked, or nothing had to be.
    pub(crate) fn is_started(&self) -> bool {
        !self.metrics.is_empty()
    }

    /// The extracted artefact for a metric; `None` if it has no extraction, or the extraction failed.
    pub(crate) fn extracted(&self, weighted: &WeightedMetric) -> Option<&str> {
        let extraction = weighted.extract.as_ref()?;
        let artefact = self.artefacts.iter().find(|artefact| artefact.extraction == *extraction)?;
        artefact.text.as_ref()?.as_deref().ok()
    }

    /// Reads an extractor's reply. The metrics that waited for it ask their questions, or fail with it.
    fn on_artefact(
        &mut self,
        at: usize,
        metrics: &[WeightedMetric],
        input: &MetricInput<'_>,
        answer: Result<ChatOutput>,
        pending: &mut Vec<Pending>,
    ) {
        let Some(artefact) = self.artefacts.get_mut(at) else { return };
        let extraction = Arc::clone(&artefact.extraction);
        artefact.text = Some(answer.and_then(|output| extraction.read(&output)).map_err(|e| e.context("extract")));
        let failure = artefact.text.as_ref().and_then(|text| text.as_ref().err()).map(Error::duplicate);
        let waiting = |weighted: &WeightedMetric| weighted.extract.as_ref() == Some(&extraction);
        for (at, weighted) in metrics.iter().enumerate().filter(|(_, weighted)| waiting(weighted)) {
            match &failure {
                Some(error) => self.metrics[at].fail(weighted, error.duplicate()),
                None => self.ask(at, weighted, input, pending),
            }
        }
    }

    fn ask(&mut self, at: usize, weighted: &WeightedMetric, input: &MetricInput<'_>, pending: &mut Vec<Pending>) {
        let input = MetricInput { extracted: self.extracted(weighted), ..*input };
        let so_far: Vec<ChatOutput> = self.metrics[at].answers.iter().flatten().cloned().collect();
        let questions = weighted.metric.questions(&input, &so_far);
        let progress = &mut self.metrics[at];
        let questions = match questions {
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
                    pending.push(Pending { asker: Asker::Metric(at), number: progress.answers.len(), question });
                    progress.answers.push(None);
                }
            }
            Err(error) => progress.fail(weighted, error),
        }
    }
}

impl Progress {
    fn fail(&mut self, weighted: &WeightedMetric, error: Error) {
        self.failure = Some(error.context(format!("metric `{}`", weighted.name)));
    }
}

/// Passes on an answer unless it was cut off, because half an extraction is not what the conversation contained.
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

    use super::super::extract::{ExtractConfig, ExtractTable};
    use super::super::metric::{Answered, Metric, MetricValue};
    use super::*;
    use crate::chat::{ChatTask, Message, Role};
    use crate::decode::SamplingOptions;
    use crate::rollout::{Goal, ModelRole};

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
            let task = ChatTask::Generate {
                max_tokens: 8,
                sampling: SamplingOptions::default(),
                stop: vec![],
                schema: None,
                speaker: Role::Assistant,
            };
            Ok(vec![Question { role, model: None, messages: vec![Message::new(Role::User, text)], task }])
        }
        fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
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
        let input = MetricInput::new(&response, &goal, &|text| text.len());
        let mut evaluation = Evaluation::default();
        let first = evaluation.start(&metrics, &input);
        assert_eq!((first.len(), first[0].question.role), (1, ModelRole::Extractor));
        let second = evaluation.on_answer(&metrics, &input, (Asker::Metric(0), 0), Ok(text("42", Finish::Stop)));
        assert_eq!(second[0].question.messages[0].content, "is 42 good?");
        assert!(!evaluation.is_answered());
        assert!(
            evaluation.on_answer(&metrics, &input, (Asker::Metric(0), 1), Ok(text("Yes", Finish::Stop))).is_empty()
        );
        assert!(evaluation.is_answered());
        assert_eq!(evaluation.answers(0).unwrap().len(), 2);

        let mut cut = Evaluation::default();
        cut.start(&metrics, &input);
        assert!(cut.on_answer(&metrics, &input, (Asker::Metric(0), 0), Ok(text("4", Finish::Deadline))).is_empty());
        assert_eq!(cut.answers(0).unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    }

    /// Scores by the length of what was extracted.
    struct Length;

    impl Metric for Length {
        fn kind(&self) -> &str {
            "length"
        }
        fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
            batch.iter().map(|scored| Ok(MetricValue::from(scored.input.subject().len() as f64))).collect()
        }
    }

    #[test]
    fn an_extraction_is_made_once_for_all_metrics_that_want_it() {
        let extract = |instruction: &str| {
            let table = ExtractTable { instruction: Some(instruction.into()), ..ExtractTable::default() };
            Some(Arc::new(ExtractConfig::Table(table).build(false).expect("an extraction")))
        };
        let metric = |name: &str, extract| WeightedMetric {
            name: name.into(),
            extract,
            ..WeightedMetric::new(Arc::new(Length) as Arc<dyn Metric>, 1.0)
        };
        let two = WeightedMetric { extract: extract("the poem"), ..WeightedMetric::new(Arc::new(TwoSteps), 1.0) };
        let metrics =
            [metric("plain", None), metric("poem", extract("the poem")), metric("recipe", extract("the recipe")), two];
        let (response, goal) = (Message::new(Role::Assistant, "r"), Goal::default());
        let input = MetricInput::new(&response, &goal, &|text| text.len());
        let mut evaluation = Evaluation::default();
        let first = evaluation.start(&metrics, &input);
        let askers: Vec<Asker> = first.iter().map(|pending| pending.asker).collect();
        assert_eq!(askers, [Asker::Extraction(0), Asker::Extraction(1)]);
        assert!(first.iter().all(|pending| pending.question.role == ModelRole::Extractor));
        let reply = text(r#"{"final_completion": "Roses"}"#, Finish::Stop);
        let then = evaluation.on_answer(&metrics, &input, (Asker::Extraction(0), 0), Ok(reply));
        assert_eq!(then.len(), 1, "the metric with questions goes on");
        assert_eq!(evaluation.extracted(&metrics[1]), Some("Roses"));
        evaluation.on_answer(&metrics, &input, (Asker::Extraction(1), 0), Ok(text("no JSON", Finish::Stop)));
        let failure = evaluation.failure().expect("a failure").to_string();
        assert!(failure.starts_with("metric `recipe`: extract: the reply \"no JSON\""), "{failure}");
        assert!(evaluation.answers(1).is_ok() && evaluation.answers(2).is_err());
        assert_eq!((evaluation.extracted(&metrics[0]), evaluation.is_answered()), (None, false));
    }
}
