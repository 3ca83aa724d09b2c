//! docs/configuration.md, held to the code: its tables have the keys that `foreturn.toml` may have, in the sections that may
//! have them, with their defaults; its examples are read.
//!
//! The keys come from the code itself. A section refuses an unknown key and lists those that it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use foreturn::config::{
    ByteSize, Config, Decisions, JsonMode, MaxTokensField, MetricConfig, ModelConfig, OnEchoedKey, RemoteConfig,
    RolesConfig, RuntimeConfig,
};
use foreturn::decode::DecodeOptions;
use foreturn::rank::{AllocationSettings, DEFAULT_CONFIDENCE, DEFAULT_FIRST, RankPlan};
use foreturn::reward::MetricSettings;
use serde_json::{Map, Value, json};

const DOCUMENT: &str = include_str!("../../docs/configuration.md");
const REMOTE_MODELS: &str = include_str!("../../docs/remote-models.md");

// ---- the document ----

/// The headings of the document's tables.
const FILE: &str = "The file";
const RUNTIME: &str = "`[runtime]`";
const EVERY_MODEL: &str = "`[models.NAME]`: every model";
const LOCAL_MODEL: &str = "`[models.NAME]`: a local model";
const REMOTE_MODEL: &str = "`[models.NAME]`: a remote model";
const ROLES: &str = "`[roles]`";
const ROLLOUT: &str = "`[rollout]`";
const ALLOCATION: &str = "`allocation`";
const BUDGET: &str = "`budget`";
const METRICS: &str = "`[[metrics]]`";
const EXTRACT: &str = "`extract`";

/// By heading, the keys of the tables below it, each with its default as the table states it.
type Tables = BTreeMap<String, BTreeMap<String, String>>;

/// The tables of a document whose first column is a key. `default` is the place of the column with the default.
fn tables(document: &str, default: usize) -> Tables {
    let mut tables = Tables::new();
    let mut heading = String::new();
    for line in document.lines() {
        if let Some(title) = line.strip_prefix('#') {
            title.trim_start_matches('#').trim().clone_into(&mut heading);
        }
        let Some(row) = line.strip_prefix("| `") else { continue };
        let cells: Vec<&str> = row.split(" |").map(str::trim).collect();
        let key = cells[0].trim_end_matches('`').to_owned();
        let cell = cells.get(default).unwrap_or_else(|| panic!("{heading}: {line}: no default"));
        // Inside a table, a bar is written with a backslash.
        let stated = cell.replace("\\|", "|");
        let before = tables.entry(heading.clone()).or_default().insert(key, stated);
        assert_eq!(before, None, "{heading}: two rows for one key: {line}");
    }
    tables
}

/// The blocks of TOML in the document.
fn examples() -> Vec<&'static str> {
    DOCUMENT.split("```toml\n").skip(1).map(|rest| rest.split_once("```").expect("the block's end").0).collect()
}

// ---- the code ----

fn parse(toml: &str) -> foreturn::Result<Config> {
    Config::from_toml(toml, Path::new("/base"))
}

fn plan(toml: &str) -> RankPlan {
    parse(toml).and_then(|config| config.plan(Arc::new(|text: &str| text.len()))).expect(toml)
}

/// The keys that a message about an unknown one lists.
fn listed(message: &str) -> BTreeSet<String> {
    let (_, list) = message.split_once("unknown field `no_such_key`, expected ").unwrap_or_else(|| panic!("{message}"));
    list.lines().next().unwrap_or_default().split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The keys that a section of the file knows.
fn keys(section: &str) -> BTreeSet<String> {
    listed(&parse(&format!("{section}\nno_such_key = 1\n")).expect_err("an unknown key").to_string())
}

/// The keys of a value's fields.
fn fields(value: &impl serde::Serialize) -> BTreeSet<String> {
    object(value).keys().cloned().collect()
}

fn object(value: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        other => panic!("{other:?} is not an object"),
    }
}

const LOCAL: &str = "[models.m]\npath = \"m\"";
const ENDPOINT: &str = "[models.m]\nbase_url = \"http://localhost:8000/v1\"\nmodel = \"m\"";

/// A value that a key of `[models.NAME]` may have, other than its default.
fn value_of(key: &str) -> &'static str {
    match key {
        "batching" => "\"padded\"",
        "cache_type" | "dtype" => "\"float32\"",
        "providers" => "[\"webgpu\", \"cpu\"]",
        "on_unavailable" => "\"fallback\"",
        "provider_options" => "{ cuda = { device_id = 1 } }",
        "compat" => "\"transformers\"",
        "bos" => "\"double\"",
        "date" => "2024-07-26",
        "template" | "api_key_env" | "version" => "\"NAME\"",
        "template_arguments" | "headers" => "{ name = \"value\" }",
        "max_tokens_field" => "\"max_completion_tokens\"",
        "json_mode" => "\"none\"",
        "decisions" => "\"sglang\"",
        "on_echoed_key" => "\"fail\"",
        "send_seed" | "logprobs" => "false",
        "temperature" | "top_p" | "min_p" | "repetition_penalty" => "0.5",
        "top_k"
        | "max_tokens"
        | "timeout_s"
        | "connect_timeout_s"
        | "max_retries"
        | "max_concurrent"
        | "requests_per_minute" => "7",
        _ => {
            panic!("[models.NAME] has a new key, `{key}`: give a value for it here, and a row in docs/configuration.md")
        }
    }
}

