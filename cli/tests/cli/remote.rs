//! Remote models beside local ones, held to a scripted server: rewards, costs, retries, limits, lies, and ends.

mod decisions;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::openai_server::{Answer, Asked, Server, completion};
use crate::common::{self, MODEL, config, scratch, turn, user};
use foreturn::chat::{ChatOutput, ChatReply, ChatRequest, Finish, Ticket, Usage};
use foreturn::decode::GenerateOptions;
use foreturn::engine::Limits;
use foreturn::rank::Ended;
use foreturn::trace::TraceWriter;
use foreturn::{ChatModel, Config, Engine, ErrorKind, RankOptions, RankRequest, Ranking, Result};
use serde_json::{Value, json};

// ---- a ranking between a local policy and a remote user and judge ----

const CANDIDATES: [&str; 2] = ["What should it be about?", "Roses are red."];
const KEY: &str = "sk-test-5f2a9c";

/// Says one sentence at once.
#[derive(Default)]
struct Policy {
    next: u64,
    waiting: Vec<Ticket>,
}

impl ChatModel for Policy {
    fn name(&self) -> &str {
        "here"
    }

    fn submit(&mut self, _: ChatRequest) -> Result<Ticket> {
        self.next += 1;
        self.waiting.push(Ticket(self.next));
        Ok(Ticket(self.next))
    }

    fn poll(&mut self, finished: &mut Vec<(Ticket, Result<ChatReply>)>) -> bool {
        let text = "Then here it is.".to_owned();
        let output = ChatOutput::Text { text, tokens: None, finish: Finish::Stop, retokenized_differs: Vec::new() };
        let reply = ChatReply { output, usage: Usage::default(), note: None };
        finished.extend(self.waiting.drain(..).map(|ticket| (ticket, Ok(reply.clone()))));
        false
    }

    fn cancel(&mut self, ticket: Ticket) {
        self.waiting.retain(|other| *other != ticket);
    }
}

/// An engine whose user and judge are at the server; `model` are further settings of theirs, `rest` further settings of the
/// whole.
fn engine(server: &Server, model: &str, rest: &str) -> Engine {
    engine_at(&server.base_url(), model, rest)
}

fn engine_at(base_url: &str, model: &str, rest: &str) -> Engine {
    let toml = format!(
        "{rest}\nrollout.window = 1\nrollout.samples = 3\nrollout.max_user_tokens = 20\n\
         [[metrics]]\nkind = \"helpfulness\"\n[roles]\npolicy = \"here\"\nuser = \"far\"\njudge = \"far\"\n\
         [models.far]\nbase_url = \"{base_url}\"\nmodel = \"big\"\ntemperature = 0.7\n{model}\n"
    );
    let config = Config::from_toml(&toml, "/").unwrap_or_else(|e| panic!("{e}\n{toml}"));
    let policy = Box::new(|| Ok(Box::new(Policy::default()) as Box<dyn ChatModel>));
    Engine::builder(config).chat_model("here", policy).build().expect("an engine")
}

fn request(rest: Value) -> RankRequest {
    let mut request = json!({
        "conversation": [{"role": "user", "content": "Write me a poem."}], "candidates": CANDIDATES,
        "goal": {"task": "writing", "prompt": "A poem about my dog."}, "seed": 7
    });
    for (field, value) in rest.as_object().expect("fields") {
        request[field] = value.clone();
    }
    request.to_string().parse().expect("a request")
}

fn rank(engine: &Engine) -> Result<Ranking> {
    engine.rank(request(json!({})), RankOptions::default())
}

/// The judge likes the first candidate better; the user has one thing to say.
fn honest(asked: &Asked) -> Answer {
    match asked.is_choice() {
        false => Answer::says("Something short."),
        true if asked.text().contains(CANDIDATES[0]) => Answer::chooses(&[("Yes", 0.7), (" yes", 0.2), ("No", 0.1)]),
        true => Answer::chooses(&[("No", 0.5), ("Yes", 0.25), ("Nothing", 0.25)]),
    }
}

fn reward(ranking: &Ranking, candidate: usize) -> Option<f64> {
    ranking.candidates.iter().find(|ranked| ranked.candidate == candidate).expect("the candidate").reward
}

