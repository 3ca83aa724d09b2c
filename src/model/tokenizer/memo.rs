//! Prompts that are encoded stretch by stretch, so that a stretch that was encoded before is not encoded again.
//!
//! A conversation comes back with every candidate, every turn and every question, and all of it except its end is
//! known. Control tokens are where a prompt can be cut. The `tokenizers` library looks for added tokens first. What
//! stands between two of them goes through the normalizer, the pre-tokenizer and the model by itself. So the tokens of
//! a prompt are those of its stretches, one after the other. A stretch begins with a marker and ends with the next one:
//!
//! ```text
//! M₁ user\nHello M₂ \n M₃ assistant\n          a prompt with three markers
//! M₁ | M₁ user\nHello M₂ | M₂ \n M₃ | M₃ assistant\n
//! ```
//!
//! Both markers belong to the stretch because the library looks at them. A token with `lstrip` takes the white space
//! before it, one with `rstrip` takes that after it, one with `single_word` looks at the neighbouring character, and
//! Metaspace's `prepend_scheme: first` asks whether a text is at the very beginning. None of them looks beyond a
//! marker, because a marker holds neither white space nor a letter. The first token of a stretch is then dropped,
//! because the stretch before it gave it.
//!
//! A marker of a token that is looked for in *normalized* text does not cut, because the text on both sides of it is
//! normalized as one. A prompt without any other marker is a single stretch.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Result;

/// Bytes that a memo may hold: the stretches' texts, their tokens, and what it takes to find them.
const MAX_BYTES: usize = 8 << 20;

/// Bytes that one stretch takes beside its text and its tokens, about.
const OVERHEAD: usize = 160;

/// Stretches and their tokens, those of requests that have ended included. The least recently used ones go first. Threads
/// share it.
pub(super) struct Memo {
    known: Mutex<Known>,
}

struct Known {
    stretches: HashMap<Arc<str>, Stretch>,
    /// By the time of their last use.
    used: BTreeMap<u64, Arc<str>>,
    /// Counts uses.
    clock: u64,
    bytes: usize,
    limit: usize,
}

struct Stretch {
    tokens: Arc<[u32]>,
    used: u64,
}

impl Memo {
    pub(super) fn new() -> Self {
        Self::holding(MAX_BYTES)
    }

    fn holding(limit: usize) -> Self {
        let known = Known { stretches: HashMap::new(), used: BTreeMap::new(), clock: 0, bytes: 0, limit };
        Memo { known: Mutex::new(known) }
    }

