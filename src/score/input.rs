//! Conversion of texts and conversations to tokens and the wanted rows of output.

use super::{ScoreInput, ScoreTask, StepOptions};
use crate::decode::check_prompt;
use crate::message::{self, Message, Role};
use crate::model::tokenizer::{Bos, EncodedSteps, EncodedText, RenderOptions};
use crate::model::{Head, HeadKind, ModelFolder, ModelKind};
use crate::{Error, Result};

/// A scoring request in the form that its model reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) text: EncodedText,
    pub(crate) wanted: Wanted,
}

/// The wanted part of a model's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The text's single row, as the head pools it.
    Pooled,
    /// These tokens' rows.
    Rows(Vec<usize>),
    /// The log-probability of each token after the first `given`.
    LogProbs { given: usize },
}

/// Settings for turning conversations into a model's inputs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prompting {
    pub(crate) render: RenderOptions,
    pub(crate) bos: Bos,
}

/// Makes a request from `input` and checks it against the model.
pub(crate) fn encode(
    folder: &ModelFolder,
    prompting: &Prompting,
    input: ScoreInput,
    task: &ScoreTask,
) -> Result<Encoded> {
    check(folder, task)?;
    check_bytes(folder, &input)?;
    let mut encoded = match task {
        ScoreTask::Response => response(folder, prompting, input)?,
        ScoreTask::Steps(options) => steps(folder, prompting, input, options)?,
        ScoreTask::Labels | ScoreTask::Embedding => {
            let text = text(folder, prompting, input)?;
            let per_token = folder.head().is_some_and(|head| head.kind == HeadKind::TokenClassification);
            let wanted = if per_token { Wanted::Rows((0..text.tokens.len()).collect()) } else { Wanted::Pooled };
            Encoded { text, wanted }
        }
    };
    encoded.text.types.resize(encoded.text.tokens.len(), 0);
    check_prompt(folder, &encoded.text.tokens)?;
    Ok(encoded)
}

/// Refuses tasks that the model can't do.
pub(crate) fn check(folder: &ModelFolder, task: &ScoreTask) -> Result<()> {
    let refuse = |is: &str, wanted: &str| {
        Err(Error::invalid_request(format!("{} {is}, and {wanted} is asked of it", folder.path().display())))
    };
    match (task, folder.head()) {
        (ScoreTask::Response, None) => Ok(()),
        (ScoreTask::Response, Some(_)) => refuse("gives scores instead of tokens", "the probability of a response"),
        (_, None) => refuse("is a language model without a head of scores", wanted(task)),
        (ScoreTask::Embedding, Some(Head { kind: HeadKind::Embedding, .. })) => Ok(()),
        (ScoreTask::Embedding, Some(_)) => refuse("gives scores", wanted(task)),
        (_, Some(Head { kind: HeadKind::Embedding, .. })) => refuse("gives embeddings", wanted(task)),
        (ScoreTask::Labels, Some(_)) => Ok(()),
        (ScoreTask::Steps(_), Some(Head { kind: HeadKind::SequenceClassification, .. })) => {
            refuse("scores whole texts, not tokens", wanted(task))
        }
        (ScoreTask::Steps(options), Some(head)) => {
            if options.separator.is_empty() {
                return Err(Error::invalid_config("the separator of steps is empty: give a text, such as \"\\n\\n\""));
            }
            if !folder.tokenizer().has_control_token(&options.marker) {
                return Err(folder.tokenizer().no_marker(&options.marker));
            }
            positive(head, options).map(|_| ())
        }
    }
}

fn wanted(task: &ScoreTask) -> &'static str {
    match task {
        ScoreTask::Labels => "a score",
        ScoreTask::Steps(_) => "a score for each step",
        ScoreTask::Response => "the probability of a response",
        ScoreTask::Embedding => "an embedding",
    }
}

