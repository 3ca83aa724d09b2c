//! GGUF files as they should be, and what is refused of them.

mod hostile;

use super::interpret;
use super::parse::{Value, parse};
use crate::ErrorKind;
use crate::export::checkpoint::{Content, RowOrder};
use crate::export::format::GGUF_FORMATS;
use crate::export::testing::{GgufBuilder, HIDDEN, VOCAB, tiny_gguf};

fn made(name: &str, builder: &GgufBuilder) -> serde_json::Value {
    let checkpoint = interpret("m.gguf", &builder.build()).unwrap();
    let file = checkpoint.tokenizer.iter().find(|file| file.name == name).unwrap();
    let Content::Made(content) = &file.content else { panic!("{name} comes from the metadata") };
    serde_json::from_slice(content).unwrap()
}

type Change = fn(&mut GgufBuilder) -> &mut GgufBuilder;

fn refusal(builder: &GgufBuilder) -> (ErrorKind, String) {
    let error = interpret("m.gguf", &builder.build()).unwrap_err();
    assert!(error.to_string().starts_with("m.gguf"), "{error}");
    (error.kind(), error.to_string())
}

#[test]
fn metadata_of_every_type_is_read() {
    let mut builder = GgufBuilder::default();
    builder.raw("i8", 1, &[0xff]).raw("u16", 2, &[1, 2]).raw("u64", 10, &u64::MAX.to_le_bytes());
    builder.raw("f64", 12, &0.5f64.to_le_bytes()).flag("flag", true).texts("texts", &["x", "", "yz"]);
    let file = builder.build();
    let gguf = parse("m.gguf", &file).unwrap();
    assert!(matches!(gguf.metadata["i8"], Value::Signed(-1)));
    assert!(matches!(gguf.metadata["u16"], Value::Unsigned(513)));
    assert!(matches!(gguf.metadata["u64"], Value::Unsigned(u64::MAX)));
    assert!(matches!(gguf.metadata["f64"], Value::Float(0.5)));
    assert!(matches!(gguf.metadata["flag"], Value::Bool(true)));
    let texts: Vec<_> = gguf.metadata["texts"].array().unwrap().iter().filter_map(Value::text).collect();
    assert_eq!(texts, ["x", "", "yz"]);
}

#[test]
fn a_checkpoint_gets_transformers_names_and_shapes() {
    let checkpoint = interpret("m.gguf", &tiny_gguf().build()).unwrap();
    let embedding = &checkpoint.tensors["model.embed_tokens.weight"];
    assert_eq!(embedding.shape, [VOCAB, HIDDEN]);
    let query = &checkpoint.tensors["model.layers.0.self_attn.q_proj.weight"];
    assert_eq!((query.format.name, query.rows), ("Q4_0", RowOrder::InterleavedHeads { head_size: 16 }));
    assert_eq!(checkpoint.tensors["model.layers.1.self_attn.v_proj.weight"].rows, RowOrder::Standard);
    assert_eq!(checkpoint.config.size("vocab_size").unwrap(), VOCAB);
    assert!(checkpoint.config.flag_or("tie_word_embeddings", false).unwrap());
    assert_eq!((checkpoint.special.bos, checkpoint.special.eos), (Some(0), vec![1]));
}

#[test]
fn the_tokenizer_is_rebuilt() {
    let tokenizer = made("tokenizer.json", &tiny_gguf());
    let loaded = tokenizers::Tokenizer::from_bytes(tokenizer.to_string()).unwrap();
    let encoding = loaded.encode("ab<tool>b</s>", true).unwrap();
    assert_eq!(encoding.get_ids(), [4, 5, 3, 1], "no BOS is added, added tokens stay whole");
    assert_eq!(
        loaded.decode(&[4, 5, 1], true).unwrap(),
        "ab<tool>",
        "control tokens are special, user-defined ones not"
    );
    assert_eq!(tokenizer["pre_tokenizer"]["pretokenizers"][0]["type"], "Digits");

    let config = made("tokenizer_config.json", &tiny_gguf());
    assert_eq!(config["bos_token"], "<s>");
    assert_eq!(config["chat_template"], "{{ messages[0].content }}");
    assert_eq!(config["added_tokens_decoder"]["5"]["special"], false);
}

#[test]
fn bos_and_eos_are_added_where_the_file_says() {
    let mut builder = tiny_gguf();
    builder.flag("tokenizer.ggml.add_bos_token", true).flag("tokenizer.ggml.add_eos_token", true);
    let loaded = tokenizers::Tokenizer::from_bytes(made("tokenizer.json", &builder).to_string()).unwrap();
    assert_eq!(loaded.encode("a", true).unwrap().get_ids(), [0, 2, 1]);
    assert_eq!(loaded.encode("a", false).unwrap().get_ids(), [2]);
}

#[test]
fn llama_bpe_adds_a_bos_unless_told_otherwise() {
    let mut builder = tiny_gguf();
    builder.text("tokenizer.ggml.pre", "llama-bpe");
    let loaded = tokenizers::Tokenizer::from_bytes(made("tokenizer.json", &builder).to_string()).unwrap();
    assert_eq!(loaded.encode("ab", true).unwrap().get_ids(), [0, 4]);
}

