//! Rankings driven by scripted models: reward arithmetic, endings, exclusions, independence of the order of replies.
//!
//! The cases are data: `fixtures/ranking/*.json` holds whole rankings (a configuration, a request, what the models say, and
//! what must come out, with numbers worked out by hand), `fixtures/ranking/metrics/*.json` holds single metrics. A new case
//! is a new file, or a new entry in one.

use std::path::Path;
use std::sync::Arc;

use super::scripted::{drive, fixtures, models, prepare, run, said, words};
use foreturn::chat::{ChatOutput, ChatReply, Message, Role, Usage};
use foreturn::config::Config;
use foreturn::rank::{
    Ask, Candidates, Cost, Ended, FailurePolicy, Goal, ModelRole, RankJob, RankPlan, RankRequest, Ranking, RoleCosts,
    StopReason,
};
use foreturn::reward::{Answered, Metric, MetricInput, MetricSettings, MetricValue, WeightedMetric, build_metric};
use foreturn::score::ScoreOutput;
use foreturn::{ErrorKind, Result};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

// ---- whole rankings ----

/// Whether `found` has everything that `expected` has.
fn assert_contains(expected: &Value, found: &Value, at: &str) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (key, value) in expected {
                assert_contains(value, found.get(key).unwrap_or(&Value::Null), &format!("{at}.{key}"));
            }
        }
        (Value::Array(expected), Value::Array(found)) => {
            assert_eq!(expected.len(), found.len(), "{at}: {found:?}");
            for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
                assert_contains(expected, found, &format!("{at}[{i}]"));
            }
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().expect("a float"), b.as_f64().expect("a float"));
            assert!((a - b).abs() <= 1e-12, "{at}: expected {a}, found {b}");
        }
        _ => assert_eq!(expected, found, "{at}"),
    }
}

