//! One loaded model and the sequences under way on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::executor::Executor;
use super::executor::device::DeviceExecutor;
use super::executor::padded::PaddedExecutor;
use super::executor::paged::{PagedExecutor, blocks_within};
use super::reader::AnyReader;
use super::rope::Variants;
use super::scheduler::{Budget, Ended, Scheduler, SchedulerOptions, SequenceCost, SequenceId};
use super::urgency::Urgency;
use crate::model::ModelFolder;
use crate::model::layout::PreparedGraph;
use crate::model::source::Source;
use crate::model::target::Cache;
use crate::runtime::{ProviderReport, RuntimeOptions};
use crate::{Error, ErrorKind, Result};

/// Settings for the memory and time that a model's sequences share.
#[derive(Debug, Clone)]
pub struct DecodeOptions {
    /// Bytes of the key-value cache. Its pages become resident when their blocks are first used.
    pub kv_cache: usize,
    /// Time that a step may take. It sizes the chunks of prompts.
    pub step_budget: Duration,
    /// Most sequences in one step.
    pub max_sequences: usize,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        DecodeOptions { kv_cache: 1 << 30, step_budget: Duration::from_millis(250), max_sequences: 64 }
    }
}

/// Counters of one model since it was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DecoderStats {
    /// Runs of the model.
    pub steps: u64,
    /// The time that these runs took, planned and read as they are.
    #[serde(rename = "step_seconds", serialize_with = "seconds")]
    pub step_time: Duration,
    /// Token rows computed, prompts and replies together.
    pub computed_tokens: u64,
    /// Tokens of the prompts that have ended.
    pub prompt_tokens: u64,
    /// Those of these tokens that were taken from the cache.
    pub reused_tokens: u64,
    /// Sequences sent back to the queue, to make room for others.
    pub preemptions: u64,
    /// Sequences that share steps now.
    pub sequences: usize,
    /// Sequences that wait for memory or a place.
    pub waiting: usize,
    /// Cache blocks with contents now.
    pub used_blocks: usize,
    /// Most cache blocks with contents at once.
    pub peak_blocks: usize,
    /// Cache blocks in all.
    pub blocks: usize,
}

/// The graphs that weights in memory can be given to.
const PAGED: &str = "that of a decoder which runs on the paged path, whose weights alone can be exchanged";

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// A model that is ready to run, without sequences. A thread may load it for another.
pub(crate) struct Loaded {
    folder: Arc<ModelFolder>,
    executor: Box<dyn Executor>,
    provider: ProviderReport,
    blocks: usize,
}

impl Loaded {
    pub(crate) fn folder(&self) -> &Arc<ModelFolder> {
        &self.folder
    }

    /// Loads `folder`'s model with the weights of `given`, or with those in its files.
    ///
    /// # Errors
    /// Weights are given, and the model is not on the paged path; or the model can't be loaded.
    pub(crate) fn load(
        folder: Arc<ModelFolder>,
        given: Option<&dyn Source>,
        options: &DecodeOptions,
        runtime: &RuntimeOptions,
    ) -> Result<Self> {
        let blocks = blocks_within(&folder, options.kv_cache)?;
        let (executor, provider): (Box<dyn Executor>, _) = match folder.runner() {
            PreparedGraph::Paged(paged) if matches!(paged.cache, Cache::Device(_)) => {
                let executor = DeviceExecutor::load(&folder, paged, given, blocks, runtime)?;
                let provider = executor.provider().clone();
                (Box::new(executor), provider)
            }
            PreparedGraph::Paged(paged) => {
                let executor = PagedExecutor::load(&folder, paged, given, blocks, runtime)?;
                let provider = executor.provider().clone();
                (Box::new(executor), provider)
            }
            _ if given.is_some() => return Err(folder.not_a(PAGED)),
            PreparedGraph::Padded(padded) => {
                let executor = PaddedExecutor::load(&folder, padded, blocks, runtime)?;
                let provider = executor.provider().clone();
                (Box::new(executor), provider)
            }
            PreparedGraph::Classifier(_) => return Err(folder.not_a("a language model")),
        };
        Ok(Loaded { folder, executor, provider, blocks })
    }
}

