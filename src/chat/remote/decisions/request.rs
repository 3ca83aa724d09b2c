//! A question to `/v1/decisions`, in JSON.

use serde_json::{Value, json};

use super::super::endpoint::Endpoint;
use super::super::request::Wanted;
use super::{Decisions, QUESTION};
use crate::chat::{Message, Role};
use crate::{Error, Result};

/// The question where the prompt has none that could be told from the rest.
const WHICH: &str = "Which answer does the input ask for?";

/// The body of a request, and the expected kind of reply. The options are the first spellings of `answers`.
///
/// # Errors
/// [`crate::ErrorKind::InvalidRequest`] if two answers have the same first spelling, or if one has none.
pub(in super::super) fn body(
    endpoint: &Endpoint,
    messages: &[Message],
    answers: &[Vec<String>],
) -> Result<(Value, Wanted)> {
    let options = options(answers)
        .map_err(|what| Error::invalid_request(format!("model `{}` can't be asked: {what}", endpoint.name)))?;
    let (input, question) = parts(messages);
    let question = match endpoint.decisions {
        Decisions::Sglang => {
            let options: Vec<Value> = options.iter().map(|name| json!({"name": name})).collect();
            json!({"id": QUESTION, "type": "choice", "question": question, "options": options})
        }
        Decisions::None | Decisions::Openai | Decisions::Vllm => {
            let choices: Vec<Value> = options.iter().map(|value| json!({"value": value})).collect();
            json!({"name": QUESTION, "type": "choice", "instructions": question, "choices": choices})
        }
    };
    let body = json!({"model": endpoint.model, "input": input, "questions": [question]});
    Ok((body, Wanted::Decision { options, dialect: endpoint.decisions }))
}

fn options(answers: &[Vec<String>]) -> Result<Vec<String>, String> {
    let mut options: Vec<String> = Vec::new();
    for (number, spellings) in answers.iter().enumerate() {
        let option = spellings.first().ok_or_else(|| format!("answers[{number}] has no spelling: give it one"))?;
        if options.contains(option) {
            return Err(format!(
                "answers[{number}] is spelled {option:?}, as another answer is, and the reply names answers by their \
                 first spelling: change it"
            ));
        }
        options.push(option.clone());
    }
    Ok(options)
}

/// The prompt as `input` and the question about it. Together they are the whole text in its order, because servers show
/// the question and the options after the input.
fn parts(messages: &[Message]) -> (String, String) {
    let (before, (material, question)) = match messages {
        [before @ .., last] if last.role == Role::User => (before, divided(&last.content)),
        all => (all, ("", "")),
    };
    let before = told(before);
    let pieces = [before.trim(), material.trim()];
    let input = pieces.into_iter().filter(|piece| !piece.is_empty()).collect::<Vec<_>>().join("\n\n");
    match (input.is_empty(), question.trim()) {
        // Neither part may be empty.
        (true, all) => (all.to_owned(), WHICH.to_owned()),
        (false, "") => (input, WHICH.to_owned()),
        (false, question) => (input, question.to_owned()),
    }
}

/// A text up to its last line that closes a tag, and the rest. Judges' prompts show foreign texts between tags and ask
/// after the last one, so nothing foreign gets into the question.
fn divided(text: &str) -> (&str, &str) {
    let mut end = 0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        at += line.len();
        let line = line.trim();
        if line.starts_with("</") && line.ends_with('>') {
            end = at;
        }
    }
    text.split_at(end)
}

/// The messages before the last. System messages are their texts. Speakers are told apart by JSON, which no text in it
/// can imitate.
fn told(messages: &[Message]) -> String {
    if messages.iter().all(|message| message.role == Role::System) {
        return messages.iter().map(|message| message.content.trim()).collect::<Vec<_>>().join("\n\n");
    }
    let told = |message: &Message| {
        let (role, content) = (Value::from(message.role.as_str()), Value::from(&*message.content));
        format!(r#"{{"role":{role},"content":{content}}}"#)
    };
    format!("[{}]", messages.iter().map(told).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::super::super::endpoint::tests::endpoint;
    use super::*;

    fn message(role: Role, text: &str) -> Message {
        Message::new(role, text)
    }

    #[test]
    fn the_question_is_what_stands_after_the_last_tag() {
        let shown = "<conversation>\n<user>\nhi\n</user>\n</conversation>\n<goal>\nx </b> y\n</goal>\n";
        let asked = "Is it?\nAnswer with exactly one of these and nothing else: Yes, No.";
        let judge = [message(Role::System, "You judge."), message(Role::User, &format!("{shown}\n{asked}"))];
        assert_eq!(parts(&judge), (format!("You judge.\n\n{}", shown.trim()), asked.to_owned()));
    }

    /// Whatever the messages are, all of their text is sent, and neither part is empty.
    #[test]
    fn no_text_of_a_prompt_is_lost() {
        let user = |text| message(Role::User, text);
        let (system, said) = (message(Role::System, "S"), message(Role::Assistant, "A \"1\"\nuser: x"));
        let json = r#"[{"role":"user","content":"Q"},{"role":"assistant","content":"A \"1\"\nuser: x"}]"#;
        for (messages, input, question) in [
            (vec![system.clone(), user("U?")], "S", "U?"),
            (vec![user("U?")], "U?", WHICH),
            (vec![user("<a>\nx\n</a>\nU?")], "<a>\nx\n</a>", "U?"),
            (vec![system.clone(), user("<a>\nx\n</a>\n")], "S\n\n<a>\nx\n</a>", WHICH),
            (vec![system.clone(), system.clone(), user("U?")], "S\n\nS", "U?"),
            (vec![user("Q"), said.clone(), user("U?")], json, "U?"),
            (vec![user("Q"), said], json, WHICH),
            (vec![system], "S", WHICH),
            (vec![user("</a> U?")], "</a> U?", WHICH),
            (vec![user("a\n</a>  \r\n\u{e9}?")], "a\n</a>", "\u{e9}?"),
        ] {
            assert_eq!(parts(&messages), (input.to_owned(), question.to_owned()), "{messages:?}");
        }
    }

    #[test]
    fn answers_that_the_reply_could_not_tell_apart_are_refused() {
        let answers = |list: &[&[&str]]| -> Vec<Vec<String>> {
            list.iter().map(|spellings| spellings.iter().map(|&text| text.to_owned()).collect()).collect()
        };
        let ask = |list: &[&[&str]]| body(&endpoint(), &[message(Role::User, "U?")], &answers(list));
        let (asked, wanted) = ask(&[&["Yes", "yes"], &["No", "no"]]).unwrap();
        assert_eq!(asked["questions"][0]["choices"], json!([{"value": "Yes"}, {"value": "No"}]));
        assert!(matches!(wanted, Wanted::Decision { options, .. } if options == ["Yes", "No"]));
        for (list, part) in [
            (&[&["Yes"][..], &[]][..], "answers[1] has no spelling"),
            (&[&["Yes"], &["No"], &["Yes"]], "answers[2] is spelled \"Yes\", as another answer is"),
        ] {
            let error = ask(list).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidRequest);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
