//! The presets `collabllm` and `verl` beside the implementations that they are named after.
//!
//! `fixtures/collabllm/*.json` holds conversations, every reply that the scripted models gave to the reference, and every
//! value that came out of it (`reference/make_collabllm_fixtures.py` records them). Here the same replies go to a
//! [`RankJob`]: the futures have to be the same word by word, and metrics and rewards the same to 1e-9.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use foreturn::Result;
use foreturn::chat::{ChatOutput, ChatReply, ChatTask, Finish, Message, Usage};
use foreturn::config::Config;
use foreturn::rank::{Ask, ModelInfo, ModelRole, ModelsInfo, RankJob, RankPlan, RankRequest, RankedCandidate, Ranking};
use foreturn::rollout::seed;
use serde::Deserialize;
use serde_json::{Value, json};

const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Case {
    about: String,
    config: Vec<String>,
    /// Window and samples, where the preset's are not to be used.
    request: Value,
    task_desc: String,
    conversation: Vec<Message>,
    prompt: String,
    reference: String,
    tests: Option<String>,
    entry_point: Option<String>,
    candidates: Vec<Candidate>,
}

#[derive(Deserialize)]
struct Candidate {
    response: String,
    samples: Vec<Sample>,
    reward: f64,
    /// verl's own precision.
    reward_float32: Option<f64>,
}

#[derive(Deserialize)]
struct Sample {
    user: Vec<String>,
    policy: Vec<String>,
    extractor: Option<String>,
    judge: BTreeMap<String, String>,
    messages: Vec<Message>,
    metrics: BTreeMap<String, f64>,
    /// The weighted sum; verl has none for a single conversation.
    reward: Option<f64>,
}

