//! Tiny checkpoints for tests: GGUF built byte by byte, Hugging Face folders written with the safetensors crate.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, SpecialTokens};
use super::config::Config;

pub(super) const HIDDEN: usize = 32;
pub(super) const FEED_FORWARD: usize = 64;
pub(super) const LAYERS: usize = 2;
/// Two query heads of 16 share one key-value head.
pub(super) const KEY_VALUE: usize = 16;
pub(super) const VOCAB: usize = 6;

/// A GGUF file in the making.
#[derive(Clone, Default)]
pub(super) struct GgufBuilder {
    metadata: Vec<(String, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn text_bytes(text: &str) -> Vec<u8> {
    [(text.len() as u64).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

impl GgufBuilder {
    /// Sets a value of any type, from its bytes; a key set before is replaced.
    pub(super) fn raw(&mut self, key: &str, kind: u32, bytes: &[u8]) -> &mut Self {
        self.remove(key);
        self.metadata.push((key.to_owned(), [kind.to_le_bytes().as_slice(), bytes].concat()));
        self
    }

    pub(super) fn remove(&mut self, key: &str) -> &mut Self {
        self.metadata.retain(|(known, _)| known != key);
        self
    }

    pub(super) fn text(&mut self, key: &str, text: &str) -> &mut Self {
        self.raw(key, 8, &text_bytes(text))
    }

    pub(super) fn uint(&mut self, key: &str, number: u32) -> &mut Self {
        self.raw(key, 4, &number.to_le_bytes())
    }

    pub(super) fn flag(&mut self, key: &str, flag: bool) -> &mut Self {
        self.raw(key, 7, &[u8::from(flag)])
    }

    pub(super) fn texts(&mut self, key: &str, texts: &[&str]) -> &mut Self {
        let mut bytes = [8u32.to_le_bytes().as_slice(), &(texts.len() as u64).to_le_bytes()].concat();
        bytes.extend(texts.iter().flat_map(|text| text_bytes(text)));
        self.raw(key, 9, &bytes)
    }

    pub(super) fn ints(&mut self, key: &str, numbers: &[i32]) -> &mut Self {
        let mut bytes = [5u32.to_le_bytes().as_slice(), &(numbers.len() as u64).to_le_bytes()].concat();
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        self.raw(key, 9, &bytes)
    }

    pub(super) fn floats(&mut self, key: &str, numbers: &[f32]) -> &mut Self {
        let mut bytes = [6u32.to_le_bytes().as_slice(), &(numbers.len() as u64).to_le_bytes()].concat();
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        self.raw(key, 9, &bytes)
    }

    /// Adds a tensor; `dimensions` innermost first, as in the file.
    pub(super) fn tensor(&mut self, name: &str, dimensions: &[u64], kind: u32, data: Vec<u8>) -> &mut Self {
        self.tensors.push((name.to_owned(), dimensions.to_vec(), kind, data));
        self
    }

    /// Puts other data into a tensor.
    pub(super) fn replace_tensor(&mut self, name: &str, data: Vec<u8>) -> &mut Self {
        self.tensors.iter_mut().filter(|tensor| tensor.0 == name).for_each(|tensor| tensor.3.clone_from(&data));
        self
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            file.extend(text_bytes(key));
            file.extend(value);
        }
        let mut offset = 0u64;
        for (name, dimensions, kind, data) in &self.tensors {
            file.extend(text_bytes(name));
            file.extend((dimensions.len() as u32).to_le_bytes());
            file.extend(dimensions.iter().flat_map(|size| size.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend(offset.to_le_bytes());
            offset = (offset + data.len() as u64).next_multiple_of(32);
        }
        for (_, _, _, data) in &self.tensors {
            file.resize(file.len().next_multiple_of(32), 0);
            file.extend(data);
        }
        file
    }
}

/// A value that tells every element of every tensor apart.
pub(super) fn element(seed: usize, index: usize) -> f32 {
    (seed * 10_000 + index) as f32 / 1024.0
}

fn float32(seed: usize, elements: usize) -> Vec<u8> {
    (0..elements).flat_map(|index| element(seed, index).to_le_bytes()).collect()
}

/// A Llama of two layers whose query projection's first layer is Q4_0 (all zeros) and the rest float32.
pub(super) fn tiny_gguf() -> GgufBuilder {
    let mut builder = GgufBuilder::default();
    builder
        .text("general.architecture", "llama")
        .uint("llama.embedding_length", HIDDEN as u32)
        .uint("llama.feed_forward_length", FEED_FORWARD as u32)
        .uint("llama.block_count", LAYERS as u32)
        .uint("llama.attention.head_count", 2)
        .uint("llama.attention.head_count_kv", 1)
        .uint("llama.context_length", 64)
        .raw("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes())
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", &["<s>", "</s>", "a", "b", "ab", "<tool>"])
        .ints("tokenizer.ggml.token_type", &[3, 3, 1, 1, 1, 4])
        .texts("tokenizer.ggml.merges", &["a b"])
        .uint("tokenizer.ggml.bos_token_id", 0)
        .uint("tokenizer.ggml.eos_token_id", 1)
        .text("tokenizer.chat_template", "{{ messages[0].content }}");
    let (hidden, ffn, kv) = (HIDDEN as u64, FEED_FORWARD as u64, KEY_VALUE as u64);
    let mut seed = 0;
    let mut add = |name: String, dimensions: &[u64]| {
        seed += 1;
        let elements = dimensions.iter().product::<u64>() as usize;
        builder.tensor(&name, dimensions, 0, float32(seed, elements));
    };
    add("token_embd.weight".into(), &[hidden, VOCAB as u64]);
    for layer in 0..LAYERS {
        let mut block = |name: &str, dimensions: &[u64]| add(format!("blk.{layer}.{name}.weight"), dimensions);
        block("attn_norm", &[hidden]);
        block("attn_k", &[hidden, kv]);
        block("attn_v", &[hidden, kv]);
        block("attn_output", &[hidden, hidden]);
        block("ffn_norm", &[hidden]);
        block("ffn_gate", &[hidden, ffn]);
        block("ffn_up", &[hidden, ffn]);
        block("ffn_down", &[ffn, hidden]);
    }
    add("output_norm.weight".into(), &[hidden]);
    builder.tensor("blk.0.attn_q.weight", &[hidden, hidden], 2, vec![0; HIDDEN * HIDDEN / 32 * 18]);
    builder.tensor("blk.1.attn_q.weight", &[hidden, hidden], 0, float32(99, HIDDEN * HIDDEN));
    builder
}

/// The shapes of a tiny tied Llama's weights.
pub(super) fn shapes() -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::new();
    shapes.insert("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]);
    shapes.insert("model.norm.weight".to_owned(), vec![HIDDEN]);
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![KEY_VALUE, HIDDEN]),
            ("self_attn.v_proj", vec![KEY_VALUE, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![FEED_FORWARD, HIDDEN]),
            ("mlp.up_proj", vec![FEED_FORWARD, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, FEED_FORWARD]),
        ] {
            shapes.insert(format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    shapes
}

/// The `config.json` of that Llama.
pub(super) fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": VOCAB, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "bos_token_id": 0, "eos_token_id": 1,
    })
}

/// A checkpoint of which only the configuration is known.
pub(super) fn described(config: Config) -> Checkpoint {
    Checkpoint {
        config,
        files: Vec::new(),
        tensors: BTreeMap::new(),
        rope_factors: None,
        norms_include_one: false,
        tokenizer: Vec::new(),
        special: SpecialTokens::default(),
        generation: serde_json::Map::new(),
        modules: None,
    }
}

/// Writes `shapes` as a safetensors file, with values by [`element`] in the order of names; bfloat16 keeps their
/// upper halves.
pub(super) fn write_weights(path: &Path, shapes: &BTreeMap<String, Vec<usize>>, dtype: Dtype) {
    let data: Vec<Vec<u8>> = shapes
        .values()
        .enumerate()
        .map(|(seed, shape)| {
            let bytes = float32(seed, shape.iter().product());
            match dtype {
                Dtype::F32 => bytes,
                Dtype::BF16 => bytes.chunks_exact(4).flat_map(|bytes| [bytes[2], bytes[3]]).collect(),
                other => panic!("the tests have no use for {other:?}"),
            }
        })
        .collect();
    let tensors = shapes.iter().zip(&data).map(|((name, shape), data)| {
        (name.as_str(), TensorView::new(dtype, shape.clone(), data).expect("bytes fit the shape"))
    });
    serialize_to_file(tensors, None, path).expect("a temporary folder can be written");
}

/// Writes a whole checkpoint folder.
pub(super) fn write_checkpoint(folder: &Path, config: &Value, dtype: Dtype) {
    fs::create_dir_all(folder).expect("a temporary folder can be written");
    write_weights(&folder.join("model.safetensors"), &shapes(), dtype);
    let vocab = json!({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, "<turn>": 5});
    let tokenizer = json!({
        "added_tokens": [{"id": 1, "content": "</s>"}, {"id": 5, "content": "<turn>"}],
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let tokenizer_config = json!({"eos_token": {"content": "<turn>"}, "bos_token": "<s>"});
    for (name, content) in
        [("config.json", config), ("tokenizer.json", &tokenizer), ("tokenizer_config.json", &tokenizer_config)]
    {
        fs::write(folder.join(name), content.to_string()).expect("a temporary folder can be written");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a temporary folder can be written");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let from = entry.expect("a readable folder").path();
        let target = to.join(from.file_name().expect("a name"));
        match from.is_dir() {
            true => copy(&from, &target),
            false => drop(fs::copy(from, target).expect("a temporary folder can be written")),
        }
    }
}

/// A checkpoint of tests/fixtures/models with its tokenizer, as `source` in a folder of its own.
pub(super) fn fixture_checkpoint(name: &str) -> tempfile::TempDir {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let root = tempfile::tempdir().expect("a temporary folder can be made");
    let source = root.path().join("source");
    copy(&models.join(name).join("checkpoint"), &source);
    let reference = crate::testing::fixture(&format!("models/{name}/reference.json"));
    copy(&models.join("tokenizers").join(reference["tokenizer"].as_str().expect("a name")), &source);
    root
}

/// Changes a JSON file of such a checkpoint.
pub(super) fn change_json(root: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = root.join("source").join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).expect("it is there")).expect("it is JSON");
    change(&mut value);
    fs::write(path, value.to_string()).expect("a temporary folder can be written");
}

/// Exports such a checkpoint to `out` beside it.
pub(super) fn export_fixture(root: &Path) -> crate::Result<super::ExportReport> {
    super::export(&super::ExportOptions::new(root.join("source"), root.join("out")), &mut |_| {})
}
