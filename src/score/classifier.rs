//! Graphs without a cache: whole texts in padded batches.
//!
//! A batch has the oldest text, and as many as fit of the longest texts that are not longer than it, so there is little
//! padding. Padding is on the right, where the attention mask hides it. Scores differ by rounding from those of a text
//! alone. Graphs of other exporters may handle padding differently, so only texts of equal length share a batch there.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ndarray::{ArrayView2, ArrayViewD, Axis, Ix2, Ix3};

use super::input::Wanted;
use crate::decode::DecoderStats;
use crate::decode::reader::{AnyReader, Rows};
use crate::decode::scheduler::{Ended, SequenceCost, SequenceId};
use crate::decode::urgency::{Turn, Urgency};
use crate::model::layout::{ClassifierGraph, PreparedGraph};
use crate::model::tokenizer::EncodedText;
use crate::model::{Head, ModelFolder, Pooling};
use crate::runtime::session::{Graph, Session};
use crate::runtime::{ProviderReport, RuntimeOptions};
use crate::{Error, Result};

/// Maximum number of tokens in a batch, including padding, because nothing can be cancelled during a step.
const MAX_BATCH_TOKENS: usize = 1024;
/// Maximum number of texts in a batch.
const MAX_BATCH_TEXTS: usize = 64;
/// Of so many batches, one begins with the oldest text.
const OLDEST_EVERY: u64 = 8;

/// A graph that is ready to run. A thread may load it for another.
pub(crate) struct Loaded {
    folder: Arc<ModelFolder>,
    session: Session,
    /// Whether only texts of equal length share a batch, because graphs of other exporters may pool by the id of
    /// padding.
    equal_lengths: bool,
}

/// A loaded graph and the texts that wait for it.
pub(crate) struct Classifier {
    loaded: Loaded,
    waiting: BTreeMap<Turn, Waiting>,
    next: u64,
    stats: DecoderStats,
}

struct Waiting {
    text: EncodedText,
    wanted: Wanted,
}

impl Waiting {
    fn len(&self) -> usize {
        self.text.tokens.len()
    }
}

impl Loaded {
    pub(crate) fn folder(&self) -> &Arc<ModelFolder> {
        &self.folder
    }

    /// Loads `folder`'s graph as it is.
    pub(crate) fn load(folder: Arc<ModelFolder>, options: &RuntimeOptions) -> Result<Self> {
        let name = folder.path().display().to_string();
        let file = folder.file();
        let (bytes, memory) = folder.plain_graph()?;
        let (data, loops) = (&file.data_folder, file.loops);
        let graph = Graph { bytes: &bytes, folder: data, memory, loops, name: &name, report: folder.provider() };
        let session = Session::open_plain(&graph, options)?;
        file.check_unchanged()?;
        let equal_lengths = folder.config().head.is_none();
        Ok(Loaded { folder, session, equal_lengths })
    }
}

impl Classifier {
    pub(crate) fn new(loaded: Loaded) -> Self {
        Classifier { loaded, waiting: BTreeMap::new(), next: 0, stats: DecoderStats::default() }
    }

    /// Takes the place of `fresh`'s weights. Gives back the old ones.
    ///
    /// # Errors
    /// Texts wait; nothing has changed then.
    pub(crate) fn exchange(&mut self, fresh: Loaded) -> Result<Loaded> {
        if !self.waiting.is_empty() {
            return Err(Error::internal("weights were exchanged under texts"));
        }
        Ok(std::mem::replace(&mut self.loaded, fresh))
    }

    pub(crate) fn folder(&self) -> &Arc<ModelFolder> {
        &self.loaded.folder
    }

    pub(crate) fn provider(&self) -> &ProviderReport {
        self.loaded.session.provider()
    }

    pub(crate) fn stats(&self) -> DecoderStats {
        self.stats
    }

    pub(crate) fn end_by(&mut self, end: Option<Instant>) {
        self.loaded.session.end_by(end);
    }

    /// Queues a text.
    pub(crate) fn submit(&mut self, text: EncodedText, wanted: Wanted, urgency: Urgency) -> SequenceId {
        let turn = Turn { urgency, arrival: self.next };
        self.next += 1;
        self.waiting.insert(turn, Waiting { text, wanted });
        SequenceId(turn.arrival)
    }

    /// Drops a text.
    pub(crate) fn cancel(&mut self, id: SequenceId) -> Option<(AnyReader, SequenceCost)> {
        let turn = *self.waiting.keys().find(|turn| turn.arrival == id.0)?;
        let waiting = self.waiting.remove(&turn)?;
        let cost = SequenceCost { prompt: waiting.len(), ..SequenceCost::default() };
        Some((AnyReader::Rows(Rows::default()), cost))
    }

