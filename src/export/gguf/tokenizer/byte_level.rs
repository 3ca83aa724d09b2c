//! Byte-level byte-pair encoding, `tokenizer.ggml.model` = `gpt2`.
//!
//! GGUF keeps vocabulary and merges. Of the splitter before them it keeps only a name, `tokenizer.ggml.pre`. Each name
//! that is known here stands for the splitter that the models' publishers ship. Any other is refused, because a wrong
//! splitter yields plausible tokens that the model never saw.

use serde_json::{Value as Json, json};

use super::{Parts, Vocabulary, flag, required_array, required_text};
use crate::export::gguf::Source;
use crate::{Error, Result};

/// A way of splitting text before byte-pair merging.
struct Splitter {
    /// The value of `tokenizer.ggml.pre`.
    pre: &'static str,
    normalizer: fn() -> Json,
    pre_tokenizer: fn() -> Json,
    /// Lets a piece that is itself in the vocabulary skip the merges.
    ignore_merges: bool,
    /// Adds a beginning-of-sequence token where the file does not say.
    adds_bos: bool,
}

const SPLITTERS: &[Splitter] = &[
    Splitter { pre: "gpt-2", normalizer: none, pre_tokenizer: gpt2, ignore_merges: false, adds_bos: false },
    Splitter { pre: "llama-bpe", normalizer: none, pre_tokenizer: llama3, ignore_merges: true, adds_bos: true },
    Splitter { pre: "llama-v3", normalizer: none, pre_tokenizer: llama3, ignore_merges: true, adds_bos: true },
    Splitter { pre: "llama3", normalizer: none, pre_tokenizer: llama3, ignore_merges: true, adds_bos: true },
    Splitter { pre: "qwen2", normalizer: nfc, pre_tokenizer: qwen2, ignore_merges: false, adds_bos: false },
    Splitter { pre: "smaug-bpe", normalizer: none, pre_tokenizer: llama3, ignore_merges: true, adds_bos: false },
    Splitter { pre: "smollm", normalizer: none, pre_tokenizer: smollm, ignore_merges: false, adds_bos: false },
    Splitter { pre: "tekken", normalizer: none, pre_tokenizer: tekken, ignore_merges: true, adds_bos: true },
];

fn none() -> Json {
    Json::Null
}

fn nfc() -> Json {
    json!({"type": "NFC"})
}

fn byte_level(use_regex: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn sequence(first: Json, second: Json) -> Json {
    json!({"type": "Sequence", "pretokenizers": [first, second]})
}

fn split(pattern: &str) -> Json {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

fn gpt2() -> Json {
    byte_level(true)
}

fn llama3() -> Json {
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    sequence(split(pattern), byte_level(false))
}

fn qwen2() -> Json {
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    sequence(split(pattern), byte_level(false))
}

fn smollm() -> Json {
    sequence(json!({"type": "Digits", "individual_digits": true}), byte_level(true))
}

/// Mistral Nemo's: words end where the case rises.
fn tekken() -> Json {
    let pattern = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    sequence(split(pattern), byte_level(false))
}

/// The parts of `tokenizer.json` that are this kind's own.
pub(super) fn parts(source: &Source<'_>, vocabulary: &Vocabulary<'_>) -> Result<Parts> {
    let splitter = splitter(source)?;
    let key = "tokenizer.ggml.add_space_prefix";
    if flag(source, key, false)? {
        return Err(Error::unsupported(format!(
            "{}: `{key}` is true, which byte-level tokenizers are not rebuilt with: export the Hugging Face checkpoint \
             instead",
            source.label
        )));
    }
    Ok(Parts {
        normalizer: (splitter.normalizer)(),
        pre_tokenizer: (splitter.pre_tokenizer)(),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": splitter.ignore_merges, "vocab": vocabulary.json(), "merges": merges(source)?,
        }),
        adds_bos: splitter.adds_bos,
    })
}

fn splitter(source: &Source<'_>) -> Result<&'static Splitter> {
    let key = "tokenizer.ggml.pre";
    let pre = required_text(source, key)?;
    SPLITTERS.iter().find(|splitter| splitter.pre == pre).ok_or_else(|| {
        let known: Vec<&str> = SPLITTERS.iter().map(|splitter| splitter.pre).collect();
        Error::unsupported(format!(
            "{}: `{key}` is `{}`, whose way of splitting text is not known here; known are `{}`: export the Hugging \
             Face checkpoint instead, it holds the whole tokenizer",
            source.label,
            pre.escape_debug(),
            known.join("`, `")
        ))
    })
}

fn merges(source: &Source<'_>) -> Result<Vec<String>> {
    let key = "tokenizer.ggml.merges";
    let mut merges = Vec::new();
    for merge in required_array(source, key)?.iter() {
        let pair = merge.text().filter(|pair| pair.split(' ').count() == 2);
        let pair = pair.ok_or_else(|| {
            source.wrong(key, &format!("merge {} is not two tokens and a space between", merges.len()))
        })?;
        merges.push(pair.to_owned());
    }
    Ok(merges)
}
