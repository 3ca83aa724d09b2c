//! The features of a user's message. Each is defined by what can be counted, so that a reader can check it by hand.

use super::words::{AGREES, FEELINGS, LIFE, OWN, POLITE, SLIPS, TURNS};
use crate::chat::{Message, Role};
use crate::rollout::confusion;

/// The names of the features, in the order of their numbers.
pub(super) const NAMES: [&str; 10] = [
    "words",
    "fragments",
    "slips",
    "untidiness",
    "changes_of_direction",
    "personal_detail",
    "bluntness",
    "emotion",
    "agreement",
    "role_confusion",
];

/// The numbers of a message.
pub(super) type Numbers = [f64; NAMES.len()];

/// The features of a conversation: means over the user's messages. `None` if there is none.
pub(super) fn of(said: &[Message]) -> Option<Numbers> {
    let mut sum = [0.0; NAMES.len()];
    let mut messages = 0;
    for (at, message) in said.iter().enumerate() {
        if message.role == Role::User && !message.content.trim().is_empty() {
            let before: Vec<&Message> = said[..at].iter().collect();
            let numbers = of_message(&message.content, &before);
            sum.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
            messages += 1;
        }
    }
    (messages > 0).then(|| sum.map(|sum| sum / f64::from(messages)))
}

fn of_message(text: &str, before: &[&Message]) -> Numbers {
    let plain = text.to_lowercase().replace('’', "'");
    let words: Vec<&str> =
        plain.split(|c: char| !(c.is_alphanumeric() || c == '\'')).filter(|word| !word.is_empty()).collect();
    let sentences = sentences(text);
    let flag = |is: bool| f64::from(u8::from(is));
    let begun = before.iter().any(|message| message.role == Role::Assistant);
    [
        words.len() as f64,
        share(&sentences, is_fragment),
        100.0 * count(&words, SLIPS) as f64 / words.len().max(1) as f64,
        share(&sentences, is_untidy),
        // A first message has no direction yet.
        flag(begun && has_phrase(&words, TURNS)),
        flag(count(&words, LIFE) > 0 && count(&words, OWN) > 0),
        flag(!has_phrase(&words, POLITE)),
        (count(&words, FEELINGS) + text.matches('!').count() + emoji(text)) as f64,
        flag(begun && AGREES.iter().any(|phrase| begins(&words, phrase))),
        flag(confusion(text, before).is_some()),
    ]
}

/// The sentences of a text, with the mark that ends each.
fn sentences(text: &str) -> Vec<&str> {
    let pieces = text.split_inclusive(['.', '!', '?', '\n']).map(str::trim);
    pieces.filter(|piece| piece.chars().any(char::is_alphanumeric)).collect()
}

fn share(sentences: &[&str], is: impl Fn(&str) -> bool) -> f64 {
    sentences.iter().filter(|sentence| is(sentence)).count() as f64 / sentences.len().max(1) as f64
}

/// True for a sentence of at most three words.
fn is_fragment(sentence: &str) -> bool {
    sentence.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric)).count() <= 3
}

/// True for a sentence without a capital at its beginning, without a mark at its end, or with a small "i" for oneself.
fn is_untidy(sentence: &str) -> bool {
    let first = sentence.chars().find(|c| c.is_alphanumeric());
    let small = first.is_some_and(char::is_lowercase);
    let open = !sentence.ends_with(['.', '!', '?', '"', ')', ':', '…']);
    small || open || sentence.split_whitespace().any(|word| word == "i")
}

fn count(words: &[&str], list: &[&str]) -> usize {
    words.iter().filter(|word| list.contains(word)).count()
}

/// True if the words begin with a phrase.
fn begins(words: &[&str], phrase: &str) -> bool {
    let mut rest = words.iter();
    phrase.split(' ').all(|word| rest.next() == Some(&word))
}

fn has_phrase(words: &[&str], phrases: &[&str]) -> bool {
    (0..words.len()).any(|at| phrases.iter().any(|phrase| begins(&words[at..], phrase)))
}

/// Pictures of faces, hands and hearts.
fn emoji(text: &str) -> usize {
    text.chars().filter(|c| matches!(c, '\u{1f300}'..='\u{1faff}' | '\u{2764}' | '\u{263a}')).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str, begun: bool) -> Vec<(&'static str, f64)> {
        let before = Message::new(Role::Assistant, "What should the poem be about?");
        let before = if begun { vec![&before] } else { vec![] };
        NAMES.into_iter().zip(of_message(text, &before)).filter(|(_, number)| *number != 0.0).collect()
    }

    #[test]
    fn each_feature_is_what_its_definition_says() {
        assert_eq!(
            numbers("Could you make it shorter, please?", true),
            [("words", 6.0)],
            "a tidy and polite sentence shows nothing"
        );
        assert_eq!(
            numbers("no. wait, i dont like it", true),
            [
                ("words", 6.0),
                ("fragments", 0.5),
                ("slips", 100.0 / 6.0),
                ("untidiness", 1.0),
                ("changes_of_direction", 1.0),
                ("bluntness", 1.0)
            ]
        );
        assert_eq!(
            numbers("Great, I love it! Thanks from my dad 😀", true),
            [("words", 8.0), ("untidiness", 0.5), ("personal_detail", 1.0), ("emotion", 3.0), ("agreement", 1.0)]
        );
        assert_eq!(numbers("Actually, please write a poem.", false), [("words", 5.0)], "nothing to turn from yet");
        let confused = numbers("How can I help you today? Please say.", true);
        assert!(confused.contains(&("role_confusion", 1.0)));
        assert_eq!(
            numbers("It’s what I’ve said, thanks.", true),
            [("words", 5.0)],
            "curly apostrophes are apostrophes"
        );
    }

    #[test]
    fn a_conversation_has_the_means_of_its_users_messages() {
        let said = [
            Message::new(Role::User, "Please help me now."),
            Message::new(Role::Assistant, "With what? Tell me everything, at length."),
            Message::new(Role::User, "Taxes, thanks."),
        ];
        let numbers = of(&said).unwrap();
        assert_eq!((numbers[0], numbers[1]), (3.0, 0.5));
        assert_eq!(of(&said[1..2]), None);
    }
}
