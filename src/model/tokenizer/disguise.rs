//! Stand-ins: what content looks like while a template works on it (see [`super::prompt`]).

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::vocabulary::Vocabulary;
use crate::message::Message;
use crate::{Error, Result};

/// Most strings of a template's source that are tried as ones it searches content for.
const MAX_SEARCHED: usize = 64;

/// Private-use characters that occur nowhere in a conversation.
pub(super) struct PrivateChars {
    used: HashSet<char>,
    next: u32,
}

impl PrivateChars {
    const RANGE: Range<u32> = 0x10_0000..0x10_FFFE;

    pub(super) fn unused_in(raw: &str, messages: &[Message]) -> Self {
        let contents = messages.iter().flat_map(|message| message.content.chars());
        let used = raw.chars().chain(contents).filter(|c| Self::may_take(*c)).collect();
        PrivateChars { used, next: Self::RANGE.start }
    }

    /// Whether `c` is one of those that can be taken.
    fn may_take(c: char) -> bool {
        Self::RANGE.contains(&u32::from(c))
    }

    pub(super) fn take(&mut self) -> Result<char> {
        while self.next < Self::RANGE.end {
            let c = char::from_u32(self.next);
            self.next += 1;
            if let Some(c) = c.filter(|c| !self.used.contains(c)) {
                return Ok(c);
            }
        }
        Err(Error::invalid_request(
            "the conversation uses up Unicode's private plane 16 (U+100000 and up), or has 65,000 messages; none is left \
             to keep messages apart",
        ))
    }
}

/// Characters of content and what stands for them while the template works.
pub(super) struct StandIns {
    of: BTreeMap<char, char>,
    back: BTreeMap<char, char>,
}

impl StandIns {
    pub(super) fn new(vocabulary: &Vocabulary, messages: &[Message], private: &mut PrivateChars) -> Result<Self> {
        let mut stand_ins = StandIns { of: BTreeMap::new(), back: BTreeMap::new() };
        for message in messages {
            let opening = message.content.chars().filter(|c| vocabulary.opens_control(*c));
            for c in opening.chain(closing_char(vocabulary, &message.content).map(|(_, c)| c)) {
                if let Entry::Vacant(vacant) = stand_ins.of.entry(c) {
                    stand_ins.back.insert(*vacant.insert(private.take()?), c);
                }
            }
        }
        Ok(stand_ins)
    }

    /// Content in which no control token can begin, nor one that the template began end; `None` where it is so already.
    pub(super) fn disguise(&self, vocabulary: &Vocabulary, content: &str) -> Option<String> {
        let closing = closing_char(vocabulary, content).map(|(at, _)| at);
        let disguised: String = content
            .char_indices()
            .map(|(at, c)| {
                let hidden = vocabulary.opens_control(c) || Some(at) == closing;
                if hidden { self.of.get(&c).copied().unwrap_or(c) } else { c }
            })
            .collect();
        (disguised != content).then_some(disguised)
    }

    pub(super) fn reveal<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.back.is_empty() {
            return text.into();
        }
        let shown = |c| if PrivateChars::may_take(c) { self.back.get(&c).copied().unwrap_or(c) } else { c };
        text.chars().map(shown).collect()
    }

    /// Where the template's source has strings that begin like a control token and that occur in a message.
    pub(super) fn searched_strings(&self, source: &str, messages: &[Message]) -> Vec<usize> {
        let ends = |c: char| c.is_whitespace() || "'\"\\{}%".contains(c);
        source
            .char_indices()
            .filter(|(at, c)| {
                let word = &source[*at..];
                let word = &word[..word.find(ends).unwrap_or(word.len())];
                self.of.contains_key(c)
                    && word.len() > c.len_utf8()
                    && messages.iter().any(|message| message.content.contains(word))
            })
            .map(|(at, _)| at)
            .take(MAX_SEARCHED)
            .collect()
    }

    /// The source with stand-ins at these places.
    pub(super) fn disguise_at(&self, source: &str, places: &[usize]) -> String {
        source
            .char_indices()
            .map(|(at, c)| if places.contains(&at) { self.of.get(&c).copied().unwrap_or(c) } else { c })
            .collect()
    }
}

/// The first visible character of a content with which a control token could go on that the template began, and its
/// place.
fn closing_char(vocabulary: &Vocabulary, content: &str) -> Option<(usize, char)> {
    let visible = content.trim();
    let first = visible.chars().next()?;
    let visible = fold(vocabulary, visible);
    if !vocabulary.may_close_control(&visible) {
        return None;
    }
    let goes_on = |text: &str| {
        let text = fold(vocabulary, text);
        let mut ends = text.char_indices().skip(1).map(|(at, _)| &text[at..]);
        ends.any(|end| visible.starts_with(end) || end.starts_with(&*visible))
    };
    let at = content.len() - content.trim_start().len();
    vocabulary.controls().iter().any(|control| goes_on(&control.text)).then_some((at, first))
}

fn fold<'a>(vocabulary: &Vocabulary, text: &'a str) -> Cow<'a, str> {
    if vocabulary.folds() { text.to_lowercase().into() } else { text.into() }
}
