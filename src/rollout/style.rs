//! Writing styles of simulated users.
//!
//! Simulated users are politer, tidier and more patient than real ones (CollabLLM's authors found that theirs write
//! longer and stay on track). Each [`Trait`] asks for one way in which real users differ. A style may also be a free
//! text.

use serde::{Deserialize, Serialize};

/// `style` of a simulated user: a text, or a list of traits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a text, or a list of \"short\", \"fragmentary\", \"blunt\", \"wandering\", \"typos\", \"personal\", \"vague\""
)]
pub enum Style {
    /// A sentence or two about how the user writes, with "they" for the user.
    Text(String),
    /// Traits of real users' writing.
    Traits(Vec<Trait>),
}

/// One way in which real users' messages differ from those that models write for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trait {
    /// Few words.
    Short,
    /// Fragments in place of sentences.
    Fragmentary,
    /// No politeness.
    Blunt,
    /// Changes of direction.
    Wandering,
    /// Slips of the keyboard.
    Typos,
    /// Details of their own life.
    Personal,
    /// Wishes that begin underspecified.
    Vague,
}

impl Trait {
    fn sentence(self) -> &'static str {
        match self {
            Trait::Short => "They write as little as they can: often under ten words, never more than two sentences.",
            Trait::Fragmentary => {
                "They drop what isn't needed: subjects, articles, greetings; fragments rather than sentences."
            }
            Trait::Blunt => "They are blunt: no thanks, no praise, and when something is wrong they just say so.",
            Trait::Wandering => {
                "Now and then they change their mind about a detail, or bring up something that they had not mentioned."
            }
            Trait::Typos => {
                "They type fast and don't read over it: lower case, missing commas, a mistyped word here and there."
            }
            Trait::Personal => {
                "They mention, where it fits, some small thing of their own life that the wish has to do with."
            }
            Trait::Vague => "They start out vague, and name requirements only when a reply shows that one is missing.",
        }
    }
}

impl Style {
    /// The sentences that describe it.
    pub fn describe(&self) -> String {
        match self {
            Style::Text(text) => text.clone(),
            Style::Traits(traits) => {
                let sentences: Vec<&str> = traits.iter().map(|&of| of.sentence()).collect();
                sentences.join(" ")
            }
        }
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.describe().trim().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_are_texts_or_traits() {
        #[derive(Deserialize)]
        struct Table {
            style: Style,
        }
        let parse = |toml: &str| toml::from_str::<Table>(toml).map(|table| table.style);
        assert_eq!(parse("style = 'They shout.'").unwrap().describe(), "They shout.");
        let traits = parse("style = ['short', 'typos']").unwrap().describe();
        assert!(traits.starts_with("They write as little") && traits.ends_with("here and there."), "{traits}");
        assert!(parse("style = []").unwrap().is_empty());
        assert!(parse("style = ['loud']").unwrap_err().to_string().contains("\"fragmentary\""));
    }
}
