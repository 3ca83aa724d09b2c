//! Weights that are not finite, in every form that is read and every form that is written.

use half::{bf16, f16};

use super::super::format::{Floats, GGUF_FORMATS};
use super::super::testing::{HIDDEN, fixture_checkpoint, tiny_gguf};
use super::super::{ExportOptions, Quantize, export};
use super::*;
use crate::{ErrorKind, Result};

const TENSOR: &str = "model.layers.0.mlp.up_proj.weight";
const AT: (usize, usize) = (1, 2);

/// Rewrites a file of float32 weights in another form, with `number` put into [`TENSOR`].
fn damage(path: &Path, form: &str, number: f32) {
    use ::safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
    let bytes = fs::read(path).unwrap();
    let (dtype, write): (Dtype, fn(f32) -> Vec<u8>) = match form {
        "F32" => (Dtype::F32, |x| x.to_le_bytes().to_vec()),
        "F16" => (Dtype::F16, |x| f16::from_f32(x).to_le_bytes().to_vec()),
        _ => (Dtype::BF16, |x| bf16::from_f32(x).to_le_bytes().to_vec()),
    };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let made = file.iter().map(|(name, tensor)| {
        let mut values: Vec<f32> =
            tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        if name == TENSOR {
            values[AT.0 * tensor.shape()[1] + AT.1] = number;
        }
        (name.to_owned(), tensor.shape().to_vec(), values.into_iter().flat_map(write).collect::<Vec<u8>>())
    });
    let made: Vec<_> = made.collect();
    let views = made.iter().map(|(name, shape, data)| (name, TensorView::new(dtype, shape.clone(), data).unwrap()));
    fs::write(path, serialize(views, None).unwrap()).unwrap();
}

fn run(root: &Path, quantize: Quantize) -> Result<super::super::ExportReport> {
    let options = ExportOptions { quantize, ..ExportOptions::new(root.join("source"), root.join("out")) };
    export(&options, &mut |_| {})
}

#[test]
fn what_is_not_finite_is_refused_by_name_and_place_from_every_form_into_every_form() {
    for form in ["F32", "F16", "BF16"] {
        for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let root = fixture_checkpoint("llama");
            damage(&root.path().join("source/model.safetensors"), form, number);
            for quantize in [Quantize::None, Quantize::Int8, Quantize::Int4] {
                let error = run(root.path(), quantize).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
                let expected = format!("`{TENSOR}` holds {number} at [{}, {}]", AT.0, AT.1);
                assert!(error.to_string().contains(&expected), "{form}, {quantize:?}: {error}");
                assert!(!root.path().join("out").exists(), "nothing is left behind");
            }
        }
    }
}

#[test]
fn a_range_that_overflows_is_refused_where_it_is_packed() {
    let root = fixture_checkpoint("llama");
    damage(&root.path().join("source/model.safetensors"), "F32", f32::MAX);
    let error = run(root.path(), Quantize::Int4).unwrap_err();
    assert!(error.to_string().contains("too large to be packed"), "{error}");
    run(root.path(), Quantize::None).unwrap();
}

#[test]
fn the_scales_of_every_quantised_form_are_looked_at() {
    let mut checked = 0;
    for format in GGUF_FORMATS {
        let Floats::Scales(places) = format.floats else { continue };
        let mut blocks = vec![0x11; 3 * format.block_bytes];
        let finite = |blocks: &[u8]| {
            let mut values = vec![0.0; 3 * format.block_elements];
            (format.widen)(blocks, &mut values);
            values.iter().all(|value| value.is_finite())
        };
        for block in blocks.chunks_mut(format.block_bytes) {
            places.iter().for_each(|&at| block[at..at + 2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes()));
        }
        assert!(finite(&blocks) && format.first_refused(&blocks, Refused::NonFinite).is_none(), "{}", format.name);
        // Wherever an infinity makes values that aren't finite, it is found, in its block; and nowhere else.
        for at in 0..format.block_bytes - 1 {
            let mut damaged = blocks.clone();
            damaged[2 * format.block_bytes + at..][..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
            let found = format.first_refused(&damaged, Refused::NonFinite);
            assert_eq!(found.is_none(), finite(&damaged), "{} at {at}", format.name);
            assert!(found.is_none_or(|(index, _)| index == 2 * format.block_elements), "{} at {at}", format.name);
        }
        checked += 1;
    }
    assert_eq!(checked, 10);
}

#[test]
fn a_gguf_file_with_such_a_scale_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let mut gguf = tiny_gguf();
    let mut blocks = vec![0; HIDDEN * HIDDEN / 32 * 18];
    blocks[18 * 5..18 * 5 + 2].copy_from_slice(&f16::NAN.to_le_bytes());
    gguf.replace_tensor("blk.0.attn_q.weight", blocks);
    fs::write(root.path().join("source"), gguf.build()).unwrap();
    for quantize in [Quantize::None, Quantize::Int8, Quantize::Int4] {
        let error = run(root.path(), quantize).unwrap_err().to_string();
        assert!(error.contains("the block at [5, 0] of tensor `blk.0.attn_q.weight` has NaN as its scale"), "{error}");
    }
    let mut gguf = tiny_gguf();
    gguf.tensor("rope_freqs.weight", &[8], 0, f32::INFINITY.to_le_bytes().repeat(8));
    fs::write(root.path().join("source"), gguf.build()).unwrap();
    let error = run(root.path(), Quantize::None).unwrap_err().to_string();
    assert!(error.contains("`rope_freqs.weight`: value 0 is inf"), "{error}");
}