fn case(name: &str) -> Case {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/collabllm").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).expect("a fixture");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// No file is opened by this name.
const MODEL: &str = "\n[rollout]\ncommon_random_numbers = false\n[models.scripted]\npath = \"unused\"\n";

fn plan(config: &str) -> RankPlan {
    let config = Config::from_toml(&format!("{config}{MODEL}"), Path::new("/")).expect("a configuration");
    config.plan(Arc::new(|text: &str| text.split_whitespace().count())).expect("a plan")
}

impl Case {
    fn request(&self) -> RankRequest {
        let responses: Vec<&str> = self.candidates.iter().map(|candidate| candidate.response.as_str()).collect();
        let goal = json!({"task": self.task_desc, "prompt": self.prompt, "reference": self.reference, "tests": self.tests,
                          "entry_point": self.entry_point});
        let mut request = json!({"conversation": self.conversation, "candidates": responses, "goal": goal});
        let own = self.request.as_object().expect("an object").clone();
        request.as_object_mut().expect("an object").extend(own);
        request.to_string().parse().expect("a request")
    }

    /// What is scripted for a request, and a name for the place it has in the script.
    fn reply(&self, ask: &Ask, ranking_seed: u64) -> (String, &str) {
        for (c, candidate) in self.candidates.iter().enumerate() {
            for (s, sample) in candidate.samples.iter().enumerate() {
                let rollout = seed::rollout_seed(ranking_seed, c, s, false);
                if let Some((place, reply)) = sample.reply(ask, rollout) {
                    return (format!("candidate {c}, sample {s}, {place}"), reply);
                }
            }
        }
        panic!("seed {} is of no known place: {ask:?}", ask.request.seed);
    }
}

impl Sample {
    fn reply(&self, ask: &Ask, rollout: u64) -> Option<(String, &str)> {
        let said = match ask.role {
            ModelRole::User => &self.user,
            ModelRole::Policy => &self.policy,
            _ => return self.verdict(ask, rollout),
        };
        let turn = (0..4).find(|&turn| seed::turn_seed(rollout, turn, ask.role) == ask.request.seed)?;
        let reply = said.get(turn).unwrap_or_else(|| panic!("nothing is scripted for turn {turn} of {:?}", ask.role));
        Some((format!("{} {turn}", ask.role.as_str()), reply))
    }

    /// The judge's or the extractor's reply: told apart by the last key that is asked for.
    fn verdict(&self, ask: &Ask, rollout: u64) -> Option<(String, &str)> {
        let askers = (0..4).chain(1 << 16..(1 << 16) + 4);
        let mut seeds = askers.flat_map(|asker| {
            [ModelRole::Judge, ModelRole::Extractor].map(|role| seed::question_seed(rollout, asker, 0, role))
        });
        seeds.find(|&seed| seed == ask.request.seed)?;
        let keys = keys(ask);
        assert_eq!(keys[0], "thought", "the thought comes first");
        let reply = match keys[1].as_str() {
            "final_completion" => self.extractor.as_ref(),
            key => self.judge.get(key),
        };
        Some((keys[1].clone(), reply.unwrap_or_else(|| panic!("nothing is scripted for {}", keys[1]))))
    }

    fn replies(&self) -> usize {
        self.user.len() + self.policy.len() + self.judge.len() + usize::from(self.extractor.is_some())
    }
}

/// The keys of the JSON that is asked for; none where it isn't JSON.
fn keys(ask: &Ask) -> Vec<String> {
    let ChatTask::Generate { schema, .. } = &ask.request.task else { panic!("the presets ask for texts: {ask:?}") };
    let properties = schema.iter().flat_map(|schema| schema.schema["properties"].as_object());
    properties.flat_map(|properties| properties.keys().cloned()).collect()
}

/// Drives a ranking with what `reply` says.
fn drive(request: RankRequest, plan: RankPlan, reply: impl Fn(&Ask) -> String) -> Result<Ranking> {
    let mut job = RankJob::new(request, Arc::new(plan))?;
    let mut asks = Vec::new();
    job.start(&mut asks);
    loop {
        job.score(&mut asks);
        let Some(ask) = asks.pop() else { break };
        let output =
            ChatOutput::Text { text: reply(&ask), tokens: None, finish: Finish::Stop, retokenized_differs: vec![] };
        job.on_reply(ask.id, Ok(ChatReply { output, usage: Usage::default(), note: None }), &mut asks)?;
    }
    assert!(job.is_done());
    let info = ModelInfo::new("scripted", None);
    let models = [ModelRole::Policy, ModelRole::User, ModelRole::Judge].map(|role| (role, info.clone()));
    job.finish(ModelsInfo { models: models.into(), ..ModelsInfo::default() }, 1.0)
}

fn ranking(case: &Case) -> Ranking {
    let plan = plan(&case.config.join("\n"));
    let (seed, used) = (plan.seed, RefCell::new(BTreeSet::new()));
    let ranking = drive(case.request(), plan, |ask| {
        if ask.role == ModelRole::User {
            assert_eq!(keys(ask), ["current_answer", "thought", "response"]);
        }
        let (place, reply) = case.reply(ask, seed);
        assert!(used.borrow_mut().insert(place.clone()), "{place} was asked twice");
        reply.to_owned()
    });
    let scripted: usize = case.candidates.iter().flat_map(|c| &c.samples).map(Sample::replies).sum();
    assert_eq!(used.borrow().len(), scripted, "every reply is asked for: {}", case.about);
    ranking.expect("a ranking")
}

/// `bleu` for collabllm's `document->bleu` and verl's `bleu_score`.
fn metric_name(reference: &str) -> &str {
    let name = reference.rsplit("->").next().unwrap_or(reference);
    name.strip_suffix("_score").unwrap_or(name)
}

fn assert_near(found: f64, expected: f64, tolerance: f64, at: &str) {
    assert!((found - expected).abs() <= tolerance, "{at}: {found}, and the reference has {expected}");
}

fn assert_same(candidate: &Candidate, ranked: &RankedCandidate, at: &str) {
    assert_eq!(ranked.excluded, 0, "{at}");
    for (s, (sample, rollout)) in candidate.samples.iter().zip(&ranked.rollouts).enumerate() {
        let at = format!("{at}, sample {s}");
        let said: Vec<_> = rollout.messages.iter().map(|said| (said.role, said.content.as_str())).collect();
        // verl keeps the white space around a user's words, which counts for nothing.
        let expected: Vec<_> = sample.messages.iter().map(|said| (said.role, said.content.trim())).collect();
        assert_eq!(said, expected, "{at}");
        assert_eq!(sample.metrics.len(), rollout.metrics.len(), "{at}");
        for (name, &value) in &sample.metrics {
            let name = metric_name(name);
            let found = rollout.metrics[name].unwrap_or_else(|| panic!("{at}: {name} has no value"));
            assert_near(found, value, TOLERANCE, &format!("{at}, {name}"));
        }
        if let Some(reward) = sample.reward {
            assert_near(rollout.reward.expect("a reward"), reward, TOLERANCE, &at);
        }
    }
    let reward = ranked.reward.expect("a reward");
    assert_near(reward, candidate.reward, TOLERANCE, at);
    assert_near(reward, candidate.reward_float32.unwrap_or(reward), 1e-6, at);
}

fn assert_as_reference(name: &str) {
    let case = case(name);
    let ranking = ranking(&case);
    assert_eq!(ranking.candidates.len(), case.candidates.len());
    for ranked in &ranking.candidates {
        assert_same(&case.candidates[ranked.candidate], ranked, &format!("{name}, candidate {}", ranked.candidate));
    }
}

#[test]
fn collabllm_math() {
    assert_as_reference("math");
}

#[test]
fn collabllm_document() {
    assert_as_reference("document");
}

/// Runs the code that was written, so it needs a Python; says so where there is none, and fails where CI has none.
#[cfg(feature = "sandbox")]
#[test]
#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn collabllm_code() {
    const PYTHON: &str = "/usr/bin/python3";
    if Path::new(PYTHON).is_file() {
        return assert_as_reference("code");
    }
    assert!(std::env::var_os("CI").is_none(), "there is no {PYTHON}");
    eprintln!("skipped: there is no {PYTHON}");
}