    /// Runs one batch, if texts wait.
    pub(crate) fn step(&mut self, ended: &mut Vec<Ended<AnyReader>>) {
        let batch = self.take_batch();
        if batch.is_empty() {
            return;
        }
        self.stats.steps += 1;
        self.stats.computed_tokens += batch.iter().map(|(_, waiting)| waiting.len() as u64).sum::<u64>();
        let start = Instant::now();
        let results = match self.run(&batch) {
            Ok(rows) => rows.into_iter().map(Ok).collect(),
            Err(error) => batch.iter().map(|_| Err(error.duplicate())).collect::<Vec<_>>(),
        };
        self.stats.step_time += start.elapsed();
        for ((id, waiting), result) in batch.into_iter().zip(results) {
            let tokens = waiting.len();
            let cost = SequenceCost { prompt: tokens, computed: tokens, ..SequenceCost::default() };
            let (rows, result) = match result {
                Ok(rows) => (rows, Ok(())),
                Err(error) => (Vec::new(), Err(error)),
            };
            ended.push(Ended { id, reader: AnyReader::Rows(Rows::given(rows)), cost, result });
        }
    }

    /// The oldest text, and others that are only a little shorter.
    fn take_batch(&mut self) -> Vec<(SequenceId, Waiting)> {
        let lengths: Vec<(Turn, usize)> = self.waiting.iter().map(|(turn, waiting)| (*turn, waiting.len())).collect();
        let chosen = choose(&lengths, self.stats.steps, self.loaded.equal_lengths);
        let taken = chosen.into_iter().map(|turn| (SequenceId(turn.arrival), self.waiting.remove(&turn)));
        taken.filter_map(|(id, waiting)| Some((id, waiting?))).collect()
    }

    /// The wanted rows of each text.
    fn run(&mut self, batch: &[(SequenceId, Waiting)]) -> Result<Vec<Vec<f32>>> {
        let Loaded { folder, session, .. } = &mut self.loaded;
        let PreparedGraph::Classifier(graph) = folder.runner() else {
            return Err(folder.not_a("a classifier"));
        };
        let head = folder.head().ok_or_else(|| Error::internal("a classifier without a head"))?;
        let width = batch.iter().map(|(_, waiting)| waiting.len()).max().unwrap_or(0);
        let shape = [batch.len(), width];
        let padded = |numbers: &dyn Fn(&Waiting) -> Vec<i64>| {
            let mut all = Vec::with_capacity(batch.len() * width);
            for (row, (_, waiting)) in batch.iter().enumerate() {
                all.extend(numbers(waiting));
                all.resize((row + 1) * width, 0);
            }
            all
        };
        let widen = |ids: &[u32]| ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>();
        let ClassifierGraph { input_ids, attention_mask, token_type_ids, position_ids, output, per_token } = graph;
        session.set(input_ids, &shape, padded(&|waiting| widen(&waiting.text.tokens)))?;
        if let Some(name) = attention_mask {
            session.set(name, &shape, padded(&|waiting| vec![1; waiting.len()]))?;
        }
        if let Some(name) = token_type_ids {
            session.set(name, &shape, padded(&|waiting| widen(&waiting.text.types)))?;
        }
        if let Some(name) = position_ids {
            session.set(name, &shape, padded(&|waiting| (0..waiting.len() as i64).collect()))?;
        }
        session.run_all(&[output], |given| {
            let numbers = given.floats(output)?;
            let texts = batch.iter().map(|(_, waiting)| waiting);
            rows(numbers.view(), texts, head, *per_token).ok_or_else(|| {
                Error::invalid_model(format!(
                    "output `{output}` has shape {:?} for {} texts of up to {width} tokens and {} numbers each",
                    numbers.shape(),
                    batch.len(),
                    head.size
                ))
            })
        })
    }
}

/// Chooses the texts of batch number `batch`, from those that wait, with their lengths, the most urgent first.
fn choose(waiting: &[(Turn, usize)], batch: u64, equal_lengths: bool) -> Vec<Turn> {
    let oldest = || waiting.iter().min_by_key(|(turn, _)| turn.arrival);
    let first = if batch % OLDEST_EVERY == OLDEST_EVERY - 1 { oldest() } else { waiting.first() };
    let Some(&(first, longest)) = first else { return Vec::new() };
    let fits = |len: usize| if equal_lengths { len == longest } else { len <= longest };
    let mut chosen: Vec<(Turn, usize)> = waiting.iter().copied().filter(|(_, len)| fits(*len)).collect();
    chosen.sort_by_key(|&(turn, len)| (turn != first, turn.urgency, Reverse(len), turn.arrival));
    chosen.truncate((MAX_BATCH_TOKENS / longest.max(1)).clamp(1, MAX_BATCH_TEXTS));
    chosen.into_iter().map(|(turn, _)| turn).collect()
}

