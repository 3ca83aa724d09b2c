//! Two tokenizers from one file: the model's own, and a *neutral* one that takes no text for a control token.
//!
//! In the neutral tokenizer every added token (`<|im_end|>`, `</think>`, …) keeps its id but answers only to a
//! *marker*: a string of private-use characters with random digits that no outside text can contain. Whoever builds a
//! prompt writes markers where the template wrote control tokens; the same words in a message are then nothing but
//! letters. Everything else (normalizer, pre-tokenizer, merges) is the same in both, so ordinary text gets ordinary
//! tokens.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

use serde_json::{Map, Value, json};
use tokenizers::{NormalizedString, Normalizer, Tokenizer as Inner};

use super::bounds;
use super::files::Files;
use super::memo::Memo;
use crate::{Error, ErrorKind, Result};

/// A token that structures prompts and must never come from a message.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) id: u32,
    pub(super) text: String,
    /// What stands for it in the neutral tokenizer.
    pub(super) marker: String,
    /// Matched only where no word character touches it.
    single_word: bool,
    /// Matched after the others, on normalised text.
    normalized: bool,
}

/// The two tokenizers and what is known of their control tokens.
pub(super) struct Vocabulary {
    real: Inner,
    neutral: Inner,
    controls: Vec<Control>,
    /// Indices into `controls` by first character, longest text first.
    by_first: HashMap<char, Vec<usize>>,
    /// The ASCII characters among `by_first`, one bit each. Most of a text is looked up here.
    ascii_firsts: u128,
    /// The first two characters of what can be left of a control token's text, lower case where it `folds`.
    inner_pairs: HashSet<(char, Option<char>)>,
    control_ids: HashSet<u32>,
    /// What stands for text that the vocabulary can't express.
    #[cfg(feature = "constraints")]
    unknown: Option<u32>,
    /// Whether the tokenizer takes upper case for lower case before it looks for the `normalized` control tokens.
    folds: bool,
    /// What every marker begins with.
    lead: String,
    /// A marker of our own, for tokens that are put in afterwards.
    slot: String,
    /// Its id; `None` where the vocabulary has gaps, so that it fell on some other token's id.
    slot_id: Option<u32>,
    /// The markers that separate the text before them from the text behind them.
    cutting: HashSet<String>,
    memo: Memo,
}

impl Vocabulary {
    /// Builds both. The ids of the tokens are below `vocab_size`, the number of the model's logits, or it's an error.
    pub(super) fn build(mut files: Files, vocab_size: usize) -> Result<Self> {
        let path = files.settled.path.clone();
        drop_unreachable(&mut files, vocab_size);
        let tokenizer = &mut files.settled.tokenizer;
        for section in ["truncation", "padding", "post_processor"] {
            // Nothing is cut, padded or added by itself: the template writes every token of a prompt.
            tokenizer.insert(section.to_owned(), Value::Null);
        }
        let lead = marker_lead();
        let slot = format!("{lead}{MARKER_END}");
        push_added(tokenizer, &slot);
        let real = load(tokenizer, &path)?;
        let slot_id = check_ids(&real, &slot, vocab_size, &path)?;

        let controls = control_tokens(&real, &lead, &slot);
        let folds = controls.iter().any(|control| control.normalized) && normalizes(&real, "A") == "a";
        rename(tokenizer, &controls, |marker| normalizes(&real, &format!("a{marker}a")).contains(marker));
        let neutral = load(tokenizer, &path)?;
        let mut control_ids: HashSet<u32> = controls.iter().map(|control| control.id).collect();
        let unknown = unknown_token(&tokenizer["model"], &neutral);
        if let Some(unknown) = &unknown {
            // Any text with a character that the vocabulary lacks yields it, so it can't be structure.
            control_ids.remove(unknown);
        }
        let by_first = by_first(&controls, folds);
        let ascii_firsts =
            by_first.keys().filter(|first| first.is_ascii()).fold(0, |bits, &first| bits | 1 << u32::from(first));
        let inner_pairs = controls.iter().flat_map(|control| inner_pairs(&control.text, folds)).collect();
        let cutting = neutral.get_added_tokens_decoder().into_values().filter(|token| !token.normalized);
        let cutting = cutting.map(|token| token.content).filter(|content| content.starts_with(&lead)).collect();
        let vocabulary = Vocabulary {
            real,
            neutral,
            controls,
            by_first,
            ascii_firsts,
            inner_pairs,
            control_ids,
            #[cfg(feature = "constraints")]
            unknown,
            lead,
            slot,
            slot_id,
            folds,
            cutting,
            memo: Memo::new(),
        };
        vocabulary.check_markers(&path)?;
        Ok(vocabulary)
    }

