//! What runs a local model: the decoder's scheduler, or batches of whole texts.

use std::sync::Arc;
use std::time::Instant;

use crate::decode::reader::{AnyReader, LogProbs, Rows};
use crate::decode::scheduler::{Ended, SequenceCost, SequenceId};
use crate::decode::urgency::Urgency;
use crate::decode::{self, DecodeOptions, Decoder, DecoderStats};
use crate::model::source::Source;
use crate::model::{ModelFolder, ModelKind};
use crate::runtime::{ProviderReport, RuntimeOptions};
use crate::score::classifier::{self, Classifier};
use crate::score::input::{Encoded, Wanted};
use crate::score::output::pooled_row;
use crate::{Error, Result};

/// One loaded model.
pub(super) enum Backend {
    Decoder(Box<Decoder>),
    Classifier(Box<Classifier>),
}

/// What a backend runs: a model, loaded and ready. A thread may load it for another.
pub(super) enum Loaded {
    Decoder(decode::Loaded),
    Classifier(Box<classifier::Loaded>),
}

impl Loaded {
    /// Loads `folder`'s model with the weights of `given`, which only decoders take, or with those in its files.
    pub(super) fn load(
        folder: Arc<ModelFolder>,
        given: Option<&dyn Source>,
        decode: &DecodeOptions,
        runtime: &RuntimeOptions,
    ) -> Result<Self> {
        Ok(match folder.kind() {
            ModelKind::Classifier if given.is_none() => {
                Loaded::Classifier(Box::new(classifier::Loaded::load(folder, runtime)?))
            }
            _ => Loaded::Decoder(decode::Loaded::load(folder, given, decode, runtime)?),
        })
    }

    pub(super) fn folder(&self) -> &Arc<ModelFolder> {
        match self {
            Loaded::Decoder(loaded) => loaded.folder(),
            Loaded::Classifier(loaded) => loaded.folder(),
        }
    }
}

impl Backend {
    pub(super) fn new(loaded: Loaded, decode: &DecodeOptions) -> Self {
        match loaded {
            Loaded::Classifier(loaded) => Backend::Classifier(Box::new(Classifier::new(*loaded))),
            Loaded::Decoder(loaded) => Backend::Decoder(Box::new(Decoder::new(loaded, decode))),
        }
    }

    /// Takes other weights of the same model, and gives back the old ones.
    ///
    /// # Errors
    /// Requests are under way, or it is another kind of model. Nothing has changed then.
    pub(super) fn exchange(&mut self, fresh: Loaded) -> Result<Loaded> {
        match (self, fresh) {
            (Backend::Decoder(decoder), Loaded::Decoder(fresh)) => decoder.exchange(fresh).map(Loaded::Decoder),
            (Backend::Classifier(classifier), Loaded::Classifier(fresh)) => {
                classifier.exchange(*fresh).map(|old| Loaded::Classifier(Box::new(old)))
            }
            _ => Err(Error::internal("weights of another kind of model")),
        }
    }

    /// Queues what computes the prefixes that are pinned and not there; nothing of it is read.
    pub(super) fn rewarm(&mut self) -> Result<Vec<SequenceId>> {
        let Backend::Decoder(decoder) = self else { return Ok(Vec::new()) };
        let pinned: Vec<Vec<u32>> = decoder.pinned().filter(|tokens| !tokens.is_empty()).map(<[u32]>::to_vec).collect();
        let submit = |tokens: Vec<u32>| {
            let last = tokens.len() - 1;
            decoder.submit(tokens, 0, Urgency::default(), AnyReader::Rows(Rows::new([last])))
        };
        pinned.into_iter().map(submit).collect()
    }

    pub(super) fn folder(&self) -> &Arc<ModelFolder> {
        match self {
            Backend::Decoder(decoder) => decoder.folder(),
            Backend::Classifier(classifier) => classifier.folder(),
        }
    }

