//! Scores: reward models, classifiers, process rewards, implicit rewards and embeddings of the tiny checkpoints, against
//! what transformers computes with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::common::models::{self, Case, Reference, close, exported, fixtures, flat, numbers};
use crate::common::{self, model_path, runtime_path, scratch, user};
use foreturn::chat::{Message, Role};
use foreturn::engine::{LogProbs, Model, Prompt};
use foreturn::export::{ExportOptions, export};
use foreturn::model::tokenizer::{Bos, EncodedText, RenderOptions, Tokenizer};
use foreturn::score::{
    ImplicitOptions, Label, ResponseLogProb, Score, ScoreInput, ScoreOutput, ScoreTask, Scores, StepOptions, StepScores,
};
use foreturn::{Config, Engine, ErrorKind, RankOptions, RankRequest};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Decoders with a head: on the paged path.
const DECODERS: &[&str] = &[
    "llama-reward",
    "llama-labels",
    "mistral-reward",
    "qwen2-reward",
    "qwen3-reward",
    "gemma2-reward",
    "gemma3-reward",
    "qwen2-token-labels",
    "qwen2-process-reward",
];
/// Encoders: in padded batches.
const ENCODERS: &[&str] = &[
    "bert-labels",
    "bert-token-labels",
    "bert-embedding",
    "bert-embedding-first",
    "deberta-v2-labels",
    "deberta-v2-own-keys",
    "deberta-v3-reward",
    "modernbert-mean",
    "modernbert-first",
];

// ---- the models ----

fn reference(name: &str) -> Reference {
    models::reference(&fixtures(name).join("reference.json"))
}

/// An engine with every model of these tests.
fn engine() -> &'static Engine {
    static ENGINE: OnceLock<(TempDir, Engine)> = OnceLock::new();
    &ENGINE
        .get_or_init(|| {
            let folder = scratch();
            let names = DECODERS.iter().chain(ENCODERS).chain(&["llama", "llama-biases"]);
            let engine = Engine::new(config(folder.path(), names, "")).expect("an engine");
            (folder, engine)
        })
        .1
}

/// One of the engine's models.
fn model_named(name: &str) -> Model {
    engine().model(name).expect("a model")
}

/// A configuration with these models, under their own names.
fn config<'a>(folder: &Path, names: impl IntoIterator<Item = &'a &'a str>, rest: &str) -> Config {
    let models = names.into_iter().map(|name| {
        let path = exported(folder, name);
        format!("[models.{name}]\npath = {:?}\n", path.display().to_string())
    });
    let toml = format!("{rest}\n{}", models.collect::<String>());
    let mut config = Config::from_toml(&toml, Path::new("/")).unwrap_or_else(|e| panic!("{e}\n{toml}"));
    config.runtime.library = Some(runtime_path());
    config
}

fn outputs(model: &str, inputs: Vec<ScoreInput>, task: ScoreTask) -> Vec<ScoreOutput> {
    models::outputs(engine(), model, inputs, task)
}

// ---- scores ----

#[test]
fn conversations_and_texts_are_read_as_transformers_encodes_them() {
    for name in DECODERS.iter().chain(ENCODERS) {
        let reference = reference(name);
        let cases: Vec<&Case> = reference.cases.iter().filter(|case| !contains_marker(case)).collect();
        let read = |case: &&Case| match (&case.text, &case.pair) {
            (Some(text), Some(pair)) => Some(ScoreInput::Pair(text.clone(), pair.clone())),
            (Some(text), None) => Some(ScoreInput::Text(text.clone())),
            _ => (!case.messages.is_empty()).then(|| ScoreInput::Chat(case.messages.clone())),
        };
        let (cases, inputs): (Vec<&Case>, Vec<_>) =
            cases.iter().filter_map(|case| read(case).map(|input| (*case, input))).unzip();
        assert!(inputs.len() >= 2, "{name}");
        let as_tokens = outputs(name, cases.iter().map(|case| case.input()).collect(), reference.task());
        for (case, (one, other)) in cases.iter().zip(outputs(name, inputs, reference.task()).iter().zip(&as_tokens)) {
            close(&numbers(one), &numbers(other), 1e-6, &format!("{name}, {}", case.name));
        }
    }
    // An encoder that knows no chats reads prompt and response as a pair.
    let pair = |response| vec![user("What is the capital of France?"), assistant(response)];
    let chat = model_named("deberta-v3-reward").score(vec![pair("The capital of France is Paris.")]);
    let wanted = flat(&reference("deberta-v3-reward").cases[1].scores);
    let Scores::Text(row) = &chat.expect("a score")[0].scores else { panic!("one score a label") };
    close(&[f64::from(row[0])], &wanted, 1e-4, "a pair");
}