/// The keys of `[models.NAME]`, by the heading under which they belong: the code is asked which models take them.
fn keys_of_models() -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut by_heading = BTreeMap::from([
        (LOCAL_MODEL, BTreeSet::from(["path".to_owned()])),
        (REMOTE_MODEL, BTreeSet::from(["base_url".to_owned(), "model".to_owned()])),
    ]);
    let known: BTreeSet<String> = keys(LOCAL).union(&keys(ENDPOINT)).cloned().collect();
    for key in known.into_iter().filter(|key| !["path", "base_url", "model"].contains(&key.as_str())) {
        let taken = |model: &str| parse(&format!("{model}\n{key} = {}\n", value_of(&key))).is_ok();
        let heading = match (taken(LOCAL), taken(ENDPOINT)) {
            (true, true) => EVERY_MODEL,
            (true, false) => LOCAL_MODEL,
            (false, true) => REMOTE_MODEL,
            (false, false) => panic!("no model takes {key} = {}", value_of(&key)),
        };
        by_heading.entry(heading).or_default().insert(key);
    }
    by_heading
}

/// The keys of `[[metrics]]` that all kinds have. An unknown key there is a setting of the kind.
fn keys_of_metrics() -> BTreeSet<String> {
    let extract = parse("[[metrics]]\nkind = \"bleu\"\nextract = \"document\"").expect("a metric").metrics;
    fields(&MetricConfig {
        kind: "bleu".into(),
        name: Some("overlap".into()),
        weight: Some(1.0),
        extract: extract.expect("a list").remove(0).extract,
        settings: MetricSettings::default(),
    })
}

/// The keys of `extract` as a table, with those that are absent.
fn keys_of_extract() -> BTreeSet<String> {
    let text = "[[metrics]]\nkind = \"bleu\"\nextract = { kind = \"document\" }";
    fields(&parse(text).expect("a metric").metrics.expect("a list").remove(0).extract)
}

#[test]
fn the_tables_have_the_keys_of_the_code() {
    let mut expected = keys_of_models();
    let settings = |toml: &str| listed(&toml::from_str::<AllocationSettings>(toml).expect_err("unknown").to_string());
    expected.extend([
        (FILE, keys("")),
        (RUNTIME, keys("[runtime]")),
        (ROLES, keys("[roles]")),
        (ROLLOUT, keys("[rollout]")),
        (ALLOCATION, settings("no_such_key = 1")),
        (BUDGET, settings("[budget]\nno_such_key = 1")),
        (METRICS, keys_of_metrics()),
        (EXTRACT, keys_of_extract()),
    ]);
    // What serde lists is what there is: every field that a section writes is among its keys.
    assert!(expected[RUNTIME].is_superset(&fields(&RuntimeConfig::default())));
    assert!(expected[ROLES].is_superset(&fields(&RolesConfig::default())));
    assert!(expected[FILE].is_superset(&fields(&Config::default())));

    let mut documented = tables(DOCUMENT, 2);
    for (heading, keys) in expected {
        let table = documented.remove(heading).unwrap_or_else(|| panic!("no table under the heading {heading}"));
        let written: BTreeSet<String> = table.into_keys().collect();
        let missing: Vec<_> = keys.difference(&written).collect();
        let unknown: Vec<_> = written.difference(&keys).collect();
        assert!(missing.is_empty(), "docs/configuration.md, {heading}: no row for {missing:?}");
        assert!(unknown.is_empty(), "docs/configuration.md, {heading}: the code has no key {unknown:?}");
    }
    assert!(documented.is_empty(), "tables that nothing checks: {:?}", documented.keys());
}

