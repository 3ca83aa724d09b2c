//! SentencePiece's byte-pair encoding, `tokenizer.ggml.model` = `llama`: Llama 2, Mistral, Gemma, Phi-3.
//!
//! GGUF keeps what the `.model` file holds: pieces, in which U+2581 stands for a space, and their scores. SentencePiece
//! joins the two neighbours whose piece scores highest; `tokenizers` joins by a list of merges. The list here is every
//! way of cutting a piece into two others, best piece first, which is how transformers converts such files. Characters
//! that no piece has become the tokens of their bytes.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::{Parts, USER_DEFINED, Vocabulary, flag, required_array};
use crate::export::gguf::Source;
use crate::export::gguf::parse::Value;
use crate::{Error, Result};

/// The character that stands for a space in pieces.
const SPACE: &str = "\u{2581}";

/// The type of pieces that text is made of.
const NORMAL: u64 = 1;
const BYTE: u64 = 6;

/// The converter of llama.cpp writes user-defined runs of spaces as such. They are pieces here again, made by merges.
pub(super) fn spelling(token: &str, kind: u64) -> Cow<'_, str> {
    if kind == USER_DEFINED && !token.is_empty() && token.chars().all(|c| c == ' ') {
        Cow::Owned(token.replace(' ', SPACE))
    } else {
        Cow::Borrowed(token)
    }
}

/// The parts of `tokenizer.json` that are this kind's own.
pub(super) fn parts(source: &Source<'_>, vocabulary: &Vocabulary<'_>) -> Result<Parts> {
    refuse_normalisation(source)?;
    refuse_long_pieces(source, vocabulary)?;
    let space_prefix = flag(source, "tokenizer.ggml.add_space_prefix", true)?;
    let to_pieces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let to_spaces = json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "});
    let mut decoders = vec![to_spaces, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let normalizer = if space_prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, to_pieces]})
    } else {
        to_pieces
    };
    Ok(Parts {
        normalizer,
        pre_tokenizer: Json::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": vocabulary.special(source, "unknown_token_id")?,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": vocabulary.kinds.contains(&BYTE), "ignore_merges": false,
            "vocab": vocabulary.json(), "merges": merges(vocabulary, &scores(source, vocabulary)?),
        }),
        adds_bos: true,
    })
}

/// Refuses preparations of a text that SentencePiece models can ask for and the families handled here do not.
fn refuse_normalisation(source: &Source<'_>) -> Result<()> {
    let unsupported = |key: &str, what: &str| {
        Err(Error::unsupported(format!(
            "{}: `{key}`: {what} is not rebuilt: export the Hugging Face checkpoint instead",
            source.label
        )))
    };
    for (key, default, what) in [
        ("tokenizer.ggml.remove_extra_whitespaces", false, "a tokenizer that drops repeated spaces"),
        ("tokenizer.ggml.treat_whitespace_as_suffix", false, "a tokenizer with spaces at the ends of words"),
    ] {
        if flag(source, key, default)? {
            return unsupported(key, what);
        }
    }
    let key = "tokenizer.ggml.escape_whitespaces";
    if !flag(source, key, true)? {
        return unsupported(key, "a tokenizer that keeps spaces as they are");
    }
    let key = "tokenizer.ggml.precompiled_charsmap";
    if source.get(key).and_then(Value::array).is_some_and(|map| map.iter().next().is_some()) {
        return unsupported(key, "a table of characters to replace");
    }
    Ok(())
}

/// The longest piece. Every way of cutting a piece is tried, so absurd pieces would take for ever.
fn refuse_long_pieces(source: &Source<'_>, vocabulary: &Vocabulary<'_>) -> Result<()> {
    const LONGEST: usize = 512;
    match vocabulary.tokens.iter().position(|token| token.len() > LONGEST) {
        Some(id) => {
            let complaint =
                format!("token {id} has {} bytes, at most {LONGEST} are handled", vocabulary.tokens[id].len());
            Err(source.wrong("tokenizer.ggml.tokens", &complaint))
        }
        None => Ok(()),
    }
}

fn scores(source: &Source<'_>, vocabulary: &Vocabulary<'_>) -> Result<Vec<f64>> {
    let key = "tokenizer.ggml.scores";
    let number = |value| match value {
        Value::Float(score) if score.is_finite() => Some(score),
        _ => None,
    };
    let scores: Option<Vec<f64>> = required_array(source, key)?.iter().map(number).collect();
    let scores = scores.ok_or_else(|| source.wrong(key, "expected a list of finite numbers"))?;
    if scores.len() != vocabulary.tokens.len() {
        return Err(source.wrong(key, &format!("{} scores for {} tokens", scores.len(), vocabulary.tokens.len())));
    }
    Ok(scores)
}

/// Every way of joining two pieces into a third, in the order in which they are to be tried: by the score of the
/// result, then the longer left part, then the longer right one.
fn merges(vocabulary: &Vocabulary<'_>, scores: &[f64]) -> Vec<[String; 2]> {
    let ids: HashMap<&str, usize> = vocabulary.tokens.iter().enumerate().map(|(id, token)| (&**token, id)).collect();
    let mut found = Vec::new();
    for (id, piece) in vocabulary.tokens.iter().enumerate() {
        let score = match vocabulary.kinds[id] {
            NORMAL => scores[id],
            // SentencePiece never takes these apart.
            USER_DEFINED => f64::MAX,
            // Control and byte tokens stand for no text.
            _ => continue,
        };
        let mut ways: Vec<(usize, usize)> = piece
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| Some((*ids.get(&piece[..at])?, *ids.get(&piece[at..])?)))
            .collect();
        ways.sort_unstable();
        found.extend(ways.into_iter().map(|way| (score, way)));
    }
    let length = |id: usize| Reverse(vocabulary.tokens[id].chars().count());
    found.sort_by_cached_key(|&(score, (left, right))| (Reverse(Ordered(score)), length(left), length(right)));
    let text = |id: usize| vocabulary.tokens[id].clone().into_owned();
    found.into_iter().map(|(_, (left, right))| [text(left), text(right)]).collect()
}

/// A score that sorts; all are finite.
#[derive(PartialEq)]
struct Ordered(f64);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}
