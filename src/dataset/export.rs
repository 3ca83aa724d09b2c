//! Built conversations in the formats that trainers read.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::build::ROWS;
use super::conversation::{Conversation, ScoredResponse, Turn};
use crate::chat::{Message, Role};
use crate::tasks::{json_line, json_row, write_atomically};
use crate::{Error, Result, json};

/// A format of trainers. All are JSON Lines, which `datasets.load_dataset("json", …)` reads, or Parquet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// TRL's conversational language modelling: `{"messages"}`. One row per conversation: its last turn with the best
    /// response.
    Sft,
    /// TRL's conversational preferences: `{"prompt", "chosen", "rejected", …}`. One row per turn: the best response
    /// against the worst.
    Dpo,
    /// As `Dpo`, with the difference of the rewards as `margin`, which TRL's reward trainer reads.
    Reward,
    /// The nested form of collabllm's `MultiturnDataset`: a conversation per line.
    CollabllmNested,
    /// The flat form of collabllm's `MultiturnDataset`: a response per line.
    CollabllmFlat,
}

/// What becomes a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExportOptions {
    /// For pairs: the least difference of their rewards. Pairs of equal texts are always left out.
    pub minimum_gap: f64,
    /// For pairs: the least probability that the better response is better, in [0.5, 1].
    pub minimum_probability: Option<f64>,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Exported {
    /// Conversations that were read.
    pub conversations: usize,
    /// Rows that were written.
    pub rows: usize,
    /// Turns that gave no pair, because all responses are equal, or the difference is too small or too unsure.
    pub left_out: usize,
}

impl ExportOptions {
    fn validate(&self) -> Result<()> {
        if !self.minimum_gap.is_finite() || self.minimum_gap < 0.0 {
            return Err(Error::invalid_request(format!(
                "the minimum gap {} is not a number of at least 0",
                self.minimum_gap
            )));
        }
        match self.minimum_probability {
            Some(least) if !(0.5..=1.0).contains(&least) => Err(Error::invalid_request(format!(
                "the minimum probability {least} is not between 0.5 and 1: it is that of the better response being better"
            ))),
            _ => Ok(()),
        }
    }

    /// True if the turn's best response is better than its worst, by enough and surely enough.
    fn takes(&self, turn: &Turn, chosen: &ScoredResponse, rejected: &ScoredResponse) -> bool {
        let sure = self.minimum_probability.is_none_or(|least| turn.probability.is_some_and(|sure| sure >= least));
        chosen.score - rejected.score >= self.minimum_gap && sure
    }
}

/// Writes the conversations in `from`, which is the folder of a build or its `dataset.jsonl`, to the file `to`: as Parquet if
/// its name ends with `.parquet`, which takes the feature `parquet`, otherwise as JSON Lines.
///
/// # Errors
/// A file cannot be read or written, a line is not a conversation, or the options make no sense.
pub fn export(from: &Path, format: Format, options: &ExportOptions, to: &Path) -> Result<Exported> {
    options.validate()?;
    let path = if from.is_dir() { from.join(ROWS) } else { from.to_owned() };
    if path.canonicalize().ok().is_some_and(|path| to.canonicalize().ok() == Some(path)) {
        return Err(Error::invalid_request(format!("{} is the data set itself: give another name", to.display())));
    }
    let exported = RefCell::new(Exported::default());
    if is_parquet(to) {
        write_parquet(to, || {
            exported.take();
            rows(&path, format, options, &exported)
        })?;
    } else {
        write_atomically(to, rows(&path, format, options, &exported)?.map(|row| json_line(&row?)))?;
    }
    Ok(exported.into_inner())
}

/// The rows of all conversations. What becomes of them is counted.
fn rows(
    path: &Path,
    format: Format,
    options: &ExportOptions,
    exported: &RefCell<Exported>,
) -> Result<impl Iterator<Item = Result<Value>>> {
    let mut pending: Vec<Value> = Vec::new();
    let mut conversations = read(path)?;
    Ok(std::iter::from_fn(move || {
        while pending.is_empty() {
            match conversations.next()? {
                Ok(conversation) => {
                    let mut exported = exported.borrow_mut();
                    let number = exported.conversations;
                    pending = of(&conversation, number, format, options, &mut exported.left_out);
                    exported.conversations += 1;
                    exported.rows += pending.len();
                    pending.reverse();
                }
                Err(error) => return Some(Err(error)),
            }
        }
        pending.pop().map(Ok)
    }))
}

/// True for the name of a Parquet file.
fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"))
}

/// Writes rows, which are read twice, as Parquet.
#[cfg(feature = "parquet")]
use super::parquet::write as write_parquet;

/// Refuses Parquet.
#[cfg(not(feature = "parquet"))]
fn write_parquet<R>(path: &Path, _: impl FnMut() -> Result<R>) -> Result<()> {
    Err(Error::unsupported(format!(
        "{}: this build of foreturn writes no Parquet, because it has not the feature `parquet`. Write JSON Lines (.jsonl), which \
         datasets.load_dataset(\"json\", …) reads",
        path.display()
    )))
}