fn assert_honest(ranking: &Ranking) {
    assert!(ranking.complete && !ranking.bitwise);
    for (candidate, expected) in [(0, 0.9), (1, 0.25 / 0.75)] {
        let found = reward(ranking, candidate).expect("a reward");
        assert!((found - expected).abs() < 1e-9, "candidate {candidate}: {found}, not {expected}");
    }
}

#[test]
fn a_ranking_with_a_remote_user_and_judge_has_the_rewards_of_their_probabilities() {
    let server = Server::start(honest);
    let engine = engine(&server, "", "");
    let ranking = rank(&engine).expect("a ranking");
    assert_honest(&ranking);
    let mass = |candidate: usize| ranking.candidates[candidate].metrics["helpfulness"].mass.expect("a mass");
    assert!((mass(0) - 1.0).abs() < 1e-9 && (mass(1) - 0.75).abs() < 1e-9);
    for rollout in ranking.candidates.iter().flat_map(|ranked| &ranked.rollouts) {
        assert_eq!(rollout.messages[0].content, "Something short.");
    }

    // Two candidates, three samples: a user's message each, and two questions.
    let asked = server.asked();
    let (questions, messages): (Vec<_>, Vec<_>) = asked.iter().partition(|asked| asked.is_choice());
    assert_eq!((messages.len(), questions.len()), (6, 12));
    assert!(asked.iter().all(|asked| asked.path == "/v1/chat/completions" && asked.body["model"] == "big"));
    assert!(asked.iter().all(|asked| !asked.headers.contains_key("authorization")), "no key was named");
    for message in &messages {
        assert_eq!((&message.body["temperature"], &message.body["max_tokens"]), (&json!(0.7), &json!(20)));
    }
    let seeds: BTreeSet<i64> = messages.iter().map(|asked| asked.body["seed"].as_i64().expect("a seed")).collect();
    // Sample k of both candidates shares its stream.
    assert!(seeds.len() == 3 && seeds.iter().all(|seed| (0..1 << 31).contains(seed)), "{seeds:?}");

    let (user, judge) = (ranking.cost.roles.user, ranking.cost.roles.judge);
    assert_eq!((user.prompt_tokens, user.reused_tokens, user.generated_tokens), (6 * 40, 6 * 16, 6 * 7));
    assert_eq!((judge.prompt_tokens, judge.reused_tokens, judge.generated_tokens), (12 * 40, 12 * 16, 12 * 7));
    assert!(user.seconds > 0.0 && judge.seconds > 0.0);
    let models = serde_json::to_value(&ranking.models).expect("JSON");
    assert_eq!((&models["judge"]["name"], &models["judge"]["weights"]), (&json!("far"), &json!("fp_test")));
}

#[test]
fn a_remote_user_and_judge_play_beside_the_real_policy() {
    let server = Server::start(honest);
    let mut config = config(&format!(
        "[[metrics]]\nkind = \"helpfulness\"\n[rollout]\nwindow = 1\nsamples = 2\nmax_policy_tokens = 8\n\
         [roles]\npolicy = \"{MODEL}\"\nuser = \"far\"\njudge = \"far\"\n\
         [models.far]\nbase_url = \"{}\"\nmodel = \"big\"\n",
        server.base_url()
    ));
    config.seed = Some(1);
    let _turn = turn();
    let ranking = rank(&Engine::new(config).expect("an engine")).expect("a ranking");
    assert_honest(&ranking);
    assert!(ranking.cost.roles.policy.generated_tokens > 0);
    let said = |rollout: &foreturn::rank::RolloutTrace| !rollout.messages[1].content.is_empty();
    assert!(ranking.candidates.iter().flat_map(|ranked| &ranked.rollouts).all(said));
}

#[test]
fn without_logprobs_the_written_answer_counts() {
    let server = Server::start(|asked| match asked.text().contains(CANDIDATES[0]) {
        true => Answer::says(" Yes, it does."),
        false => Answer::says("No."),
    });
    let ranking = rank(&engine(&server, "logprobs = false", "")).expect("a ranking");
    assert_eq!((reward(&ranking, 0), reward(&ranking, 1)), (Some(1.0), Some(0.0)));
    assert!(server.asked().iter().all(|asked| asked.body.get("logprobs").is_none()));
}

#[test]
fn an_answer_that_is_none_is_a_failure_and_no_zero() {
    let server = Server::start(|_| Answer::says("Hard to tell."));
    let error = rank(&engine(&server, "logprobs = false", "")).expect_err("no answer");
    assert!(error.to_string().contains("put a probability of 0.000 on the answers"), "{error}");
}

