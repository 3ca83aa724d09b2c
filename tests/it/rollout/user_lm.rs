//! A model that was trained to be the user, beside one that wasn't.

use crate::common::models::{self, fixtures};
use foreturn::chat::Message;
use foreturn::config::{Config, ModelConfig};
use foreturn::model::ModelFolder;
use foreturn::model::tokenizer::RenderOptions;
use foreturn::rank::Ended;
use foreturn::{Engine, RankOptions, RankRequest, Ranking};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

#[derive(Deserialize)]
struct Case {
    messages: Vec<Message>,
    text: String,
    /// Absent where a message spells a control token, which transformers takes for one.
    tokens: Option<Vec<u32>>,
}

fn user_model() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    models::with_user(folder.path());
    folder
}

#[test]
fn prompts_are_what_its_tokenizer_renders() {
    let folder = user_model();
    let model = ModelFolder::open(folder.path().join("user")).expect("the model");
    let text = std::fs::read_to_string(fixtures("../user_lm/prompts.json")).expect("the prompts");
    let cases: Vec<Case> = serde_json::from_str(&text).expect("cases");
    assert_eq!(cases.iter().filter(|case| case.tokens.is_some()).count(), 2);
    for Case { messages, text, tokens } in cases {
        let encoded =
            model.tokenizer().encode_user_turn(&messages, &RenderOptions::default()).expect("a prompt").tokens;
        assert_eq!(model.tokenizer().decode(&encoded, false).expect("a text"), text);
        match tokens {
            Some(tokens) => assert_eq!(encoded, tokens),
            // What a message spells is text.
            None => assert_eq!(encoded.iter().filter(|&&token| model.tokenizer().is_control_token(token)).count(), 11),
        }
    }
}

#[test]
fn its_own_token_ends_the_conversation() {
    let folder = user_model();
    let settings = "
        [rollout]
        role_style = 'user_lm'
        stop_signal = '<extra_0>'
        window = 2
        samples = 24
        max_user_tokens = 24
        max_policy_tokens = 4
        [[metrics]]
        kind = 'token_amount'
    ";
    let mut config = Config::from_toml(&format!("{settings}\n[models.user]\npath = 'user'\n[models.policy]\npath = 'llama'\n[roles]\npolicy = 'policy'\nuser = 'user'\njudge = 'policy'"), folder.path()).expect("a configuration");
    // A random model hardly ever has a token among its likeliest; flatter odds bring it in.
    let user = config.models.get_mut("user").expect("the user's model");
    *user = ModelConfig { temperature: Some(4.0), ..user.clone() };
    let request = json!({
        "conversation": [{"role": "user", "content": "poem pls"}],
        "candidates": ["About what?"],
        "goal": {"prompt": "a poem about my dog"},
    });
    let request: RankRequest = request.to_string().parse().expect("a request");
    let engine = Engine::new(config).expect("an engine");
    let ranking: Ranking = engine.rank(request, RankOptions::default()).expect("a ranking");
    let rollouts = &ranking.candidates[0].rollouts;
    let left = rollouts.iter().filter(|rollout| rollout.ended == Ended::StopSignal).count();
    assert!(left > 0 && left < rollouts.len(), "{left} of {} left", rollouts.len());
    for message in rollouts.iter().flat_map(|rollout| &rollout.messages) {
        assert!(!message.content.contains("<extra_0>"), "{message:?}");
    }
}
