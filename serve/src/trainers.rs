//! The reward servers that trainers ask: OpenRLHF's `--reward.remote_url`, slime's `--rm-url`.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use foreturn::chat::Message;
use foreturn::rank::{Candidates, Goal};
use foreturn::{Engine, RankOptions, RankRequest, Ranking};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::asked::{self, Caller};
use crate::failure::{Answer, Failure, done};

/// A label: the conversation that the prompt was rendered from, because the prompt is text with control tokens.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    messages: Vec<Message>,
    goal: Option<Goal>,
}

/// A label is JSON, or text that holds it.
fn label(value: Value) -> Answer<Label> {
    let value = match value {
        Value::String(text) => foreturn::json::parse_strictly(&text).map_err(|error| {
            Failure::refused(format!(
                "the label is not JSON ({error}): it has to be {{\"messages\": […], \"goal\": {{…}}}}"
            ))
        })?,
        value => value,
    };
    serde_json::from_value(value).map_err(|error| Failure::refused(format!("the label: {error}")))
}

/// A request that ranks one response alone, so that its reward does not depend on its neighbours in a batch.
fn request(label: Label, response: String) -> Answer<RankRequest> {
    let said = serde_json::to_vec(&label.messages).map_err(|error| Failure::refused(error.to_string()))?;
    let digest = Sha256::digest(said);
    let first: [u8; 8] = std::array::from_fn(|at| digest[at]);
    let request = RankRequest {
        conversation: label.messages,
        candidates: Candidates::Given(vec![response]),
        goal: label.goal.unwrap_or_default(),
        // Responses to one prompt get the same luck. 53 bits, so that every JSON reader keeps them exactly.
        seed: Some(u64::from_be_bytes(first) >> 11),
        ..RankRequest::default()
    };
    request.validate()?;
    Ok(request)
}

/// The rewards of responses; an error where one has none.
async fn rewards(app: &App, caller: &Caller, requests: Vec<RankRequest>) -> Answer<Vec<(f64, Option<f64>, u64)>> {
    let engine = app.engine.within(caller.limits());
    let rankings = stream::iter(requests).map(|request| placed(&engine, caller, request)).buffered(AT_ONCE);
    let rankings: Vec<Ranking> = rankings.try_collect().await?;
    rankings.iter().enumerate().map(|(at, ranking)| reward(at, ranking)).collect()
}

/// Rankings of one request that are submitted at once: four times what runs at once.
const AT_ONCE: usize = 64;
/// The pause before a ranking is submitted again, where the queue is full.
const PAUSE: Duration = Duration::from_millis(50);

/// A ranking. It waits for a place where the queue is full, because trainers that are refused go on without a reward.
async fn placed(engine: &Engine, caller: &Caller, request: RankRequest) -> Answer<Ranking> {
    loop {
        match caller.wait(engine.submit_rank(request.clone(), RankOptions::default())).await {
            Err(failure) if failure.is_refusal() && !caller.is_late() => tokio::time::sleep(PAUSE).await,
            answer => return answer,
        }
    }
}

fn reward(at: usize, ranking: &Ranking) -> Answer<(f64, Option<f64>, u64)> {
    let none = |why: &str| {
        let message = format!("response {at} has no reward: {why}");
        Failure::from(foreturn::Error::new(foreturn::ErrorKind::ModelOutput, message))
    };
    let best = ranking.candidates.first().ok_or_else(|| none("the ranking is empty"))?;
    let reward = best.reward.ok_or_else(|| none(best.note.as_deref().unwrap_or("none of its rollouts counts")))?;
    if !ranking.complete {
        return Err(none("the deadline passed before all futures had ended"));
    }
    let total = ranking.cost.roles.total();
    let tokens = total.prompt_tokens - total.reused_tokens + total.generated_tokens;
    Ok((reward, best.std_error, tokens))
}