/// Picks each text's rows from a batch's output. `None` if its shape is not the announced one.
fn rows<'a>(
    numbers: ArrayViewD<'_, f32>,
    texts: impl ExactSizeIterator<Item = &'a Waiting>,
    head: &Head,
    per_token: bool,
) -> Option<Vec<Vec<f32>>> {
    if !per_token {
        let numbers = numbers.into_dimensionality::<Ix2>().ok()?;
        return (numbers.dim() == (texts.len(), head.size))
            .then(|| numbers.rows().into_iter().map(|row| row.to_vec()).collect());
    }
    let numbers = numbers.into_dimensionality::<Ix3>().ok()?;
    let (batch, width, size) = numbers.dim();
    if (batch, size) != (texts.len(), head.size) {
        return None;
    }
    texts
        .zip(numbers.axis_iter(Axis(0)))
        .map(|(waiting, rows)| match &waiting.wanted {
            _ if waiting.len() > width => None,
            Wanted::Rows(wanted) => Some(wanted.iter().flat_map(|&row| rows.row(row).to_vec()).collect()),
            _ => Some(pool(rows.slice(ndarray::s![..waiting.len(), ..]), head)),
        })
        .collect()
}

/// Pools the rows of a text's tokens into one.
fn pool(rows: ArrayView2<'_, f32>, head: &Head) -> Vec<f32> {
    let pooled = match head.pooling {
        Pooling::First | Pooling::None => rows.row(0).to_owned(),
        Pooling::Last => rows.row(rows.nrows() - 1).to_owned(),
        Pooling::Mean => rows.sum_axis(Axis(0)) / rows.nrows() as f32,
    };
    let length = pooled.iter().map(|x| x * x).sum::<f32>().sqrt();
    match head.normalize && length > 0.0 {
        // All quotients would be zero and look valid, so the length itself is refused.
        true if length.is_infinite() => vec![length; pooled.len()],
        true => pooled.mapv(|x| x / length).to_vec(),
        false => pooled.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HeadKind;

    /// Texts by arrival, with their priorities and lengths.
    fn texts(given: &[(i32, usize)]) -> Vec<(Turn, usize)> {
        let mut waiting: Vec<_> =
            (0..).zip(given).map(|(at, &(priority, len))| (Turn::new(priority, None, at), len)).collect();
        waiting.sort();
        waiting
    }

    fn arrivals(turns: &[Turn]) -> Vec<u64> {
        turns.iter().map(|turn| turn.arrival).collect()
    }

    #[test]
    fn a_batch_holds_the_most_urgent_text_and_the_next_that_are_no_longer() {
        let waiting = texts(&[(0, 300), (0, 200), (5, 250), (1, 100), (0, 240), (0, 250)]);
        assert_eq!(arrivals(&choose(&waiting, 0, false)), [2, 3, 5, 4]);
        assert_eq!(arrivals(&choose(&waiting, 0, true)), [2, 5]);
        let equals = texts(&[(0, 300), (0, 200), (0, 400), (0, 290)]);
        assert_eq!(arrivals(&choose(&equals, 0, false)), [0, 3, 1], "the longest first, where nothing is urgent");
        assert!(choose(&[], 0, false).is_empty());
    }

    #[test]
    fn urgent_texts_that_keep_coming_do_not_hold_up_the_oldest_for_ever() {
        let waiting = |batch: u64| vec![(Turn::new(9, None, 100 + batch), 1024), (Turn::new(0, None, 0), 1024)];
        let begun: Vec<u64> = (0..8).map(|batch| choose(&waiting(batch), batch, false)[0].arrival).collect();
        assert_eq!(begun, [100, 101, 102, 103, 104, 105, 106, 0]);
    }

    #[test]
    fn an_embedding_whose_length_overflows_is_no_vector_of_zeros() {
        let head = Head {
            kind: HeadKind::Embedding,
            size: 2,
            labels: vec![],
            pooling: Pooling::First,
            normalize: true,
            max_length: None,
            pad_token_id: None,
        };
        let pooled = |row: [f32; 2]| pool(ndarray::arr2(&[row]).view(), &head);
        assert_eq!(pooled([3.0, 4.0]), [0.6, 0.8]);
        assert!(pooled([1e30, 1.0]).iter().all(|x| x.is_infinite()), "what reads them refuses them");
    }
}