    /// Whether both give the same tokens for every text.
    pub(super) fn equals(&self, other: &Vocabulary) -> bool {
        // As the library writes them, which is one way, however the files spell them. The markers differ by design.
        let written = |of: &Vocabulary| of.real.to_string(false).map(|text| text.replace(&of.slot, "")).ok();
        self.control_ids == other.control_ids && written(self).is_some_and(|text| written(other) == Some(text))
    }

    pub(super) fn real(&self) -> &Inner {
        &self.real
    }

    pub(super) fn controls(&self) -> &[Control] {
        &self.controls
    }

    pub(super) fn is_control(&self, id: u32) -> bool {
        self.control_ids.contains(&id)
    }

    /// The name of a token that stands for text: none of a control token, of what stands for text that the vocabulary can't
    /// express, and of our own slot.
    #[cfg(feature = "constraints")]
    pub(super) fn text_token(&self, id: u32) -> Option<String> {
        let structure = self.is_control(id) || self.unknown == Some(id);
        self.real.id_to_token(id).filter(|name| !structure && !self.has_marker(name))
    }

    /// Whether a control token begins with this character.
    pub(super) fn opens_control(&self, c: char) -> bool {
        match u32::from(c) {
            code @ ..128 => self.ascii_firsts >> code & 1 == 1,
            _ => self.by_first.contains_key(&c),
        }
    }