fn contains_marker(case: &Case) -> bool {
    case.messages.iter().any(|message| message.content.contains("<extra_0>"))
}

fn assistant(text: &str) -> Message {
    Message::new(Role::Assistant, text)
}

#[test]
fn a_score_is_the_same_alone_and_among_others() {
    for (name, paged) in DECODERS.iter().map(|name| (name, true)).chain(ENCODERS.iter().map(|name| (name, false))) {
        let reference = reference(name);
        let inputs: Vec<ScoreInput> = reference.cases.iter().chain(&reference.cases).map(Case::input).collect();
        let together = outputs(name, inputs.clone(), reference.task());
        for (input, among) in inputs.into_iter().zip(&together) {
            let alone = &outputs(name, vec![input], reference.task())[0];
            if paged {
                assert_eq!(alone, among, "{name}");
            } else {
                close(&numbers(alone), &numbers(among), 1e-5, name);
            }
        }
    }
}

#[test]
fn a_published_embedder_gives_the_embeddings_of_sentence_transformers() {
    #[derive(Deserialize)]
    struct Text {
        text: String,
        embedding: Vec<f64>,
    }
    let remedy = "run `python3 tools/fetch.py embedder`";
    let Some(checkpoint) = common::optional("all-MiniLM-L6-v2", remedy) else { return };
    let texts = fs::read_to_string(fixtures("../embedder.json")).expect("texts");
    let texts: Vec<Text> = serde_json::from_str(&texts).expect("texts");
    let folder = scratch();
    export(&ExportOptions::new(&checkpoint, folder.path().join("minilm")), &mut |_| ()).expect("an export");
    let path = folder.path().join("minilm").display().to_string();
    let toml = format!("{}[models.minilm]\npath = {path:?}\n", similarity_by("minilm"));
    let mut config = Config::from_toml(&toml, Path::new("/")).expect("a configuration");
    config.runtime.library = Some(runtime_path());
    let engine = Engine::new(config).expect("an engine");
    let given = engine.model("minilm").expect("a model").embed(texts.iter().map(|text| text.text.clone()).collect());
    for (text, given) in texts.iter().zip(given.expect("embeddings")) {
        let given: Vec<f64> = given.into_iter().map(f64::from).collect();
        close(&given, &text.embedding, 1e-4, &text.text);
    }
    let texts: Vec<(String, Vec<f64>)> = texts.into_iter().map(|text| (text.text, text.embedding)).collect();
    check_similarities(&engine, &texts);
}

