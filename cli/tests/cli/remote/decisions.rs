//! A judge that answers at `/v1/decisions`: its rewards, its costs, its lies, and what else is asked as before.

use super::*;

const DIALECTS: [&str; 3] = ["openai", "vllm", "sglang"];

fn engine_with(server: &Server, dialect: &str, model: &str, rest: &str) -> Engine {
    engine(server, &format!("decisions = \"{dialect}\"\n{model}"), rest)
}

/// The reply of a server of this dialect to a question with the answers Yes and No: their shares, and their mass.
fn decision(dialect: &str, [yes, no]: [f64; 2], mass: f64) -> Value {
    if dialect == "sglang" {
        return json!({
            "object": "decisions", "model": "big", "prompt_format_version": 1,
            "answers": {"answer": {
                "type": "choice", "probabilities": {"Yes": yes, "No": no}, "label_mass": mass, "choice": "Yes"
            }},
            "usage": {"prompt_tokens": 30, "total_tokens": 30, "completion_tokens": 0}
        });
    }
    let probabilities = [json!({"value": "Yes", "probability": yes}), json!({"value": "No", "probability": no})];
    json!({
        "model": "big",
        "answers": [{
            "type": "choice", "name": "answer", "choice": "Yes", "probabilities": probabilities, "confidence": yes.max(no) * mass
        }],
        "usage": {
            "input_tokens": 30, "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 0},
            "output_tokens": 1, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 31
        }
    })
}

/// As `honest`: the judge likes the first candidate better, and is less sure of an answer to the second.
fn decides(dialect: &str, asked: &Asked) -> Answer {
    match (asked.is_decision(), asked.text().contains(CANDIDATES[0])) {
        (false, _) => honest(asked),
        (true, true) => Answer::json(200, &decision(dialect, [0.9, 0.1], 1.0)),
        (true, false) => Answer::json(200, &decision(dialect, [1.0 / 3.0, 2.0 / 3.0], 0.75)),
    }
}

#[test]
fn a_judge_that_decides_gives_the_rewards_of_its_probabilities() {
    for dialect in DIALECTS {
        let server = Server::start(move |asked| decides(dialect, asked));
        let ranking = rank(&engine_with(&server, dialect, "", "")).expect("a ranking");
        assert_honest(&ranking);
        // OpenAI's dialect has nothing that tells the mass of the answers.
        let told = if dialect == "openai" { 1.0 } else { 0.75 };
        let mass =
            ranking.candidates.iter().find(|ranked| ranked.candidate == 1).expect("it").metrics["helpfulness"].mass;
        assert!((mass.expect("a mass") - told).abs() < 1e-9, "{dialect}: {mass:?}");

        let asked = server.asked();
        let (questions, messages): (Vec<_>, Vec<_>) = asked.iter().partition(|asked| asked.is_decision());
        assert_eq!((messages.len(), questions.len()), (6, 12), "{dialect}");
        assert!(messages.iter().all(|asked| asked.path == "/v1/chat/completions" && !asked.is_choice()));
        for question in questions {
            let asked = &question.body["questions"][0];
            let text = asked["instructions"].as_str().or(asked["question"].as_str()).expect("a question");
            assert!(text.ends_with("Answer with exactly one of these and nothing else: Yes, No."), "{text}");
            assert!(!text.contains("poem") && question.text().contains("Write me a poem."), "{text}");
            assert!(question.text().starts_with("You assess conversations"), "{}", question.text());
        }
        let (prompt, reused, generated) = if dialect == "sglang" { (30, 0, 0) } else { (30, 10, 1) };
        let judge = ranking.cost.roles.judge;
        let counts = (judge.prompt_tokens, judge.reused_tokens, judge.generated_tokens);
        assert_eq!(counts, (12 * prompt, 12 * reused, 12 * generated), "{dialect}");
    }
}

#[test]
fn an_answer_of_little_mass_is_a_failure_where_the_mass_is_told() {
    for (dialect, fails) in [("openai", false), ("vllm", true), ("sglang", true)] {
        let server = Server::start(move |asked| match asked.is_decision() {
            true => Answer::json(200, &decision(dialect, [0.5, 0.5], 0.01)),
            false => honest(asked),
        });
        let ranked = rank(&engine_with(&server, dialect, "", "on_metric_failure = \"error\""));
        assert_eq!(ranked.is_err(), fails, "{dialect}");
        if let Err(error) = ranked {
            assert!(error.to_string().contains("put a probability of 0.010 on the answers"), "{error}");
        }
    }
}

