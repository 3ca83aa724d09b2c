//! Weights that are not finite, or no longer those that were opened, in models that are loaded: in what is packed here,
//! and in what ONNX Runtime reads.

use ::safetensors::SafeTensors;

use super::kinds::exported;
use super::*;
use crate::export::Quantize;

#[test]
fn they_are_refused_by_name_when_a_model_is_loaded() {
    let projection = "model.layers.0.mlp.up_proj.weight";
    for (quantize, batching, tensor) in [
        (Quantize::None, Batching::Auto, projection.to_owned()),
        (Quantize::Int8, Batching::Auto, format!("{projection}_scales")),
        (Quantize::Int4, Batching::Auto, format!("{projection}_scales")),
        (Quantize::None, Batching::Auto, "model.embed_tokens.weight".to_owned()),
        (Quantize::Int4, Batching::Auto, "model.layers.1.input_layernorm.weight".to_owned()),
        (Quantize::None, Batching::Padded, projection.to_owned()),
    ] {
        let (_files, folder, _) = exported("llama", quantize);
        let path = folder.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).expect("weights");
        let damaged = {
            let file = SafeTensors::deserialize(&bytes).expect("a sound file");
            let data = file.tensor(&tensor).unwrap_or_else(|e| panic!("{tensor}: {e}")).data();
            data.as_ptr() as usize - bytes.as_ptr() as usize + 4 * 3
        };
        for number in [f32::NAN, f32::INFINITY] {
            bytes[damaged..damaged + 4].copy_from_slice(&number.to_le_bytes());
            // A new file: the folder's may be the checkpoint's own.
            std::fs::remove_file(&path).expect("removed");
            std::fs::write(&path, &bytes).expect("written");
            let options = OpenOptions { batching, ..OpenOptions::default() };
            let folder = Arc::new(ModelFolder::open_with(folder.path(), options).expect("the model opens"));
            let error =
                Decoder::load(folder, &DecodeOptions::default(), &runtime(1)).err().expect("refused").to_string();
            assert!(error.contains(&format!("the weight `{tensor}` holds {number} at [")), "{quantize:?}: {error}");
            assert!(error.contains("model.safetensors"), "{error}");
        }
    }
}

#[test]
fn weights_that_changed_since_the_folder_was_opened_are_refused() {
    for batching in [Batching::Auto, Batching::Padded] {
        let (_files, folder, _) = exported("llama", Quantize::None);
        let path = folder.path().join("model.safetensors");
        let options = OpenOptions { batching, ..OpenOptions::default() };
        let opened = Arc::new(ModelFolder::open_with(folder.path(), options).expect("the model opens"));
        let bytes = std::fs::read(&path).expect("weights");
        std::fs::write(&path, &bytes[..bytes.len() - 4]).expect("cut off");
        let error = Decoder::load(opened, &DecodeOptions::default(), &runtime(1)).err().expect("refused").to_string();
        assert!(error.contains("model.safetensors has changed since it was opened"), "{error}");
    }
}
