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

/// The moments of the examples: what the person was after, and what had been said. In two of them nothing had been.
const MOMENTS: [(&str, &[(Role, &str)]); 8] = [
    ("A name for a bakery by the river that sells bread only.", &[]),
    (
        "An invitation of the neighbours to a street party on 12 June.",
        &[
            (Role::User, "I need an invitation."),
            (Role::Assistant, "Dear friends, come to my birthday party on 5 June."),
        ],
    ),
    (
        "The formula that adds up column B of a table where column A says \"paid\".",
        &[
            (Role::User, "How do I add up only the paid ones?"),
            (Role::Assistant, "Sort the table by payment, and add up the part that is paid."),
        ],
    ),
    (
        "A plan for three days in Lisbon with a child of six, without museums.",
        &[
            (Role::User, "Can you plan a trip for me?"),
            (Role::Assistant, "Day 1: the tile museum, then the coach museum. Day 2: the maritime museum."),
        ],
    ),
    (
        "A friendly mail that reminds a customer of an invoice that is a week late.",
        &[
            (Role::User, "Write a mail about an unpaid invoice."),
            (Role::Assistant, "Dear customer, pay at once, or you will hear from our lawyers."),
        ],
    ),
    ("A birthday poem of four lines for a colleague who keeps bees.", &[]),
    (
        "Why bread dough doesn't rise in a cold kitchen, and what to do about it.",
        &[
            (Role::User, "My dough doesn't rise."),
            (Role::Assistant, "The yeast must be old. Throw it away and buy some."),
        ],
    ),
    (
        "How to get coffee out of a wool coat at home.",
        &[(Role::User, "How do I get coffee out of a coat?"), (Role::Assistant, "Take it to a dry cleaner.")],
    ),
];

impl Trait {
    /// What somebody with the trait wrote at each of the moments. A small model copies the form, and most of all how a
    /// message begins. So the messages of a trait are of one form where the trait allows it.
    fn messages(self) -> [&'static str; MOMENTS.len()] {
        match self {
            Trait::Short => [
                "A bakery name.",
                "Street party. 12 June.",
                "A formula?",
                "No museums.",
                "Friendlier.",
                "A short poem.",
                "It's new.",
                "At home.",
            ],
            Trait::Fragmentary => [
                "Name for a bakery. By the river. Bread only.",
                "Street party. Not a birthday. 12 June.",
                "Can't sort. Formula for that. Column B.",
                "Too many museums. None, please. Small child.",
                "Too harsh. One week late. Friendlier.",
                "Poem for a colleague. Four lines. Bees.",
                "New yeast. Cold kitchen. What now?",
                "No cleaner. At home. Wool coat.",
            ],
            Trait::Blunt => [
                "You need to find a name for a bakery.",
                "You need to make it a street party, on 12 June.",
                "You need to find a formula, I can't sort it.",
                "You need to drop the museums, we have a child.",
                "You need to make it friendly, that's rude.",
                "You need to write a poem about bees.",
                "You need to find another reason, the yeast is new.",
                "You need to find a way to do it at home.",
            ],
            Trait::Wandering => [
                "A name for a shop. Actually, for a bakery.",
                "Actually, make it a street party instead. On 12 June.",
                "Actually, I can't sort it. Give me a formula instead.",
                "Actually, I'd rather do without museums. Parks instead.",
                "Actually, they are an old customer. Make it friendly instead.",
                "A card for a colleague. Actually, make it a poem.",
                "Actually, the yeast is new. Can I warm the dough instead?",
                "Actually, I'd rather do it myself. What do I need instead?",
            ],
            Trait::Typos => [
                "need a name for a bakery, were at the river",
                "its a street party on 12 june, not my birthday",
                "cant sort it, others use it to. do u have a formula",
                "thats to many museums, dont want any, our kid is with us",
                "thats to harsh, there only a week late",
                "can u write a poem for a coleague, she has bees",
                "dont think so the yeast is new, its cold in hear",
                "i dont have a dry cleaner, wanna do it at home",
            ],
            Trait::Personal => [
                "My sister says her bakery needs a name.",
                "My wife says it's a street party, on 12 June.",
                "My boss says I can't sort it. I need a formula.",
                "My daughter says no museums. She's six.",
                "My brother says that's too harsh. Make it friendly.",
                "My boss says I need a poem for a colleague.",
                "My mum says the yeast is new. It's cold here.",
                "My wife says that costs too much. Can I do it at home?",
            ],
            Trait::Vague => [
                "A name for something.",
                "Some party, in summer.",
                "Something else, maybe.",
                "Not that.",
                "Nicer, I guess.",
                "Some poem, I guess.",
                "Not sure. Something else.",
                "Some other way.",
            ],
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
        let both = messages("style = ['short', 'typos']");
        assert_eq!(both[..4], [short[0], typos[1], short[2], typos[3]]);
        assert_eq!(both.len(), MOMENTS.len());
        assert_eq!(messages("style = 'They shout.'").len() + messages("style = []").len(), 0);
        assert!(parse("style = []").unwrap().is_empty());
        assert!(parse("style = ['loud']").unwrap_err().to_string().contains("\"fragmentary\""));
    }
}
