//! Chat templates with habits of their own on the real model: no system message, a date, reasoning opened by the prompt.

use crate::common::{MODEL, ModelCopy, config_with, fresh, user};
use foreturn::chat::{Message, Role};
use foreturn::config::ModelConfig;
use foreturn::{Config, ErrorKind, RankOptions, RankRequest, Ranking};
use serde_json::json;

/// Prints the date, takes no system message, and has arguments of its own.
const TEMPLATE: &str = "\
{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
<|im_start|>{{ strftime_now('%d %b %Y') }} {{ mood }}\n\
{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% if reason %}<think>\n{% endif %}{% endif %}";

const RANKING: &str = "[rollout]\nwindow = 1\nsamples = 2\nmax_user_tokens = 8\nmax_policy_tokens = 8\n\
    [[metrics]]\nkind = \"token_amount\"\n[[metrics]]\nkind = \"helpfulness\"\nmin_mass = 0.0\n";

/// The real model with that template. `settings` go into its section of the configuration.
fn model(rest: &str, settings: &str) -> (ModelCopy, Config) {
    let copy = ModelCopy::new();
    copy.write("chat_template.jinja", TEMPLATE);
    let mut config = config_with(copy.path(), rest);
    let settings = format!("path = {:?}\n{settings}", copy.path().display().to_string());
    config.models.insert(MODEL.into(), toml::from_str(&settings).expect("settings"));
    (copy, config)
}

fn rank(config: Config) -> foreturn::Result<Ranking> {
    let engine = fresh(config).engine;
    let request = json!({"conversation": [user("Write me a poem.")], "candidates": ["About what?", "No."], "seed": 7,
        "goal": {"prompt": "A poem about my late dog."}});
    let request: RankRequest = request.to_string().parse().expect("a request");
    engine.rank(request, RankOptions::default())
}

#[test]
fn a_template_without_system_messages_gets_ours_in_front_and_its_date_is_recorded() {
    let settings = "date = \"2024-07-26\"\ntemplate_arguments = { mood = \"calm\" }";
    let (_copy, config) = model(RANKING, settings);
    let ranking = rank(config.clone()).expect("a ranking");
    assert!(ranking.complete && ranking.candidates.iter().all(|candidate| candidate.excluded == 0));
    for model in ranking.models.values() {
        assert_eq!(model.date.as_deref(), Some("2024-07-26T00:00:00"));
    }

    let engine = fresh(config).engine;
    let prompt = engine.model(MODEL).expect("a model").render(vec![user("Hi")]).expect("a prompt");
    assert!(prompt.starts_with("<|im_start|>26 Jul 2024 calm\n<|im_start|>user\nHi"), "{prompt}");
    // A conversation of the caller's is rendered as transformers would, error included.
    let system = vec![Message::new(Role::System, "Be terse."), user("Hi")];
    let error = engine.model(MODEL).expect("a model").render(system).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().ends_with("System role not supported"), "{error}");
}

#[test]
fn a_reply_cut_off_in_reasoning_that_the_prompt_opened_shows_nothing() {
    let settings = "date = \"2024-07-26\"\ntemplate_arguments = { reason = true }";
    let (_copy, config) = model(RANKING, settings);
    let engine = fresh(config.clone()).engine;
    let options = foreturn::decode::GenerateOptions { max_tokens: 4, ..Default::default() };
    let reply = engine.model(MODEL).expect("a model").generate(vec![user("Hi")], options).unwrap();
    assert!(!reply.text.contains("<think>"), "the text of a plain request is what was sampled: {}", reply.text);
    drop(engine);

    // In a ranking it is reasoning, and a simulated user who only reasons has said nothing.
    let error = rank(config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ModelOutput);
    assert!(error.to_string().contains("wrote nothing (reply \"<think>\\n"), "{error}");
}

#[test]
fn a_wrong_date_or_template_is_refused_before_anything_is_loaded() {
    let (_copy, mut config) = model("", "date = \"26 Jul 2024\"");
    let error = foreturn::Engine::new(config.clone()).expect_err("refused").to_string();
    assert!(error.contains("date") && error.contains("2024-07-26"), "{error}");
    let model = config.models.get_mut(MODEL).and_then(ModelConfig::as_local_mut).expect("the model");
    (model.date, model.template) = (None, Some("rag".into()));
    let engine = fresh(config).engine;
    let error = engine.model(MODEL).expect("a model").render(vec![user("Hi")]).unwrap_err().to_string();
    assert!(error.contains("no chat template `rag`"), "{error}");
}
