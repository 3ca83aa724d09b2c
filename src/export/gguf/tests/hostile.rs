//! GGUF files that are damaged, or made to do damage.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{Change, interpret, parse, refusal};
use crate::ErrorKind;
use crate::export::checkpoint::WeightFile;
use crate::export::class::Class;
use crate::export::quantize::Scheme;
use crate::export::testing::{GgufBuilder, tiny_gguf};

#[test]
fn overlapping_and_misaligned_tensors_are_refused() {
    // The last tensor's offset is the last field before the padding and the data; both tensors take 32 bytes.
    let mut builder = GgufBuilder::default();
    builder.tensor("a", &[8], 0, vec![1; 32]).tensor("b", &[8], 0, vec![2; 32]);
    let file = builder.build();
    let offset = file.windows(8).rposition(|bytes| bytes == 32u64.to_le_bytes()).unwrap();
    for (value, expected) in
        [(0u64, "tensors `a` and `b` overlap"), (1, "not a multiple of 32"), (u64::MAX - 31, "beyond")]
    {
        let mut damaged = file.clone();
        damaged[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        let message = parse("m.gguf", &damaged).unwrap_err().to_string();
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
    }
}

#[test]
fn versions_and_byte_orders_that_are_not_read_are_refused() {
    let file = tiny_gguf().build();
    for (version, expected) in [(1u32, "GGUF version 1"), (4, "GGUF version 4"), (3u32.swap_bytes(), "big-endian")] {
        let mut other = file.clone();
        other[4..8].copy_from_slice(&version.to_le_bytes());
        let error = parse("m.gguf", &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(parse("m.gguf", b"PK\x03\x04 not a model").unwrap_err().to_string().contains("ZIP archive"));
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let file = tiny_gguf().build();
    // Every length of the header, then samples of the data.
    for len in (0..1500).chain((1500..file.len()).step_by(997)) {
        assert!(parse("m.gguf", &file[..len]).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn counts_are_not_believed() {
    let file = tiny_gguf().build();
    for at in [8, 16] {
        let mut hostile = file.clone();
        hostile[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(parse("m.gguf", &hostile).is_err());
    }
    let mut builder = tiny_gguf();
    builder.raw("x", 9, &[10u32.to_le_bytes().as_slice(), &(u64::MAX / 4).to_le_bytes()].concat());
    assert!(refusal(&builder).1.contains("metadata `x`"));
}

#[test]
fn values_of_the_wrong_type_are_refused_by_their_key() {
    let cases: &[(&str, Change)] = &[
        ("`general.architecture`", |b| b.uint("general.architecture", 7)),
        ("`general.alignment`", |b| b.text("general.alignment", "32")),
        ("`llama.block_count` is \"2\"", |b| b.text("llama.block_count", "2")),
        ("`llama.block_count` is -1", |b| b.raw("llama.block_count", 5, &(-1i32).to_le_bytes())),
        ("`llama.block_count` is 4294967295", |b| b.uint("llama.block_count", u32::MAX)),
        ("`llama.embedding_length` is 32.5", |b| b.raw("llama.embedding_length", 6, &32.5f32.to_le_bytes())),
        ("`llama.attention.head_count` is [2,2]", |b| b.ints("llama.attention.head_count", &[2, 2])),
        ("`llama.context_length` is true", |b| b.flag("llama.context_length", true)),
        ("`llama.rope.freq_base` is \"NaN\"", |b| b.raw("llama.rope.freq_base", 6, &f32::NAN.to_le_bytes())),
        ("`llama.rope.freq_base` is -1", |b| b.raw("llama.rope.freq_base", 6, &(-1f32).to_le_bytes())),
        ("`llama.attention.layer_norm_rms_epsilon`", |b| b.remove("llama.attention.layer_norm_rms_epsilon")),
        ("`llama.attention.layer_norm_rms_epsilon` is \"inf\"", |b| {
            b.raw("llama.attention.layer_norm_rms_epsilon", 6, &f32::INFINITY.to_le_bytes())
        }),
        ("`llama.rope.scaling.type`", |b| b.uint("llama.rope.scaling.type", 1)),
        ("`tokenizer.ggml.model`", |b| b.uint("tokenizer.ggml.model", 1)),
        ("`tokenizer.ggml.pre`", |b| b.texts("tokenizer.ggml.pre", &["smollm"])),
        ("`tokenizer.ggml.tokens`", |b| b.ints("tokenizer.ggml.tokens", &[1, 2])),
        ("`tokenizer.ggml.tokens`", |b| b.text("tokenizer.ggml.tokens", "a b")),
        ("`tokenizer.ggml.token_type`", |b| b.floats("tokenizer.ggml.token_type", &[1.0; 6])),
        ("`tokenizer.ggml.token_type`", |b| b.ints("tokenizer.ggml.token_type", &[-1; 6])),
        ("`tokenizer.ggml.merges`", |b| b.ints("tokenizer.ggml.merges", &[1])),
        ("`tokenizer.ggml.eos_token_id`", |b| b.text("tokenizer.ggml.eos_token_id", "</s>")),
        ("`tokenizer.ggml.add_bos_token`", |b| b.uint("tokenizer.ggml.add_bos_token", 1)),
        ("`tokenizer.chat_template`", |b| b.uint("tokenizer.chat_template", 1)),
    ];
    for (expected, change) in cases {
        let mut builder = tiny_gguf();
        change(&mut builder);
        let message = plan(&builder.build()).unwrap_err().to_string();
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
    }
}

/// SentencePiece pieces need scores, and none may be so long that trying all its cuts takes for ever.
#[test]
fn pieces_that_make_no_sense_are_refused() {
    let long = "a".repeat(513);
    let cases: [(&str, &[f32], [&str; 6]); 5] = [
        ("`tokenizer.ggml.scores`: 2 scores for 6 tokens", &[0.0; 2], ["<s>", "</s>", "a", "b", "ab", "c"]),
        ("expected a list of finite numbers", &[f32::NAN; 6], ["<s>", "</s>", "a", "b", "ab", "c"]),
        ("expected a list of finite numbers", &[f32::INFINITY; 6], ["<s>", "</s>", "a", "b", "ab", "c"]),
        ("token 3 has 513 bytes", &[0.0; 6], ["<s>", "</s>", "a", &long, "ab", "c"]),
        ("tokens 2 and 5 are the same", &[0.0; 6], ["<s>", "</s>", "a", "b", "ab", "a"]),
    ];
    for (expected, scores, tokens) in cases {
        let mut builder = tiny_gguf();
        builder.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", &tokens);
        builder.floats("tokenizer.ggml.scores", scores);
        let (kind, message) = refusal(&builder);
        assert_eq!(kind, ErrorKind::InvalidModel);
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
    }
}

/// Names become neither paths nor other tensors' names, and can't write to the terminal.
#[test]
fn names_that_mean_something_elsewhere_are_refused() {
    for name in [
        "",
        "../../etc/passwd",
        "/etc/passwd.weight",
        "blk.0/../1.attn_q.weight",
        "blk.00.attn_q.weight",
        "blk.-1.attn_q.weight",
        "blk.2.attn_q.weight",
        "blk.18446744073709551616.attn_q.weight",
        "model.norm.weight",
        "\u{1b}[2Jx.weight",
        "a\nb\0.weight",
    ] {
        let mut builder = tiny_gguf();
        builder.tensor(name, &[8], 0, vec![0; 32]);
        let error = plan(&builder.build()).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidModel | ErrorKind::Unsupported), "{name:?}: {error}");
        assert!(!error.to_string().contains(char::is_control), "{name:?}: {error:?}");
    }
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    let mut file = tiny_gguf().build();
    let key = b"llama.context_length";
    let at = file.windows(key.len()).position(|bytes| bytes == key).unwrap();
    file[at..at + key.len()].copy_from_slice(b"tokenizer.ggml.model");
    assert!(parse("m.gguf", &file).unwrap_err().to_string().contains("`tokenizer.ggml.model` is there twice"));
}

/// Sizes that contradict the tensors.
#[test]
fn metadata_that_contradicts_the_weights_is_refused() {
    for (key, value) in [
        ("embedding_length", 64),
        ("feed_forward_length", 32),
        ("block_count", 3),
        ("block_count", 1),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 32),
        ("vocab_size", 7),
    ] {
        let mut builder = tiny_gguf();
        builder.uint(&format!("llama.{key}"), value);
        let error = plan(&builder.build()).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidModel | ErrorKind::Unsupported), "{key}: {error}");
    }
}

/// All that an export does before it writes.
fn plan(file: &[u8]) -> crate::Result<()> {
    let mut checkpoint = interpret("m.gguf", file)?;
    // For its name only: messages say where a weight lies.
    checkpoint.files.push(WeightFile::open(&fixture("gguf/texts.json")).unwrap());
    for tensor in checkpoint.tensors.values() {
        tensor.write_float32(file, &mut std::io::sink()).unwrap();
    }
    Class::of(&checkpoint)?.plan(&checkpoint, Scheme::none()).map(drop)
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn bytes(path: &str) -> Vec<u8> {
    std::fs::read(fixture(path)).unwrap()
}

/// Changes within the part of a file that is not weights.
fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
}

proptest! {
    #[test]
    fn mutated_files_never_panic(changes in damage(), which in 0usize..5) {
        let mut file = match which {
            0 => tiny_gguf().build(),
            1 => bytes("models/gemma3/model.gguf"),
            2 => bytes("models/phi3-longrope/model.gguf"),
            3 => bytes("models/llama-rope-llama3/model.gguf"),
            _ => bytes("gguf/llama-Q4_K_M.gguf"),
        };
        let header = file.len().min(12_000);
        for (at, value) in changes {
            file[at.index(header)] = value;
        }
        let _ = plan(&file);
    }

    #[test]
    fn mutated_vocabularies_never_panic(changes in damage(), gemma in any::<bool>()) {
        let mut file = bytes(if gemma { "gguf/pieces-gemma.gguf" } else { "gguf/pieces-llama.gguf" });
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] = value;
        }
        let Ok(gguf) = parse("m.gguf", &file) else { return Ok(()) };
        let names = crate::export::arch::by_gguf_name("llama").unwrap().1;
        let _ = super::super::tokenizer::files(&super::super::Source { label: "m.gguf", gguf: &gguf, names, data: &file });
    }
}
