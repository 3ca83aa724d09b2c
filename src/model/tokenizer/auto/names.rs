//! The tokens that the files name, and which file wins.
//!
//! Where `tokenizer_config.json` has `added_tokens_decoder`, the older files beside it are not read. Where it hasn't,
//! `special_tokens_map.json` wins over `tokenizer_config.json`, and `added_tokens.json` adds its tokens.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};

use super::added::{Added, Flags, Token, Vocabulary};
use super::class::{Chosen, Wraps};
use super::{Sources, Version};

/// The named tokens that every tokenizer may have, in the order in which they are added.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What the files name.
pub(super) struct Names {
    /// `bos_token` and the like, then the names that the model brings, such as `image_token`.
    roles: Vec<(String, Token)>,
    /// Tokens of `additional_special_tokens`, which version 5 calls `extra_special_tokens`.
    extra: Vec<Token>,
    /// Tokens of `added_tokens_decoder`, or of the files that stood for it, in the order of their ids.
    listed: Vec<Token>,
    /// Texts of tokens that a file names as beginning or end.
    pub(super) needed: HashSet<String>,
}

impl Names {
    pub(super) fn find(sources: &Sources, chosen: &Chosen) -> Result<Self, String> {
        let (listed, known) = listed(sources, chosen.version)?;
        let given = Given { sources, legacy: !sources.config.contains_key("added_tokens_decoder") };
        let mut roles = Vec::new();
        let mut needed = HashSet::new();
        for role in ROLES {
            let token = match given.get(role) {
                Some(value) => Token::read(value).map(|token| known.get(&token.content).cloned().unwrap_or(token)),
                None => chosen.default(role).map(|text| Token { content: text.to_owned(), flags: None }),
            };
            let Some(token) = token else { continue };
            if given.get(role).is_some() && matches!(role, "bos_token" | "eos_token") {
                needed.insert(token.content.clone());
            }
            roles.push((role.to_owned(), wrapped(token, role, chosen.wraps())));
        }
        let (models, mut extra) = given.rest(chosen.version);
        roles.extend(models);
        let stated = given.get("additional_special_tokens").filter(|value| !value.is_null()).is_some();
        let texts: Vec<&str> = extra.iter().map(|token| &*token.content).collect();
        let brought = chosen.extra(stated.then_some(&texts));
        extra.extend(brought.into_iter().map(|content| Token { content, flags: None }));
        Ok(Names { roles, extra, listed, needed })
    }

    /// Adds what the files name to the tokens of `tokenizer.json`.
    pub(super) fn teach(&self, mut added: Added<'_>, chosen: &Chosen) -> Value {
        let four = chosen.version == Version::Four;
        let roles = self.roles.iter().map(|(_, token)| token);
        let special: HashSet<&str> =
            roles.clone().chain(self.extra.iter().filter(|_| four)).map(|token| token.content.as_str()).collect();
        for token in self.listed.iter().filter(|token| !added.is_there(token)).cloned().collect::<Vec<_>>() {
            let named = special.contains(token.content.as_str());
            added.add(&token, named);
        }
        let known = added.texts();
        let mut seen: Vec<&Token> = Vec::new();
        for (token, named) in roles.map(|token| (token, true)).chain(self.extra.iter().map(|token| (token, four))) {
            // Version 4.57 compares texts where it looks for what it named already, and objects with texts where it
            // looks for what is there, so that tokens with flags are added anew. Version 5 has it the other way round.
            let twice = seen.iter().any(|other| if four { other.content == token.content } else { *other == token });
            let there = known.contains(&token.content) && !(four && token.flags.is_some());
            if !twice && !there {
                added.add(token, named || token.flags.is_none());
            }
            seen.push(token);
        }
        if chosen.five().is_some_and(|rule| rule.adds_named_anew()) {
            let plain = |content: &str| Token { content: content.to_owned(), flags: Some(Flags::SPECIAL) };
            let texts: Vec<&str> =
                self.roles.iter().map(|(_, token)| token).chain(&self.extra).map(|t| &*t.content).collect();
            texts.into_iter().for_each(|text| added.add(&plain(text), true));
        }
        added.into_json()
    }

    /// The names that chat templates see.
    pub(super) fn for_templates(&self, version: Version) -> Map<String, Value> {
        let mut named: Map<String, Value> =
            self.roles.iter().map(|(role, token)| (role.clone(), token.content.clone().into())).collect();
        if version == Version::Four && !self.extra.is_empty() {
            let list = self.extra.iter().map(|token| Value::from(token.content.clone())).collect();
            named.insert("additional_special_tokens".to_owned(), list);
        }
        named
    }

    /// Text and id of the token of a role.
    pub(super) fn token(&self, role: &str, tokenizer: &Map<String, Value>) -> Option<(String, u64)> {
        let (_, token) = self.roles.iter().find(|(name, _)| name == role)?;
        let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
        let mut added = added.filter(|entry| entry.get("content").and_then(Value::as_str) == Some(&token.content));
        let id = match added.next() {
            Some(entry) => entry.get("id")?.as_u64(),
            None => Vocabulary::of(tokenizer).id(&token.content),
        };
        Some((token.content.clone(), id?))
    }

    /// The text of the token of a role.
    pub(super) fn text(&self, role: &str) -> Option<&str> {
        self.roles.iter().find(|(name, _)| name == role).map(|(_, token)| &*token.content)
    }
}

