//! Packed matrices, multiplied and looked up by ONNX Runtime itself.

use crate::runtime::{Provider, ProviderReport};
use half::f16;
use prost::Message;

use super::super::ExportOptions;
use super::super::checkpoint::{RowOrder, Tensor, WeightFile};
use super::super::config::Config;
use super::super::format::{F32, Format, from_ggml};
use super::super::graph::{Builder, Linear, Size};
use super::super::testing::described;
use super::super::{model, weights};
use super::{Quantize, Scheme};
use crate::onnx::nodes::{Dim, value_info};
use crate::onnx::tensor_proto::DataType;
use crate::runtime::session::{Graph, Session};
use crate::testing::runtime;

/// A matrix as a checkpoint has it.
struct Matrix {
    format: &'static Format,
    rows: usize,
    columns: usize,
    data: Vec<u8>,
}

impl Matrix {
    /// Bytes without a pattern, with f16 scales (and minima) of sensible size at the beginning of each stored block.
    fn ggml(name: &str, rows: usize, columns: usize) -> Self {
        let format = (0..20).filter_map(|number| from_ggml(number).ok()).find(|format| format.name == name).unwrap();
        let blocks = rows * columns / format.block_elements;
        let mut data = Vec::new();
        for block in 0..blocks {
            let start = data.len();
            data.extend((0..format.block_bytes).map(|at| noise(block * format.block_bytes + at).to_le_bytes()[0]));
            let scale = 0.01 + 0.02 * fraction(block);
            data[start..start + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            if matches!(name, "Q4_1" | "Q4_K") {
                let minimum = scale * (5.0 + 5.0 * fraction(block + 1)) * if name == "Q4_1" { -1.0 } else { 0.2 };
                data[start + 2..start + 4].copy_from_slice(&f16::from_f32(minimum).to_le_bytes());
            }
        }
        Matrix { format, rows, columns, data }
    }

    fn float32(rows: usize, columns: usize) -> Self {
        let values = (0..rows * columns).map(|at| (fraction(at) - 0.5) * (1.0 + fraction(at / 32)));
        Matrix { format: &F32, rows, columns, data: values.flat_map(f32::to_le_bytes).collect() }
    }

    fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.columns];
        (self.format.widen)(&self.data, &mut values);
        values
    }
}

fn noise(at: usize) -> u32 {
    let mixed = (at as u32 ^ 0x9e37).wrapping_mul(0x85eb_ca6b);
    (mixed ^ mixed >> 13).wrapping_mul(0xc2b2_ae35) >> 8
}

fn fraction(at: usize) -> f32 {
    noise(at) as f32 / (1 << 24) as f32
}

/// What ONNX Runtime makes of an exported matrix: its rows as products with unit vectors give them, and as a lookup does
/// where it is a vocabulary's.
fn restored(matrix: &Matrix, quantize: Quantize, block: usize, vocabulary: bool) -> (Vec<f32>, Option<Vec<f32>>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    std::fs::write(&path, &matrix.data).unwrap();
    let mut checkpoint = described(Config::empty("config.json"));
    checkpoint.files.push(WeightFile::open(&path).unwrap());
    let tensor = Tensor {
        format: matrix.format,
        shape: vec![matrix.rows, matrix.columns],
        file: 0,
        offset: 0,
        bytes: matrix.data.len(),
        origin: "m".to_owned(),
        rows: RowOrder::Standard,
        delta: None,
    };
    checkpoint.tensors.insert("m.weight".to_owned(), tensor);

    let out = Size::new(matrix.rows, if vocabulary { &["vocab_size"] } else { &["out"] });
    let inner = Size::new(matrix.columns, &["in"]);
    let options = ExportOptions { quantize, block, ..ExportOptions::new("", "") };
    let mut builder = Builder::new(&checkpoint, Scheme::new(&options, &checkpoint));
    let looked_up = vocabulary.then(|| builder.embedding("m", "/e", "ids", out, inner).unwrap());
    let linear = Linear { module: "m", path: "/l", out, inner, bias: false };
    let product = builder.linear(&linear, "x").unwrap();
    let graph = builder.finish(|_| false).unwrap();
    let place = weights::Place { folder: folder.path(), hard_link: false };
    let stored = weights::store(&checkpoint, &graph.weights, place, &mut |_, _| {}).unwrap();
    let mut proto = graph.proto;
    proto.initializer.extend(stored.initialisers);
    let (rows, columns) = (Dim::Symbol("rows"), Dim::Size(matrix.columns));
    proto.input.push(value_info("x", DataType::Float, &[Dim::Size(1), rows, columns]));
    proto.output.push(value_info(&product, DataType::Float, &[Dim::Size(1), rows, Dim::Size(matrix.rows)]));
    if let Some(name) = &looked_up {
        proto.input.push(value_info("ids", DataType::Int64, &[rows]));
        proto.output.push(value_info(name, DataType::Float, &[rows, columns]));
    }
    let bytes = model(proto).encode_to_vec();
    let graph = Graph {
        bytes: &bytes,
        folder: folder.path(),
        memory: None,
        loops: false,
        name: "m",
        report: &ProviderReport::only(Provider::Cpu),
    };
    let mut session = Session::open_plain(&graph, &runtime(1)).unwrap();

    let n = matrix.columns;
    let units = (0..n * n).map(|at| if at / n == at % n { 1.0f32 } else { 0.0 }).collect();
    session.set("x", &[1, n, n], units).unwrap();
    if vocabulary {
        session.set("ids", &[matrix.rows], (0..matrix.rows as i64).collect()).unwrap();
    }
    let outputs: Vec<&str> = [product.as_str()].into_iter().chain(looked_up.as_deref()).collect();
    session
        .run_all(&outputs, |given| {
            let product = given.floats(&product)?;
            let transposed = (0..matrix.rows * n).map(|at| product[[0, at % n, at / n]]).collect();
            let looked_up = looked_up.as_ref().map(|name| given.floats(name)).transpose()?;
            Ok((transposed, looked_up.map(|rows| rows.iter().copied().collect())))
        })
        .unwrap()
}

