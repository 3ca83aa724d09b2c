//! `foreturn score`.

use std::path::Path;

use foreturn::chat::{Conversations, Message};
use foreturn::config::{Config, LocalConfig};
use foreturn::model::tokenizer::Bos;
use foreturn::score::{ImplicitOptions, Label, Scores, StepOptions};
use foreturn::{Engine, Error, ErrorKind, Result};
use serde::Serialize;

use super::args::{BosArg, ScoreArgs, ScoreFormat};
use super::models::{MODEL, local, places, report_providers};
use super::{output, reward_bench};

/// The name that the engine gives the model of `--reference`.
const REFERENCE: &str = "reference";

pub(super) fn score(args: &ScoreArgs) -> Result<()> {
    // Cheap mistakes come first: the model loads only for a file that makes sense.
    if args.format == ScoreFormat::RewardBench2 {
        let (text, origin) = output::read(&args.messages)?;
        let records = reward_bench::parse(&text, &origin)?;
        return reward_bench::run(args, records);
    }
    let conversations: Conversations = output::parse(&args.messages)?;
    let is_list = matches!(conversations, Conversations::List(_));
    let chats = conversations.into_list();
    let engine = engine(args)?;
    let model = engine.model(MODEL)?;
    if args.reference.is_some() {
        let rewards = model.implicit_rewards(&engine.model(REFERENCE)?, chats, implicit(args))?;
        return print(args, is_list, &rewards, |scored| format!("{:.6}", scored.reward));
    }
    if let Some(separator) = &args.steps {
        let positive = args.positive.as_deref().map(label);
        let options = StepOptions { separator: separator.clone(), marker: args.marker.clone(), positive };
        let scores = model.score_steps(chats, options)?;
        return print(args, is_list, &scores, |scored| join(scored.steps.iter().map(|step| format!("{step:.6}"))));
    }
    let scores = model.score(chats)?;
    print(args, is_list, &scores, |scored| {
        let named =
            |row: &[f32]| join(scored.labels.iter().zip(row).map(|(label, logit)| format!("{label} {logit:.6}")));
        match &scored.scores {
            Scores::Text(row) => named(row),
            Scores::Tokens(rows) => rows.iter().map(|row| named(row)).collect::<Vec<_>>().join("\n"),
        }
    })
}

/// A reward for each conversation: the one label's score, or the implicit reward.
pub(super) fn rewards(args: &ScoreArgs, chats: Vec<Vec<Message>>) -> Result<Vec<f64>> {
    if args.steps.is_some() {
        return Err(Error::new(
            ErrorKind::InvalidRequest,
            "--steps gives a reward for each step, but comparing responses needs one reward for each; leave --steps out",
        ));
    }
    let engine = engine(args)?;
    let model = engine.model(MODEL)?;
    if args.reference.is_some() {
        let rewards = model.implicit_rewards(&engine.model(REFERENCE)?, chats, implicit(args))?;
        return Ok(rewards.into_iter().map(|scored| scored.reward).collect());
    }
    let chosen = args.label.as_deref().map(label);
    let reward = |scored: foreturn::score::Score| match (scored.scores, &chosen) {
        (Scores::Tokens(_), _) => Err(Error::new(
            ErrorKind::InvalidRequest,
            "the model scores tokens, but comparing responses needs one score for each; choose a model that scores texts",
        )),
        (Scores::Text(row), Some(label)) => Ok(f64::from(row[label.find(&scored.labels)?])),
        (Scores::Text(row), None) if row.len() == 1 => Ok(f64::from(row[0])),
        (Scores::Text(_), None) => Err(Error::new(
            ErrorKind::InvalidRequest,
            format!("the model's labels are {}; choose one with --label", scored.labels.join(", ")),
        )),
    };
    model.score(chats)?.into_iter().map(reward).collect()
}

fn engine(args: &ScoreArgs) -> Result<Engine> {
    let bos = match args.bos {
        BosArg::Once => Bos::Once,
        BosArg::Template => Bos::Template,
        BosArg::Double => Bos::Double,
    };
    let model = |path: &Path| LocalConfig { bos, ..local(path, &args.template) }.into();
    let mut config = Config::default();
    config.models.insert(MODEL.into(), model(&args.model));
    if let Some(path) = &args.reference {
        config.models.insert(REFERENCE.into(), model(path));
    }
    let engine = Engine::builder(config).places(places()).build()?;
    report_providers(&engine)?;
    Ok(engine)
}

fn implicit(args: &ScoreArgs) -> ImplicitOptions {
    ImplicitOptions { beta: args.beta, length_normalized: args.length_normalized }
}

/// Reads a label. A number is a place.
fn label(text: &str) -> Label {
    text.parse().map_or_else(|_| Label::Name(text.to_owned()), Label::Index)
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join("  ")
}

fn print<T: Serialize>(args: &ScoreArgs, is_list: bool, scores: &[T], line: impl Fn(&T) -> String) -> Result<()> {
    match (args.json, is_list, scores) {
        (true, false, [only]) => output::json(only),
        (true, ..) => output::json(&scores),
        (false, ..) => scores.iter().try_for_each(|score| output::line(line(score))),
    }
}
