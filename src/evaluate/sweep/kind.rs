//! Kinds of reward, and how they are written.

use std::str::FromStr;

use serde_json::json;

use crate::rank::{MAX_WINDOW, Style};
use crate::{Error, Result};

/// A kind of reward: a reading of conversations, written as `w=2`, `w=0,metrics=accuracy`, `w=2,samples=1`,
/// `w=2,user=large`, `w=2,style=short+typos`, `returns`, `returns=0.9`, `preference` or `preference=judge`.
///
/// ```
/// use foreturn::evaluate::{Kind, Reading};
///
/// let kind: Kind = "w=2,metrics=accuracy+interactivity,samples=3".parse()?;
/// assert_eq!((kind.reading, kind.samples), (Reading::Window(2), Some(3)));
/// assert!("v=2".parse::<Kind>().is_err());
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Kind {
    /// Its name in the results: the text that it was read from.
    pub name: String,
    /// What it makes of a conversation.
    pub reading: Reading,
    /// The metrics in its reward; all if empty. A metric keeps its weight, and has the weight 1 where that is 0.
    pub metrics: Vec<String>,
    /// The number of conversations that it uses for each response; all if absent.
    pub samples: Option<usize>,
    /// Who plays the user.
    pub simulated: Simulated,
}

/// What a kind of reward makes of conversations that begin with a response.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Reading {
    /// The multiturn-aware reward: the mean of R* over conversations up to so many turns after the response. 0 is the
    /// immediate reward.
    Window(usize),
    /// The value of the response as an utterance: the mean discounted sum of what each turn from it on adds to R*.
    Returns(f64),
    /// The probability that a whole conversation from the response has a higher R* than one from another response.
    Preference,
    /// As `Preference`, where the judge compares the two conversations.
    Judged,
}

/// Who plays the user in conversations of a sweep. What is absent is the configuration's.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Simulated {
    /// The name of a model.
    pub user: Option<String>,
    /// A writing style.
    pub style: Option<Style>,
}

impl Simulated {
    /// Its name in rows; `None` for the configuration's.
    pub(super) fn label(&self) -> Option<String> {
        let parts = [
            self.user.as_ref().map(|user| format!("user={user}")),
            self.style.as_ref().map(|style| format!("style={}", json!(style))),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(","))
    }
}

/// The discount of returns, unless a kind says: that of ArCHer's code (`add_mc_return`).
const DISCOUNT: f64 = 0.95;

impl Kind {
    /// The kinds that a sweep compares unless it is told which: windows up to 3, returns, and preferences.
    pub fn defaults(turns: usize) -> Vec<Kind> {
        let windows = (0..turns.min(4)).map(|window| format!("w={window}"));
        let names = windows.chain(["returns".to_owned(), "preference".to_owned()]);
        names.filter_map(|name| name.parse().ok()).collect()
    }

    /// Refuses a kind that conversations of so many turns and samples have no numbers for.
    pub(super) fn check(&self, turns: usize, samples: usize) -> Result<()> {
        let wrong = |what: String| Err(Error::invalid_request(format!("kind `{}`: {what}", self.name)));
        match (self.reading, self.samples) {
            (Reading::Window(window), _) if window >= turns => wrong(format!(
                "it looks {window} turns ahead, and conversations have {turns}, the first of which is the response: raise turns"
            )),
            (_, Some(own)) if own > samples => {
                wrong(format!("it uses {own} samples, and there are {samples} of each response: raise samples"))
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: String| {
            Error::invalid_request(format!(
                "`{text}` is not a kind of reward: {why}. Write w=2, returns, returns=0.9, preference or preference=judge, and \
                 after it, if need be, metrics=accuracy+interactivity, samples=1, user=MODEL or style=short+typos, with commas \
                 between them"
            ))
        };
        let mut parts = text.split(',').map(|part| part.split_once('=').map_or((part, None), |(k, v)| (k, Some(v))));
        let (name, value) = parts.next().unwrap_or_default();
        let reading = reading(name, value).ok_or_else(|| wrong(format!("it begins with `{name}`")))?;
        let (metrics, simulated) = (Vec::new(), Simulated::default());
        let mut kind = Kind { name: text.to_owned(), reading, metrics, samples: None, simulated };
        for (key, value) in parts {
            let value =
                value.filter(|value| !value.is_empty()).ok_or_else(|| wrong(format!("`{key}` has no value")))?;
            let list = || value.split('+').map(str::to_owned).collect::<Vec<_>>();
            match key {
                "metrics" => kind.metrics = list(),
                "samples" => {
                    let number = value.parse().ok().filter(|number| *number > 0);
                    kind.samples = Some(number.ok_or_else(|| wrong(format!("samples is `{value}`")))?);
                }
                "user" => kind.simulated.user = Some(value.to_owned()),
                "style" => {
                    let style = serde_json::from_value(json!(list()));
                    kind.simulated.style = Some(style.map_err(|e| wrong(format!("style is `{value}`: {e}")))?);
                }
                other => return Err(wrong(format!("it has `{other}`"))),
            }
        }
        Ok(kind)
    }
}

fn reading(name: &str, value: Option<&str>) -> Option<Reading> {
    match (name, value) {
        ("w", Some(window)) => window.parse().ok().filter(|window| *window <= MAX_WINDOW).map(Reading::Window),
        ("returns", None) => Some(Reading::Returns(DISCOUNT)),
        ("returns", Some(discount)) => {
            discount.parse().ok().filter(|discount| (0.0..=1.0).contains(discount)).map(Reading::Returns)
        }
        ("preference", None) => Some(Reading::Preference),
        ("preference", Some("judge")) => Some(Reading::Judged),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_what_their_names_say() {
        let parse = |text: &str| text.parse::<Kind>().unwrap();
        assert_eq!(parse("returns").reading, Reading::Returns(0.95));
        assert_eq!(parse("returns=1").reading, Reading::Returns(1.0));
        assert_eq!(parse("preference=judge").reading, Reading::Judged);
        let kind = parse("w=2,style=short+typos,user=small");
        assert_eq!(kind.simulated.label().unwrap(), "user=small,style=[\"short\",\"typos\"]");
        assert_eq!(parse("w=0").simulated.label(), None);
        for (bad, part) in [
            ("", "begins with ``"),
            ("w", "begins with `w`"),
            ("w=33", "begins with `w`"),
            ("returns=2", "begins with `returns`"),
            ("w=1,samples=0", "samples is `0`"),
            ("w=1,metrics", "`metrics` has no value"),
            ("w=1,depth=2", "it has `depth`"),
            ("w=1,style=loud", "style is `loud`"),
        ] {
            let message = bad.parse::<Kind>().unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("Write w=2"), "{message}");
        }
        let names: Vec<String> = Kind::defaults(3).into_iter().map(|kind| kind.name).collect();
        assert_eq!(names, ["w=0", "w=1", "w=2", "returns", "preference"]);
        assert!(parse("w=2").check(2, 1).unwrap_err().to_string().contains("raise turns"));
        assert!(parse("w=1,samples=3").check(2, 2).unwrap_err().to_string().contains("raise samples"));
        assert!(parse("w=1,samples=2").check(2, 2).is_ok());
    }
}
