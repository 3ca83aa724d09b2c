//! Role confusion: a simulated user who talks like the assistant.
//!
//! Models that were trained to assist slide back into it: they offer help, deliver the answer, or repeat what the assistant
//! said. A future in which nobody plays the user tells nothing about the response, so it is found, counted and reported.
//! The signs are few and plain, because a sign that real users give, too, would throw away good futures: what each means
//! stands in [`Confusion`], and `rollout.on_role_confusion` says what follows.

use serde::{Deserialize, Serialize};

use crate::chat::{Message, Role};

/// How a simulated user's message shows that its model speaks as the assistant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Confusion {
    /// It offers help or says that it is an AI.
    Offers,
    /// It begins as a reply that delivers what was asked for.
    Delivers,
    /// Most of it stands in an earlier message of the assistant.
    Repeats,
}

/// What assistants say of themselves and users don't, in lower case.
const OFFERS: &[&str] = &[
    "how can i help you",
    "how can i assist you",
    "how may i help you",
    "how may i assist you",
    "what can i help you with",
    "i'd be happy to help",
    "i would be happy to help",
    "i'm happy to help",
    "i'm here to help",
    "i'm here to assist",
    "i am here to help",
    "i'll help you",
    "i can help you with",
    "let me help you",
    "as an ai",
    "i'm an ai",
    "i am an ai",
    "as a language model",
    "let me know if you need",
    "let me know if you have any",
    "feel free to ask",
    "if you have any other questions",
    "if you have any more questions",
    "is there anything else i can",
    "thank you for reaching out",
];

/// How replies begin that deliver something, in lower case.
const DELIVERS: &[&str] = &[
    "sure, here",
    "sure! here",
    "sure thing! here",
    "certainly! here",
    "certainly, here",
    "of course! here",
    "of course, here",
    "absolutely! here",
    "here's a revised",
    "here is a revised",
    "here's an updated",
    "here is an updated",
    "here's the updated",
    "here is the updated",
    "here's how you can",
    "here are some tips",
    "here are a few suggestions",
    "here are some suggestions",
    "great question!",
    "that's a great question",
    "to solve this",
];

/// Words in a row by which repetition is measured.
const SHINGLE: usize = 5;
/// Repeating a short phrase is what people do when they ask about it.
const SHORTEST_REPETITION: usize = 16;

/// Whether `words`, which are to be the user's next, are the assistant's. `conversation` is what was said before.
pub fn confusion(words: &str, conversation: &[&Message]) -> Option<Confusion> {
    let lower = words.to_lowercase().replace('’', "'");
    if OFFERS.iter().any(|sign| lower.contains(sign)) {
        return Some(Confusion::Offers);
    }
    let opening = lower.trim_start_matches(|c: char| !c.is_alphanumeric());
    if DELIVERS.iter().any(|sign| opening.starts_with(sign)) {
        return Some(Confusion::Delivers);
    }
    let said = conversation.iter().filter(|message| message.role == Role::Assistant);
    said.into_iter().any(|message| repeats(&lower, message.visible())).then_some(Confusion::Repeats)
}

/// Whether most runs of [`SHINGLE`] words of `words` stand in `said`.
fn repeats(words: &str, said: &str) -> bool {
    let split = |text: &str| -> Vec<String> {
        let text = text.to_lowercase().replace('’', "'");
        text.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|w| !w.is_empty()).map(str::to_owned).collect()
    };
    let (words, said) = (split(words), split(said));
    if words.len() < SHORTEST_REPETITION {
        return false;
    }
    let known: std::collections::HashSet<&[String]> = said.windows(SHINGLE).collect();
    let found = words.windows(SHINGLE).filter(|shingle| known.contains(shingle)).count();
    2 * found > words.len() + 1 - SHINGLE
}

#[cfg(test)]
mod tests {
    use super::*;

    const POEM: &str = "Roses are red, violets are blue, the sea is wide and the sky is too, and every wave that comes to \
                        the shore brings back the dog who runs here no more.";

    fn find(words: &str) -> Option<Confusion> {
        let said = [Message::new(Role::User, "A poem please"), Message::new(Role::Assistant, POEM)];
        confusion(words, &said.iter().collect::<Vec<_>>())
    }

    #[test]
    fn assistants_are_recognised() {
        for (words, sign) in [
            ("Hello! How can I assist you today?", Confusion::Offers),
            ("I’m here to help. What do you need?", Confusion::Offers),
            ("As an AI language model, I have no dog.", Confusion::Offers),
            ("Sure! Here's a poem about the sea:", Confusion::Delivers),
            ("**Certainly! Here** is the second verse.", Confusion::Delivers),
            (POEM, Confusion::Repeats),
            (
                "Roses are red, violets are blue, the sea is wide and the sky is too, and every wave that comes to you.",
                Confusion::Repeats,
            ),
        ] {
            assert_eq!(find(words), Some(sign), "{words}");
        }
    }

    #[test]
    fn users_are_left_alone() {
        for words in [
            "shorter pls, and it's about my late dog",
            "can you help me with the second verse?",
            "the line \"the sea is wide and the sky is too\" is nice, but the rest doesn't rhyme well, can you fix that for me",
            "thanks, that helps",
            "Here is my code, what's wrong with it?",
            "no. i said no roses",
            "I'd be happy with something shorter",
            "Sure",
        ] {
            assert_eq!(find(words), None, "{words}");
        }
    }
}