#[test]
fn what_needs_the_models_own_tokens_is_refused() {
    let server = Server::start(honest);
    let engine = engine(&server, "", "");
    let far = engine.model("far").expect("a model");
    let error = far.generate(vec![user("hi")], GenerateOptions::default()).expect_err("remote");
    assert!(error.to_string().contains("`far` is not a local model"), "{error}");
    assert!(far.status().is_err() && far.render(vec![user("hi")]).is_err());
    assert!(server.asked().is_empty(), "nothing was asked of it");
}

#[test]
fn the_example_is_a_configuration() {
    let path = common::root().join("examples/remote.toml");
    let config = Config::from_file(&path).expect("settings");
    assert!(config.models["large"].as_remote().is_some() && config.models["policy"].as_local().is_some());
}

// ---- retries and limits ----

#[test]
fn what_may_pass_is_tried_again() {
    let half =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"choices\": [".to_vec();
    let server = Server::start(move |asked| match asked.number {
        0 => Answer::error(500, "out of memory", None),
        1 => Answer::error(429, "slow down", Some(("retry-after", "1"))),
        2 => Answer::Bytes(Vec::new()),
        3 => Answer::Bytes(half.clone()),
        _ => honest(asked),
    });
    let start = Instant::now();
    let ranking = rank(&engine(&server, "max_concurrent = 1\nmax_retries = 4", "")).expect("a ranking");
    assert_honest(&ranking);
    assert_eq!(server.asked().len(), 18 + 4);
    assert!(start.elapsed() >= Duration::from_secs(1), "the server asked to wait");
    let user = ranking.cost.roles.user;
    assert_eq!((user.prompt_tokens, user.generated_tokens), (6 * 40, 6 * 7), "what failed has told no cost");
}

#[test]
fn retries_are_bounded_and_what_cannot_pass_is_not_tried_again() {
    for (status, header, attempts, kind, part) in [
        (503, None, 2, ErrorKind::Io, "status 503 Service Unavailable: so it is. The server failed"),
        (429, None, 2, ErrorKind::Overloaded, "Lower max_concurrent"),
        (429, Some(("retry-after", "3600")), 1, ErrorKind::Overloaded, "it asks to wait 3600 s"),
        (400, None, 1, ErrorKind::InvalidConfig, "status 400 Bad Request: so it is"),
        (401, None, 1, ErrorKind::InvalidConfig, "Check api_key_env"),
        (403, None, 1, ErrorKind::InvalidConfig, "Check api_key_env"),
        (404, None, 1, ErrorKind::InvalidConfig, "Check base_url"),
    ] {
        let server = Server::start(move |_| Answer::error(status, "so it is", header));
        let engine = engine(&server, "max_retries = 1\nmax_concurrent = 1", "rollout.on_failure = \"error\"");
        let error = engine.rank(request(json!({"samples": 1})), RankOptions::default()).expect_err("a failure");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.to_string().contains(&format!("model `far` at {}", server.address())), "{error}");
        assert_eq!(error.to_string().contains("(2 attempts)"), attempts == 2, "{error}");
        // The other candidate's request may be on its way when the first fails.
        let asked = server.asked().len();
        assert!((attempts..=2 * attempts).contains(&asked), "status {status}: {asked} requests");
    }
}

#[test]
fn no_more_requests_are_under_way_than_allowed() {
    let server = Server::start(|asked| honest(asked).after(Duration::from_millis(30)));
    assert_honest(&rank(&engine(&server, "max_concurrent = 3", "")).expect("a ranking"));
    assert!((2..=3).contains(&server.most_at_once()), "{} at once", server.most_at_once());
}

#[test]
fn requests_are_as_far_apart_as_allowed() {
    let server = Server::start(honest);
    let engine = engine(&server, "requests_per_minute = 1200", "");
    let start = Instant::now();
    assert_honest(&rank(&engine).expect("a ranking"));
    assert_eq!(server.asked().len(), 18);
    assert!(start.elapsed() >= Duration::from_millis(17 * 50), "18 requests, 50 ms apart: {:?}", start.elapsed());
}

// ---- lies ----

fn with(change: impl Fn(&mut Value) + Send + Sync + 'static) -> impl Fn() -> Answer + Send + Sync {
    move || {
        let mut body = completion("Something short.");
        change(&mut body);
        Answer::json(200, &body)
    }
}