    pub(super) fn provider(&self) -> &ProviderReport {
        match self {
            Backend::Decoder(decoder) => decoder.provider(),
            Backend::Classifier(classifier) => classifier.provider(),
        }
    }

    pub(super) fn stats(&self) -> DecoderStats {
        match self {
            Backend::Decoder(decoder) => decoder.stats(),
            Backend::Classifier(classifier) => classifier.stats(),
        }
    }

    /// Queues tokens that a language model goes on from, or whose logits over the vocabulary are read.
    pub(super) fn submit(
        &mut self,
        tokens: Vec<u32>,
        max_new: usize,
        urgency: Urgency,
        reader: AnyReader,
    ) -> Result<SequenceId> {
        self.language_model()?.submit(tokens, max_new, urgency, reader)
    }

    /// Queues what is to be scored.
    pub(super) fn score(&mut self, encoded: Encoded, urgency: Urgency) -> Result<SequenceId> {
        let Encoded { text, wanted } = encoded;
        match self {
            Backend::Classifier(classifier) => Ok(classifier.submit(text, wanted, urgency)),
            Backend::Decoder(decoder) => {
                let mut tokens = text.tokens;
                let rows = match wanted {
                    Wanted::LogProbs { given } => {
                        let reader = LogProbs::new(tokens.clone().into(), given - 1);
                        return decoder.submit(tokens, 0, urgency, AnyReader::LogProbs(reader));
                    }
                    Wanted::Pooled => vec![pooled_row(decoder.folder().head(), &tokens)],
                    Wanted::Rows(rows) => rows,
                };
                // No row depends on what comes after it.
                tokens.truncate(rows.last().map_or(0, |last| last + 1));
                decoder.submit(tokens, 0, urgency, AnyReader::Rows(Rows::new(rows)))
            }
        }
    }

    pub(super) fn cancel(&mut self, id: SequenceId) -> Option<(AnyReader, SequenceCost)> {
        match self {
            Backend::Decoder(decoder) => decoder.cancel(id),
            Backend::Classifier(classifier) => classifier.cancel(id),
        }
    }

    /// Pins a prefix and queues what computes it; nothing of it is read.
    pub(super) fn warm(&mut self, key: u64, tokens: Vec<u32>, urgency: Urgency) -> Result<SequenceId> {
        let Backend::Decoder(decoder) = self else {
            return Err(Error::invalid_request(format!(
                "{} has no key-value cache that a prefix could stay in: it reads every text whole. Leave out what warms it",
                self.folder().path().display()
            )));
        };
        decoder.pin(key, &tokens)?;
        let last = tokens.len().saturating_sub(1);
        let queued = decoder.submit(tokens, 0, urgency, AnyReader::Rows(Rows::new([last])));
        if queued.is_err() {
            decoder.unpin(key);
        }
        queued
    }

    pub(super) fn unpin(&mut self, key: u64) {
        if let Backend::Decoder(decoder) = self {
            decoder.unpin(key);
        }
    }

    pub(super) fn end_by(&mut self, end: Option<Instant>) {
        match self {
            Backend::Decoder(decoder) => decoder.end_by(end),
            Backend::Classifier(classifier) => classifier.end_by(end),
        }
    }

    pub(super) fn step(&mut self, ended: &mut Vec<Ended<AnyReader>>) {
        match self {
            Backend::Decoder(decoder) => drop(decoder.step(ended)),
            Backend::Classifier(classifier) => classifier.step(ended),
        }
    }

    /// The decoder, if its rows are logits over the vocabulary.
    fn language_model(&mut self) -> Result<&mut Decoder> {
        let folder = Arc::clone(self.folder());
        match self {
            Backend::Decoder(decoder) if folder.head().is_none() => Ok(decoder),
            _ => Err(Error::invalid_request(format!(
                "{} is not a language model: it gives {} numbers for a text or its tokens. Give another model for this role, \
                 or ask this one for scores",
                folder.path().display(),
                folder.row_width()
            ))),
        }
    }
}