/// The defaults that the code gives away, by heading.
fn defaults() -> BTreeMap<&'static str, Map<String, Value>> {
    let empty = plan("");
    let json = plan("[rollout]\nrole_style = \"json\"");
    assert_eq!(json.rollout.user.max_tokens, foreturn::rollout::DEFAULT_JSON_USER_TOKENS);
    let metric = plan("[[metrics]]\nkind = \"interactivity\"").metrics.remove(0);
    let model = ModelConfig::local("m");
    let (mut every, mut local) = (object(&model.sampling()), object(&model));
    every.retain(|_, value| !value.is_null());
    local.retain(|key, value| !value.is_null() && key != "path");
    let of = |value: Value| object(&value);
    BTreeMap::from([
        (FILE, of(json!({"seed": empty.seed, "on_metric_failure": empty.on_metric_failure}))),
        (RUNTIME, object(&RuntimeConfig::default())),
        (EVERY_MODEL, every),
        (LOCAL_MODEL, local),
        (
            REMOTE_MODEL,
            of(json!({
                "max_tokens_field": MaxTokensField::default(),
                "decisions": Decisions::default(),
                "json_mode": JsonMode::default(),
                "on_echoed_key": OnEchoedKey::default(),
                "headers": RemoteConfig::new("", "").headers,
            })),
        ),
        (
            ROLLOUT,
            of(json!({
                "window": empty.window,
                "samples": empty.samples,
                "role_style": foreturn::rollout::RoleStyle::default(),
                "stop_signal": foreturn::rollout::simulator::DEFAULT_STOP_SIGNAL,
                "on_role_confusion": empty.rollout.on_role_confusion,
                "common_random_numbers": empty.rollout.common_random_numbers,
                "max_user_tokens": empty.rollout.user.max_tokens,
                "max_policy_tokens": empty.rollout.policy.max_tokens,
                "on_failure": empty.on_rollout_failure,
                "allocation": empty.allocation.strategy,
                "prune_after_first_turn": empty.prune_after_first_turn,
            })),
        ),
        (
            ALLOCATION,
            of(json!({
                "strategy": AllocationSettings::default().strategy,
                "confidence": DEFAULT_CONFIDENCE,
                "first": DEFAULT_FIRST,
            })),
        ),
        (METRICS, of(json!({"weight": metric.weight}))),
    ])
}

/// The value in a cell: the first code in it that is a value of TOML.
fn stated(cell: &str) -> Option<Value> {
    let mut codes = cell.split('`').skip(1).step_by(2);
    codes.find_map(|code| {
        let table: toml::Table = format!("value = {code}").parse().ok()?;
        serde_json::to_value(&table["value"]).ok()
    })
}

/// Equal, with 1 for 1.0.
fn equal(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// Defaults that the code applies where no test sees them, beside those of `extract` and of endpoints.
const UNREAD: [(&str, &str); 2] = [(ROLLOUT, "show_reasoning"), (ALLOCATION, "margin")];

#[test]
fn the_tables_state_the_defaults_of_the_code() {
    let tables = tables(DOCUMENT, 2);
    let mut unread = BTreeSet::new();
    for (heading, table) in &tables {
        let valued = table.iter().filter(|(_, cell)| stated(cell).is_some());
        unread.extend(valued.map(|(key, _)| (heading.as_str(), key.as_str())));
    }
    for (heading, defaults) in defaults() {
        for (key, default) in defaults.into_iter().filter(|(_, default)| !default.is_null()) {
            let cell = tables[heading].get(&key).unwrap_or_else(|| panic!("{heading}: no row for {key}"));
            let stated = stated(cell).unwrap_or_else(|| panic!("{heading}: {key}: {cell:?} states no value"));
            unread.retain(|row| *row != (heading, key.as_str()));
            assert!(
                equal(&stated, &default),
                "docs/configuration.md, {heading}: {key} is {stated}, in the code {default}"
            );
        }
    }
    let size = stated(&tables[RUNTIME]["kv_cache"]).expect("a size");
    let size: ByteSize = size.as_str().expect("a text").parse().expect("a size");
    assert_eq!(size.0 as usize, DecodeOptions::default().kv_cache, "kv_cache");
    unread.remove(&(RUNTIME, "kv_cache"));
    unread.retain(|(heading, _)| *heading != REMOTE_MODEL && *heading != EXTRACT);
    assert_eq!(Vec::from_iter(unread), UNREAD, "defaults that the document states and nothing compares");

    let json = format!("`{}`", foreturn::rollout::DEFAULT_JSON_USER_TOKENS);
    assert!(tables[ROLLOUT]["max_user_tokens"].contains(&json), "{}", tables[ROLLOUT]["max_user_tokens"]);
    let end = foreturn::rollout::END_OF_CONVERSATION;
    assert!(tables[ROLLOUT]["stop_signal"].contains(end), "{}", tables[ROLLOUT]["stop_signal"]);
}

/// The defaults of timeouts and retries are behind the endpoint. The two documents that state them agree.
#[test]
fn both_documents_say_the_same_of_remote_models() {
    let (here, there) = (tables(DOCUMENT, 2), tables(REMOTE_MODELS, 1));
    let (here, there) = (&here[REMOTE_MODEL], &there["Settings"]);
    assert_eq!(here.keys().collect::<Vec<_>>(), there.keys().collect::<Vec<_>>());
    for (key, cell) in there {
        let expected = match cell.trim_matches('`') {
            "" => "required",
            "none" => "{}",
            value => value,
        };
        assert_eq!(here[key].trim_matches('`'), expected, "{key}: here, and in docs/remote-models.md");
    }
}

#[test]
fn the_examples_are_read() {
    let examples = examples();
    assert!(!examples.is_empty());
    for example in &examples {
        plan(example);
    }
    // The first is complete: it ranks.
    let first = plan(examples[0]);
    assert!(!first.metrics.is_empty() && first.roles.models.len() > 2, "{:?}", first.roles);
}