#[test]
fn conversations_that_share_a_prefix_compute_it_once() {
    let folder = scratch();
    let engine = Engine::new(config(folder.path(), &["qwen3-reward"], "")).expect("an engine");
    let before = "What is two and three, doubled? ".repeat(8);
    let chats: Vec<_> = ["Ten.", "Five, no doubt.", "Maybe."].map(|r| vec![user(&before), assistant(r)]).into();
    let alone: Vec<Score> = chats
        .iter()
        .map(|chat| {
            let folder = scratch();
            let engine = Engine::new(config(folder.path(), &["qwen3-reward"], "")).expect("an engine");
            engine.model("qwen3-reward").expect("a model").score(vec![chat.clone()]).expect("a score").remove(0)
        })
        .collect();
    let scores = engine.model("qwen3-reward").expect("a model").score(chats.clone()).expect("scores");
    assert_eq!(scores, alone);
    let folder = engine.model("qwen3-reward").expect("a model").folder().expect("a local model");
    let tokenizer = folder.tokenizer();
    let prompts: Vec<Vec<u32>> = chats
        .iter()
        .map(|chat| {
            let options = RenderOptions { add_generation_prompt: false, ..Default::default() };
            tokenizer.encode_chat(chat, &options).expect("a prompt").tokens
        })
        .collect();
    let computed = engine.model("qwen3-reward").expect("a model").status().expect("a status").stats.computed_tokens;
    assert_eq!(computed, common::tokens_to_compute(&prompts));
}

#[test]
fn steps_are_marked_by_request_and_never_by_content() {
    let reference = reference("qwen2-process-reward");
    let case = reference.cases.iter().find(|case| !case.steps.is_empty()).expect("a case with steps");
    let score = |chat: &[Message], separator: &str| {
        let options = StepOptions { separator: separator.into(), ..StepOptions::default() };
        model_named("qwen2-process-reward").score_steps(vec![chat.to_vec()], options)
    };
    let steps = |chat: &[Message], separator: &str| -> StepScores {
        score(chat, separator).unwrap_or_else(|e| panic!("{e}")).remove(0)
    };
    // The marker as text is a separator like any other.
    let marked = steps(&case.messages, "<extra_0>");
    close(&marked.steps, &case.steps, 1e-4, "steps");
    assert_eq!(marked.scores.len(), 3);
    let mut lines = case.messages.clone();
    lines[2].content = lines[2].content.replace("<extra_0>", "\n\n");
    assert_eq!(steps(&lines, "\n\n"), marked);
    // In a step it is text: two steps, of which the first spells the marker.
    let text = [user("?"), assistant("One<extra_0>two.\n\nThree.")];
    assert_eq!(steps(&text, "\n\n").steps.len(), 2);
    assert_eq!(score(&[user("?"), assistant(" \n\n")], "\n\n").unwrap_err().kind(), ErrorKind::InvalidRequest);
    let marker = StepOptions { marker: "<step>".into(), ..StepOptions::default() };
    let error = model_named("qwen2-process-reward").score_steps(vec![text.to_vec()], marker);
    assert!(error.unwrap_err().to_string().contains("no control token `<step>`"));
}

#[test]
fn implicit_rewards_are_differences_of_log_probabilities() {
    let chat = vec![user("What is two and three?"), assistant("It is five.")];
    let options = ImplicitOptions { beta: 0.5, ..ImplicitOptions::default() };
    let rewards = |options| {
        model_named("llama")
            .implicit_rewards(&model_named("llama-biases"), vec![chat.clone()], options)
            .expect("a reward")
            .remove(0)
    };
    let reward = rewards(options);
    let by_hand = |model: &str| {
        let model = model_named(model);
        let prompt = Prompt::as_is(chat.clone());
        let LogProbs { tokens, logprobs, .. } = model.logprobs(prompt).expect("log-probabilities");
        let given = model
            .folder()
            .expect("a local model")
            .tokenizer()
            .encode_chat(&chat[..1], &Default::default())
            .expect("a prompt")
            .tokens
            .len();
        let end = tokens.iter().rposition(|&token| token == 2).expect("<|im_end|>");
        (logprobs[given - 1..end].iter().map(|&x| f64::from(x)).sum::<f64>(), end + 1 - given)
    };
    let (policy, reference) = (by_hand("llama"), by_hand("llama-biases"));
    assert_eq!((reward.policy.logprob, reward.policy.response_tokens), policy);
    assert_eq!((reward.reference.logprob, reward.reference.response_tokens), reference);
    assert_eq!(reward.reward, 0.5 * (policy.0 - reference.0));
    let normalised = rewards(ImplicitOptions { length_normalized: true, ..options });
    let count = policy.1 as f64;
    assert!((normalised.reward - 0.5 * (policy.0 / count - reference.0 / count)).abs() < 1e-12);
}