/// The index of the label whose probability is the reward.
pub(super) fn positive(head: &Head, options: &StepOptions) -> Result<usize> {
    match (&options.positive, head.labels.len()) {
        (Some(label), _) => label.find(&head.labels).map_err(|e| e.context("positive")),
        (None, 2) => Ok(1),
        (None, _) => Err(Error::invalid_config(format!(
            "the model's labels are {}: say which of them is the positive one",
            head.labels.join(", ")
        ))),
    }
}

/// Refuses texts that can't fit the context before they are tokenised.
fn check_bytes(folder: &ModelFolder, input: &ScoreInput) -> Result<()> {
    match input {
        ScoreInput::Tokens(_) | ScoreInput::Response { .. } => Ok(()),
        ScoreInput::Reply { history, reply } => {
            folder.check_bytes("the conversation", message::bytes(history) + reply.len())
        }
        ScoreInput::Text(text) => folder.check_bytes("the text", text.len()),
        ScoreInput::Pair(first, second) => folder.check_bytes("the texts", first.len() + second.len()),
        ScoreInput::Chat(messages) => folder.check_bytes("the conversation", message::bytes(messages)),
    }
}

fn text(folder: &ModelFolder, prompting: &Prompting, input: ScoreInput) -> Result<EncodedText> {
    let Prompting { render, bos } = prompting;
    let tokenizer = folder.tokenizer();
    match input {
        ScoreInput::Tokens(text) => Ok(text),
        ScoreInput::Response { prompt, response } => {
            Ok(EncodedText { tokens: [prompt, response].concat(), types: Vec::new() })
        }
        ScoreInput::Text(text) => tokenizer.encode_with_special(&text, None),
        ScoreInput::Pair(first, second) => tokenizer.encode_with_special(&first, Some(&second)),
        ScoreInput::Chat(messages) => {
            let encoder = folder.kind() == ModelKind::Classifier;
            if encoder && tokenizer.template_names().next().is_none() {
                let (before, response) = as_texts(&messages)?;
                return tokenizer.encode_with_special(&before, response);
            }
            tokenizer.encode_conversation(&messages, render, *bos)
        }
        reply @ ScoreInput::Reply { .. } => text(folder, prompting, reply.whole()),
    }
}

/// A conversation for an encoder without a chat format: the assistant's last message, and the text before it. A single
/// message before it is used as it is. Several are put on one line each, after the speaker's name. A conversation that
/// doesn't end with the assistant's message is one text.
fn as_texts(messages: &[Message]) -> Result<(String, Option<&str>)> {
    let (before, response) = match messages.split_last() {
        None => return Err(Error::invalid_request("the conversation is empty")),
        Some((last, before)) if last.role == Role::Assistant && !before.is_empty() => {
            (before, Some(last.content.as_str()))
        }
        Some(_) => (messages, None),
    };
    let named = |message: &Message| {
        let name = match message.role {
            Role::System => "System",
            Role::User => "User",
            Role::Assistant => "Assistant",
        };
        format!("{name}: {}", message.content)
    };
    let text = match before {
        [only] => only.content.clone(),
        several => several.iter().map(named).collect::<Vec<_>>().join("\n"),
    };
    Ok((text, response))
}

fn steps(folder: &ModelFolder, prompting: &Prompting, input: ScoreInput, options: &StepOptions) -> Result<Encoded> {
    let Prompting { render, bos } = prompting;
    let tokenizer = folder.tokenizer();
    let EncodedSteps { tokens, marks } = match input {
        ScoreInput::Chat(messages) => {
            tokenizer.encode_steps(&messages, render, *bos, (&options.separator, &options.marker))?
        }
        ScoreInput::Tokens(EncodedText { tokens, .. }) => {
            let marker = tokenizer.token_id(&options.marker);
            let marks: Vec<usize> = (0..tokens.len()).filter(|&at| Some(tokens[at]) == marker).collect();
            if marks.is_empty() {
                return Err(Error::invalid_request(format!("no step of the tokens ends with `{}`", options.marker)));
            }
            EncodedSteps { tokens, marks }
        }
        reply @ ScoreInput::Reply { .. } => {
            return steps(folder, prompting, reply.whole(), options);
        }
        ScoreInput::Text(_) | ScoreInput::Pair(..) | ScoreInput::Response { .. } => {
            return Err(Error::invalid_request("steps are those of a conversation's last message, not of a text"));
        }
    };
    Ok(Encoded { text: EncodedText { types: Vec::new(), tokens }, wanted: Wanted::Rows(marks) })
}