fn typed(content_type: &str, body: &str) -> Answer {
    Answer::Reply { status: 200, headers: vec![("content-type", content_type.to_owned())], body: body.to_owned() }
}

type Lie = (&'static str, Box<dyn Fn() -> Answer + Send + Sync>, &'static str);

fn lies() -> Vec<Lie> {
    let http = |head: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").into_bytes();
    let chunked = http("content-type: application/json\r\ntransfer-encoding: chunked");
    let megabyte = [b"100000\r\n".to_vec(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
    let (nonsense, endless) = ([chunked.clone(), b"zz\r\n{}\r\n".to_vec()].concat(), chunked);
    let drip = http("content-type: application/json\r\ncontent-length: 1000");
    vec![
        (
            "another type",
            Box::new(|| typed("text/plain", &completion("x").to_string())),
            "answered in text/plain, not in JSON",
        ),
        ("a page", Box::new(|| typed("text/html", "<html>Welcome</html>")), "<html>Welcome</html>"),
        ("half of JSON", Box::new(|| typed("application/json", "{\"choices\": [")), "not a chat completion: EOF"),
        (
            "NaN",
            Box::new(|| typed("application/json", &completion("x").to_string().replace("\"x\"", "NaN"))),
            "message.content is NaN, not a text",
        ),
        ("no choice", Box::new(with(|body| body["choices"] = json!([]))), "0 choices"),
        ("null", Box::new(with(|body| body["choices"][0]["message"]["content"] = json!(null))), "content is null"),
        ("a refusal", Box::new(with(|body| body["choices"][0]["message"]["refusal"] = json!("No."))), "refused: No."),
        (
            "no end",
            Box::new(with(|body| body["choices"][0]["finish_reason"] = json!(null))),
            "finish_reason is missing",
        ),
        ("a filter", Box::new(with(|body| body["choices"][0]["finish_reason"] = json!("content_filter"))), "filter"),
        ("no usage", Box::new(with(|body| body["usage"] = json!(null))), "no usage"),
        ("a debt", Box::new(with(|body| body["usage"]["prompt_tokens"] = json!(-40))), "`-40`"),
        ("an error", Box::new(|| Answer::json(200, &json!({"error": {"message": "no GPU"}}))), "with an error: no GPU"),
        ("no HTTP", Box::new(|| Answer::Bytes(b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec())), "doesn't speak HTTP"),
        ("bad chunks", Box::new(move || Answer::Bytes(nonsense.clone())), "doesn't speak HTTP"),
        (
            "no last byte",
            Box::new(move || Answer::Endless { head: endless.clone(), piece: megabyte.clone(), pause: Duration::ZERO }),
            "longer than 16 MiB",
        ),
        (
            "drip",
            Box::new(move || Answer::Endless {
                head: drip.clone(),
                piece: b" ".to_vec(),
                pause: Duration::from_millis(100),
            }),
            "no complete reply within 2 s",
        ),
        (
            "elsewhere",
            Box::new(|| Answer::error(307, "", Some(("location", "http://elsewhere.example:81/v1?x")))),
            "redirects to \"elsewhere.example:81\"",
        ),
    ]
}

// ---- what nobody needs ----

/// `honest`, with one field of each reply replaced, or taken out for `None`.
fn altered(asked: &Asked, pointer: &str, value: Option<&Value>) -> Answer {
    let Answer::Reply { status, headers, body } = honest(asked) else { panic!("a reply") };
    let mut body: Value = serde_json::from_str(&body).expect("JSON");
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
    let parent = body.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
    match value {
        Some(value) => drop(parent.insert(field.to_owned(), value.clone())),
        None => drop(parent.remove(field)),
    }
    Answer::Reply { status, headers, body: body.to_string() }
}

/// Every field that is not used may be missing, null, or of any type; every field that is used may be written in each way
/// that has one meaning.
#[test]
fn fields_that_nobody_uses_may_be_anything() {
    let anything = json!([null, false, true, 0, -3, 3.5, "", "x", [], [1], {}, {"a": 1}]);
    let anything = || anything.as_array().expect("a list").iter().cloned().map(Some).chain([None]);
    let numbers = |list: Value| list.as_array().expect("a list").iter().cloned().map(Some).chain([None]).collect();
    let unused = [
        "/id",
        "/object",
        "/created",
        "/model",
        "/service_tier",
        "/choices/0/index",
        "/choices/0/message/role",
        "/choices/0/message/tool_calls",
        "/choices/0/message/reasoning_content",
        "/choices/0/stop_reason",
        "/usage/total_tokens",
        "/usage/completion_tokens_details",
        "/usage/prompt_tokens_details",
        "/system_fingerprint",
    ];
    let mut fields: Vec<(&str, Vec<Option<Value>>)> =
        unused.iter().map(|field| (*field, anything().collect())).collect();
    fields.extend([
        // Speakers are not asked for them.
        ("/choices/0/logprobs", anything().collect()),
        ("/choices/0/message/refusal", numbers(json!([null, false, "", [], {}]))),
        ("/error", numbers(json!([null, false, "", 0, [], {}]))),
        ("/usage/prompt_tokens", numbers(json!([40, 40.0, null]))),
        ("/usage/completion_tokens", numbers(json!([7, 7.0, 7e0, null]))),
        ("/usage/prompt_tokens_details/cached_tokens", numbers(json!([null, 16, 16.0, 0, "16", [], {}]))),
    ]);
    for (pointer, values) in fields {
        let at = Arc::new(AtomicUsize::new(0));
        let (which, told) = (Arc::clone(&at), values.clone());
        let server = Server::start(move |asked| match asked.is_choice() && pointer.ends_with("/logprobs") {
            true => honest(asked),
            false => altered(asked, pointer, told[which.load(Ordering::SeqCst)].as_ref()),
        });
        let engine =
            engine(&server, "max_retries = 0", "rollout.on_failure = \"error\"\non_metric_failure = \"error\"");
        for (number, value) in values.iter().enumerate() {
            at.store(number, Ordering::SeqCst);
            let ranking = engine.rank(request(json!({"samples": 1})), RankOptions::default());
            let ranking = ranking.unwrap_or_else(|e| panic!("{pointer} = {value:?}: {e}"));
            assert_honest(&ranking);
            let user = ranking.cost.roles.user;
            assert_eq!((user.prompt_tokens, user.generated_tokens), (2 * 40, 2 * 7), "{pointer}: {value:?}");
        }
    }
}

#[test]
fn a_body_is_asked_for_as_it_is_and_understood_where_it_is_coded() {
    let gzip = |body: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(body.as_bytes()).expect("memory");
        encoder.finish().expect("memory")
    };
    for (coding, part) in
        [("gzip", None), ("br", Some("its reply is coded (content-encoding: br), although a plain one"))]
    {
        let server = Server::start(move |asked| {
            let Answer::Reply { body, .. } = honest(asked) else { panic!("a reply") };
            let body = gzip(&body);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: {coding}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            Answer::Bytes([head.into_bytes(), body].concat())
        });
        let ranked = rank(&engine(&server, "max_retries = 0", "rollout.on_failure = \"error\""));
        assert!(server.asked().iter().all(|asked| asked.headers["accept-encoding"] == "identity"));
        match part {
            None => assert_honest(&ranked.expect("a ranking")),
            Some(part) => {
                let error = ranked.expect_err("coded").to_string();
                assert!(error.contains(part) && !error.contains('\u{fffd}'), "{error}");
            }
        }
    }
}

#[test]
fn what_a_terminal_obeys_is_escaped_in_errors_and_kept_in_replies() {
    let server = Server::start(|asked| match asked.number {
        0 => Answer::error(400, "no \u{1b}[2Jsuch\u{7} model\u{9b}31m", None),
        _ => altered(asked, "/choices/0/message/content", Some(&json!("\u{1b}[2J"))),
    });
    let ranking = rank(&engine(&server, "max_concurrent = 1\nmax_retries = 0", "")).expect("a ranking");
    let rollouts = || ranking.candidates.iter().flat_map(|ranked| &ranked.rollouts);
    let reasons: Vec<_> = rollouts().filter_map(|rollout| rollout.reason.as_deref()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("no \\u{1b}[2Jsuch\\u{7} model\\u{9b}31m")), "{reasons:?}");
    assert!(!reasons.iter().any(|reason| reason.chars().any(char::is_control)), "{reasons:?}");
    assert!(rollouts().filter(|rollout| rollout.counted).all(|rollout| rollout.messages[0].content == "\u{1b}[2J"));
}