#[test]
fn responses_after_a_warm_history_cost_their_own_tokens_alone() {
    let folder = scratch();
    let fresh = Engine::new(config(folder.path(), &["llama-reward", "llama"], "")).expect("an engine");
    let words = |count: u32, salt: u32| (0..count).map(|at| 160 + (at * 7 + salt * 11) % 150).collect::<Vec<_>>();
    let (history, responses) = (words(100, 0), [1, 2, 3].map(|salt| words(20, salt)));
    let whole = |response: &Vec<u32>| [history.clone(), response.clone()].concat();
    let as_scored = |response| {
        let text = EncodedText { tokens: whole(response), types: Vec::new() };
        outputs("llama-reward", vec![ScoreInput::Tokens(text)], ScoreTask::Labels).remove(0)
    };
    let by_hand = |response| {
        let whole = Prompt::Tokens(whole(response));
        let LogProbs { tokens, logprobs, .. } = model_named("llama").logprobs(whole).expect("log-probabilities");
        ScoreOutput::Response(ResponseLogProb {
            logprob: logprobs[99..].iter().map(|&x| f64::from(x)).sum(),
            response_tokens: 20,
            tokens: tokens.len(),
            token_ids: tokens[100..].to_vec(),
            token_logprobs: logprobs[99..].to_vec(),
        })
    };
    // What follows the history's last token is read off that token, so it is computed again.
    let scores: Vec<_> = responses.iter().map(as_scored).collect();
    let logprobs: Vec<_> = responses.iter().map(by_hand).collect();
    for (model, task, wanted, tokens) in
        [("llama-reward", ScoreTask::Labels, scores, 20), ("llama", ScoreTask::Response, logprobs, 21)]
    {
        let inputs = responses.iter().map(|response| {
            let (prompt, response) = (history.clone(), response.clone());
            ScoreInput::Response { prompt, response }
        });
        let _pin = fresh.model(model).expect("a model").warm(history.clone()).expect("room for the history");
        let computed = || fresh.model(model).expect("a model").status().expect("a status").stats.computed_tokens;
        let before = computed();
        assert_eq!(models::outputs(&fresh, model, inputs.collect(), task), wanted, "{model}");
        assert_eq!(computed() - before, 3 * tokens, "{model}");
    }
}

#[test]
fn what_cannot_be_scored_is_refused_by_name() {
    let chat = |text: String| vec![user(&text), assistant("Yes.")];
    let score = |model: &str, chat| model_named(model).score(vec![chat]).map(drop);
    let submit = |model: &str, input, task| {
        model_named(model).submit_score(vec![input], task).and_then(|pending| pending.wait()).map(drop)
    };
    let long = "a question ".repeat(400);
    for (result, kind, part) in [
        (score("qwen2-reward", chat(long.clone())), ErrorKind::ContextLength, "a context of"),
        (score("deberta-v3-reward", Vec::new()), ErrorKind::InvalidRequest, "conversation is empty"),
        (score("bert-labels", chat(long)), ErrorKind::ContextLength, "a context of"),
        (score("llama", chat("Why?".into())), ErrorKind::InvalidRequest, "without a head of scores"),
        (score("bert-embedding", chat("Why?".into())), ErrorKind::InvalidRequest, "gives embeddings"),
        (
            model_named("qwen2-reward").generate(vec![1], Default::default()).map(drop),
            ErrorKind::InvalidRequest,
            "is not a language model",
        ),
        (
            model_named("bert-labels").embed(vec!["a".into()]).map(drop),
            ErrorKind::InvalidRequest,
            "an embedding is asked of it",
        ),
        (
            model_named("llama-reward").score_steps(vec![chat("Why?".into())], StepOptions::default()).map(drop),
            ErrorKind::InvalidRequest,
            "scores whole texts",
        ),
        (
            model_named("llama")
                .implicit_rewards(&model_named("llama"), vec![vec![user("a")]], ImplicitOptions::default())
                .map(drop),
            ErrorKind::InvalidRequest,
            "has to end with the assistant's message",
        ),
        (
            submit("llama", ScoreInput::Response { prompt: vec![5], response: Vec::new() }, ScoreTask::Response),
            ErrorKind::InvalidRequest,
            "there are 1 and 0",
        ),
        (
            submit("llama", ScoreInput::Text("a".into()), ScoreTask::Response),
            ErrorKind::InvalidRequest,
            "or of tokens after a prompt's",
        ),
        (model_named("bert-labels").warm(vec![5, 6]).map(drop), ErrorKind::InvalidRequest, "has no key-value cache"),
    ] {
        let error = result.expect_err(part);
        assert!(error.to_string().contains(part) && error.kind() == kind, "{error}");
    }
    assert!(model_named("llama-reward").score(Vec::new()).expect("nothing").is_empty());
}

