//! Finds stop strings in text that arrives piece by piece.
//!
//! Text that might be the beginning of a stop string is held back until more text decides, so that a caller who streams
//! never shows part of one. The result doesn't depend on where the text was cut into pieces.

use crate::{Error, Result};

/// Watches a stream of text for the first stop string to be completed.
///
/// ```
/// use foreturn::decode::stop::StopMatcher;
///
/// let mut matcher = StopMatcher::new(&["\nUser:".to_owned()])?;
/// assert_eq!(matcher.push("Hello.\nUs").text, "Hello.");
/// let step = matcher.push("er: and more");
/// assert_eq!((step.text.as_str(), step.matched), ("", Some(0)));
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// A possible beginning of a stop string.
    held: String,
    matched: Option<usize>,
}

/// The effect of one piece of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopStep {
    /// Text that is certainly before any stop string.
    pub text: String,
    /// The stop string that was completed, as an index into the list given to [`StopMatcher::new`].
    pub matched: Option<usize>,
}

impl StopMatcher {
    /// Watches for these strings.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) where one is empty: it would end every reply
    /// before it begins.
    pub fn new(stops: &[String]) -> Result<Self> {
        if let Some(index) = stops.iter().position(String::is_empty) {
            return Err(Error::invalid_request(format!(
                "stop[{index}] is empty and would end every reply at once; remove it"
            )));
        }
        Ok(StopMatcher { stops: stops.to_vec(), held: String::new(), matched: None })
    }

    /// Takes the next piece of text. After a match, everything is ignored.
    ///
    /// The stop string that is complete first wins; of several that end at the same place, the longest.
    pub fn push(&mut self, piece: &str) -> StopStep {
        if self.matched.is_some() {
            return StopStep { text: String::new(), matched: self.matched };
        }
        self.held.push_str(piece);
        let first = self.stops.iter().enumerate().filter_map(|(index, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, index))
        });
        if let Some((_, start, index)) = first.min() {
            self.matched = Some(index);
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return StopStep { text, matched: self.matched };
        }
        let keep = self.held.len() - self.partial();
        let held = self.held.split_off(keep);
        StopStep { text: std::mem::replace(&mut self.held, held), matched: None }
    }

    /// Ends the stream. Gives out the text that was held back, because it is not a stop string after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of the held text that begins a stop string.
    fn partial(&self) -> usize {
        let begins = |stop: &String| {
            (1..stop.len().min(self.held.len() + 1))
                .rev()
                .find(|&length| stop.is_char_boundary(length) && self.held.ends_with(&stop[..length]))
                .unwrap_or(0)
        };
        self.stops.iter().map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stops(list: &[&str]) -> Vec<String> {
        list.iter().map(|&stop| stop.to_owned()).collect()
    }

    /// Feeds the pieces; gives the whole text and the match.
    fn run(list: &[String], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(list).unwrap();
        let mut text = String::new();
        for piece in pieces {
            let step = matcher.push(piece);
            text += &step.text;
            if step.matched.is_some() {
                assert_eq!(matcher.finish(), "");
                return (text, step.matched);
            }
        }
        (text + &matcher.finish(), None)
    }

    #[test]
    fn partial_matches_are_held_back_and_released() {
        let mut matcher = StopMatcher::new(&stops(&["</s>", "<end>"])).unwrap();
        assert_eq!(matcher.push("a<").text, "a");
        assert_eq!(matcher.push("e").text, "");
        assert_eq!(matcher.push("lse").text, "<else");
        assert_eq!(matcher.push(" <<").text, " <");
        assert_eq!(matcher.push("/s>x"), StopStep { text: String::new(), matched: Some(0) });
        assert_eq!(matcher.push("more"), StopStep { text: String::new(), matched: Some(0) });
    }

    #[test]
    fn unfinished_stop_strings_are_text() {
        assert_eq!(run(&stops(&["é!é"]), &["caf", "é", "!"]), ("café!".to_owned(), None));
        assert_eq!(run(&[], &["a", "b"]), ("ab".to_owned(), None));
    }

    #[test]
    fn first_completed_wins_and_then_the_longest() {
        assert_eq!(run(&stops(&["abcd", "bc"]), &["xabcd"]), ("xa".to_owned(), Some(1)));
        assert_eq!(run(&stops(&["cd", "bcd"]), &["xabcd"]), ("xa".to_owned(), Some(1)));
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = StopMatcher::new(&stops(&["x", ""])).unwrap_err();
        assert!(error.to_string().contains("stop[1]"), "{error}");
    }

    proptest! {
        #[test]
        fn the_cut_into_pieces_changes_nothing(
            list in prop::collection::vec("[abé]{1,4}", 0..4),
            pieces in prop::collection::vec("[abé]{0,3}", 0..12),
        ) {
            let whole: String = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let chars: Vec<String> = whole.chars().map(String::from).collect();
            let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
            let expected = run(&list, &[&whole]);
            prop_assert_eq!(run(&list, &pieces), expected.clone());
            prop_assert_eq!(run(&list, &chars), expected);
        }
    }
}
