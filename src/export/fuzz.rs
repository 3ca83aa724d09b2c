//! Entry points for the fuzzers in `fuzz/`: each parser of foreign bytes, without the file system around it.

use super::class::Class;
use super::{checkpoint, config, gguf, hf};

/// A whole GGUF file: container, metadata, tokenizer; every tensor is widened.
pub fn gguf(data: &[u8]) {
    if let Ok(checkpoint) = gguf::interpret("fuzz.gguf", data) {
        for tensor in checkpoint.tensors.values() {
            // A sink can't fail.
            let _ = tensor.write_float32(data, &mut std::io::sink());
        }
        if let Ok(Class::LanguageModel(architecture)) = Class::of(&checkpoint) {
            let _ = (architecture.decoder)(&checkpoint);
        }
    }
}

/// The index of a checkpoint of several files, which lies in `folder` beside them.
pub fn index(folder: &std::path::Path) {
    drop(hf::read_shards(folder));
}

/// A `.safetensors` file.
pub fn safetensors(data: &[u8]) {
    if let Ok(tensors) = hf::read_header("fuzz.safetensors", data, 0) {
        for tensor in tensors.values() {
            let _ = tensor.write_float32(data, &mut std::io::sink());
        }
    }
}

/// A `config.json`, read as the architecture that it names.
pub fn config(data: &[u8]) {
    let Ok(config) = config::Config::from_json("config.json", data) else { return };
    let checkpoint = checkpoint::Checkpoint {
        config,
        files: Vec::new(),
        tensors: Default::default(),
        rope_factors: None,
        norms_include_one: false,
        tokenizer: Vec::new(),
        special: Default::default(),
        generation: Default::default(),
        modules: Default::default(),
    };
    let _ = Class::of(&checkpoint).and_then(|class| class.plan(&checkpoint, super::quantize::Scheme::none()).map(drop));
}