/// The user simulator lies about one future: with "drop" its pair is lost too, and the rest is ranked.
#[test]
fn a_lie_costs_the_pair_of_futures_and_never_counts_as_a_zero() {
    for (name, lie, part) in lies() {
        let server = Server::start(move |asked| match asked.number {
            0 => lie(),
            _ => honest(asked),
        });
        // Only what never ends has to be waited for.
        let seconds = if name == "drip" { 2 } else { 60 };
        let model = format!("timeout_s = {seconds}\nmax_concurrent = 1\nmax_retries = 0");
        let engine = engine(&server, &model, "");
        let ranking = rank(&engine).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_honest(&ranking);
        let lost: Vec<_> =
            ranking.candidates.iter().flat_map(|ranked| &ranked.rollouts).filter(|r| !r.counted).collect();
        let [failed, paired] = &lost[..] else { panic!("{name}: {lost:?}") };
        assert_eq!((failed.reward, failed.ended, failed.sample), (None, Ended::Failed, paired.sample), "{name}");
        let reason = failed.reason.as_deref().expect("a reason");
        assert!(reason.contains(part) && reason.contains("model `far` at 127.0.0.1:"), "{name}: {reason}");
        assert!(paired.reason.as_deref().is_some_and(|reason| reason.contains("paired with sample")), "{paired:?}");
    }
}