    /// Tells whether a text, in lower case where it `folds`, may begin with the end of a control token, or be a part of
    /// it. The first two characters decide for most texts, however many control tokens there are.
    pub(super) fn may_close_control(&self, text: &str) -> bool {
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(c), next @ Some(_)) => self.inner_pairs.contains(&(c, next)) || self.inner_pairs.contains(&(c, None)),
            (first, _) => first.is_some(),
        }
    }

    /// Whether upper and lower case are the same to some control tokens.
    pub(super) fn folds(&self) -> bool {
        self.folds
    }

    /// The slot's text and id.
    pub(super) fn slot(&self) -> Option<(&str, u32)> {
        Some((&self.slot, self.slot_id?))
    }

    pub(super) fn encode_real(&self, text: &str) -> Result<Vec<u32>> {
        encode(&self.real, text)
    }

    /// Encodes with the neutral tokenizer. Markers in `text` are the caller's.
    pub(super) fn encode_marked(&self, text: &str) -> Result<Vec<u32>> {
        encode(&self.neutral, text)
    }

    /// Encodes a prompt: gives what `encode_marked` gives, but does not tokenise again what it tokenised before.
    pub(super) fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.memo.encode(text, &self.cuts(text), |stretch| self.encode_marked(stretch))
    }

    /// Where markers stand that cut the text, from beginning to end.
    pub(super) fn cuts(&self, text: &str) -> Vec<(usize, usize)> {
        let marker = |(start, lead): (usize, &str)| {
            let digits = start + lead.len();
            let end = digits + text[digits..].find(MARKER_END)? + MARKER_END.len_utf8();
            self.cutting.contains(&text[start..end]).then_some((start, end))
        };
        text.match_indices(&self.lead).filter_map(marker).collect()
    }

    /// Takes every prompt as a whole from now on.
    #[cfg(test)]
    pub(super) fn never_cut(&mut self) {
        self.cutting.clear();
    }

    /// Whether text from outside contains what only this process can know.
    pub(super) fn has_marker(&self, text: &str) -> bool {
        text.contains(&self.lead)
    }

    /// Where control tokens stand in `text`, found as the tokenizer does: leftmost, then longest, those that match
    /// normalised text after the others.
    pub(super) fn find_controls(&self, text: &str) -> Vec<(Range<usize>, usize)> {
        let mut found = Vec::new();
        self.scan(text, 0..text.len(), false, &mut found);
        if self.controls.iter().any(|control| control.normalized) {
            let mut gaps = Vec::new();
            let mut start = 0;
            for (range, _) in &found {
                gaps.push(start..range.start);
                start = range.end;
            }
            gaps.push(start..text.len());
            for gap in gaps {
                self.scan(text, gap, true, &mut found);
            }
            found.sort_by_key(|(range, _)| range.start);
        }
        found
    }

    fn scan(&self, text: &str, within: Range<usize>, normalized: bool, found: &mut Vec<(Range<usize>, usize)>) {
        let (mut at, end) = (within.start, within.end);
        while let Some(next) = text[at..end].find(|c| self.opens_control(c)) {
            at += next;
            let Some(c) = text[at..end].chars().next() else { return };
            let hit = self.by_first.get(&c).and_then(|indices| {
                indices.iter().copied().find_map(|index| {
                    let control = &self.controls[index];
                    if control.normalized != normalized {
                        return None;
                    }
                    Some((index, opening(&text[at..end], &control.text, self.folds && normalized)?))
                })
            });
            let Some((index, length)) = hit else {
                at += c.len_utf8();
                continue;
            };
            let control = &self.controls[index];
            let range = at..at + length;
            at = range.end;
            let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let touched =
                word(text[within.start..range.start].chars().next_back()) || word(text[range.end..end].chars().next());
            if !(control.single_word && touched) {
                found.push((range, index));
            }
        }
    }

    /// Every marker must come out as its control token: the promise that everything else rests on.
    fn check_markers(&self, path: &str) -> Result<()> {
        for control in &self.controls {
            let ids = self.encode_marked(&control.marker)?;
            if ids != [control.id] {
                return Err(Error::unsupported(format!(
                    "{path}: cannot keep messages apart from the added token `{}` (id {}) with a tokenizer of this kind",
                    control.text, control.id
                )));
            }
        }
        Ok(())
    }
}

/// Indices of control tokens by first character, longest text first.
fn by_first(controls: &[Control], folds: bool) -> HashMap<char, Vec<usize>> {
    let mut by_first: HashMap<char, Vec<usize>> = HashMap::new();
    for (index, control) in controls.iter().enumerate() {
        let first = control.first();
        let folded = (folds && control.normalized).then(|| first.to_lowercase().chain(first.to_uppercase()));
        let firsts: HashSet<char> = folded.into_iter().flatten().chain([first]).collect();
        firsts.into_iter().for_each(|first| by_first.entry(first).or_default().push(index));
    }
    for indices in by_first.values_mut() {
        indices.sort_by_key(|&index| std::cmp::Reverse(controls[index].text.len()));
    }
    by_first
}

/// Each character of a control token's text except the first, and the one after it.
fn inner_pairs(text: &str, folds: bool) -> Vec<(char, Option<char>)> {
    let text = if folds { text.to_lowercase() } else { text.to_owned() };
    let next = text.chars().skip(2).map(Some).chain([None]);
    text.chars().skip(1).zip(next).collect()
}

/// The length of what opens `text` and spells `token`, in upper or lower case where that `folds`.
fn opening(text: &str, token: &str, folds: bool) -> Option<usize> {
    if !folds {
        return text.starts_with(token).then_some(token.len());
    }
    let mut chars = text.chars();
    let mut length = 0;
    for wanted in token.chars() {
        let c = chars.next()?;
        if c != wanted && !c.to_lowercase().eq(wanted.to_lowercase()) {
            return None;
        }
        length += c.len_utf8();
    }
    Some(length)
}