/// A model with its scheduler.
pub(crate) struct Decoder {
    loaded: Loaded,
    scheduler: Scheduler<AnyReader>,
    pace: Pace,
    step_time: Duration,
    // Sums over the sequences that have ended.
    prompt_tokens: u64,
    reused_tokens: u64,
}

/// Bytes that a step's logits may take: 512 rows of a vocabulary of 32k, 128 of one of 128k.
const LOGIT_BYTES: usize = 64 << 20;

impl Decoder {
    /// Loads `folder`'s model.
    #[cfg(test)]
    pub(crate) fn load(folder: Arc<ModelFolder>, options: &DecodeOptions, runtime: &RuntimeOptions) -> Result<Self> {
        Ok(Decoder::new(Loaded::load(folder, None, options, runtime)?, options))
    }

    pub(crate) fn new(loaded: Loaded, options: &DecodeOptions) -> Self {
        let folder = &loaded.folder;
        let scheduler = Scheduler::new(SchedulerOptions {
            blocks: loaded.blocks,
            block_size: folder.block_size(),
            max_sequences: options.max_sequences,
            // A head's rows are a few numbers each.
            max_logit_rows: (LOGIT_BYTES / size_of::<f32>() / folder.row_width()).clamp(1, Pace::MOST),
            block_bytes: folder.block_bytes(),
            variants: Variants { longest_short: folder.longest_short() },
        });
        let pace = Pace::new(options.step_budget);
        Decoder { loaded, scheduler, pace, step_time: Duration::ZERO, prompt_tokens: 0, reused_tokens: 0 }
    }

    pub(crate) fn folder(&self) -> &Arc<ModelFolder> {
        &self.loaded.folder
    }

    pub(crate) fn provider(&self) -> &ProviderReport {
        &self.loaded.provider
    }

    /// Queues a sequence of `tokens` that may grow by `max_new`. Its `urgency` says before which others it goes.
    ///
    /// # Errors
    /// Refuses an empty prompt, one that is longer than the context, ids beyond the vocabulary, and a sequence that
    /// doesn't fit the cache.
    pub(crate) fn submit(
        &mut self,
        tokens: Vec<u32>,
        max_new: usize,
        urgency: Urgency,
        reader: AnyReader,
    ) -> Result<SequenceId> {
        check_prompt(&self.loaded.folder, &tokens)?;
        self.scheduler.submit(tokens, max_new, urgency, reader)
    }

    /// Ends a sequence early and gives back its reader.
    pub(crate) fn cancel(&mut self, id: SequenceId) -> Option<(AnyReader, SequenceCost)> {
        self.scheduler.cancel(id)
    }

    /// Keeps the full blocks of a prefix from being evicted.
    pub(crate) fn pin(&mut self, key: u64, tokens: &[u32]) -> Result<()> {
        self.scheduler.pin(key, tokens)
    }

    /// Undoes [`Decoder::pin`].
    pub(crate) fn unpin(&mut self, key: u64) {
        self.scheduler.unpin(key);
    }

    /// Sets the time after which nobody waits for a step any more. A step that is under way then is ended.
    pub(crate) fn end_by(&mut self, end: Option<Instant>) {
        self.loaded.executor.end_by(end);
    }

    /// Runs one step; returns whether sequences are left.
    pub(crate) fn step(&mut self, ended: &mut Vec<Ended<AnyReader>>) -> bool {
        let (start, before) = (Instant::now(), ended.len());
        let tokens = self.scheduler.step(&self.pace.budget(start), &mut *self.loaded.executor, ended);
        let took = start.elapsed();
        self.pace.observe(tokens, took);
        self.step_time += took;
        self.count(&ended[before..]);
        !self.scheduler.is_idle()
    }

