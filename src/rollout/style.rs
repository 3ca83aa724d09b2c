//! Writing styles of simulated users.
//!
//! Simulated users are politer, tidier and more patient than real ones (CollabLLM's authors found that theirs write
//! longer and stay on track). Each [`Trait`] asks for one way in which real users differ. A style may also be a free
//! text.
//!
//! A sentence about a trait does little to a small model, and examples move it. So traits come with [`Example`]s: the same
//! moments of other conversations, and what somebody with the trait wrote then.

use serde::{Deserialize, Serialize};

use crate::chat::Role;

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

/// A moment of a conversation that has nothing to do with the one at hand, and what the person wrote then.
pub(super) struct Example {
    pub(super) goal: &'static str,
    pub(super) conversation: &'static [(Role, &'static str)],
    pub(super) message: &'static str,
}

/// The moments of the examples: what the person was after, and what had been said.
const MOMENTS: [(&str, &[(Role, &str)]); 4] = [
    (
        "An invitation of the neighbours to a street party on 12 June, with a request to bring chairs.",
        &[
            (Role::User, "I need an invitation for the neighbours."),
            (Role::Assistant, "Happy to help! What is the occasion, and when does it take place?"),
        ],
    ),
    (
        "The formula that adds up column B of a table where column A says \"paid\".",
        &[
            (Role::User, "How do I add up only the paid ones in my table?"),
            (Role::Assistant, "You could sort the table by payment, and add up the part that is paid. Would that do?"),
        ],
    ),
    (
        "A plan for three days in Lisbon with a child of six, without museums.",
        &[
            (Role::User, "Can you plan a trip for me?"),
            (
                Role::Assistant,
                "Day 1: the tile museum in the morning, then the coach museum. Day 2: the maritime museum. Day 3: a walk \
                 through Alfama.",
            ),
        ],
    ),
    (
        "A friendly mail that reminds a customer of an invoice that is a week late.",
        &[
            (Role::User, "Write a mail about an unpaid invoice."),
            (Role::Assistant, "Dear customer, pay the invoice at once, or you will hear from our lawyers."),
        ],
    ),
];

impl Trait {
    /// What somebody with the trait wrote at each of the moments.
    fn messages(self) -> [&'static str; MOMENTS.len()] {
        match self {
            Trait::Short => ["A party. 12 June.", "No sorting. A formula?", "No museums.", "Friendlier."],
            Trait::Fragmentary => [
                "Street party. 12 June. Chairs too.",
                "Can't sort. Formula for that. Column B.",
                "Too many museums. None, please. Small child.",
                "Too harsh. One week late. Friendlier.",
            ],
            Trait::Blunt => [
                "It's a street party, on 12 June.",
                "That doesn't work, others use it. I want a formula.",
                "I said nothing about museums. Take them out.",
                "No, that's rude. Write a friendly one.",
            ],
            Trait::Wandering => [
                "A birthday. Wait, no, it's a street party now, on 12 June.",
                "Actually, forget the sorting, I'd rather have a formula instead.",
                "No museums. And actually, make it four days instead.",
                "Wait, they are an old customer. Make it friendly instead.",
            ],
            Trait::Typos => [
                "its a street party on 12 june, they shoud bring chairs",
                "cant sort it, others use it to. do u have a formula",
                "thats to many museums, dont want any, our kid is with us",
                "thats to harsh, there only a week late",
            ],
            Trait::Personal => [
                "A street party on 12 June. My wife has the list of our neighbours.",
                "I can't sort it, my boss uses it for his job. I need a formula.",
                "No museums. My daughter is six, and I'm on my own with her.",
                "Friendlier. My brother works there, and he is only a week late.",
            ],
            Trait::Vague => ["Some party, in summer.", "Something else, maybe.", "Not that.", "Nicer, I guess."],
        }
    }

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

    /// Examples of its traits, which take turns; none of a free text.
    pub(super) fn examples(&self) -> impl Iterator<Item = Example> {
        let traits: &[Trait] = if let Style::Traits(traits) = self { traits } else { &[] };
        let moments = MOMENTS.iter().enumerate();
        moments.zip(traits.iter().cycle()).map(|((at, &(goal, conversation)), shown)| Example {
            goal,
            conversation,
            message: shown.messages()[at],
        })
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
        let messages = |toml: &str| parse(toml).unwrap().examples().map(|of| of.message).collect::<Vec<_>>();
        let (short, typos) = (Trait::Short.messages(), Trait::Typos.messages());
        assert_eq!(messages("style = ['short', 'typos']"), [short[0], typos[1], short[2], typos[3]]);
        assert_eq!(messages("style = 'They shout.'").len() + messages("style = []").len(), 0);
        assert!(parse("style = []").unwrap().is_empty());
        assert!(parse("style = ['loud']").unwrap_err().to_string().contains("\"fragmentary\""));
    }
}