#[test]
fn collabllm_without_a_future() {
    assert_as_reference("immediate");
}

#[test]
fn verl_math() {
    assert_as_reference("verl");
}

#[test]
fn verl_clamps_weighted_means() {
    assert_as_reference("verl_clamped");
    let ranking = ranking(&case("verl_clamped"));
    let clamped = ranking.candidates.iter().find(|ranked| ranked.candidate == 0).expect("the first candidate");
    let saturated = |name: &str| clamped.metrics[name].saturated;
    assert_eq!((saturated("interactivity"), saturated("token_amount")), (Some(1.0), Some(1.0)));
    assert_eq!(saturated("accuracy"), None);
}

#[test]
fn verl_document() {
    assert_as_reference("verl_document");
}

// ---- where foreturn is stricter ----

/// A verdict that is no number in [0, 1] is left out and said so, never a zero, and nobody is asked twice.
#[test]
fn a_broken_verdict_is_a_failure_and_no_zero() {
    for (verdict, part) in [
        (r#"{"thought": "t", "interactivity": 1.5}"#, "interactivity in the model's reply is 1.5"),
        (r#"{"thought": "t", "interactivity": NaN}"#, "is not the JSON object that was asked for"),
        (r#"{"thought": "t", "interactivity": "much"}"#, "a number from 0 to 1 was asked for"),
        (r#"{"thought": "t"}"#, "interactivity in the model's reply is missing"),
        ("0.5", "is not the JSON object that was asked for"),
    ] {
        let mut case = case("math");
        case.candidates.truncate(1);
        case.candidates[0].samples[1].judge.insert("interactivity".into(), verdict.into());
        let ranking = ranking(&case);
        let ranked = &ranking.candidates[0];
        assert_eq!(ranked.excluded, 1, "{verdict}");
        let rollout = &ranked.rollouts[1];
        assert!(!rollout.counted && rollout.metrics["interactivity"].is_none());
        let reason = rollout.reason.as_deref().unwrap_or_default();
        assert!(reason.starts_with("metric `interactivity`: ") && reason.contains(part), "{reason}");
        let others = [0, 2].map(|s| case.candidates[0].samples[s].reward.expect("a reward"));
        assert_near(ranked.reward.expect("a reward"), (others[0] + others[1]) / 2.0, TOLERANCE, verdict);
    }
}

// ---- the paper's ablation (Figure 4), by configuration alone ----

const HELPFULNESS: &str = "[[metrics]]\nkind = \"helpfulness\"\n";
const EXTRINSIC: &str = "[[metrics]]\nkind = \"accuracy\"\n";
const INTRINSIC: &str = "[[metrics]]\nkind = \"token_amount\"\n[[metrics]]\nkind = \"interactivity\"\n";

#[test]
fn kinds_of_rewards_are_a_matter_of_configuration() {
    let both = [EXTRINSIC, INTRINSIC].concat();
    for (metrics, kinds) in [
        (HELPFULNESS, &["helpfulness"][..]),
        (EXTRINSIC, &["accuracy"]),
        (INTRINSIC, &["token_amount", "interactivity"]),
        (&both, &["accuracy", "token_amount", "interactivity"]),
    ] {
        for window in 0..=3 {
            let config = format!("preset = \"paper\"\ntask = \"math\"\n{metrics}[rollout]\nwindow = {window}\n");
            let config = Config::from_toml(&(config + "[models.m]\npath = \"unused\"\n"), Path::new("/"))
                .expect("a configuration");
            let plan = config.plan(Arc::new(str::len)).expect("a plan");
            let found: Vec<&str> = plan.metrics.iter().map(|weighted| weighted.metric.kind()).collect();
            assert_eq!((found.as_slice(), plan.window, plan.samples), (kinds, window, 3));
            assert!(plan.metrics.iter().all(|weighted| weighted.weight == 1.0));
        }
    }
}