#[test]
fn whole_rankings_come_out_as_worked_out_by_hand() {
    for (path, text) in fixtures("ranking") {
        let (case, result) = run(&text, usize::MAX, |_| 0);
        let at = format!("{} ({})", path.display(), case.about);
        match (case.error, case.ranking, result) {
            (Some(part), None, Err(error)) => assert!(error.to_string().contains(&part), "{at}: {error}"),
            (None, Some(expected), Ok(ranking)) => {
                assert_contains(&expected, &serde_json::to_value(&ranking).expect("JSON"), &at);
            }
            (_, _, result) => panic!("{at}: {result:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whichever reply comes first, and however many requests are out, the ranking is the same.
    #[test]
    fn the_order_of_replies_changes_nothing(
        picks in prop::collection::vec(any::<prop::sample::Index>(), 200),
        most_out in prop_oneof![1usize..12, Just(usize::MAX)],
    ) {
        for (_, text) in fixtures("ranking") {
            let Ok(in_order) = run(&text, usize::MAX, |_| 0).1 else { continue };
            let mut picks = picks.iter().cycle();
            let pick = |waiting| picks.next().expect("endless").index(waiting);
            let shuffled = run(&text, most_out, pick).1.expect("a ranking");
            prop_assert_eq!(&in_order, &shuffled);
        }
    }
}

// ---- rankings scored again ----

/// A ranking without its cost, and without scores of rollouts that don't count.
fn settled(ranking: &Ranking) -> Ranking {
    let mut ranking = ranking.clone();
    ranking.cost = Cost::default();
    for candidate in &mut ranking.candidates {
        candidate.cost = RoleCosts::default();
        for rollout in candidate.rollouts.iter_mut().filter(|rollout| !rollout.counted) {
            rollout.metrics.values_mut().for_each(|value| *value = None);
            rollout.reward = None;
        }
    }
    ranking
}

#[test]
fn the_same_judge_gives_the_same_scores_again_and_nothing_is_sampled() {
    let mut rankings = 0;
    for (path, text) in fixtures("ranking") {
        let (_, plan, ready) = prepare(&text);
        let Ok((request, script)) = ready else { continue };
        let Ok(first) = run(&text, usize::MAX, |_| 0).1 else { continue };
        let mut judging = RankPlan::clone(&plan);
        for role in [ModelRole::Policy, ModelRole::User] {
            judging.roles.models.remove(&role);
        }
        let job = RankJob::rescore(request, &first, Arc::new(judging)).expect("a job");
        let judged = |ask: &Ask| {
            assert!(!matches!(ask.role, ModelRole::Policy | ModelRole::User), "{}: {ask:?}", path.display());
            script.reply(ask)
        };
        // In another order than the first time.
        let again = drive(job, judged, |waiting| waiting - 1).expect("a ranking");
        assert_eq!(settled(&again), settled(&first), "{}", path.display());
        let roles = again.cost.roles;
        assert_eq!((roles.policy, roles.user), (Usage::default(), Usage::default()));
        rankings += 1;
    }
    assert!(rankings >= 4, "{rankings} rankings");
}

#[test]
fn only_the_scores_change_with_another_judge() {
    let plan = |value| Arc::new(plan_with(value));
    let ask = || request(r#", "window": 1, "samples": 2"#);
    let words = |_: &Ask| text_reply("words");
    let first = drive(RankJob::new(ask(), plan(|n| n as f64)).expect("a job"), words, |_| 0).expect("a ranking");
    let mut job = RankJob::rescore(ask(), &first, plan(|n| -2.0 * n as f64)).expect("a job");
    let mut asks = Vec::new();
    job.start(&mut asks);
    assert!(asks.is_empty(), "the metric asks nothing, and nothing is sampled");
    job.score(&mut asks);
    assert!(job.is_done());
    assert_eq!((job.progress().finished, job.progress().total), (4, 4));
    let again = job.finish(models(), 1.0).expect("a ranking");
    for (first, again) in first.candidates.iter().zip(&again.candidates) {
        assert_eq!((first.reward, again.reward), (Some(4.0), Some(-8.0)));
        assert!(first.rollouts.iter().map(|r| &r.messages).eq(again.rollouts.iter().map(|r| &r.messages)));
    }
}

#[test]
fn a_ranking_that_was_cut_short_stays_incomplete() {
    let ask = || request(r#", "window": 1, "samples": 2"#);
    let plan = || Arc::new(plan_with(|n| n as f64));
    let mut job = RankJob::new(ask(), plan()).expect("a job");
    let mut asks = Vec::new();
    job.start(&mut asks);
    asks.remove(3);
    while let Some(ask) = asks.pop() {
        job.on_reply(ask.id, text_reply("words"), &mut asks).expect("a known request");
    }
    job.stop(StopReason::Deadline);
    job.score(&mut asks);
    let first = job.finish(models(), 1.0).expect("a ranking");
    let never = |ask: &Ask| panic!("{ask:?}");
    let again = drive(RankJob::rescore(ask(), &first, plan()).expect("a job"), never, |_| 0).expect("a ranking");
    assert!(!again.complete && !again.bitwise);
    assert_eq!(settled(&again), settled(&first));
    assert_eq!(again.candidates[0].rollouts[1].reason.as_deref(), Some("sample 1 was not finished for candidate 1"));
}

#[test]
fn a_ranking_of_something_else_is_not_scored_again() {
    let plan = || Arc::new(plan_with(|n| n as f64));
    let ask = || request(r#", "window": 0"#);
    let mut ranking =
        drive(RankJob::new(ask(), plan()).expect("a job"), |ask| panic!("{ask:?}"), |_| 0).expect("a ranking");
    let refused = |request: RankRequest, ranking: &Ranking| match RankJob::rescore(request, ranking, plan()) {
        Ok(_) => panic!("accepted"),
        Err(error) => (error.kind(), error.to_string()),
    };
    let mut other = ask();
    other.candidates = Candidates::Given(vec!["a".into(), "c".into()]);
    let (kind, message) = refused(other, &ranking);
    assert_eq!(kind, ErrorKind::InvalidRequest);
    assert!(message.contains("candidates[1] is another text than in the ranking"), "{message}");
    let mut more = ask();
    more.candidates = Candidates::Given(vec!["a".into(), "b".into(), "c".into()]);
    assert!(refused(more, &ranking).1.contains("candidates has 3 entries, and the ranking has 2"));
    for candidate in &mut ranking.candidates {
        candidate.rollouts[0].counted = false;
    }
    assert!(refused(ask(), &ranking).1.contains("nothing to score again"));
}

// ---- single metrics ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricCases {
    kind: String,
    #[serde(default)]
    settings: MetricSettings,
    cases: Vec<MetricCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricCase {
    about: String,
    /// Settings beside the file's.
    #[serde(default)]
    settings: MetricSettings,
    history: Vec<Message>,
    response: String,
    #[serde(default)]
    future: Vec<Message>,
    /// What was extracted from the conversation, for a metric with `extract`.
    extracted: Option<String>,
    #[serde(default)]
    goal: Goal,
    /// What the models say to its questions.
    #[serde(default)]
    answers: Vec<Said>,
    /// The value; absent where the metric has to fail.
    value: Option<f64>,
    saturated: Option<bool>,
    mass: Option<f64>,
}

/// What a model says to a metric.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    /// Probabilities of a question's answers.
    Probabilities(Vec<f64>),
    /// A text as a vector.
    Embedding { embedding: Vec<f32> },
}

impl From<Said> for ChatOutput {
    fn from(said: Said) -> Self {
        match said {
            Said::Probabilities(probabilities) => ChatOutput::Choice { probabilities },
            Said::Embedding { embedding } => ChatOutput::Score(ScoreOutput::Embedding(embedding)),
        }
    }
}

#[test]
fn metrics_give_the_values_in_their_data_files() {
    for (path, text) in fixtures("ranking/metrics") {
        let file: MetricCases = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let folder = path.parent().expect("a folder");
        for case in file.cases {
            let at = format!("{} ({})", path.display(), case.about);
            let settings = case.settings.or(file.settings.clone()).in_folder(folder);
            let metric = build_metric(&file.kind, settings).unwrap_or_else(|e| panic!("{at}: {e}"));
            let response = Message::new(Role::Assistant, case.response);
            let future: Vec<&Message> = case.future.iter().collect();
            let count_tokens = words();
            let input = MetricInput {
                history: &case.history,
                future: &future,
                extracted: case.extracted.as_deref(),
                ..MetricInput::new(&response, &case.goal, &*count_tokens)
            };
            metric.check(&case.goal).unwrap_or_else(|e| panic!("{at}: {e}"));
            let questions = metric.questions(&input, &[]).expect("questions");
            assert_eq!(questions.len(), case.answers.len(), "{at}: questions");
            let answers: Vec<ChatOutput> = case.answers.into_iter().map(ChatOutput::from).collect();
            let score = metric.score(&[Answered { input, answers: &answers }]).pop().expect("one result");
            match (case.value, score) {
                (Some(value), Ok(score)) => {
                    assert!((score.value - value).abs() <= 1e-12, "{at}: {} for {value}", score.value);
                    assert_eq!(score.saturated, case.saturated, "{at}");
                    assert_eq!(score.mass.is_some(), case.mass.is_some(), "{at}");
                    assert!(
                        (score.mass.unwrap_or(0.0) - case.mass.unwrap_or(0.0)).abs() <= 1e-12,
                        "{at}: mass {:?}",
                        score.mass
                    );
                }
                (None, Err(error)) => assert_eq!(error.kind(), ErrorKind::ModelOutput, "{at}: {error}"),
                (value, score) => panic!("{at}: {score:?} for {value:?}"),
            }
        }
    }
}

// ---- what no data file can say ----

/// A custom metric: its value is the number of messages.
struct Messages {
    value: fn(usize) -> f64,
}

impl Metric for Messages {
    fn kind(&self) -> &str {
        "messages"
    }
    fn score(&self, batch: &[Answered<'_>]) -> Vec<Result<MetricValue>> {
        batch.iter().map(|scored| Ok((self.value)(scored.input.messages().count()).into())).collect()
    }
}

fn plan_with(value: fn(usize) -> f64) -> RankPlan {
    let mut plan = RankPlan::new(words());
    for role in [ModelRole::Policy, ModelRole::User] {
        plan.roles.models.insert(role, "scripted".into());
    }
    plan.metrics.push(WeightedMetric::new(Arc::new(Messages { value }), 1.0));
    plan
}

fn request(rest: &str) -> RankRequest {
    let json = format!(
        r#"{{"conversation": [{{"role": "user", "content": "hi"}}], "candidates": ["a", "b"], "goal": {{"prompt": "SECRET"}}{rest}}}"#
    );
    json.parse().expect("a request")
}

fn text_reply(text: &str) -> Result<ChatReply> {
    said(&Value::String(text.to_owned()))
}

#[test]
fn the_policy_never_sees_the_goal_and_the_user_does() {
    let job = RankJob::new(request(r#", "window": 2"#), Arc::new(plan_with(|n| n as f64))).expect("a job");
    let ranking = drive(
        job,
        |ask| {
            let prompt: String = ask.request.messages.iter().map(|m| m.content.as_str()).collect();
            assert_eq!(prompt.contains("SECRET"), ask.role == ModelRole::User);
            text_reply("words")
        },
        |_| 0,
    )
    .expect("a ranking");
    assert_eq!(ranking.candidates[0].reward, Some(6.0));
    assert_eq!(ranking.candidates[0].std_error, Some(0.0));
}

#[test]
fn a_deadline_ranks_complete_rounds_and_reports_the_rest() {
    let mut job =
        RankJob::new(request(r#", "window": 1, "samples": 2"#), Arc::new(plan_with(|n| n as f64))).expect("a job");
    let mut asks = Vec::new();
    job.start(&mut asks);
    assert_eq!(asks.len(), 4);
    // Sample 0 of both candidates goes first; sample 1 of the second ends as well, of the first it doesn't.
    let late = asks.remove(2);
    while let Some(ask) = asks.pop() {
        job.on_reply(ask.id, text_reply("words"), &mut asks).expect("a known request");
    }
    assert_eq!((job.progress().finished, job.progress().total), (3, 4));
    assert!(!job.is_done());
    job.stop(StopReason::Deadline);
    assert!(!job.is_done(), "what had ended is scored");
    job.score(&mut asks);
    assert!(job.is_done());
    assert_eq!(job.outstanding().collect::<Vec<_>>(), [late.id]);
    // What still comes counts as cost and changes nothing else.
    job.on_reply(late.id, text_reply("late"), &mut asks).expect("a known request");
    assert!(asks.is_empty());

    let ranking = job.finish(models(), 1.0).expect("a ranking");
    assert!(!ranking.complete && !ranking.bitwise);
    let [first, second] = &ranking.candidates[..] else { panic!("two candidates") };
    assert_eq!((first.reward, first.excluded, first.rollouts[1].ended), (Some(4.0), 1, Ended::Deadline));
    assert_eq!((second.reward, second.excluded, second.rollouts[1].ended), (Some(4.0), 1, Ended::Window));
    assert_eq!(second.rollouts[1].reward, Some(4.0), "known, though it does not count");
    assert_eq!(second.rollouts[1].reason.as_deref(), Some("sample 1 was not finished for candidate 0"));
    assert_eq!(ranking.cost.roles.total().generated_tokens, 2 * 7);
}

#[test]
fn a_deadline_before_the_start_reports_every_rollout_as_excluded() {
    let mut job =
        RankJob::new(request(r#", "window": 1, "samples": 2"#), Arc::new(plan_with(|n| n as f64))).expect("a job");
    job.stop(StopReason::Deadline);
    assert!(job.is_done());
    let ranking = job.finish(models(), 1.0).expect("a ranking");
    assert_eq!((ranking.complete, ranking.allocation.rollouts), (false, 4));
    for candidate in &ranking.candidates {
        assert_eq!((candidate.reward, candidate.excluded), (None, 2));
        assert!(candidate.rollouts.iter().all(|rollout| rollout.ended == Ended::Deadline));
    }
}

#[test]
fn values_that_are_not_numbers_never_come_out() {
    let ends = |value: fn(usize) -> f64, policy| {
        let plan = RankPlan { on_metric_failure: policy, ..plan_with(value) };
        drive(RankJob::new(request(r#", "window": 1"#), Arc::new(plan)).expect("a job"), |_| text_reply("words"), |_| 0)
    };
    for value in [(|_| f64::NAN) as fn(usize) -> f64, |_| f64::INFINITY] {
        for policy in [FailurePolicy::Drop, FailurePolicy::Error] {
            let error = ends(value, policy).expect_err("no ranking");
            assert_eq!(error.kind(), ErrorKind::ModelOutput);
            assert!(error.to_string().contains("not a finite number"), "{error}");
        }
    }
    let huge = ends(|_| 1e300, FailurePolicy::Drop).expect("a ranking");
    assert!(!serde_json::to_string(&huge).expect("JSON").contains("inf"));
}

#[test]
fn a_job_that_fails_asks_nothing_more() {
    let plan = RankPlan { on_rollout_failure: FailurePolicy::Error, ..plan_with(|n| n as f64) };
    let mut job = RankJob::new(request(""), Arc::new(plan)).expect("a job");
    let mut asks = Vec::new();
    job.start(&mut asks);
    let waiting = asks.len();
    let ask = asks.remove(0);
    job.on_reply(ask.id, said(&serde_json::json!({"error": "model_output"})), &mut asks).expect("a known request");
    assert!(job.is_done());
    assert_eq!((asks.len(), job.outstanding().count()), (waiting - 1, waiting - 1));
    let unknown = job.on_reply(ask.id, text_reply("again"), &mut asks).expect_err("answered before");
    assert_eq!(unknown.kind(), ErrorKind::Internal);
    let error = job.finish(models(), 1.0).expect_err("failed");
    assert_eq!(error.to_string(), "candidate 0, sample 0: the logits hold NaN");
}

#[test]
fn missing_models_and_metrics_are_named() {
    let refused = |plan: RankPlan, rest: &str| match RankJob::new(request(rest), Arc::new(plan)) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    };
    let mut plan = plan_with(|n| n as f64);
    plan.roles.models.remove(&ModelRole::User);
    assert!(refused(plan.clone(), "").starts_with("roles.user is missing"));
    assert!(RankJob::new(request(r#", "window": 0"#), Arc::new(plan)).is_ok(), "nobody is simulated");
    assert!(refused(RankPlan::new(words()), r#", "window": 0"#).starts_with("there are no metrics"));
    let mut twice = plan_with(|n| n as f64);
    twice.metrics.push(twice.metrics[0].clone());
    assert!(refused(twice, "").contains("two metrics named `messages`"));
    let mut judged = plan_with(|n| n as f64);
    judged.metrics =
        vec![WeightedMetric::new(build_metric("helpfulness", MetricSettings::default()).expect("a metric"), 1.0)];
    assert!(refused(judged, "").starts_with("roles.judge is missing, and metric `helpfulness` needs it"));
}

/// A job is driven by one thread and finished by another.
#[test]
fn jobs_can_be_sent_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<RankJob>();
    is_send::<Ranking>();
}

#[test]
fn the_examples_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plan = |file: &str| {
        let config = Config::from_file(root.join("examples").join(file)).expect("the example configuration");
        Arc::new(config.plan(words()).expect("a plan"))
    };
    let math = std::fs::read_to_string(root.join("examples/requests/train.json")).expect("the mathematical example");
    RankJob::new(math.parse().expect("a request"), plan("math.toml")).expect("a job");
    let poem = std::fs::read_to_string(root.join("examples/requests/poem.json")).expect("an example");
    RankJob::new(poem.parse().expect("a request"), plan("reward_model.toml")).expect("a job");
    let plan = plan("foreturn.toml");
    let mut examples = 0;
    for entry in std::fs::read_dir(root.join("examples/requests")).expect("the examples") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a readable request");
        let request: RankRequest = text.parse().expect("a request");
        assert!(request.candidates.len() >= 3);
        RankJob::new(request, plan.clone()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        examples += 1;
    }
    assert!(examples >= 2);
}

#[test]
fn the_requests_that_models_are_compared_on_are_valid() {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    let config = Config::from_file(benches.join("agreement.toml")).expect("the configuration");
    let plan = Arc::new(config.plan(words()).expect("a plan"));
    let text = std::fs::read_to_string(benches.join("agreement.jsonl")).expect("the requests");
    for (at, line) in text.lines().enumerate() {
        let request: RankRequest = line.parse().expect("a request");
        assert_eq!(request.candidates.len(), 4, "line {}", at + 1);
        RankJob::new(request, plan.clone()).expect("a job");
    }
    assert_eq!(text.lines().count(), 50);
}