fn largest_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| most.max(value.abs()))
}

#[test]
fn symmetric_blocks_of_ggml_arrive_without_loss() {
    for (format, quantize) in
        [("Q4_0", Quantize::Int4), ("Q4_0", Quantize::Int8), ("Q5_0", Quantize::Int8), ("Q8_0", Quantize::Int8)]
    {
        for vocabulary in [false, true] {
            let matrix = Matrix::ggml(format, 48, 96);
            let values = matrix.values();
            let (product, looked_up) = restored(&matrix, quantize, 32, vocabulary);
            // A product has its input in 8 bits, whose scale is rounded; a lookup gives the very values.
            assert!(largest_difference(&product, &values) <= 2e-5 * largest(&values), "{format}");
            assert!(looked_up.is_none_or(|rows| rows == values), "{format}");
        }
    }
}

#[test]
fn minima_of_ggml_arrive_but_for_the_rest_of_a_rest() {
    for (format, columns) in [("Q4_1", 96), ("Q4_1", 32), ("Q4_1", 1056), ("Q4_K", 256)] {
        let matrix = Matrix::ggml(format, 8, columns);
        let values = matrix.values();
        let (product, _) = restored(&matrix, Quantize::Int4, 32, false);
        let spacing = values.as_chunks::<32>().0.iter().map(|block| {
            let (least, most) = block.iter().fold((f32::MAX, f32::MIN), |(l, m), v| (l.min(*v), m.max(*v)));
            (most - least) / 15.0
        });
        let spacing = spacing.fold(0.0, f32::max);
        let worst = largest_difference(&product, &values);
        assert!(worst < 0.1 * spacing, "{format}, {columns} columns: {worst} of steps of {spacing}");
    }
}

#[test]
fn other_values_are_rounded_to_steps() {
    // 40 and 200 columns leave a block half empty.
    for (columns, block) in [(96, 32), (40, 32), (128, 64), (200, 128), (256, 256)] {
        let matrix = Matrix::float32(24, columns);
        let values = matrix.values();
        let most = largest(&values);
        let (product, _) = restored(&matrix, Quantize::Int8, block, false);
        assert!(largest_difference(&product, &values) < 0.51 / 127.0 * most, "8 bits, {columns} by {block}");
        let (product, _) = restored(&matrix, Quantize::Int4, block, false);
        // Symmetric steps are an eighth of the largest value; what lies on the shorter side can be cut by one.
        assert!(largest_difference(&product, &values) < 1.1 / 8.0 * most, "4 bits, {columns} by {block}");
        let mean = product.iter().zip(&values).map(|(a, b)| (a - b).abs()).sum::<f32>() / values.len() as f32;
        assert!(mean < 0.04 * most, "4 bits, {columns} by {block}: {mean}");
    }
}

#[test]
fn a_shared_embedding_has_its_bytes_once() {
    let matrix = Matrix::float32(64, 64);
    let (product, looked_up) = restored(&matrix, Quantize::Int4, 32, true);
    let looked_up = looked_up.unwrap();
    assert!(largest_difference(&product, &looked_up) < 2e-5, "head and embedding are the same");
    assert!(largest_difference(&looked_up, &matrix.values()) < 0.51 / 127.0 * largest(&looked_up), "in 8 bits");
    // Rows that fill no whole blocks stay float32.
    let matrix = Matrix::float32(8, 40);
    let (_, looked_up) = restored(&matrix, Quantize::Int4, 32, true);
    assert_eq!(looked_up.unwrap(), matrix.values());
}