// ---- what stands around a conversation ----

#[derive(Deserialize)]
struct BosCase {
    name: String,
    messages: Vec<Message>,
    post_processor: Value,
    config: serde_json::Map<String, Value>,
    chat_template: String,
    tokens: BTreeMap<Bos, Vec<u32>>,
}

#[test]
fn conversations_have_the_bos_that_transformers_gives_them() {
    let path = fixtures("../bos.json");
    let cases: Vec<BosCase> = serde_json::from_str(&fs::read_to_string(path).expect("cases")).expect("cases");
    for case in &cases {
        let folder = scratch();
        let edit = |file: &str, changes: &serde_json::Map<String, Value>| {
            let text = fs::read_to_string(fixtures("tokenizers/bytes").join(file)).expect("a tokenizer");
            let mut value: Value = serde_json::from_str(&text).expect("JSON");
            value.as_object_mut().expect("an object").extend(changes.clone());
            fs::write(folder.path().join(file), value.to_string()).expect("a file");
        };
        edit("tokenizer.json", &[("post_processor".to_owned(), case.post_processor.clone())].into_iter().collect());
        let mut config = case.config.clone();
        config.insert("bos_token".into(), "<|begin_of_text|>".into());
        edit("tokenizer_config.json", &config);
        fs::write(folder.path().join("chat_template.jinja"), &case.chat_template).expect("a file");
        let tokenizer = Tokenizer::load(folder.path(), 320).expect("a tokenizer");
        for (bos, wanted) in &case.tokens {
            let read = tokenizer.encode_conversation(&case.messages, &RenderOptions::default(), *bos);
            assert_eq!(read.expect("tokens").tokens, *wanted, "{}, {bos:?}", case.name);
        }
    }
    assert_eq!(cases.len(), 6);
}

// ---- the command line ----

fn foreturn(arguments: &[&str]) -> Result<Value, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foreturn"));
    let output = command.env("ORT_DYLIB_PATH", runtime_path()).args(arguments).output().expect("the command runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap_or_else(|_| text(output.stdout).into())),
        false => Err(text(output.stderr)),
    }
}