/// What the tokenizer's normalizer makes of a text.
fn normalizes(tokenizer: &Inner, text: &str) -> String {
    let mut normalized = NormalizedString::from(text);
    if let Some(normalizer) = tokenizer.get_normalizer()
        && normalizer.normalize(&mut normalized).is_err()
    {
        // It fails on texts too, and is reported there.
        return text.to_owned();
    }
    normalized.get().to_owned()
}

impl Control {
    fn first(&self) -> char {
        // Added tokens without text are dropped by the tokenizer itself.
        self.text.chars().next().unwrap_or(MARKER_END)
    }
}

/// Last character of every marker.
const MARKER_END: char = '\u{F00FF}';

/// A beginning for markers that can't be guessed.
fn marker_lead() -> String {
    let mut hashers = RandomState::new().build_hasher();
    hashers.write_u8(0);
    let high = hashers.finish();
    let low = RandomState::new().build_hasher().finish();
    format!("\u{F00FE}{}{}", private_digits(high), private_digits(low))
}

/// Hexadecimal digits in private-use characters: unlike plain digits they mean nothing to a normalizer.
fn private_digits(number: u64) -> String {
    format!("{number:016x}").chars().filter_map(|digit| char::from_u32(0xF0000 + digit.to_digit(16)?)).collect()
}

fn load(tokenizer: &Map<String, Value>, path: &str) -> Result<Inner> {
    let refuse = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::invalid_model(format!(
            "{path} is not a tokenizer this library can read: {e}. Save it again with a current transformers, or fetch \
             it again if it is damaged"
        ))
        .with_source(e)
    };
    let bytes = serde_json::to_vec(tokenizer).map_err(|e| refuse(e.into()))?;
    Inner::from_bytes(bytes).map_err(refuse)
}

fn encode(tokenizer: &Inner, text: &str) -> Result<Vec<u32>> {
    bounds::caught("the model's tokenizer cannot encode a text", || {
        let encoding = tokenizer.encode_fast(text, false).map_err(|e| {
            let message = format!("the model's tokenizer cannot encode a text: {e}");
            Error::new(ErrorKind::InvalidModel, message).with_source(e)
        })?;
        Ok(encoding.get_ids().to_vec())
    })
}

fn added_tokens(tokenizer: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten()
}

/// Appends an added token that matches exactly its own text.
fn push_added(tokenizer: &mut Map<String, Value>, content: &str) {
    let mut added: Vec<Value> = added_tokens(tokenizer).cloned().collect();
    let next = added.iter().filter_map(|token| token.get("id")?.as_u64()).max().unwrap_or(0) + 1;
    added.push(json!({
        "id": next, "content": content,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false,
    }));
    tokenizer.insert("added_tokens".to_owned(), Value::Array(added));
}

/// Some checkpoints list added tokens that their model has no row for (Gemma 3 1B: `<image_soft_token>`). Such a token
/// is left out, unless something asks for it: then it stays, to be refused by name.
fn drop_unreachable(files: &mut Files, vocab_size: usize) {
    let settled = &files.settled;
    let pieces = settled.tokenizer.get("model").and_then(|model| model.get("vocab"));
    let needed = |text: &str| {
        pieces.is_some_and(|pieces| pieces.get(text).is_some())
            || settled.needed.contains(text)
            || files.templates.values().any(|source| source.contains(text))
    };
    let kept: Vec<Value> = added_tokens(&settled.tokenizer)
        .filter(|token| {
            let reachable = token.get("id").and_then(Value::as_u64).is_none_or(|id| id < vocab_size as u64);
            reachable || token.get("content").and_then(Value::as_str).is_none_or(needed)
        })
        .cloned()
        .collect();
    files.settled.tokenizer.insert("added_tokens".to_owned(), Value::Array(kept));
}