/// Writes the rows of a build as Parquet.
pub(super) fn write_built(from: &Path, to: &Path) -> Result<()> {
    write_parquet(to, || {
        let rows = read(from)?;
        Ok(rows.map(|row| json_row(&row?)))
    })
}

/// The conversations of a file, one after the other.
pub(super) fn read(path: &Path) -> Result<impl Iterator<Item = Result<Conversation>>> {
    let (file, _) = crate::files::open(path).map_err(|e| Error::io("read", path, e))?;
    let path: PathBuf = path.to_owned();
    let lines = BufReader::new(file).split(b'\n').enumerate();
    Ok(lines.map(move |(at, line)| {
        let line = line.map_err(|e| Error::io("read", &path, e))?;
        let parsed = json::parse(&line).map_err(|e| e.to_string()).and_then(whole);
        parsed.map_err(|why| {
            Error::invalid_request(format!(
                "{}, line {}: it is not a conversation of a data set: {why}. Give the folder of `foreturn dataset build`",
                path.display(),
                at + 1
            ))
        })
    }))
}

/// Refuses a row whose parts do not fit together, because somebody may have edited it.
fn whole(conversation: Conversation) -> Result<Conversation, String> {
    for (at, turn) in conversation.turns.iter().enumerate() {
        let responses = turn.responses.len();
        if let Some(place) = [Some(turn.chosen), turn.rejected].into_iter().flatten().find(|place| *place >= responses)
        {
            return Err(format!("turns[{at}] names response {place} as chosen or rejected, and has {responses}"));
        }
    }
    Ok(conversation)
}

/// The rows of a conversation, which is the `number`th.
fn of(
    conversation: &Conversation,
    number: usize,
    format: Format,
    options: &ExportOptions,
    left_out: &mut usize,
) -> Vec<Value> {
    match format {
        Format::Sft => conversation.turns.last().map(|turn| sft(conversation, turn)).into_iter().collect(),
        Format::Dpo | Format::Reward => {
            let pair = |(at, turn)| pair(conversation, at, turn, format, options);
            let pairs: Vec<Value> = conversation.turns.iter().enumerate().filter_map(pair).collect();
            *left_out += conversation.turns.len() - pairs.len();
            pairs
        }
        Format::CollabllmNested => vec![nested(conversation)],
        Format::CollabllmFlat => flat(conversation, number),
    }
}

fn assistant(text: &str) -> Message {
    Message::new(Role::Assistant, text)
}

fn sft(conversation: &Conversation, turn: &Turn) -> Value {
    let mut messages = turn.prompt.clone();
    messages.push(assistant(&turn.responses[turn.chosen].completion));
    json!({"messages": messages, "id": conversation.id})
}

fn pair(conversation: &Conversation, at: usize, turn: &Turn, format: Format, options: &ExportOptions) -> Option<Value> {
    let (chosen, rejected) = (&turn.responses[turn.chosen], &turn.responses[turn.rejected?]);
    options.takes(turn, chosen, rejected).then(|| {
        let mut row = json!({
            "prompt": turn.prompt,
            "chosen": [assistant(&chosen.completion)],
            "rejected": [assistant(&rejected.completion)],
        });
        match format {
            Format::Reward => row["margin"] = json!(chosen.score - rejected.score),
            _ => {
                row["score_chosen"] = json!(chosen.score);
                row["score_rejected"] = json!(rejected.score);
                row["probability"] = json!(turn.probability);
            }
        }
        row["id"] = json!(conversation.id);
        row["turn"] = json!(at);
        row
    })
}

/// What collabllm calls a prompt: it brings a system message of its own.
fn without_system(messages: &[Message]) -> Vec<&Message> {
    messages.iter().filter(|message| message.role != Role::System).collect()
}

/// The fields that both forms of collabllm have of a conversation.
fn task(conversation: &Conversation) -> Map<String, Value> {
    let fields = json!({
        "single_turn_prompt": conversation.single_turn_prompt,
        "single_turn_completion": conversation.single_turn_completion,
        "single_turn_metadata": conversation.single_turn_metadata,
    });
    fields.as_object().cloned().unwrap_or_default()
}

fn nested(conversation: &Conversation) -> Value {
    let turn = |turn: &Turn| {
        let responses = turn.responses.iter();
        let responses = responses.map(|response| json!({"completion": response.completion, "score": response.score}));
        json!({"prompt": without_system(&turn.prompt), "responses": responses.collect::<Vec<_>>()})
    };
    let mut row = task(conversation);
    row.insert("turns".into(), conversation.turns.iter().map(turn).collect());
    row.into()
}

fn flat(conversation: &Conversation, number: usize) -> Vec<Value> {
    let rows = conversation.turns.iter().flat_map(|turn| {
        let prompt = without_system(&turn.prompt);
        turn.responses.iter().map(move |response| {
            let mut row = Map::new();
            row.insert("prompt".into(), json!(prompt));
            row.insert("completion".into(), json!(response.completion));
            row.insert("conv_id".into(), json!(number));
            row.insert("score".into(), json!(response.score));
            row.extend(task(conversation));
            row.insert("turn_id".into(), json!(prompt.len()));
            Value::from(row)
        })
    });
    rows.collect()
}