#[test]
fn the_command_scores() {
    let folder = scratch();
    let [labels, reward, steps] = ["llama-labels", "llama-reward", "qwen2-process-reward"]
        .map(|name| exported(folder.path(), name).display().to_string());
    let file = |name: &str, contents: &str| {
        let path = folder.path().join(name);
        fs::write(&path, contents).expect("a file");
        path.display().to_string()
    };
    let reference = reference("llama-labels");
    let case = reference.cases.iter().find(|case| case.name == "one turn").expect("a conversation");
    let chat = serde_json::to_string(&case.messages).expect("JSON");
    let (one, two) = (file("one.json", &chat), file("two.json", &format!("[{chat}, {chat}]")));

    let score = foreturn(&["score", "--model", &labels, "--messages", &one, "--json"]).expect("a score");
    assert_eq!(score["labels"], json!(reference.labels));
    assert_eq!(score["tokens"], case.tokens.len());
    close(&flat(&score["scores"]), &flat(&case.scores), 1e-4, "the command");
    let scores = foreturn(&["score", "--model", &labels, "--messages", &two, "--json"]).expect("scores");
    assert_eq!(scores, json!([score, score]));
    let text = foreturn(&["score", "--model", &labels, "--messages", &two]).expect("scores");
    assert_eq!(text.as_str().expect("text").matches("coherence ").count(), 2);

    let solution = r#"[{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "Add.\n\nFive."}]"#;
    let solution = file("solution.json", solution);
    let rewards = foreturn(&["score", "--model", &steps, "--messages", &solution, "--steps", "--json"]).expect("steps");
    assert_eq!(rewards["steps"].as_array().expect("a list").len(), 2, "{rewards}");
    let one_step = ["score", "--model", &steps, "--messages", &solution, "--steps=; ", "--positive", "0", "--json"];
    assert_eq!(foreturn(&one_step).expect("a step")["steps"].as_array().expect("a list").len(), 1);

    for (arguments, part) in [
        (vec!["--model", &reward, "--messages", &one, "--steps"], "scores whole texts"),
        (vec!["--model", &reward, "--messages", &one, "--beta", "1"], "--reference"),
        (vec!["--model", &reward, "--messages", &one, "--reference", &reward], "gives scores instead of tokens"),
    ] {
        let error = foreturn(&[&["score"], &arguments[..]].concat()).expect_err(part);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_command_reads_reward_bench_2() {
    let folder = scratch();
    let [labels, reward] = ["llama-labels", "llama-reward"].map(|name| exported(folder.path(), name));
    let [labels, reward] = [labels, reward].map(|path| path.display().to_string());
    let records = common::root().join("tests/fixtures/reward_bench_2.jsonl");
    let records = records.display().to_string();
    let bench = ["score", "--messages", &records, "--format", "reward-bench-2", "--json", "--model"];
    let report = foreturn(&[&bench[..], &[&reward]].concat()).expect("a report");
    let rows = report["records"].as_array().expect("a list");
    assert_eq!((rows.len(), &rows[1]["id"]), (3, &json!("7")));
    for row in rows {
        let best = |key: &str| flat(&row[key]).into_iter().fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(row["right"], best("chosen") > best("rejected"));
    }
    // Equal texts have equal scores, and equal scores are wrong.
    assert_eq!((&rows[2]["chosen"], &rows[2]["right"]), (&rows[2]["rejected"], &json!(false)));
    let right = rows.iter().filter(|row| row["right"] == true).count();
    assert_eq!(report["accuracy"], right as f64 / 3.0);
    assert_eq!(report["subsets"]["Factuality"], f64::from(u8::from(rows[0]["right"] == true)));
    let named = foreturn(&[&bench[..], &[&labels, "--label", "coherence"]].concat()).expect("a report");
    let placed = foreturn(&[&bench[..], &[&labels, "--label", "2"]].concat()).expect("a report");
    assert_eq!(named, placed);

    let chat = folder.path().join("chat.json");
    fs::write(&chat, r#"[{"role": "user", "content": "Hi"}]"#).expect("a file");
    let chat = chat.display().to_string();
    for (arguments, part) in [
        ([&bench[..], &[&labels]].concat(), "choose one with --label"),
        ([&bench[..], &[&labels, "--steps"]].concat(), "--steps gives a reward for each step"),
        (vec!["score", "--model", &reward, "--messages", &records], "reward_bench_2.jsonl: not a list of messages"),
        (vec!["score", "--model", &reward, "--messages", &chat, "--format", "reward-bench-2"], "not a record"),
    ] {
        let error = foreturn(&arguments).expect_err(part);
        assert!(error.contains(part), "{error}");
    }
}

// ---- as metrics ----

const METRICS: &str = r#"
seed = 3
[roles]
policy = "smollm2"
user = "smollm2"
[rollout]
window = 1
samples = 2
max_user_tokens = 4
max_policy_tokens = 4
[[metrics]]
kind = "reward_model"
model = "llama-labels"
label = "coherence"
[[metrics]]
kind = "reward_model"
name = "probability"
model = "llama-reward"
apply = "sigmoid"
scale = 2.0
offset = -1.0
[[metrics]]
kind = "process_reward"
model = "qwen2-process-reward"
aggregate = "product"
scope = "response"
[[metrics]]
kind = "implicit_reward"
model = "llama"
reference = "llama-biases"
scope = "response"
"#;

/// The model that speaks in rankings: the tiny ones' contexts don't hold a simulator's prompt.
fn smollm2() -> String {
    format!("[models.smollm2]\npath = {:?}\n[roles]", model_path().display().to_string())
}

#[test]
fn rankings_use_reward_models() {
    let names = ["llama", "llama-biases", "llama-labels", "llama-reward", "qwen2-process-reward"];
    let folder = scratch();
    let mut config = config(folder.path(), &names, &METRICS.replace("[roles]", &smollm2()));
    config.runtime.kv_cache = Some("64MiB".parse().expect("a size"));
    let engine = Engine::new(config).expect("an engine");
    let request = json!({
        "conversation": [{"role": "user", "content": "What is two and three?"}],
        "candidates": ["First we add.\n\nIt is five.", "Paris."], "goal": {"task": "sums", "prompt": "2 + 3"},
    });
    let request: RankRequest = request.to_string().parse().expect("a request");
    let rank = || serde_json::to_value(engine.rank(request.clone(), RankOptions::default()).expect("a ranking"));
    let ranking = rank().expect("JSON");
    let again = rank().expect("JSON");
    assert_eq!(ranking["ranking"][0]["rollouts"], again["ranking"][0]["rollouts"]);
    assert_eq!(ranking["bitwise"], true, "{ranking}");
    assert!(ranking["cost"]["reward_model"]["prompt_tokens"].as_u64() > Some(0));
    assert_eq!(ranking["cost"]["judge"]["prompt_tokens"], 0, "no role is asked in a reward model's place");
    let spoke = |candidate: &Value| candidate["rollouts"][0]["messages"].as_array().is_some_and(|m| m.len() == 2);
    assert!(ranking["ranking"].as_array().expect("candidates").iter().any(spoke), "{ranking}");
    let named: Vec<&Value> = ranking["reward_models"].as_array().expect("a list").iter().map(|m| &m["name"]).collect();
    assert_eq!(named, ["llama", "llama-biases", "llama-labels", "llama-reward", "qwen2-process-reward"]);

    // Each value is what the engine gives when asked directly.
    for candidate in ranking["ranking"].as_array().expect("candidates") {
        let response = assistant(candidate["response"].as_str().expect("a text"));
        let chat = [&request.conversation[..], &[response]].concat();
        let steps = engine
            .model("qwen2-process-reward")
            .expect("a model")
            .score_steps(vec![chat.clone()], StepOptions::default());
        let product: f64 = steps.expect("steps")[0].steps.iter().product();
        let implicit = engine.model("llama").expect("a model").implicit_rewards(
            &engine.model("llama-biases").expect("a model"),
            vec![chat.clone()],
            ImplicitOptions::default(),
        );
        let implicit = implicit.expect("a reward")[0].reward;
        for rollout in candidate["rollouts"].as_array().expect("rollouts") {
            assert_eq!(rollout["metrics"]["process_reward"], product);
            assert_eq!(rollout["metrics"]["implicit_reward"], implicit);
            let mut whole = chat.clone();
            for said in rollout["messages"].as_array().expect("messages") {
                let (role, text) = (&said["role"], said["content"].as_str().expect("a text"));
                whole.push(Message::new(if role == "user" { Role::User } else { Role::Assistant }, text));
            }
            while whole.last().is_some_and(|message| message.role != Role::Assistant) {
                whole.pop();
            }
            let labels =
                &engine.model("llama-labels").expect("a model").score(vec![whole.clone()]).expect("a score")[0];
            let place = Label::Name("coherence".into()).find(&labels.labels).expect("a label");
            let (Scores::Text(labels), reward) =
                (&labels.scores, engine.model("llama-reward").expect("a model").score(vec![whole]))
            else {
                panic!("one score a label")
            };
            assert_eq!(rollout["metrics"]["reward_model"], f64::from(labels[place]));
            let Scores::Text(reward) = &reward.expect("a score")[0].scores else { panic!("one score") };
            let wanted = 2.0 / (1.0 + (-f64::from(reward[0])).exp()) - 1.0;
            assert_eq!(rollout["metrics"]["probability"], wanted);
        }
    }
}

fn similarity_by(model: &str) -> String {
    format!("[[metrics]]\nkind = \"similarity\"\nmodel = \"{model}\"\n")
}

/// Holds rewards by `similarity` to the cosines of these embeddings, each text against the first.
fn check_similarities(engine: &Engine, texts: &[(String, Vec<f64>)]) {
    let (reference, one) = &texts[0];
    let candidates: Vec<&str> = texts.iter().map(|(text, _)| text.as_str()).collect();
    let request = json!({
        "conversation": [{"role": "user", "content": "Say something."}], "candidates": candidates, "window": 0,
        "goal": {"reference": reference},
    });
    let request: RankRequest = request.to_string().parse().expect("a request");
    let ranking = engine.rank(request, RankOptions::default()).expect("a ranking");
    assert_eq!(ranking.candidates.len(), texts.len());
    let dot = |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
    for candidate in &ranking.candidates {
        let (text, other) = &texts[candidate.candidate];
        let cosine = dot(one, other) / (dot(one, one) * dot(other, other)).sqrt();
        close(&[candidate.reward.expect("a reward")], &[cosine], 1e-4, text);
    }
}

#[test]
fn similarities_are_the_cosines_of_what_the_engine_embeds() {
    for name in ["bert-embedding", "bert-embedding-first"] {
        let folder = scratch();
        let engine = Engine::new(config(folder.path(), &[name], &similarity_by(name))).expect("an engine");
        let texts = ["What is the capital of France?", "Paris.", "The user asks a question."].map(str::to_owned);
        let rows = engine.model(name).expect("a model").embed(texts.to_vec()).expect("embeddings");
        let rows = rows.into_iter().map(|row| row.into_iter().map(f64::from).collect());
        check_similarities(&engine, &texts.into_iter().zip(rows).collect::<Vec<_>>());
    }
}

#[test]
fn metrics_that_their_model_cannot_serve_are_refused_before_anything_is_sampled() {
    let request = r#"{"conversation": [{"role": "user", "content": "Hi"}], "candidates": ["a"], "window": 0}"#;
    let request: RankRequest = request.parse().expect("a request");
    for (model, metric, part) in [
        (
            "llama-labels",
            "kind = \"reward_model\"",
            "label is missing: model `llama-labels` has the labels helpfulness",
        ),
        ("llama-labels", "kind = \"reward_model\"\nlabel = \"wit\"", "there is no label `wit`"),
        ("llama-labels", "kind = \"reward_model\"\nlabel = 5", "there is no label 5"),
        ("llama-labels", "kind = \"process_reward\"", "scores whole texts, not tokens"),
        ("llama", "kind = \"reward_model\"", "a language model without a head of scores"),
        ("llama-labels", "kind = \"similarity\"", "gives scores, and an embedding is asked of it"),
        ("llama-labels", "kind = \"implicit_reward\"\nreference = \"llama-labels\"", "gives scores instead of tokens"),
    ] {
        let rest = format!("[[metrics]]\nmodel = \"{model}\"\n{metric}\n");
        let folder = scratch();
        let engine = Engine::new(config(folder.path(), &[model], &rest)).expect("an engine");
        let error = engine.rank(request.clone(), RankOptions::default()).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}