/// Refuses ids that the model has no logits for; gives the slot's id where it is its alone.
fn check_ids(real: &Inner, slot: &str, vocab_size: usize, path: &str) -> Result<Option<u32>> {
    let vocab = real.get_vocab(true);
    let largest = vocab.iter().filter(|(token, _)| *token != slot).max_by_key(|(_, id)| **id);
    let Some((token, &id)) = largest else {
        return Err(Error::invalid_model(format!("{path} has an empty vocabulary")));
    };
    if id as usize >= vocab_size {
        return Err(Error::invalid_model(format!(
            "{path} does not fit the model's vocabulary: token `{token}` has id {id}, but the model has logits for \
             {vocab_size} tokens only. The tokenizer belongs to another model, or the export lost rows of the embedding"
        )));
    }
    Ok(vocab.get(slot).copied().filter(|slot_id| *slot_id > id))
}

/// The added tokens, less those that are only runs of white space: these are ordinary text that some vocabularies
/// (Gemma, Phi-2) list there for the tokenizer's convenience.
fn control_tokens(real: &Inner, lead: &str, slot: &str) -> Vec<Control> {
    let white = |c: char| c.is_whitespace() || c == '\u{2581}';
    let mut controls: Vec<Control> = real
        .get_added_tokens_decoder()
        .into_iter()
        .filter(|(_, token)| token.content != slot)
        .filter(|(_, token)| token.special || !token.content.chars().all(white))
        .map(|(id, token)| Control {
            id,
            marker: format!("{lead}{}{MARKER_END}", private_digits(u64::from(id))),
            text: token.content,
            single_word: token.single_word,
            normalized: token.normalized,
        })
        .collect();
    controls.sort_by_key(|control| control.id);
    controls
}

/// Gives the control tokens their markers as names, everywhere in `tokenizer.json`. `survives` says whether a marker
/// comes through the normalizer.
fn rename(tokenizer: &mut Map<String, Value>, controls: &[Control], survives: impl Fn(&str) -> bool) {
    let markers: HashMap<&str, &str> =
        controls.iter().map(|control| (control.text.as_str(), control.marker.as_str())).collect();
    let marker_of = |text: &Value| text.as_str().and_then(|text| markers.get(text).copied());
    for token in tokenizer.get_mut("added_tokens").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(marker) = token.get("content").and_then(marker_of) {
            token["content"] = marker.into();
            // A marker stands where a token was already found: no neighbouring word has a say any more. One that is found
            // in normalized text stays so if it can, because the text on both sides is then normalized as one.
            let normalized = token.get("normalized") == Some(&true.into()) && survives(marker);
            token["normalized"] = normalized.into();
            token["single_word"] = false.into();
        }
    }
    let Some(model) = tokenizer.get_mut("model").and_then(Value::as_object_mut) else { return };
    if let Some(marker) = model.get("unk_token").and_then(marker_of) {
        model.insert("unk_token".to_owned(), marker.into());
    }
    match model.get_mut("vocab") {
        // BPE, WordPiece, WordLevel: token → id.
        Some(Value::Object(vocab)) => {
            *vocab = std::mem::take(vocab)
                .into_iter()
                .map(|(token, id)| (markers.get(token.as_str()).map_or(token, |&marker| marker.to_owned()), id))
                .collect();
        }
        // Unigram: [token, score] in the order of ids.
        Some(Value::Array(pieces)) => {
            for piece in pieces {
                if let Some(marker) = piece.get(0).and_then(marker_of) {
                    piece[0] = marker.into();
                }
            }
        }
        _ => {}
    }
    if let Some(merges) = model.get_mut("merges").and_then(Value::as_array_mut) {
        // No merge may lead to a control token, nor start from one.
        merges.retain(|merge| {
            let (left, right) = match merge {
                Value::String(pair) => pair.split_once(' ').unwrap_or((pair, "")),
                pair => (
                    pair.get(0).and_then(Value::as_str).unwrap_or(""),
                    pair.get(1).and_then(Value::as_str).unwrap_or(""),
                ),
            };
            ![left, right, &format!("{left}{right}")].iter().any(|text| markers.contains_key(text))
        });
    }
}

/// The id that stands for what the vocabulary can't express, by the (renamed) model section.
fn unknown_token(model: &Value, tokenizer: &Inner) -> Option<u32> {
    let by_id = model.get("unk_id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    by_id.or_else(|| tokenizer.token_to_id(model.get("unk_token")?.as_str()?))
}