/// The wanted rows for a response's probability.
fn response(folder: &ModelFolder, prompting: &Prompting, input: ScoreInput) -> Result<Encoded> {
    match input {
        ScoreInput::Chat(messages) => last_message(folder, prompting, &messages),
        ScoreInput::Reply { .. } => response(folder, prompting, input.whole()),
        ScoreInput::Response { prompt, response } if prompt.is_empty() || response.is_empty() => {
            Err(Error::invalid_request(format!(
                "a response's probability needs at least a token before it and one of its own, but there are {} and {}",
                prompt.len(),
                response.len()
            )))
        }
        ScoreInput::Response { prompt, response } => {
            let wanted = Wanted::LogProbs { given: prompt.len() };
            let text = EncodedText { types: Vec::new(), tokens: [prompt, response].concat() };
            Ok(Encoded { text, wanted })
        }
        ScoreInput::Text(_) | ScoreInput::Pair(..) | ScoreInput::Tokens(_) => Err(Error::invalid_request(
            "the probability of a response is that of a conversation's last message, or of tokens after a prompt's",
        )),
    }
}

/// The conversation up to the end of its last turn, and the start of the response in it. The response starts after the
/// common prefix with the prompt that it would be sampled from.
fn last_message(folder: &ModelFolder, Prompting { render, .. }: &Prompting, messages: &[Message]) -> Result<Encoded> {
    let Some((Message { role: Role::Assistant, .. }, before)) = messages.split_last() else {
        return Err(Error::invalid_request(
            "the conversation has to end with the assistant's message, the response whose probability is wanted",
        ));
    };
    let encode = |messages: &[Message], add_generation_prompt: bool| {
        let options = RenderOptions { add_generation_prompt, ..render.clone() };
        folder.tokenizer().encode_chat(messages, &options).map(|chat| chat.tokens)
    };
    let (prompt, mut tokens) = (encode(before, true)?, encode(messages, false)?);
    let given = prompt.iter().zip(&tokens).take_while(|(one, other)| one == other).count();
    // Templates write line ends after a turn, which models don't write.
    let stops = folder.stop_tokens();
    if let Some(end) = tokens[given..].iter().rposition(|token| stops.contains(token)) {
        tokens.truncate(given + end + 1);
    }
    if given == 0 || given == tokens.len() {
        return Err(Error::invalid_request("the chat template leaves nothing of the response, or nothing before it"));
    }
    let text = EncodedText { types: Vec::new(), tokens };
    Ok(Encoded { text, wanted: Wanted::LogProbs { given } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoders_without_a_template_read_two_texts() {
        let message = Message::new;
        let user = message(Role::User, "Why?");
        let reply = message(Role::Assistant, "Because.");
        let system = message(Role::System, "Be brief.");
        assert_eq!(as_texts(&[user.clone(), reply.clone()]).unwrap(), ("Why?".into(), Some("Because.")));
        assert_eq!(
            as_texts(&[system, user.clone(), reply.clone()]).unwrap(),
            ("System: Be brief.\nUser: Why?".into(), Some("Because."))
        );
        assert_eq!(as_texts(std::slice::from_ref(&user)).unwrap(), ("Why?".into(), None));
        assert_eq!(as_texts(std::slice::from_ref(&reply)).unwrap(), ("Because.".into(), None));
        assert_eq!(as_texts(&[user.clone(), reply, user]).unwrap().0, "User: Why?\nAssistant: Because.\nUser: Why?");
        assert!(as_texts(&[]).is_err());
    }
}
