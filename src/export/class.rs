//! The classes of transformers that can be exported, and the plan that each makes for a checkpoint.

use super::arch::{self, Architecture};
use super::checkpoint::Checkpoint;
use super::encoder;
use super::genai;
use super::graph::{self, Graph};
use super::head::{self, Scores};
use super::quantize::Scheme;
use super::rope::Rope;
use crate::model::head::Head;
use crate::{Error, Result};

/// The graph's name in the exported folder.
pub(super) const GRAPH: &str = "model.onnx";

/// A class, as `config.json` names it under `architectures`.
pub(super) enum Class {
    /// A decoder that predicts the next token.
    LanguageModel(&'static Architecture),
    /// A decoder that gives scores.
    Scores(&'static Architecture, &'static head::Class),
    Encoder(&'static encoder::Class),
}

/// All that an export writes beside tokenizer and weights.
pub(super) struct Plan<'a> {
    pub(super) graph: Graph<'a>,
    pub(super) layers: usize,
    /// The rotary embeddings whose tables the graph names, and the positions that these tables have.
    pub(super) ropes: Vec<Rope>,
    pub(super) positions: usize,
    pub(super) head: Option<Head>,
    /// Further files: names and contents.
    pub(super) files: Vec<(&'static str, Vec<u8>)>,
}

impl Class {
    /// The class that the checkpoint's configuration names.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let config = &checkpoint.config;
        if config.get("quantization_config").is_some() {
            let complaint = "quantised checkpoints are not read: export the original, or a GGUF of it";
            return Err(config.unsupported("quantization_config", complaint));
        }
        encoder::sentence::check(checkpoint)?;
        let names = config.get("architectures").and_then(|value| value.as_array()).filter(|names| !names.is_empty());
        let names = names.ok_or_else(|| {
            let complaint = format!("expected a list with the model's class, one of: {}", Class::names());
            config.bad_value("architectures", &complaint)
        })?;
        names.iter().find_map(|name| Class::by_name(name.as_str()?)).ok_or_else(|| {
            let wraps = match config.get("text_config") {
                Some(_) => {
                    "this class wraps a language model into something that also sees or hears; export the \
                            language model alone, saved as a class of its own: "
                }
                None => "",
            };
            config.unsupported("architectures", &format!("{wraps}this version exports {}", Class::names()))
        })
    }

    fn by_name(name: &str) -> Option<Self> {
        if let Some(architecture) = arch::by_name(name) {
            return Some(Class::LanguageModel(architecture));
        }
        if let Some(class) = encoder::CLASSES.iter().find(|class| class.name == name) {
            return Some(Class::Encoder(class));
        }
        let class = head::CLASSES.iter().find(|class| class.name == name)?;
        Some(Class::Scores(arch::by_name(class.body)?, class))
    }

    /// All classes, one after another.
    fn names() -> String {
        Class::all().collect::<Vec<_>>().join(", ")
    }

    fn all() -> impl Iterator<Item = &'static str> {
        let scores = head::CLASSES.iter().map(|class| class.name);
        arch::names().chain(scores).chain(encoder::CLASSES.iter().map(|class| class.name))
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Class::LanguageModel(architecture) => architecture.name,
            Class::Scores(_, class) => class.name,
            Class::Encoder(class) => class.name,
        }
    }

    /// Reads the configuration and builds the graph, refusing what would come out wrong.
    pub(super) fn plan<'a>(&self, checkpoint: &'a Checkpoint, scheme: Scheme) -> Result<Plan<'a>> {
        match self {
            Class::LanguageModel(architecture) => decoder(architecture, None, checkpoint, scheme),
            Class::Scores(architecture, class) => {
                decoder(architecture, Some(class.read(checkpoint)?), checkpoint, scheme)
            }
            Class::Encoder(class) => encoder(class, checkpoint, scheme),
        }
    }
}

fn decoder<'a>(
    architecture: &Architecture,
    scores: Option<Scores>,
    checkpoint: &'a Checkpoint,
    scheme: Scheme,
) -> Result<Plan<'a>> {
    let decoder = (architecture.decoder)(checkpoint)?;
    let graph = graph::build(&decoder, scores.as_ref(), checkpoint, scheme)?;
    let genai = genai::config(&decoder, scores.is_some(), checkpoint, GRAPH)?;
    let genai = serde_json::to_vec_pretty(&genai).map_err(|error| Error::internal(error.to_string()))?;
    Ok(Plan {
        graph,
        layers: decoder.layers.len(),
        ropes: decoder.ropes,
        positions: decoder.context_length,
        head: scores.map(|scores| scores.head),
        files: vec![(genai::FILE, genai)],
    })
}

fn encoder<'a>(class: &encoder::Class, checkpoint: &'a Checkpoint, scheme: Scheme) -> Result<Plan<'a>> {
    let encoder = class.read(checkpoint, scheme)?;
    Ok(Plan {
        graph: encoder.graph,
        layers: encoder.layers,
        ropes: encoder.ropes,
        positions: encoder.positions,
        head: Some(encoder.head),
        files: vec![("config.json", checkpoint.config.to_json())],
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_class_has_one_name_and_is_found_by_it() {
        let names: Vec<&str> = Class::all().collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for name in names {
            assert_eq!(Class::by_name(name).expect(name).name(), name);
        }
        assert!(Class::by_name("MambaForCausalLM").is_none());
    }
}
