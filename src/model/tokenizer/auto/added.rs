//! The tokens that stand beside the vocabulary, added in the order and with the ids that the `tokenizers` library gives.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

use super::Version;

/// How a token is found in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    /// Where it isn't said: the opposite of `special`.
    pub(super) normalized: Option<bool>,
    pub(super) special: bool,
}

impl Flags {
    pub(super) const SPECIAL: Flags =
        Flags { single_word: false, lstrip: false, rstrip: false, normalized: Some(false), special: true };
}

/// A token as a file names it: a text, or an object with flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) content: String,
    /// `None` where it is just a text.
    pub(super) flags: Option<Flags>,
}

impl Token {
    pub(super) fn read(value: &Value) -> Option<Self> {
        if let Some(text) = value.as_str() {
            return Some(Token { content: text.to_owned(), flags: None });
        }
        let content = value.get("content")?.as_str()?.to_owned();
        let flag = |key: &str| value.get(key).and_then(Value::as_bool);
        let set = |key: &str| flag(key).unwrap_or(false);
        let flags = Flags {
            single_word: set("single_word"),
            lstrip: set("lstrip"),
            rstrip: set("rstrip"),
            normalized: flag("normalized"),
            special: set("special"),
        };
        Some(Token { content, flags: Some(flags) })
    }
}

/// The ids of a vocabulary.
pub(super) enum Vocabulary<'a> {
    /// BPE, WordPiece and WordLevel: token to id.
    Map(&'a Map<String, Value>),
    /// Unigram: the place in the list.
    List(HashMap<&'a str, u64>),
}

impl<'a> Vocabulary<'a> {
    pub(super) fn of(tokenizer: &'a Map<String, Value>) -> Self {
        match tokenizer.get("model").and_then(|model| model.get("vocab")) {
            Some(Value::Object(map)) => Vocabulary::Map(map),
            Some(Value::Array(pieces)) => {
                let text = |(id, piece): (usize, &'a Value)| Some((piece.get(0)?.as_str()?, id as u64));
                Vocabulary::List(pieces.iter().enumerate().filter_map(text).collect())
            }
            _ => Vocabulary::List(HashMap::new()),
        }
    }

    pub(super) fn id(&self, token: &str) -> Option<u64> {
        match self {
            Vocabulary::Map(map) => map.get(token)?.as_u64(),
            Vocabulary::List(ids) => ids.get(token).copied(),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Vocabulary::Map(map) => map.len() as u64,
            Vocabulary::List(ids) => ids.len() as u64,
        }
    }
}

/// The added tokens while more of them come.
pub(super) struct Added<'a> {
    vocabulary: Vocabulary<'a>,
    tokens: Vec<(u64, String, Flags)>,
    at: HashMap<String, usize>,
    next: u64,
    mixing: Option<Mixing>,
}

/// What becomes of a token that is added a second time with other flags, in the library that transformers 4.57 takes. A
/// special token stays in normalized text, or in text as it stands, as it was first. Any other token is found in both.
struct Mixing {
    normalizer: Option<NormalizerWrapper>,
}

impl Mixing {
    fn of(tokenizer: &Map<String, Value>) -> Self {
        let normalizer = tokenizer.get("normalizer").cloned();
        Mixing { normalizer: normalizer.and_then(|value| serde_json::from_value(value).ok()) }
    }

    fn mixed(&self, old: Flags, new: Flags, text: &str) -> Flags {
        let normalized = match old.normalized == new.normalized {
            _ if old.special => old.normalized,
            true => new.normalized,
            // Only one is possible here. Where normalized text still holds the token as it is written, the token as it
            // is written is found wherever the other one would be. Else it is the other way round.
            false => Some(!self.normalize(text).contains(text)),
        };
        Flags { normalized, special: old.special || new.special, ..new }
    }

    fn normalize(&self, text: &str) -> String {
        let mut normalized = NormalizedString::from(text);
        let done = self.normalizer.as_ref().map(|normalizer| normalizer.normalize(&mut normalized));
        if done.is_none_or(|done| done.is_ok()) { normalized.get().to_owned() } else { text.to_owned() }
    }
}

impl<'a> Added<'a> {
    /// Begins with the tokens of `tokenizer.json`, or with none of them where the class builds the tokenizer `fresh`.
    pub(super) fn of(tokenizer: &'a Map<String, Value>, version: Version, fresh: bool) -> Result<Self, String> {
        let vocabulary = Vocabulary::of(tokenizer);
        let next = vocabulary.len();
        let mixing = (version == Version::Four).then(|| Mixing::of(tokenizer));
        let mut added = Added { vocabulary, tokens: Vec::new(), at: HashMap::new(), next, mixing };
        let listed = match tokenizer.get("added_tokens") {
            None | Some(Value::Null) => return Ok(added),
            Some(Value::Array(listed)) => listed,
            Some(_) => return Err("`added_tokens` is not a list".to_owned()),
        };
        for (index, entry) in listed.iter().enumerate().filter(|_| !fresh) {
            let token = Token::read(entry).filter(|token| token.flags.is_some());
            let token = token.ok_or_else(|| format!("`added_tokens[{index}]` is not an object with a `content`"))?;
            added.add(&token, false);
        }
        Ok(added)
    }

    /// The texts of all tokens that are there.
    pub(super) fn texts(&self) -> HashSet<String> {
        self.at.keys().cloned().collect()
    }

    /// Whether the token is there with the very same flags.
    pub(super) fn is_there(&self, token: &Token) -> bool {
        let flags = token.flags.map(settled);
        self.at.get(&token.content).is_some_and(|&at| Some(self.tokens[at].2) == flags)
    }

    /// Adds a token, or gives the one that is there other flags. One that is `named` is special.
    pub(super) fn add(&mut self, token: &Token, named: bool) {
        if token.content.is_empty() {
            return;
        }
        let flags = token.flags.unwrap_or(Flags { normalized: None, special: named, ..Flags::SPECIAL });
        let flags = settled(Flags { special: flags.special || named, ..flags });
        if let Some(&at) = self.at.get(&token.content) {
            let old = self.tokens[at].2;
            let mixed = self.mixing.as_ref().map(|mixing| mixing.mixed(old, flags, &token.content));
            self.tokens[at].2 = mixed.unwrap_or(flags);
            return;
        }
        let id = self.vocabulary.id(&token.content).unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        self.at.insert(token.content.clone(), self.tokens.len());
        self.tokens.push((id, token.content.clone(), flags));
    }

    pub(super) fn into_json(self) -> Value {
        let entry = |(id, content, flags): (u64, String, Flags)| {
            json!({
                "id": id, "content": content, "single_word": flags.single_word, "lstrip": flags.lstrip,
                "rstrip": flags.rstrip, "normalized": flags.normalized, "special": flags.special,
            })
        };
        self.tokens.into_iter().map(entry).collect()
    }
}

fn settled(flags: Flags) -> Flags {
    Flags { normalized: Some(flags.normalized.unwrap_or(!flags.special)), ..flags }
}