    /// The tokens of a text that may be cut at `markers`, the bytes at which each begins and ends. `encode` gives those of
    /// stretches that are not known. No lock is held meanwhile.
    pub(super) fn encode(
        &self,
        text: &str,
        markers: &[(usize, usize)],
        encode: impl Fn(&str) -> Result<Vec<u32>>,
    ) -> Result<Vec<u32>> {
        let starts = std::iter::once(0).chain(markers.iter().map(|(start, _)| *start));
        let ends = markers.iter().map(|(_, end)| *end).chain([text.len()]);
        let stretches: Vec<&str> = starts.zip(ends).map(|(start, end)| &text[start..end]).collect();
        let mut found = self.lock().find(&stretches);
        let mut new = Vec::new();
        for (stretch, tokens) in stretches.iter().zip(&mut found).filter(|(_, tokens)| tokens.is_none()) {
            let encoded: Arc<[u32]> = encode(stretch)?.into();
            *tokens = Some(Arc::clone(&encoded));
            new.push((Arc::from(*stretch), encoded));
        }
        if !new.is_empty() {
            self.lock().keep(new);
        }
        let mut joined = Vec::new();
        for (index, tokens) in found.iter().flatten().enumerate() {
            // The marker that a stretch begins with is the one that ended the stretch before.
            joined.extend_from_slice(tokens.get(usize::from(index > 0)..).unwrap_or_default());
        }
        Ok(joined)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn find(&mut self, stretches: &[&str]) -> Vec<Option<Arc<[u32]>>> {
        let find = |&text: &&str| {
            let stretch = self.stretches.get_mut(text)?;
            if let Some(text) = self.used.remove(&stretch.used) {
                self.clock += 1;
                stretch.used = self.clock;
                self.used.insert(self.clock, text);
            }
            Some(Arc::clone(&stretch.tokens))
        };
        stretches.iter().map(find).collect()
    }

    fn keep(&mut self, new: Vec<(Arc<str>, Arc<[u32]>)>) {
        for (text, tokens) in new {
            let size = bytes(&text, &tokens);
            // Another thread may have been first. A stretch beyond the limit would only drive the others out.
            if size > self.limit || self.stretches.contains_key(&text) {
                continue;
            }
            self.clock += 1;
            self.bytes += size;
            self.used.insert(self.clock, Arc::clone(&text));
            self.stretches.insert(text, Stretch { tokens, used: self.clock });
        }
        while self.bytes > self.limit
            && let Some((_, text)) = self.used.pop_first()
            && let Some(stretch) = self.stretches.remove(&text)
        {
            self.bytes -= bytes(&text, &stretch.tokens);
        }
    }
}

fn bytes(text: &str, tokens: &[u32]) -> usize {
    text.len() + size_of_val(tokens) + OVERHEAD
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Encodes characters as they are, `|` being a marker, and says which texts were asked for.
    fn encode(memo: &Memo, text: &str) -> (Vec<u32>, Vec<String>) {
        let markers: Vec<(usize, usize)> = text.match_indices('|').map(|(at, _)| (at, at + 1)).collect();
        let asked = RefCell::new(Vec::new());
        let tokens = memo.encode(text, &markers, |stretch| {
            asked.borrow_mut().push(stretch.to_owned());
            Ok(stretch.chars().map(u32::from).collect())
        });
        (tokens.unwrap(), asked.into_inner())
    }

    fn spelled(tokens: &[u32]) -> String {
        tokens.iter().copied().filter_map(char::from_u32).collect()
    }

    #[test]
    fn only_what_is_new_is_encoded() {
        let memo = Memo::new();
        for (text, new) in [
            ("|user|a", vec!["|", "|user|", "|a"]),
            ("|user|a", vec![]),
            ("|user|ab", vec!["|ab"]),
            ("|user|a|", vec!["|a|"]),
            ("x|user|a", vec!["x|"]),
            ("||", vec!["||"]),
            ("", vec![""]),
            ("no marker", vec!["no marker"]),
        ] {
            let (tokens, asked) = encode(&memo, text);
            assert_eq!(spelled(&tokens), text);
            assert_eq!(asked, new, "{text:?}");
        }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_the_limit_holds() {
        let size = bytes("|a", &[0; 2]);
        let memo = Memo::holding(3 * size);
        for text in ["a0", "b0", "c0", "a0", "d0"] {
            encode(&memo, text);
        }
        for (text, asked) in [("a0", 0), ("c0", 0), ("d0", 0), ("b0", 1), ("a0", 1)] {
            assert_eq!(encode(&memo, text).1.len(), asked, "{text}");
        }
        let long = "x".repeat(3 * size);
        assert_eq!(spelled(&encode(&memo, &long).0), long);
        assert_eq!(encode(&memo, "a0").1.len(), 0, "what is beyond the limit drives nothing out");
        for number in 0..1000 {
            encode(&memo, &format!("{number}|{number}"));
            let known = memo.lock();
            let held = known.stretches.iter().map(|(text, stretch)| bytes(text, &stretch.tokens)).sum::<usize>();
            assert_eq!(known.bytes, held);
            assert_eq!(known.stretches.len(), known.used.len());
            assert!(known.bytes <= 3 * size, "{}", known.bytes);
        }
    }

    #[test]
    fn a_failure_is_not_kept() {
        let memo = Memo::new();
        assert!(memo.encode("a", &[], |_| Err(crate::Error::internal("no"))).is_err());
        assert_eq!(encode(&memo, "a").1, ["a"]);
    }
}
