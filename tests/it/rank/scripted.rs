//! Rankings of `fixtures/ranking`, driven by scripted models.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use foreturn::chat::{ChatOutput, ChatReply, Finish, Usage};
use foreturn::config::Config;
use foreturn::rank::{Ask, EndedRollout, ModelInfo, ModelRole, ModelsInfo, RankJob, RankPlan, RankRequest, Ranking};
use foreturn::reward::TokenCounter;
use foreturn::rollout::seed;
use foreturn::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::Value;

/// What a scripted model says to requests that contain certain texts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    role: ModelRole,
    /// All of these must be in the prompt.
    #[serde(default)]
    when: Vec<String>,
    /// A reply, or a list of replies by sample (by candidate where candidates are sampled).
    say: Value,
}

pub(crate) struct Script {
    lines: Vec<Line>,
    seed: u64,
    common: bool,
}

impl Script {
    pub(crate) fn reply(&self, ask: &Ask) -> Result<ChatReply> {
        let prompt: Vec<&str> = ask.request.messages.iter().map(|m| m.content.as_str()).collect();
        let prompt = prompt.join("\n");
        let fits = |line: &&Line| line.role == ask.role && line.when.iter().all(|text| prompt.contains(text.as_str()));
        let line =
            self.lines.iter().find(fits).unwrap_or_else(|| panic!("nothing is scripted for {:?}: {prompt}", ask.role));
        match &line.say {
            Value::Array(by_sample) if !by_sample.iter().all(Value::is_number) => said(&by_sample[self.number(ask)]),
            say => said(say),
        }
    }

    /// Which sample (or sampled candidate) a request belongs to, known by its seed.
    fn number(&self, ask: &Ask) -> usize {
        let belongs = |number: &usize| {
            seed::candidate_seed(self.seed, *number) == ask.request.seed
                || (0..4).any(|candidate| {
                    let rollout = seed::rollout_seed(self.seed, candidate, *number, self.common);
                    let turns = (0..4).map(|turn| seed::turn_seed(rollout, turn, ask.role));
                    let questions = (0..16).map(|q| seed::question_seed(rollout, q / 4, q % 4, ask.role));
                    // Extractions come after all metrics, whose answers a judge may give as well.
                    let extractions =
                        (0..4).map(|at| seed::question_seed(rollout, (1 << 16) + at, 0, ModelRole::Extractor));
                    let questions = questions.chain(extractions);
                    turns.chain(questions).any(|seed| seed == ask.request.seed)
                })
        };
        (0..8).find(belongs).unwrap_or_else(|| panic!("seed {} is of no known place", ask.request.seed))
    }
}

/// `"text"`, `{"text", "finish"}`, `[probabilities]` or `{"error": kind}`.
pub(crate) fn said(say: &Value) -> Result<ChatReply> {
    let mut usage = Usage::new(10, 2);
    (usage.reused_tokens, usage.seconds) = (4, 0.5);
    let text = |text: &Value, finish| ChatOutput::Text {
        text: text.as_str().expect("a text").to_owned(),
        tokens: None,
        finish,
        retokenized_differs: vec![],
    };
    let output = match say {
        Value::String(_) => text(say, Finish::Stop),
        Value::Array(p) => {
            ChatOutput::Choice { probabilities: p.iter().map(|p| p.as_f64().expect("a number")).collect() }
        }
        Value::Object(fields) => match fields.get("error").and_then(Value::as_str) {
            Some("context_length") => return Err(Error::new(ErrorKind::ContextLength, "the prompt is too long")),
            Some("model_output") => return Err(Error::new(ErrorKind::ModelOutput, "the logits hold NaN")),
            Some(other) => panic!("unknown error {other}"),
            None => text(&fields["text"], serde_json::from_value(fields["finish"].clone()).expect("a finish")),
        },
        other => panic!("cannot say {other}"),
    };
    Ok(ChatReply { output, usage, note: None })
}

pub(crate) fn words() -> TokenCounter {
    Arc::new(|text: &str| text.split_whitespace().count())
}

pub(crate) fn models() -> ModelsInfo {
    let model = |role| (role, ModelInfo::new("scripted", Some("v1".into())));
    let models = [ModelRole::Policy, ModelRole::User, ModelRole::Judge].map(model);
    ModelsInfo { models: models.into(), bitwise: true, ..ModelsInfo::default() }
}

/// Drives a job to its end; `pick` chooses which of the waiting requests is answered next.
pub(crate) fn drive(
    job: RankJob,
    reply: impl Fn(&Ask) -> Result<ChatReply>,
    pick: impl FnMut(usize) -> usize,
) -> Result<Ranking> {
    drive_told(job, reply, pick, |_| ())
}

/// As [`drive`]; `ended` is called with each rollout that has ended.
pub(crate) fn drive_told(
    mut job: RankJob,
    reply: impl Fn(&Ask) -> Result<ChatReply>,
    mut pick: impl FnMut(usize) -> usize,
    mut ended: impl FnMut(EndedRollout),
) -> Result<Ranking> {
    let mut asks = Vec::new();
    job.start(&mut asks);
    loop {
        job.score(&mut asks);
        job.take_ended().into_iter().for_each(&mut ended);
        if job.is_done() {
            return job.finish(models(), 1.0);
        }
        let ask = asks.swap_remove(pick(asks.len()));
        job.on_reply(ask.id, reply(&ask), &mut asks)?;
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) about: String,
    config: Vec<String>,
    request: Value,
    script: Vec<Line>,
    /// The error's text contains this.
    #[serde(default)]
    pub(crate) error: Option<String>,
    /// The ranking's JSON contains this: objects may have more fields, numbers agree to 1e-12.
    #[serde(default)]
    pub(crate) ranking: Option<Value>,
}

const MODEL: &str = "\n[models.scripted]\npath = \"unused\"\n";

/// The plan, request and script of a case.
pub(crate) fn prepare(text: &str) -> (Case, Arc<RankPlan>, Result<(RankRequest, Script)>) {
    let mut case: Case = serde_json::from_str(text).expect("a case");
    let config = Config::from_toml(&(case.config.join("\n") + MODEL), Path::new("/")).expect("a configuration");
    let plan = config.plan(words()).expect("a plan");
    let lines = std::mem::take(&mut case.script);
    let ready = case.request.to_string().parse::<RankRequest>().map(|request| {
        let script =
            Script { lines, seed: request.seed.unwrap_or(plan.seed), common: plan.rollout.common_random_numbers };
        (request, script)
    });
    (case, Arc::new(plan), ready)
}

/// Runs a case with at most so many requests out while rollouts begin.
pub(crate) fn run(text: &str, most_out: usize, pick: impl FnMut(usize) -> usize) -> (Case, Result<Ranking>) {
    let (case, plan, ready) = prepare(text);
    let result = ready.and_then(|(request, script)| {
        drive(RankJob::new(request, plan)?.with_most_out(most_out), |ask| script.reply(ask), pick)
    });
    (case, result)
}

pub(crate) fn fixtures(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&folder).expect("fixtures").map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    assert!(!paths.is_empty(), "no cases in {}", folder.display());
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(&path).expect("a readable case"))).collect()
}
