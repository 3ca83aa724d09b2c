//! Replies in JSON by the real model.

use serde_json::{Value, json};

use super::*;
use crate::decode::constraint::Constraints;
use crate::decode::constraint::JsonSchema;
use crate::message::{Message, Role};
use crate::model::tokenizer::RenderOptions;

const LONGEST: usize = 40;

fn extraction() -> Arc<JsonSchema> {
    let text = json!({"type": "string", "maxLength": LONGEST});
    let properties = json!({"thought": text, "final_completion": text});
    let required = ["thought", "final_completion"];
    let schema =
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    Arc::new(JsonSchema { name: "extraction".into(), schema })
}

/// Twenty questions; the model has to be asked for JSON, but isn't good at it.
fn prompts() -> Vec<Vec<u32>> {
    let tasks = ["a poem about rain", "the capital of France", "a function that adds two numbers", "a short letter"];
    let forms = ["", " Be brief.", " Think first.", " Answer in French.", " Use \"quotes\" and \\ backslashes."];
    let ask = |task: &str, form: &str| {
        let text = format!(
            "Give me {task}.{form} Reply with one JSON object with the keys, in this order, \"thought\", \"final_completion\"."
        );
        let chat = [Message::new(Role::User, text)];
        smollm2().tokenizer().encode_chat(&chat, &RenderOptions::default()).expect("a prompt").tokens
    };
    tasks.iter().flat_map(|task| forms.map(|form| ask(task, form))).collect()
}

/// Queues a reply in JSON, or a free one.
fn queue(decoder: &mut Decoder, constraints: &mut Constraints, prompt: &[u32], seed: u64, constrained: bool) {
    let folder = Arc::clone(decoder.folder());
    let schema = constrained.then(extraction);
    let start = |schema| constraints.start(schema, folder.tokenizer(), &folder.stop_tokens()).expect("compiled");
    let constraint = schema.as_ref().map(start);
    // Some greedily, for that is how extractors sample.
    let sampling = if seed.is_multiple_of(2) { SamplingOptions::greedy() } else { SamplingOptions::default() };
    // A character takes up to four tokens, so every document has room.
    let max_tokens = if constrained { 8 * LONGEST + 40 } else { 24 };
    let options = GenerateOptions { max_tokens, seed, sampling, schema, ..GenerateOptions::default() };
    generate_within(decoder, prompt, options, constraint);
}

#[test]
fn extractions_all_parse() {
    let (mut decoder, mut constraints) = (decoder(2, AMPLE, LONG), Constraints::default());
    for (seed, prompt) in (0..).zip(prompts()) {
        queue(&mut decoder, &mut constraints, &prompt, seed, true);
    }
    let mut count = 0;
    for ended in finish(&mut decoder) {
        ended.result.expect("no error");
        let AnyReader::Generate(reader) = ended.reader else { panic!("not a reply") };
        let document: Value = serde_json::from_str(&reader.text).unwrap_or_else(|e| panic!("{e}: {}", reader.text));
        let members = document.as_object().expect("an object");
        assert_eq!(members.keys().collect::<Vec<_>>(), ["thought", "final_completion"]);
        for text in members.values() {
            assert!(text.as_str().expect("a text").chars().count() <= LONGEST, "{text}");
        }
        count += 1;
    }
    assert_eq!(count, 20);
}

#[test]
fn replies_in_json_and_free_ones_are_the_same_together_and_alone() {
    let prompts = &prompts()[..6];
    let constrained = |seed: u64| seed % 3 != 2;
    let alone: Vec<_> = (0..)
        .zip(prompts)
        .map(|(seed, prompt)| {
            let (mut decoder, mut constraints) = (decoder(2, AMPLE, LONG), Constraints::default());
            queue(&mut decoder, &mut constraints, prompt, seed, constrained(seed));
            finish(&mut decoder).into_iter().map(reply).next().expect("one reply")
        })
        .collect();
    for (threads, kv_cache) in [(2, AMPLE), (1, 40 * smollm2().block_bytes())] {
        let (mut decoder, mut constraints) = (decoder(threads, kv_cache, SHORT), Constraints::default());
        for (seed, prompt) in (0..).zip(prompts) {
            queue(&mut decoder, &mut constraints, prompt, seed, constrained(seed));
        }
        let together: Vec<_> = finish(&mut decoder).into_iter().map(reply).collect();
        assert!(together == alone, "{threads} threads, {kv_cache} bytes");
    }
}
