//! Replies of models that say anything: whatever the logits, a reply that ended by itself is a document of its schema.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

use super::Constraints;
use crate::decode::constraint::JsonSchema;
use crate::decode::reader::Finish;
use crate::decode::reader::{AnyReader, Generate};
use crate::decode::sampler::log_sum_exp;
use crate::decode::scheduler::{Next, Reader};
use crate::decode::{GenerateOptions, SamplingOptions};
use crate::model::tokenizer::Tokenizer;
use crate::{ErrorKind, Result};

/// More than any of the vocabularies has: models pad theirs.
const LOGITS: usize = 450;

/// A tokenizer of the tests, with another decoder if one is given.
fn tokenizer(file: &str, decoder: Option<Value>) -> Arc<Tokenizer> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file);
    let mut document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    if let Some(decoder) = decoder {
        document["decoder"] = decoder;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), document.to_string()).unwrap();
    Arc::new(Tokenizer::load(folder.path(), LOGITS).unwrap())
}

/// The kinds of vocabularies: a character for each byte; pieces with bytes where they don't reach, decoded in the ways of
/// T5 and of Llama 2. Each with a token that ends a turn.
static TOKENIZERS: LazyLock<[(Arc<Tokenizer>, u32); 3]> = LazyLock::new(|| {
    let llama = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    [
        (tokenizer("chat/bytes.tokenizer.json", None), "<|im_end|>"),
        (tokenizer("chat/pieces.tokenizer.json", None), "</s>"),
        (tokenizer("chat/pieces.tokenizer.json", Some(llama)), "<end_of_turn>"),
    ]
    .map(|(tokenizer, stop)| {
        let id = tokenizer.token_id(stop).unwrap();
        (tokenizer, id)
    })
});

fn schema(schema: Value) -> Arc<JsonSchema> {
    Arc::new(JsonSchema { name: "test".into(), schema })
}

/// Logits that depend on seed and position alone, and favour what ends texts, lists and objects a little.
fn logits(tokenizer: &Tokenizer, seed: u64, position: usize) -> Vec<f32> {
    let closing = |id| tokenizer.decode(&[id], false).is_ok_and(|text| text.contains(['"', ']', '}']));
    let noise = |id: u64| {
        let mixed = (seed ^ (position as u64) << 32 ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40
    };
    let logit = |id: u32| noise(u64::from(id)) as f32 / (1 << 22) as f32 + if closing(id) { 2.5 } else { 0.0 };
    (0..LOGITS as u32).map(logit).collect()
}

/// A reply to two tokens.
fn reply(kind: usize, schema: &Arc<JsonSchema>, sampling: &SamplingOptions, seed: u64, max: usize) -> Result<Generate> {
    let (tokenizer, stop) = &TOKENIZERS[kind];
    let constraint = Constraints::default().start(schema, tokenizer, &[*stop])?;
    let (sampling, schema) = (sampling.clone(), Some(Arc::clone(schema)));
    let options = GenerateOptions { max_tokens: max, sampling, seed, schema, ..GenerateOptions::default() };
    let mut tokens = vec![5, 6];
    let reader = Generate::new(options, tokens.len(), 4096, tokenizer, &[*stop], Some(constraint))?;
    let mut reader = AnyReader::Generate(Box::new(reader));
    loop {
        let position = reader.next_position();
        match reader.read(position, &tokens, &logits(tokenizer, seed, position))? {
            Next::Append(token) => tokens.push(token),
            _ => break,
        }
    }
    match reader {
        AnyReader::Generate(reader) => Ok(*reader),
        _ => unreachable!("it was one"),
    }
}

/// Schemas of the kinds that extractors and judges use, nested up to three levels deep.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string"})),
        (0usize..6).prop_map(|max| json!({"type": "string", "maxLength": max})),
        (-20i64..20, 0i64..200)
            .prop_map(|(from, more)| json!({"type": "integer", "minimum": from, "maximum": from + more})),
        Just(json!({"type": "number", "minimum": -1.5, "maximum": 10})),
        Just(json!({"type": "boolean"})),
        Just(json!({"enum": ["yes", "no", "\"quoted\" \\ é 😀", 3, null]})),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let array = (inner.clone(), 0usize..3, 0usize..3).prop_map(|(items, least, more)| {
            json!({"type": "array", "items": items, "minItems": least, "maxItems": least + more})
        });
        let object =
            (prop::collection::vec(inner, 1..4), any::<bool>()).prop_map(|(members, all)| object(members, all));
        prop_oneof![array, object]
    })
}