/// Some classes make objects of names that are texts; that of the mask takes in the space before it.
fn wrapped(token: Token, role: &str, wraps: Wraps) -> Token {
    let flags = match (wraps, role, token.flags) {
        (_, _, Some(flags)) => Some(flags),
        (Wraps::Mask(normalized) | Wraps::All(normalized), "mask_token", None) => {
            Some(Flags { lstrip: true, normalized, ..Flags::SPECIAL })
        }
        (Wraps::All(_), _, None) => Some(Flags { normalized: None, ..Flags::SPECIAL }),
        (Wraps::Flat, "bos_token" | "eos_token" | "unk_token" | "pad_token", None) => Some(Flags::SPECIAL),
        _ => None,
    };
    Token { flags, ..token }
}

/// The values of `tokenizer_config.json`, with those of `special_tokens_map.json` in front where that is read.
struct Given<'a> {
    sources: &'a Sources,
    legacy: bool,
}

impl<'a> Given<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        let map = self.sources.special.get(key).filter(|_| self.legacy);
        map.or_else(|| self.sources.config.get(key))
    }

    fn list(&self, value: Option<&Value>) -> Vec<Token> {
        value.and_then(Value::as_array).into_iter().flatten().filter_map(Token::read).collect()
    }

    /// The names that the model brings, and the tokens without a name.
    fn rest(&self, version: Version) -> (Vec<(String, Token)>, Vec<Token>) {
        let config = &self.sources.config;
        let map = |key: &str| self.sources.special.get(key).filter(|_| self.legacy);
        let named = |value: Option<&Value>| -> Vec<(String, Token)> {
            let pairs = value.and_then(Value::as_object).into_iter().flatten();
            pairs.filter_map(|(name, token)| Some((name.clone(), Token::read(token)?))).collect()
        };
        let join = |mut first: Vec<Token>, second: Vec<Token>| {
            for token in second {
                if !first.contains(&token) {
                    first.push(token);
                }
            }
            first
        };
        let (additional, extra) = ("additional_special_tokens", "extra_special_tokens");
        if version == Version::Four {
            let list = join(self.list(config.get(additional)), self.list(map(additional)));
            return (named(self.get(extra)), list);
        }
        let own = |(name, value): (&String, &Value)| {
            let new = name.ends_with("_token") && !ROLES.contains(&name.as_str());
            Some((name.clone(), Token::read(value).filter(|_| new)?))
        };
        let mut models: Vec<(String, Token)> = config.iter().filter_map(own).collect();
        models.extend(named(config.get(extra)));
        // The list is called `extra_special_tokens` now; under its old name it counts where there is none of that.
        let empty = |value: &&Value| match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            other => other.is_null(),
        };
        let mut older = config.get(additional);
        let mut newer = config.get(extra).filter(|value| !empty(value));
        if newer.is_none() {
            newer = older.take();
        }
        let mut list = newer.filter(|value| value.is_array()).map(|value| self.list(Some(value)));
        older = map(additional).or(older);
        match map(extra) {
            Some(value @ Value::Array(_)) => list = Some(join(list.unwrap_or_default(), self.list(Some(value)))),
            Some(value @ Value::Object(_)) => models.extend(named(Some(value))),
            _ => {}
        }
        let list = list.unwrap_or_else(|| self.list(older));
        (models, list)
    }
}

type Known = HashMap<String, Token>;

/// The tokens that are listed with ids, and those among them by which names are looked up.
fn listed(sources: &Sources, version: Version) -> Result<(Vec<Token>, Known), String> {
    let mut by_id: BTreeMap<i64, Token> = BTreeMap::new();
    let mut known = Known::new();
    if let Some(decoder) = sources.config.get("added_tokens_decoder") {
        for (id, value) in decoder.as_object().into_iter().flatten() {
            let number = id.parse().map_err(|_| {
                format!("`added_tokens_decoder` of tokenizer_config.json has the key {id:?}, which is not a token's id")
            })?;
            let Some(token) = Token::read(value) else { continue };
            known.insert(token.content.clone(), token.clone());
            by_id.insert(number, token);
        }
        return Ok((by_id.into_values().collect(), known));
    }
    let given = Given { sources, legacy: true };
    // transformers makes tokens of the objects in tokenizer_config.json only after it has looked for names here.
    let is_late =
        |role: &str| !sources.special.contains_key(role) && sources.config.get(role).is_some_and(Value::is_object);
    let names: HashSet<String> = ROLES
        .iter()
        .filter(|role| !is_late(role))
        .filter_map(|role| Token::read(given.get(role)?))
        .chain(given.rest(version).1)
        .map(|token| token.content)
        .collect();
    for (text, id) in &sources.added {
        let id =
            id.as_i64().ok_or_else(|| format!("added_tokens.json gives {text:?} the id {id}: expected a number"))?;
        let special = names.contains(text);
        let flags = Flags { special, normalized: Some(!special), ..Flags::SPECIAL };
        let token = Token { content: text.clone(), flags: Some(flags) };
        if version == Version::Five {
            known.insert(text.clone(), token.clone());
        }
        by_id.insert(id, token);
    }
    for entry in sources.tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        let (Some(id), Some(token)) = (entry.get("id").and_then(Value::as_i64), Token::read(entry)) else { continue };
        known.insert(token.content.clone(), token.clone());
        by_id.insert(id, token);
    }
    Ok((by_id.into_values().collect(), known))
}