/// Responses behind their rendered prompts.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenRlhf {
    query: Vec<String>,
    prompts: Vec<String>,
    /// Each is `{"messages": […], "goal": {…}}`, or text that holds it.
    labels: Vec<Value>,
}

/// A reward for each response.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Rewards {
    rewards: Vec<f64>,
    /// The same.
    scores: Vec<f64>,
    extra_logs: Logs,
}

#[derive(Serialize, JsonSchema)]
struct Logs {
    std_error: Vec<Option<f64>>,
    /// Tokens that were computed or sampled.
    tokens: Vec<u64>,
}

/// The rewards of OpenRLHF's responses.
pub(crate) async fn openrlhf(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: OpenRlhf = asked::body(&body)?;
    let (queries, prompts, labels) = (asked.query.len(), asked.prompts.len(), asked.labels.len());
    if queries != prompts || queries != labels {
        return Err(Failure::refused(format!("there are {queries} queries, {prompts} prompts and {labels} labels")));
    }
    let rows = asked.query.iter().zip(&asked.prompts).zip(asked.labels);
    let requests = rows
        .map(|((query, prompt), value)| {
            let response = query.strip_prefix(&**prompt).ok_or_else(|| {
                let start: String = query.chars().take(80).collect();
                Failure::refused(format!(
                    "the query does not begin with its prompt, which was cut or changed: {start:?}"
                ))
            })?;
            request(label(value)?, without_control_tokens(response).to_owned())
        })
        .collect::<Answer<Vec<_>>>()?;
    let caller = Caller::new(&headers)?;
    let made = rewards(&app, &caller, requests).await?;
    let rewards: Vec<f64> = made.iter().map(|(reward, ..)| *reward).collect();
    let extra_logs = Logs {
        std_error: made.iter().map(|(_, error, _)| *error).collect(),
        tokens: made.iter().map(|(.., tokens)| *tokens).collect(),
    };
    Ok(done(&Rewards { scores: rewards.clone(), rewards, extra_logs }))
}

/// A response without the control tokens and spaces at its end.
fn without_control_tokens(mut text: &str) -> &str {
    const ENDS: [&str; 4] = ["</s>", "<eos>", "<pad>", "<end_of_turn>"];
    loop {
        let trimmed = text.trim_end();
        let cut = ENDS
            .iter()
            .find_map(|end| trimmed.strip_suffix(end))
            .or_else(|| bars(trimmed, "<|", "|>"))
            .or_else(|| bars(trimmed, "<｜", "｜>"));
        match cut {
            Some(rest) => text = rest,
            None => return trimmed,
        }
    }
}

/// The text before a token in bars at its end.
fn bars<'a>(text: &'a str, opens: &str, closes: &str) -> Option<&'a str> {
    let (rest, name) = text.strip_suffix(closes)?.rsplit_once(opens)?;
    (!name.is_empty() && !name.contains(['<', '>', '|', '｜'])).then_some(rest)
}

/// A response. Trainers send more, which is left alone.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Slime {
    response: String,
    /// `{"messages": […], "goal": {…}}`, or text that holds it.
    label: Value,
}

/// The reward of one of slime's responses: the bare number.
pub(crate) async fn slime(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer {
    let asked: Slime = asked::body(&body)?;
    let request = request(label(asked.label)?, without_control_tokens(&asked.response).to_owned())?;
    let caller = Caller::new(&headers)?;
    let made = rewards(&app, &caller, vec![request]).await?;
    Ok(done(&made[0].0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_tokens_at_the_end_are_cut() {
        for (text, cut) in [
            ("Roses.<|im_end|>\n", "Roses."),
            ("Roses.</s><pad><pad>", "Roses."),
            ("Roses.<｜end▁of▁sentence｜>", "Roses."),
            ("a <b> |c|> ", "a <b> |c|>"),
            ("<|im_start|>kept", "<|im_start|>kept"),
            ("x<||>", "x<||>"),
        ] {
            assert_eq!(without_control_tokens(text), cut);
        }
    }
}
