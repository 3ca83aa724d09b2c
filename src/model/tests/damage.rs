//! Random damage to graphs. It must never cause a panic.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::*;
use crate::model::testing::loop_for_ever;
use crate::onnx::{AttributeProto, TypeProto, type_proto};

/// Random choices.
struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0.next_u32() as usize % count.max(1)
    }

    fn number(&mut self) -> i64 {
        const ODD: [i64; 10] = [0, 1, -1, 2, 3, 16, 1 << 16, 1 << 40, i64::MAX, i64::MIN];
        ODD[self.below(ODD.len())]
    }
}

/// A graph with attention operators, as in our exports: an exported checkpoint of the fixtures.
fn exported(name: &str) -> ModelProto {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name).join("checkpoint");
    let source = tempfile::tempdir().expect("a folder");
    // The tokenizer first, then the checkpoint, whose configuration overwrites the tiny decoder's.
    for from in [folder(&decoder()).path(), &checkpoint] {
        for entry in std::fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), source.path().join(entry.file_name())).expect("copied");
        }
    }
    let target = source.path().join("export");
    crate::export::export(&crate::ExportOptions::new(source.path(), &target), &mut |_| {}).expect("an export");
    let bytes = std::fs::read(target.join("model.onnx")).expect("a graph");
    ModelProto::decode(bytes.as_slice()).expect("a graph")
}

/// The small graphs to damage.
fn graphs() -> Vec<ModelProto> {
    let mut small = decoder();
    tensor(&mut small, "bigrams").dims = vec![1, 1];
    tensor(&mut small, "bigrams").raw_data = Some(vec![0; 4].into());
    let mut looping = small.clone();
    loop_for_ever(&mut looping);
    vec![small, looping, exported("llama"), exported("phi3-longrope"), exported("gemma3")]
}

#[test]
fn bytes_may_be_changed_left_out_and_cut_off() {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(7));
    for model in graphs() {
        let bytes = model.encode_to_vec();
        fuzz::graph(&bytes);
        for _ in 0..1000 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + dice.below(3) {
                let at = dice.below(damaged.len() - 1);
                match dice.below(4) {
                    0 => damaged[at] = dice.below(256) as u8,
                    1 => damaged[at] = damaged[at].wrapping_add(1),
                    2 => drop(damaged.remove(at)),
                    _ => damaged.truncate(at + 2),
                }
            }
            fuzz::graph(&damaged);
        }
    }
}

#[test]
fn parts_of_a_graph_may_be_missing_wrong_and_in_the_wrong_place() {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(8));
    for model in graphs() {
        for _ in 0..1000 {
            let mut damaged = model.clone();
            for _ in 0..1 + dice.below(2) {
                damage(graph(&mut damaged), &mut dice);
            }
            fuzz::graph(&damaged.encode_to_vec());
        }
    }
}

fn damage(graph: &mut GraphProto, dice: &mut Dice) {
    let node = dice.below(graph.node.len());
    let other = graph.node.get(dice.below(graph.node.len())).and_then(|node| node.output.first().cloned());
    match dice.below(9) {
        0 => drop(graph.node.remove(node)),
        1 => graph.node[node].op_type = graph.node.get(dice.below(9)).and_then(|node| node.op_type.clone()),
        2 => match dice.below(3) {
            0 => graph.node[node].input.truncate(1),
            1 => graph.node[node].input.iter_mut().for_each(String::clear),
            _ => graph.node[node].input.extend(other),
        },
        3 => {
            let inputs = &mut graph.node[node].input;
            let at = dice.below(inputs.len());
            if let (Some(input), Some(other)) = (inputs.get_mut(at), other) {
                *input = other;
            }
        }
        4 => graph.node[node].attribute.iter_mut().for_each(|attribute| damage_attribute(attribute, dice)),
        5 | 6 => {
            let values = if dice.below(2) == 0 { &mut graph.input } else { &mut graph.output };
            let at = dice.below(values.len());
            match dice.below(3) {
                0 => drop(values.remove(at)),
                _ => damage_type(&mut values[at].r#type, dice),
            }
        }
        _ => {
            let at = dice.below(graph.initializer.len());
            let tensor = &mut graph.initializer[at];
            match dice.below(3) {
                0 => tensor.dims = (0..dice.below(4)).map(|_| dice.number()).collect(),
                1 => tensor.data_type = Some(dice.below(30) as i32),
                _ => drop(graph.initializer.remove(at)),
            }
        }
    }
}

fn damage_attribute(attribute: &mut AttributeProto, dice: &mut Dice) {
    match dice.below(4) {
        0 => attribute.i = Some(dice.number()),
        1 => attribute.f = Some(f32::NAN),
        2 => attribute.g = None,
        _ => {
            if let Some(inner) = attribute.g.as_mut().filter(|inner| !inner.node.is_empty()) {
                let at = dice.below(inner.node.len());
                inner.node.remove(at);
            }
        }
    }
}

fn damage_type(kind: &mut Option<TypeProto>, dice: &mut Dice) {
    let Some(type_proto::Value::TensorType(tensor)) = kind.as_mut().and_then(|kind| kind.value.as_mut()) else {
        return;
    };
    match dice.below(4) {
        0 => *kind = None,
        1 => tensor.elem_type = Some(dice.below(20) as i32),
        2 => tensor.shape = None,
        _ => {
            let sizes = (0..dice.below(6)).map(|_| dice.number());
            let dim = |size| crate::onnx::tensor_shape_proto::Dimension {
                value: Some(crate::onnx::tensor_shape_proto::dimension::Value::DimValue(size)),
                ..Default::default()
            };
            tensor.shape = Some(crate::onnx::TensorShapeProto { dim: sizes.map(dim).collect() });
        }
    }
}