#[test]
fn named_templates_become_a_list() {
    let mut builder = tiny_gguf();
    builder.texts("tokenizer.chat_templates", &["tool_use"]).text("tokenizer.chat_template.tool_use", "T");
    let templates = &made("tokenizer_config.json", &builder)["chat_template"];
    assert_eq!(templates[0]["name"], "default");
    assert_eq!(templates[1], serde_json::json!({"name": "tool_use", "template": "T"}));
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let cases: &[(&str, Change)] = &[
        ("`general.architecture` is `mamba`", |b| b.text("general.architecture", "mamba")),
        ("`tokenizer.ggml.pre` is `x-pre`", |b| b.text("tokenizer.ggml.pre", "x-pre")),
        ("`gpt-2`, `llama-bpe`, ", |b| b.text("tokenizer.ggml.pre", "x-pre")),
        ("`tokenizer.ggml.model` is `bert`", |b| b.text("tokenizer.ggml.model", "bert")),
        ("`llama.expert_count` is 8", |b| b.uint("llama.expert_count", 8)),
        ("tensor `x` is stored as Q8_K", |b| b.tensor("x", &[256], 15, vec![0; 292])),
        ("tensor `x` is stored as number 77", |b| b.tensor("x", &[256], 77, vec![0; 210])),
        ("partial rotary", |b| b.uint("llama.attention.key_length", 16).uint("llama.rope.dimension_count", 8)),
        ("heads of two sizes", |b| b.uint("llama.attention.key_length", 16).uint("llama.attention.value_length", 8)),
    ];
    for (expected, change) in cases {
        let mut builder = tiny_gguf();
        change(&mut builder);
        let (kind, message) = refusal(&builder);
        assert_eq!(kind, ErrorKind::Unsupported, "{message}");
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_key() {
    let cases: &[(&str, Change)] = &[
        ("`general.architecture` is missing", |b| b.remove("general.architecture")),
        ("`tokenizer.ggml.merges`: merge 0 is not two tokens", |b| b.texts("tokenizer.ggml.merges", &["ab"])),
        ("make no tokenizer", |b| b.texts("tokenizer.ggml.merges", &["a z"])),
        ("tokens 2 and 5 are the same", |b| b.texts("tokenizer.ggml.tokens", &["<s>", "</s>", "a", "b", "ab", "a"])),
        ("2 types for 6 tokens", |b| b.ints("tokenizer.ggml.token_type", &[1, 1])),
        ("7 is beyond the vocabulary of 6", |b| b.uint("tokenizer.ggml.eos_token_id", 7)),
        ("`llama.attention.head_count` is 0", |b| b.uint("llama.attention.head_count", 0)),
        ("has 32 rows of Q4_0, which 3 heads", |b| b.uint("llama.attention.head_count", 3)),
        ("`general.alignment`", |b| b.uint("general.alignment", 24)),
        ("nested more than", |b| {
            b.raw("x", 9, &[9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat().repeat(99))
        }),
        ("values of type 13 do not exist", |b| b.raw("x", 13, &[])),
        ("is not UTF-8", |b| b.raw("x", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])),
        ("tensor `x` has 0 dimensions", |b| b.tensor("x", &[], 0, vec![])),
        ("tensor `x` has a dimension of 0", |b| b.tensor("x", &[0], 0, vec![])),
        ("has a dimension of 4294967296", |b| b.tensor("x", &[1 << 32, 1 << 32], 0, vec![])),
        ("rows of 33 elements do not fill Q8_0 blocks", |b| b.tensor("x", &[33, 32], 8, vec![0; 34 * 33])),
        ("beyond the file's", |b| b.tensor("x", &[1 << 40], 0, vec![])),
        ("tensor `output_norm.weight` is there twice", |b| b.tensor("output_norm.weight", &[8], 0, vec![0; 32])),
    ];
    for (expected, change) in cases {
        let mut builder = tiny_gguf();
        change(&mut builder);
        let (kind, message) = refusal(&builder);
        assert_eq!(kind, ErrorKind::InvalidModel, "{message}");
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
    }
}

/// `tests/reference/make_gguf_blocks.py` writes random blocks of each form, and beside them what gguf-py widens them to.
#[test]
fn every_form_widens_to_ggmls_values_bit_for_bit() {
    let file = include_bytes!("../../../../tests/fixtures/gguf/blocks.gguf");
    let parsed = parse("blocks.gguf", file).unwrap();
    let widened = |name: &str| {
        let tensor = parsed.tensors.iter().find(|tensor| tensor.name == name).unwrap();
        let mut values = vec![0.0; tensor.shape.iter().product()];
        (tensor.format.widen)(&file[tensor.offset..tensor.offset + tensor.bytes], &mut values);
        (tensor.format.name, values)
    };
    for format in GGUF_FORMATS.into_iter().filter(|format| format.block_elements > 1) {
        let (stored_as, values) = widened(format.name);
        let (_, expected) = widened(&format!("{}.values", format.name));
        assert_eq!((stored_as, values.len()), (format.name, expected.len()));
        for (index, (value, expected)) in values.iter().zip(&expected).enumerate() {
            assert_eq!(value.to_bits(), expected.to_bits(), "{} {index}: {value} {expected}", format.name);
        }
    }
}

#[test]
fn a_part_of_a_model_is_called_so() {
    let cases: [(Change, &str); 4] = [
        (|gguf| gguf.raw("split.count", 2, &[2, 0]).raw("split.no", 2, &[1, 0]), "part 2 of a model in 2 files"),
        (|gguf| gguf.raw("split.count", 2, &[3, 0]), "llama-gguf-split --merge"),
        (|gguf| gguf.text("general.type", "adapter"), "llama-export-lora"),
        (|gguf| gguf.text("general.type", "mmproj"), "mmproj"),
    ];
    for (change, expected) in cases {
        let mut gguf = tiny_gguf();
        change(&mut gguf);
        let (kind, message) = refusal(&gguf);
        assert_eq!(kind, ErrorKind::Unsupported);
        assert!(message.contains(expected), "{message}");
    }
    let mut whole = tiny_gguf();
    whole.raw("split.count", 2, &[1, 0]).text("general.type", "model");
    interpret("m.gguf", &whole.build()).unwrap();
}