#[test]
fn a_lie_of_the_judge_costs_the_pair_or_the_ranking() {
    type Change = fn(&mut Value);
    let judge = |change: Change| {
        move |asked: &Asked| match (asked.is_choice(), asked.text().contains(CANDIDATES[0])) {
            (true, true) if asked.text().contains("Is what the assistant says correct") => {
                let Answer::Reply { body, .. } = Answer::chooses(&[("Yes", 0.9)]) else { panic!("a reply") };
                let mut body: Value = serde_json::from_str(&body).expect("JSON");
                change(&mut body);
                Answer::json(200, &body)
            }
            _ => honest(asked),
        }
    };
    let lies: [(Change, &str); 4] = [
        (|body| body["choices"][0]["logprobs"] = json!(null), "Set logprobs = false"),
        (|body| body["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = json!([]), "Set logprobs = false"),
        (
            |body| body["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["logprob"] = json!(2.5),
            "none can be above 0",
        ),
        (|body| body["choices"][0]["logprobs"]["content"][0]["logprob"] = json!("high"), "is \"high\", not a number"),
    ];
    for (lie, part) in lies {
        // All futures of the first candidate lose their value; the other keeps its own.
        let server = Server::start(judge(lie));
        let ranking = rank(&engine(&server, "", "on_metric_failure = \"drop\"")).expect("a ranking");
        assert_eq!(reward(&ranking, 0), None, "{part}");
        assert!(reward(&ranking, 1).is_some_and(|reward| (reward - 1.0 / 3.0).abs() < 1e-9));
        let first = ranking.candidates.iter().find(|ranked| ranked.candidate == 0).expect("it");
        for rollout in &first.rollouts {
            assert_eq!((rollout.metrics["helpfulness"], rollout.counted), (None, false));
            assert!(rollout.reason.as_deref().is_some_and(|reason| reason.contains(part)), "{rollout:?}");
        }
        let error = rank(&engine(&server, "", "on_metric_failure = \"error\"")).expect_err("a failure");
        assert_eq!(error.kind(), ErrorKind::ModelOutput);
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn one_bad_judgement_is_dropped_for_every_candidate() {
    let bad = AtomicUsize::new(0);
    let server = Server::start(move |asked| match asked.is_choice() && bad.fetch_add(1, Ordering::SeqCst) == 0 {
        true => Answer::json(200, &completion("Yes")),
        false => honest(asked),
    });
    let ranking = rank(&engine(&server, "", "")).expect("a ranking");
    assert_honest(&ranking);
    assert!(ranking.candidates.iter().all(|ranked| ranked.excluded == 1), "{ranking:?}");
}

#[test]
fn a_prompt_beyond_the_endpoints_context_ends_the_future_as_a_full_context_does() {
    let server = Server::start(|asked| match asked.is_choice() {
        true => honest(asked),
        false => Answer::error(400, "This model's maximum context length is 8192 tokens.", None),
    });
    let ranking = rank(&engine(&server, "", "")).expect("a ranking");
    assert_honest(&ranking);
    assert!(
        ranking.candidates.iter().flat_map(|ranked| &ranked.rollouts).all(|rollout| rollout.ended == Ended::Context)
    );
}

// ---- where nobody answers ----

#[test]
fn an_address_where_nobody_listens_is_an_error_in_little_time() {
    let gone = Server::start(honest).base_url();
    let start = Instant::now();
    let error = rank(&engine_at(&gone, "max_retries = 1", "")).expect_err("nobody there");
    assert!(error.to_string().contains("the connection failed"), "{error}");
    assert!(error.to_string().contains("(2 attempts)"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// No server with a certificate can be had here; that one without TLS is found out shows that ours is at work.
#[test]
fn a_server_without_tls_behind_https_is_found_out() {
    let server = Server::start(honest);
    let error = rank(&engine_at(&server.base_url().replace("http://", "https://"), "", "")).expect_err("no TLS");
    assert!(error.to_string().contains("no TLS connection"), "{error}");
    assert!(error.to_string().contains("write http:// in base_url"), "{error}");
    assert!(!error.to_string().contains("attempts"), "{error}");
}

#[test]
fn a_silent_server_outlasts_neither_deadline_nor_engine() {
    let server = Server::start(|_| Answer::Silence);
    let engine = engine(&server, "", "");
    let limits = Limits { timeout: Some(Duration::from_millis(300)), cancel: None, priority: 0 };
    let start = Instant::now();
    let ranking = engine.within(limits).rank(request(json!({})), RankOptions::default()).expect("what there is");
    assert!(start.elapsed() < Duration::from_secs(3), "the deadline: {:?}", start.elapsed());
    assert!(!ranking.complete && ranking.candidates.iter().all(|ranked| ranked.reward.is_none()));
    assert!(server.was_left_by(6), "the endpoint is told by a closed connection");

    let pending = engine.submit_rank(request(json!({})), RankOptions::default()).expect("queued");
    while server.asked().len() < 12 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let start = Instant::now();
    drop(engine);
    assert!(start.elapsed() < Duration::from_secs(3), "the engine's end: {:?}", start.elapsed());
    assert_eq!(pending.wait().expect_err("closed").kind(), ErrorKind::Closed);
    assert!(server.was_left_by(12));
}

// ---- the trace ----

/// Whatever a crash left of the last line, the next ranking is read whole; the line that broke off is named.
#[test]
fn a_trace_that_broke_off_swallows_nothing_of_the_next_ranking() {
    let server = Server::start(honest);
    let engine = engine(&server, "", "");
    let folder = scratch();
    let path = folder.path().join("trace.jsonl");
    let trace = TraceWriter::append(&path).expect("a file");
    let rank =
        |trace: &TraceWriter| trace.rank(&engine, request(json!({})), RankOptions::default()).expect("a ranking");
    rank(&trace);
    let whole = std::fs::read_to_string(&path).expect("a trace");
    let lines = whole.lines().count();
    assert!(!whole.contains("\n\n"), "no empty lines");
    let last = whole.trim_end().rfind('\n').expect("several lines") + 1;
    for (cut, unreadable) in [(last, 0), (last + 1, 1), (whole.len() - 2, 1), (whole.len() - 1, 0), (whole.len(), 0)] {
        // By a writer that was there before, and by a new one.
        for writer in [&trace, &TraceWriter::append(&path).expect("a file")] {
            std::fs::write(&path, &whole[..cut]).expect("writable");
            rank(writer);
            let text = std::fs::read_to_string(&path).expect("a trace");
            assert!(text.starts_with(&whole[..cut]) && !text.contains("\n\n"), "cut at {cut}");
            let report = foreturn::report::Report::read(&path).expect("a report");
            assert_eq!(report.rankings(), 2, "cut at {cut}");
            let html = report.to_html().expect("a page");
            let named = format!("\"unreadable\":{{\"count\":{unreadable}");
            assert!(html.contains(&named), "cut at {cut}");
            assert_eq!(text.lines().count(), lines + whole[..cut].lines().count(), "cut at {cut}");
        }
    }
}

// ---- the key ----

#[test]
fn a_key_that_is_not_in_the_environment_is_missed_when_the_engine_is_built() {
    let toml =
        "[models.far]\nbase_url = \"http://localhost/v1\"\nmodel = \"big\"\napi_key_env = \"FORETURN_NO_SUCH_KEY\"";
    let config = Config::from_toml(toml, "/").expect("settings");
    let error = Engine::new(config).expect_err("no engine");
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("model `far`: api_key_env = \"FORETURN_NO_SUCH_KEY\""), "{error}");
}

/// The command ranks with remote models alone, so no ONNX Runtime is needed; a process of its own has an environment of
/// its own. Whether it succeeded, and all that it said.
fn run_with_key(server: &Server, key: &str, more: &str, model: &str) -> (bool, String) {
    let folder = scratch();
    let toml = format!(
        "[[metrics]]\nkind = \"helpfulness\"\n[rollout]\nwindow = 1\nsamples = 1\n{more}\n[models.far]\nbase_url = \"{}\"\n\
         model = \"big\"\napi_key_env = \"FORETURN_TEST_KEY\"\nheaders = {{ x-project = \"secret-project\" }}\nmax_retries = 0\n{model}\n",
        server.base_url()
    );
    let (settings, asked) = (folder.path().join("foreturn.toml"), folder.path().join("request.json"));
    std::fs::write(&settings, toml).expect("writable");
    let request = json!({
        "conversation": [{"role": "user", "content": "Write me a poem."}], "candidates": CANDIDATES,
        "goal": {"task": "writing", "prompt": "A poem about my dog."}
    });
    std::fs::write(&asked, request.to_string()).expect("writable");
    let output = Command::new(env!("CARGO_BIN_EXE_foreturn"))
        .args(["rank", "--json", "--config"])
        .arg(&settings)
        .arg("--request")
        .arg(&asked)
        .env("FORETURN_TEST_KEY", format!("{key}\n"))
        .env("RUST_LOG", "trace")
        .stdin(Stdio::null())
        .output()
        .expect("the command runs");
    let told = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.success(), String::from_utf8(told).expect("UTF-8"))
}

/// Keys of local servers are words, which replies may have; that of a hosted one is not.
#[test]
fn a_reply_is_scored_as_it_came_whatever_the_key_is() {
    let long = "sk-test-5f2a9c0123456789";
    let said = format!("Write it before the next summer; EMPTY tests of ollama, none x. {long}");
    for key in ["x", "EMPTY", "ollama", "test", "none", KEY, long] {
        let said_it = said.clone();
        let server = Server::start(move |asked| match asked.is_choice() {
            true => honest(asked),
            false => Answer::says(&said_it),
        });
        let (success, told) = run_with_key(&server, key, "", "");
        assert!(success && told.contains(&said), "{key}: {told}");
        assert_eq!(told.contains("repeated its API key in a reply"), key == long, "{key}: {told}");
        // The judge reads what was said.
        assert!(
            server.asked().iter().filter(|asked| asked.is_choice()).all(|asked| asked.text().contains(&said)),
            "{key}"
        );
        assert!(server.asked().iter().all(|asked| asked.headers["authorization"] == format!("Bearer {key}")));
        let (success, told) = run_with_key(&server, key, "on_failure = \"error\"", "on_echoed_key = \"fail\"");
        assert_eq!(success, key != long, "{key}: {told}");
        assert!(success || (told.contains("repeats the API key") && !told.contains(long)), "{told}");
    }
}

#[test]
fn the_key_is_sent_and_told_to_nobody() {
    let run = |server: &Server, more: &str| run_with_key(server, KEY, more, "");
    let server = Server::start(honest);
    let (success, told) = run(&server, "");
    assert!(success, "{told}");
    let asked = server.asked();
    assert!(!asked.is_empty());
    for asked in &asked {
        assert_eq!(asked.headers["authorization"], format!("Bearer {KEY}"));
        assert_eq!(asked.headers["x-project"], "secret-project");
    }
    assert!(!told.contains(KEY) && !told.contains("secret-project"), "{told}");

    // Servers quote what they were sent.
    let quote = format!("Incorrect API key provided: {KEY} of secret-project.");
    for status in [200, 302, 401, 500] {
        let quote = quote.clone();
        let server = Server::start(move |_| Answer::error(status, &quote, Some(("location", KEY))));
        for policy in ["", "on_failure = \"error\""] {
            let (success, told) = run(&server, policy);
            assert!(!success && told.contains("model `far` at 127.0.0.1"), "{told}");
            assert!(!told.contains(KEY) && !told.contains("secret-project"), "{told}");
        }
    }
}