/// One question of the first candidate gets a lie: it has no reward, and the other keeps its own.
#[test]
fn a_lie_of_a_judge_that_decides_never_counts_as_a_zero() {
    type Change = fn(&mut Value);
    let lies: [(&str, Change, &str); 9] = [
        ("openai", |reply| reply["answers"] = json!([]), "0 answers, but one question was asked"),
        ("openai", |reply| reply["answers"][0] = json!({"type": "refusal", "name": "answer"}), "the model refused"),
        ("openai", |reply| reply["answers"][0]["probabilities"][0]["value"] = json!("Maybe"), "the option \"Maybe\""),
        ("openai", |reply| reply["answers"][0]["probabilities"][1]["probability"] = json!(0.5), "sum to 1.400"),
        ("openai", |reply| reply["usage"] = json!(null), "no usage"),
        ("vllm", |reply| reply["answers"][0]["confidence"] = json!(null), "confidence is null"),
        (
            "sglang",
            |reply| reply["answers"]["answer"]["probabilities"]["No"] = json!(-0.1),
            "\"No\" is -0.1, not a number",
        ),
        ("sglang", |reply| reply["answers"]["answer"]["label_mass"] = json!("all"), "label_mass is \"all\""),
        ("sglang", |reply| reply["answers"] = json!({}), "answers has no \"answer\""),
    ];
    for (dialect, lie, part) in lies {
        let server = Server::start(move |asked| match asked.is_decision() && asked.text().contains(CANDIDATES[0]) {
            true => {
                let mut reply = decision(dialect, [0.9, 0.1], 1.0);
                lie(&mut reply);
                Answer::json(200, &reply)
            }
            false => decides(dialect, asked),
        });
        let ranking = rank(&engine_with(&server, dialect, "", "on_metric_failure = \"drop\"")).expect("a ranking");
        assert_eq!(reward(&ranking, 0), None, "{part}");
        assert!(reward(&ranking, 1).is_some_and(|reward| (reward - 1.0 / 3.0).abs() < 1e-9), "{part}");
        let first = ranking.candidates.iter().find(|ranked| ranked.candidate == 0).expect("it");
        for reason in first.rollouts.iter().map(|rollout| rollout.reason.as_deref().expect("a reason")) {
            assert!(reason.contains(part) && reason.contains("model `far` at 127.0.0.1:"), "{reason}");
        }
    }
    let nan = Server::start(|asked| match asked.is_decision() {
        true => typed("application/json", &decision("openai", [0.9, 0.1], 1.0).to_string().replace("0.9", "NaN")),
        false => honest(asked),
    });
    let error = rank(&engine_with(&nan, "openai", "", "on_metric_failure = \"error\"")).expect_err("not a number");
    assert!(error.to_string().contains("the probability of \"Yes\" is NaN, not a number in [0, 1]"), "{error}");
}

#[test]
fn a_server_that_does_not_decide_is_found_out_at_once() {
    for (status, part) in [
        (
            404,
            "status 404 Not Found: so it is. The endpoint has no /v1/decisions, or not for this model: leave decisions out",
        ),
        (405, "leave decisions out"),
        (501, "leave decisions out"),
        (400, "status 400 Bad Request: so it is. The server refuses the question: check decisions"),
        (422, "check decisions and model under [models]"),
        (401, "Check api_key_env"),
    ] {
        let server = Server::start(move |asked| match asked.is_decision() {
            true => Answer::error(status, "so it is", None),
            false => honest(asked),
        });
        let engine = engine_with(&server, "openai", "max_concurrent = 1", "on_metric_failure = \"error\"");
        let error = engine.rank(request(json!({"samples": 1})), RankOptions::default()).expect_err("a failure");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains(part) && !error.to_string().contains("attempts"), "{error}");
    }
}

#[test]
fn what_may_pass_is_tried_again_at_decisions_too() {
    let failures = AtomicUsize::new(0);
    let server =
        Server::start(move |asked| match asked.is_decision().then(|| failures.fetch_add(1, Ordering::SeqCst)) {
            Some(0) => Answer::error(503, "loading", None),
            Some(1) => Answer::error(429, "slow down", Some(("retry-after", "1"))),
            Some(2) => Answer::Bytes(Vec::new()),
            _ => decides("vllm", asked),
        });
    let ranking = rank(&engine_with(&server, "vllm", "max_concurrent = 1\nmax_retries = 3", "")).expect("a ranking");
    assert_honest(&ranking);
    assert_eq!(server.asked().len(), 18 + 3);
    assert_eq!(ranking.cost.roles.judge.prompt_tokens, 12 * 30, "what failed has told no cost");
}

#[test]
fn the_key_goes_to_decisions_and_into_no_message() {
    let server = Server::start(|asked| match asked.is_decision() {
        true => {
            let text = decision("openai", [0.9, 0.1], 1.0).to_string().replace("Yes", &asked.headers["authorization"]);
            typed("application/json", &text)
        }
        false => honest(asked),
    });
    let (success, told) = run_with_key(&server, KEY, "", "decisions = \"openai\"");
    assert!(!success && told.contains("Bearer [secret]"), "{told}");
    assert!(!told.contains(KEY), "{told}");
    let asked = server.asked();
    assert!(asked.iter().any(Asked::is_decision));
    assert!(asked.iter().all(|asked| asked.headers["authorization"] == format!("Bearer {KEY}")));
}