    /// Takes the place of `fresh`'s weights: the cache is emptied, and pins stay. Gives back the old ones.
    ///
    /// # Errors
    /// Sequences are under way; nothing has changed then.
    pub(crate) fn exchange(&mut self, fresh: Loaded) -> Result<Loaded> {
        self.scheduler.reset()?;
        Ok(std::mem::replace(&mut self.loaded, fresh))
    }

    /// The full blocks of the prefixes that are pinned.
    pub(crate) fn pinned(&self) -> impl Iterator<Item = &[u32]> {
        self.scheduler.pinned()
    }

    fn count(&mut self, ended: &[Ended<AnyReader>]) {
        for Ended { cost, .. } in ended {
            self.prompt_tokens += cost.prompt as u64;
            self.reused_tokens += cost.reused() as u64;
        }
    }

    #[cfg(test)]
    pub(super) fn poison(&mut self) {
        self.loaded.executor.poison();
    }

    pub(crate) fn stats(&self) -> DecoderStats {
        let totals = self.scheduler.totals();
        DecoderStats {
            steps: totals.steps,
            step_time: self.step_time,
            computed_tokens: totals.computed,
            prompt_tokens: self.prompt_tokens,
            reused_tokens: self.reused_tokens,
            preemptions: totals.preemptions,
            sequences: self.scheduler.running(),
            waiting: self.scheduler.waiting(),
            used_blocks: self.scheduler.cache().occupied(),
            peak_blocks: totals.peak_blocks,
            blocks: self.scheduler.cache().total(),
        }
    }
}

/// Refuses prompts that the model can't take. The error has the numbers.
pub(crate) fn check_prompt(folder: &ModelFolder, tokens: &[u32]) -> Result<()> {
    let (context, vocabulary) = (folder.context_length(), folder.config().model.vocab_size);
    if tokens.is_empty() {
        return Err(Error::invalid_request("the prompt is empty; give at least one token"));
    }
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocabulary) {
        return Err(Error::invalid_request(format!(
            "token {id} is beyond the vocabulary of {} ({vocabulary} tokens)",
            folder.path().display()
        )));
    }
    if tokens.len() > context {
        return Err(Error::new(
            ErrorKind::ContextLength,
            format!(
                "the prompt has {} tokens, but {} has a context of {context}. Shorten the conversation or use a model with a longer context",
                tokens.len(),
                folder.path().display()
            ),
        ));
    }
    Ok(())
}

/// Sizes prompt chunks so that a step takes about its budget.
struct Pace {
    budget: Duration,
    /// Smoothed tokens per second of steps that are mostly prefill; `None` before the first.
    rate: Option<f64>,
}

impl Pace {
    /// Below this, a chunk uses the processor poorly.
    const LEAST: usize = 32;
    /// Above this, a chunk gains nothing more.
    const MOST: usize = 512;

    fn new(budget: Duration) -> Self {
        Pace { budget, rate: None }
    }

    fn budget(&self, now: Instant) -> Budget {
        Budget { tokens: self.tokens(), least: Self::LEAST, rate: self.rate, now }
    }

    fn tokens(&self) -> usize {
        // Nothing is known of the machine yet. A small chunk keeps the budget on a slow one, too.
        let Some(rate) = self.rate else { return Self::LEAST };
        ((rate * self.budget.as_secs_f64()) as usize).clamp(Self::LEAST, Self::MOST)
    }

    fn observe(&mut self, tokens: usize, took: Duration) {
        if tokens >= Self::LEAST && !took.is_zero() {
            let now = tokens as f64 / took.as_secs_f64();
            self.rate = Some(self.rate.map_or(now, |rate| rate + 0.3 * (now - rate)));
        }
    }
}

#[cfg(test)]
mod tests;