/// An object with these members, whose keys aren't in alphabetical order; the first alone is required, or all are.
fn object(members: Vec<Value>, all: bool) -> Value {
    let keys = ["zeta", "final \"answer\"", "a", "é"];
    let required = &keys[..if all { members.len() } else { 1 }];
    let properties: Map<String, Value> = keys.iter().map(|key| (*key).to_owned()).zip(members).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// Whether a document is one of these schemas'; keys of objects have to come in the schema's order.
fn satisfies(document: &Value, schema: &Value) -> bool {
    if let Some(options) = schema["enum"].as_array() {
        return options.contains(document);
    }
    let within = |number: f64| {
        schema["minimum"].as_f64().is_none_or(|least| number >= least)
            && schema["maximum"].as_f64().is_none_or(|most| number <= most)
    };
    match (schema["type"].as_str().unwrap(), document) {
        ("string", Value::String(text)) => {
            schema["maxLength"].as_u64().is_none_or(|most| text.chars().count() as u64 <= most)
        }
        ("integer", Value::Number(number)) => number.as_f64().is_some_and(|of| of.fract() == 0.0 && within(of)),
        ("number", Value::Number(number)) => within(number.as_f64().unwrap()),
        ("boolean", Value::Bool(_)) => true,
        ("array", Value::Array(items)) => {
            (schema["minItems"].as_u64().unwrap()..=schema["maxItems"].as_u64().unwrap())
                .contains(&(items.len() as u64))
                && items.iter().all(|item| satisfies(item, &schema["items"]))
        }
        ("object", Value::Object(members)) => {
            let properties = schema["properties"].as_object().unwrap();
            let known: Vec<&String> = properties.keys().filter(|key| members.contains_key(*key)).collect();
            members.keys().collect::<Vec<_>>() == known
                && schema["required"].as_array().unwrap().iter().all(|key| members.contains_key(key.as_str().unwrap()))
                && members.iter().all(|(key, member)| satisfies(member, &properties[key]))
        }
        _ => false,
    }
}

/// What holds of every constrained reply.
fn check(kind: usize, schema: &JsonSchema, reply: &Generate, max: usize) {
    let tokenizer = &TOKENIZERS[kind].0;
    assert!(reply.reply_tokens().iter().all(|id| !tokenizer.is_control_token(*id)), "{:?}", reply.tokens);
    match reply.finish {
        Some(Finish::Stop) => {
            let document: Value = serde_json::from_str(&reply.text).unwrap_or_else(|e| panic!("{e}: {}", reply.text));
            assert!(satisfies(&document, &schema.schema), "{} is none of {}", reply.text, schema.schema);
            assert_eq!(tokenizer.decode(reply.reply_tokens(), true).unwrap(), reply.text);
        }
        Some(Finish::Length) => assert_eq!(reply.tokens.len(), max),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn replies_that_end_by_themselves_satisfy_their_schema(
        root in schemas(), kind in 0usize..3, seed: u64, temperature in prop_oneof![Just(0.0f32), 0.3f32..2.0],
        top_p in prop_oneof![Just(1.0f32), 0.5f32..1.0], top_k in prop_oneof![Just(0usize), 1usize..20],
        penalty in prop_oneof![Just(1.0f32), 0.8f32..1.5],
    ) {
        let schema = schema(root);
        let sampling = SamplingOptions { temperature, top_p, top_k, repetition_penalty: penalty, ..SamplingOptions::default() };
        let reply = reply(kind, &schema, &sampling, seed, 200).unwrap();
        check(kind, &schema, &reply, 200);
    }

    /// Damaged schemas are followed or refused, and no harm is done.
    #[test]
    fn hostile_schemas_do_no_harm(root in schemas(), at: Index, key: Index, with: Index) {
        let mut text: Vec<char> = root.to_string().chars().collect();
        let damage = ["null", "{}", "[]", "-1", "1e300", "\"(((\"", "true", "{\"$ref\":\"#\"}"];
        let names = ["pattern", "$ref", "allOf", "anyOf", "minLength", "format", "patternProperties", "required", "type"];
        let member = format!("{{\"{}\":{},", key.get(&names), with.get(&damage));
        let open: Vec<usize> = (0..text.len()).filter(|&at| text[at] == '{').collect();
        let at = *at.get(&open);
        text.splice(at..=at, member.chars());
        let Ok(root) = serde_json::from_str(&text.into_iter().collect::<String>()) else { return Ok(()) };
        match reply(0, &schema(root), &SamplingOptions::default(), 1, 40) {
            Ok(_) => {}
            Err(error) => prop_assert!(matches!(error.kind(), ErrorKind::InvalidRequest | ErrorKind::Unsupported), "{error}"),
        }
    }
}

fn extraction(longest: usize) -> Arc<JsonSchema> {
    let text = json!({"type": "string", "maxLength": longest});
    let properties = json!({"thought": text, "final_completion": text});
    let required = ["thought", "final_completion"];
    let root = json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    schema(root)
}

#[test]
fn most_replies_end_and_equal_seeds_give_equal_bits() {
    let schema = extraction(60);
    let sampling = SamplingOptions::default();
    for kind in 0..3 {
        for seed in 0..20 {
            let once = reply(kind, &schema, &sampling, seed, 300).unwrap();
            assert_eq!(once.finish, Some(Finish::Stop), "{}", once.text);
            check(kind, &schema, &once, 300);
            let again = reply(kind, &schema, &sampling, seed, 300).unwrap();
            let bits = |reply: &Generate| reply.logprobs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!((&once.tokens, bits(&once)), (&again.tokens, bits(&again)));
        }
    }
}

#[test]
fn log_probabilities_are_those_of_the_free_model() {
    let schema = extraction(20);
    let reply = reply(0, &schema, &SamplingOptions { temperature: 0.5, ..SamplingOptions::default() }, 3, 300).unwrap();
    for (at, (token, logprob)) in reply.tokens.iter().zip(&reply.logprobs).enumerate() {
        let logits = logits(&TOKENIZERS[0].0, 3, at + 1);
        let expected = f64::from(logits[*token as usize]) - log_sum_exp(&logits).unwrap();
        assert!((f64::from(*logprob) - expected).abs() < 1e-5, "{at}: {logprob} is not {expected}");
    }
}

#[test]
fn a_document_that_is_cut_off_says_so() {
    let reply = reply(0, &extraction(60), &SamplingOptions::default(), 0, 9).unwrap();
    assert_eq!((reply.finish, reply.tokens.len()), (Some(Finish::Length), 9));
    assert!(serde_json::from_str::<Value>(&reply.text).is_err());
}

/// A document that may go on is ended by the model: one digit, or the end of the turn.
#[test]
fn a_number_ends_where_the_model_ends_its_turn() {
    let schema = schema(json!({"type": "integer", "minimum": 0, "maximum": 99_999_999}));
    for seed in 0..10 {
        let reply = reply(1, &schema, &SamplingOptions::default(), seed, 30).unwrap();
        let number: i64 = reply.text.parse().unwrap();
        assert!((0..=99_999_999).contains(&number));
        let ended = reply.tokens.len() > reply.reply_tokens().len();
        assert!(ended || reply.text.len() == 8, "{}", reply.text);
    }
}

#[test]
fn an_end_of_turn_that_spells_something_is_no_text() {
    let (tokenizer, _) = &TOKENIZERS[0];
    let quote = tokenizer.token_id("\"").unwrap();
    let mut constraints = Constraints::default();
    let schema = schema(json!({"type": ["string", "integer"]}));
    assert!(is_set(constraints.start(&schema, tokenizer, &[]).unwrap().allowed().unwrap(), quote));
    let mut other = Constraints::default().start(&schema, tokenizer, &[quote]).unwrap();
    assert!(!is_set(other.allowed().unwrap(), quote));
}

#[test]
fn a_vocabulary_that_cannot_spell_the_document_says_so() {
    let (tokenizer, _) = &TOKENIZERS[0];
    let quote = tokenizer.token_id("\"").unwrap();
    let mut constraint = Constraints::default().start(&schema(json!({"type": "string"})), tokenizer, &[quote]).unwrap();
    let error = constraint.allowed().expect_err("no text without a quote");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("`test`") && error.to_string().contains("no token of the model"), "{error}");
}

fn is_set(mask: &[u32], id: u32) -> bool {
    mask.get(id as usize / 32).is_some_and(|word| word & 1 << (id % 32) != 0)
}

#[test]
fn what_cannot_be_followed_is_refused_by_name() {
    let mut deep = json!({"type": "string"});
    for _ in 0..100 {
        deep = json!({"type": "array", "items": deep});
    }
    // Every definition leads to the next; compiled on a small stack, this would end the process.
    let chain: Map<String, Value> =
        (0..2000).map(|i| (format!("d{i}"), json!({"$ref": format!("#/$defs/d{}", i + 1)}))).collect();
    let long: Vec<String> = (0..10_000).map(|i| format!("option {i}")).collect();
    let cases = [
        (json!({"type": "text"}), "Invalid type"),
        (json!({"type": "string", "pattern": "("}), "regex"),
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems"),
        (json!({"type": "integer", "minimum": 2, "maximum": 1}), "Unsatisfiable"),
        (json!({"$ref": "https://example.com/schema.json"}), "$ref"),
        (json!({"$defs": chain, "$ref": "#/$defs/d0"}), "d2000"),
        (json!({"enum": long}), "bytes"),
        (deep, "64 levels"),
        (json!(true), "object"),
    ];
    for (root, reason) in cases {
        let refused = Constraints::default().start(&schema(root), &TOKENIZERS[0].0, &[TOKENIZERS[0].1]);
        let error = refused.err().expect(reason);
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
        let message = error.to_string();
        assert!(message.contains("`test`") && message.contains(reason) && message.len() < 500, "{message}");
    }
}

/// Of more schemas than are kept, all work, again and again.
#[test]
fn schemas_are_known_by_their_text() {
    let (tokenizer, stop) = &TOKENIZERS[0];
    let mut constraints = Constraints::default();
    for _ in 0..2 {
        for longest in 0..20 {
            let mut constraint = constraints.start(&extraction(longest), tokenizer, &[*stop]).unwrap();
            assert!(is_set(constraint.allowed().unwrap(), tokenizer.token_id("{").unwrap()));
        }
    }
    // The order of keys makes another schema of it.
    let both = |keys: [&str; 2]| {
        let null = json!({"type": "null"});
        let properties: Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), null.clone())).collect();
        schema(
            json!({"type": "object", "properties": properties, "required": ["a", "b"], "additionalProperties": false}),
        )
    };
    for keys in [["a", "b"], ["b", "a"]] {
        let mut constraint = constraints.start(&both(keys), tokenizer, &[*stop]).unwrap();
        for token in ["{", "\""] {
            constraint.accept(tokenizer.token_id(token).unwrap()).unwrap();
        }
        let allowed = constraint.allowed().unwrap();
        assert_eq!(
            ["a", "b"].map(|key| is_set(allowed, tokenizer.token_id(key).unwrap())),
            ["a", "b"].map(|key| key == keys[0])
        );
    }
}

#[test]
fn options_that_contradict_a_schema_are_refused() {
    let (tokenizer, stop) = &TOKENIZERS[0];
    let schema = extraction(5);
    let base = || GenerateOptions { schema: Some(Arc::clone(&schema)), ..GenerateOptions::default() };
    for options in
        [GenerateOptions { stop: vec!["x".into()], ..base() }, GenerateOptions { ignore_eos: true, ..base() }]
    {
        let constraint = Constraints::default().start(&schema, tokenizer, &[*stop]).unwrap();
        let error =
            Generate::new(options, 2, 100, tokenizer, &[*stop], Some(constraint)).err().expect("a contradiction");
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
}
