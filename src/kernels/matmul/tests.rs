//! The kernel against sums in float64 of the very numbers that it multiplies, and against itself: on every instruction
//! set of the machine, in any company.

use std::sync::Arc;

use half::f16;
use proptest::prelude::*;

use super::call::{Call, Norm, Operands, Rounded};
use super::dispatch;
use super::pack::{self, Activation, BLOCK, Blocks, Epilogue, Floats, Kind, Number, Part, Shape};
use super::{Packed, Spare};
use crate::PackError;
use crate::dot::best_isa;
use crate::pairs;
use crate::rounding::{self, MIXED};
use crate::simd::{Isa, Scalar};

/// What this machine has for a kind of matrices.
fn available(kind: Kind) -> Vec<Isa> {
    let mut isas = Isa::all();
    #[cfg(target_arch = "x86_64")]
    isas.retain(|isa| kind == Kind::Bfloat16 || !matches!(isa, Isa::Avx512(_) | Isa::Avx512Bf16(_)));
    isas
}

/// Numbers in [-1, 1), the same for the same seed.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// A matrix in the form that it has in files, and its numbers, column by column.
struct Weight {
    bits: usize,
    block: usize,
    columns: usize,
    first: Vec<u8>,
    scales: Vec<u8>,
    zero_points: Option<Vec<u8>>,
    values: Vec<Vec<f32>>,
}

impl Weight {
    fn floats(inner: usize, columns: usize, seed: u64) -> Self {
        let values = numbers(inner * columns, seed);
        Weight {
            bits: 32,
            block: 0,
            columns,
            first: little_endian(&values),
            scales: Vec::new(),
            zero_points: None,
            values: values.chunks(inner).map(<[f32]>::to_vec).collect(),
        }
    }

    /// The numbers of [`Weight::floats`] in bfloat16.
    fn halves(inner: usize, columns: usize, seed: u64) -> Self {
        let Weight { values, .. } = Weight::floats(inner, columns, seed);
        let first = values.iter().flatten().flat_map(|x| pairs::round(*x).to_le_bytes()).collect();
        Weight { bits: 16, first, values, ..Weight::floats(inner, columns, seed) }
    }

    fn blocks(bits: usize, block: usize, inner: usize, columns: usize, with_zero_points: bool, seed: u64) -> Self {
        let blocks = inner.div_ceil(block);
        let byte = |x: &f32| ((x + 1.0) * 127.9) as u8;
        let quants: Vec<u8> = numbers(columns * blocks * block * bits / 8, seed).iter().map(byte).collect();
        let scales = numbers(columns * blocks, seed + 1);
        let row = (blocks * bits).div_ceil(8);
        let zero_points: Vec<u8> = numbers(columns * row, seed + 2).iter().map(byte).collect();
        let number = |packed: &[u8], index: usize| match bits {
            8 => packed[index],
            _ => packed[index / 2] >> (4 * (index % 2)) & 15,
        };
        let value = |column: usize, k: usize| {
            let index = column * blocks + k / block;
            let quant = number(&quants[index * block * bits / 8..], k % block);
            let zero_point = match with_zero_points {
                true => number(&zero_points[column * row..], k / block),
                false => 1 << (bits - 1),
            };
            (f32::from(quant) - f32::from(zero_point)) * scales[index]
        };
        let values = (0..columns).map(|column| (0..inner).map(|k| value(column, k)).collect()).collect();
        let zero_points = with_zero_points.then(|| zero_points.clone());
        Weight { bits, block, columns, values, scales: little_endian(&scales), zero_points, first: quants.clone() }
    }

    fn part(&self) -> Part<'_> {
        match self.bits {
            16 | 32 => {
                let number = if self.bits == 16 { Number::Bfloat16 } else { Number::Float32 };
                Part::Floats(Floats { number, values: &self.first, columns: self.columns, by_column: true })
            }
            bits => Part::Blocks(Blocks {
                bits,
                block: self.block,
                columns: self.columns,
                quants: &self.first,
                scales: &self.scales,
                zero_points: self.zero_points.as_deref(),
            }),
        }
    }
}

/// A matrix of these weights, packed.
fn packed(shape: &Shape, weights: &[&Weight]) -> Vec<u8> {
    let parts: Vec<_> = weights.iter().map(|weight| weight.part()).collect();
    let mut bytes = vec![0; shape.bytes()];
    pack::pack(shape, &parts, 0..shape.panels(), &mut bytes);
    bytes
}

fn product(shape: &Shape, matrix: &[u8], inputs: &[f32], isa: Isa) -> Vec<f32> {
    product_of(shape, matrix, Operands::plain(inputs), isa)
}

fn product_of(shape: &Shape, matrix: &[u8], operands: Operands<'_>, isa: Isa) -> Vec<f32> {
    let mut output = vec![f32::NAN; operands.inputs.len() / shape.inputs * shape.outputs()];
    let mut rounded = Rounded::default();
    let call = Call::new(*shape, isa, matrix, operands, &mut rounded, &mut output);
    // SAFETY: one thread.
    unsafe {
        if shape.kind != Kind::Floats {
            (0..call.rows).for_each(|row| call.quantise(row, &mut Vec::new()));
        }
        (0..shape.panels()).for_each(|panel| call.multiply(panel, 0, call.rows, &mut Vec::new()));
    }
    output
}

/// The sum of a block in the kernel's order, a tree: where terms cancel, another order gives a sum that is further from it
/// than a product may be from what is expected.
fn block_sum(block: &[f32]) -> f32 {
    match block.len() {
        1 => block[0],
        length if length.is_power_of_two() => {
            let (low, high) = block.split_at(length / 2);
            block_sum(&low.iter().zip(high).map(|(a, b)| a + b).collect::<Vec<_>>())
        }
        _ => block.iter().sum(),
    }
}

/// Blocks of 64, the last filled up with zeros, mixed; in float32 and in the kernel's order, so that ties fall to the same
/// side.
fn mixed(row: &[f32]) -> Vec<[f32; MIXED]> {
    let mix = |block: &[f32]| {
        let mut values = [0.0; MIXED];
        values[..block.len()].copy_from_slice(block);
        let mixed = rounding::mix_block(Scalar, rounding::load(Scalar, rounding::registers(&values)));
        values.copy_from_slice(mixed.as_flattened());
        values
    };
    row.chunks(MIXED).map(mix).collect()
}

/// Multiples of a 127th of the largest.
fn round(block: &[f32]) -> Vec<f64> {
    let largest = block.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
    if largest == 0.0 {
        return vec![0.0; block.len()];
    }
    let (scale, inverse) = (largest / 127.0, 127.0 / largest);
    block.iter().map(|x| f64::from((x * inverse).round_ties_even()) * f64::from(scale)).collect()
}

/// A row of inputs as the kernel rounds it: with the sums of its blocks behind it, each block a multiple of a 127th of
/// its largest.
fn rounded(shape: &Shape, row: &[f32]) -> Vec<f64> {
    let mut row: Vec<f32> = row.to_vec();
    if shape.block_sums {
        let sums: Vec<f32> = row.chunks(BLOCK).map(block_sum).collect();
        row.extend(sums);
    }
    match shape.kind {
        Kind::Floats => row.into_iter().map(f64::from).collect(),
        Kind::Bfloat16 => row.into_iter().map(|x| pairs::round(x).to_f64()).collect(),
        Kind::Bytes => mixed(&row).iter().flat_map(|block| round(block)).collect(),
        Kind::Nibbles => row.chunks(BLOCK).flat_map(round).collect(),
    }
}

/// A column of weights as the kernel multiplies it.
fn weighed(shape: &Shape, column: &[f32]) -> Vec<f64> {
    match shape.kind {
        // Mixed twice, in inputs and weights, is 64 times as large.
        Kind::Bytes => mixed(column).iter().flat_map(|block| round(block)).map(|x| x / MIXED as f64).collect(),
        Kind::Bfloat16 => column.iter().map(|x| pairs::round(*x).to_f64()).collect(),
        Kind::Floats | Kind::Nibbles => column.iter().map(|x| f64::from(*x)).collect(),
    }
}

/// The product in float64, and how far float32 may be from it.
fn expected(shape: &Shape, weights: &[&Weight], row: &[f32]) -> Vec<(f64, f64)> {
    let inputs = rounded(shape, row);
    let columns = weights.iter().flat_map(|weight| &weight.values);
    let sums: Vec<(f64, f64)> = columns
        .map(|column| {
            let column = weighed(shape, column);
            let products = column.iter().zip(&inputs).map(|(w, x)| w * x);
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
            (sum, 1e-6 * size + 1e-6)
        })
        .collect();
    let Epilogue::Gated(activation) = shape.epilogue else { return sums };
    let (gates, ups) = sums.split_at(sums.len() / 2);
    let activate = |x: f64| match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => 0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x * x * x)).tanh()),
    };
    let gated = |((gate, e), (up, f)): (&(f64, f64), &(f64, f64))| {
        (activate(*gate) * up, 2.0 * (e * up.abs() + f * gate.abs()) + 1e-5)
    };
    gates.iter().zip(ups).map(gated).collect()
}

fn check(shape: Shape, weights: &[&Weight], rows: usize, seed: u64) {
    let matrix = packed(&shape, weights);
    let inputs = numbers(rows * shape.inputs, seed);
    let best = product(&shape, &matrix, &inputs, dispatch::best_isa(shape.kind));
    for (row, (found, inputs)) in best.chunks(shape.outputs()).zip(inputs.chunks(shape.inputs)).enumerate() {
        for (column, (found, (wanted, error))) in found.iter().zip(expected(&shape, weights, inputs)).enumerate() {
            let off = (f64::from(*found) - wanted).abs();
            assert!(off <= error, "row {row}, column {column}: {found}, not {wanted} ± {error} ({shape:?})");
        }
    }
    for isa in available(shape.kind) {
        assert_eq!(product(&shape, &matrix, &inputs, isa), best, "{isa:?} gives other bits ({shape:?})");
        for (row, inputs) in best.chunks(shape.outputs()).zip(inputs.chunks(shape.inputs)) {
            assert_eq!(product(&shape, &matrix, inputs, isa), row, "a row alone has other bits ({isa:?}, {shape:?})");
        }
    }
}

/// A row after the norm, which is held to float64.
fn normalised(norm: &Norm<'_>, row: &[f32]) -> Vec<f32> {
    let mut scratch = vec![f32::NAN; 7];
    let found = norm.apply(Scalar, row, &mut scratch).to_vec();
    let squares: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
    let root = (squares / row.len() as f64 + f64::from(norm.epsilon)).sqrt();
    for ((found, x), weight) in found.iter().zip(row).zip(norm.weight) {
        let want = f64::from(*x) / root * f64::from(*weight);
        assert!((f64::from(*found) - want).abs() <= 1e-6 * want.abs(), "{found}, not {want}");
    }
    found
}

fn stored(kind: Kind, inputs: usize, columns: usize) -> Shape {
    Shape { kind, epilogue: Epilogue::Store, inputs, block_sums: false, columns }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn floats(inner in 1usize..150, columns in 1usize..100, rows in 1usize..30, seed: u32) {
        let weight = Weight::floats(inner, columns, seed.into());
        check(stored(Kind::Floats, inner, columns), &[&weight], rows, u64::from(seed) + 9);
    }

    #[test]
    fn bfloat16(inner in 1usize..150, columns in 1usize..100, rows in 1usize..30, seed: u32) {
        let shape = stored(Kind::Bfloat16, inner, columns);
        let [whole, half] = [Weight::floats, Weight::halves].map(|weight| weight(inner, columns, seed.into()));
        check(shape, &[&whole], rows, u64::from(seed) + 9);
        prop_assert_eq!(packed(&shape, &[&half]), packed(&shape, &[&whole]), "from either, the same panels");
    }

    #[test]
    fn blocks(
        bits in prop::sample::select(vec![4usize, 8]), block in prop::sample::select(vec![32usize, 64, 128]),
        inner in 1usize..200, columns in 1usize..100, rows in 1usize..20, zero_points: bool, seed: u32,
    ) {
        let weight = Weight::blocks(bits, block, inner, columns, zero_points && bits == 4, seed.into());
        check(stored(Kind::Bytes, inner, columns), &[&weight], rows, u64::from(seed) + 9);
        if bits == 4 {
            check(stored(Kind::Nibbles, inner, columns), &[&weight], rows, u64::from(seed) + 9);
        }
    }

    /// Several weights side by side, of which one has further columns for the sums of the input's blocks.
    #[test]
    fn merged(blocks in 1usize..8, a in 1usize..70, b in 1usize..70, rows in 1usize..14, seed: u32) {
        let inputs = blocks * BLOCK;
        let first = Weight::blocks(4, 32, inputs + blocks, a, true, seed.into());
        let second = Weight::blocks(8, 32, inputs, b, false, u64::from(seed) + 3);
        let shape = Shape { block_sums: true, columns: a + b, ..stored(Kind::Bytes, inputs, 0) };
        check(shape, &[&first, &second], rows, u64::from(seed) + 9);
    }

    /// A norm and a sum of the product's own have the bits of a pass before it and one behind it.
    #[test]
    fn normalised_and_added(
        kind in prop::sample::select(vec![Kind::Floats, Kind::Bfloat16, Kind::Bytes, Kind::Nibbles]),
        inner in 1usize..200, columns in 1usize..100, rows in 1usize..14, seed: u32,
    ) {
        let seed = u64::from(seed);
        let weight = match kind {
            Kind::Floats | Kind::Bfloat16 => Weight::floats(inner, columns, seed),
            Kind::Bytes | Kind::Nibbles => Weight::blocks(4, 32, inner, columns, true, seed),
        };
        let shape = stored(kind, inner, columns);
        let (matrix, inputs) = (packed(&shape, &[&weight]), numbers(rows * inner, seed + 9));
        let (of_norm, residual) = (numbers(inner, seed + 5), numbers(rows * columns, seed + 7));
        let norm = (kind != Kind::Floats).then_some(Norm { weight: &of_norm, epsilon: 1e-5 });
        let before = match norm {
            Some(norm) => inputs.chunks(inner).flat_map(|row| normalised(&norm, row)).collect(),
            None => inputs.clone(),
        };
        let operands = Operands { inputs: &inputs, norm, residual: Some(&residual) };
        for isa in available(kind) {
            let sums: Vec<f32> =
                product(&shape, &matrix, &before, isa).iter().zip(&residual).map(|(x, y)| x + y).collect();
            prop_assert_eq!(&product_of(&shape, &matrix, operands, isa), &sums, "{:?}, {:?}", isa, shape);
        }
    }

    #[test]
    fn gated(
        kind in prop::sample::select(vec![Kind::Floats, Kind::Bfloat16, Kind::Bytes]),
        halves in 1usize..6, rows in 1usize..14, seed: u32, gelu: bool,
    ) {
        let (inputs, columns, bytes) = (64, halves * 16, kind == Kind::Bytes);
        let weight = |seed| match bytes {
            true => Weight::blocks(8, 32, inputs, columns, false, seed),
            false => Weight::floats(inputs, columns, seed),
        };
        let (mut gate, mut up) = (weight(seed.into()), weight(u64::from(seed) + 3));
        // Of a size at which activations are neither straight nor flat.
        for weight in [&mut gate, &mut up].into_iter().filter(|_| bytes) {
            let smaller: Vec<f32> = weight.scales.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b) / 256.0).collect();
            weight.scales = little_endian(&smaller);
            weight.values.iter_mut().flatten().for_each(|x| *x /= 256.0);
        }
        let activation = if gelu { Activation::GeluTanh } else { Activation::Silu };
        let shape = Shape { epilogue: Epilogue::Gated(activation), ..stored(kind, inputs, 2 * columns) };
        check(shape, &[&gate, &up], rows, u64::from(seed) + 9);
    }
}

/// Mixing is Walsh's matrix, which is 64 times its own inverse: mixed inputs times mixed weights are the product, within
/// what two roundings to a 127th of a block's largest may do.
#[test]
fn mixed_products_are_the_products() {
    let (inputs, weight) = (numbers(192, 3), Weight::blocks(8, 32, 192, 5, false, 4));
    let mixed_block = &mixed(&inputs)[1];
    for (i, x) in mixed_block.iter().enumerate() {
        let sign = |k: usize| if (i & k).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
        let want: f64 = inputs[64..128].iter().enumerate().map(|(k, x)| sign(k) * f64::from(*x)).sum();
        assert!((f64::from(*x) - want).abs() < 1e-5, "number {i}: {x} is not {want}");
    }
    let shape = stored(Kind::Bytes, 192, 5);
    let found = product(&shape, &packed(&shape, &[&weight]), &inputs, best_isa());
    let norm = |x: &[f32]| x.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
    for (found, column) in found.iter().zip(&weight.values) {
        let want: f64 = column.iter().zip(&inputs).map(|(w, x)| f64::from(w * x)).sum();
        let off = (f64::from(*found) - want).abs();
        assert!(off < 0.02 * norm(column) * norm(&inputs), "{found} is not {want}");
    }
}

/// Bytes can't say NaN, so damage must not be rounded away.
#[test]
fn what_is_not_finite_shows() {
    let weight = Weight::blocks(8, 32, 64, 40, false, 1);
    let shape = stored(Kind::Bytes, 64, 40);
    let matrix = packed(&shape, &[&weight]);
    for damage in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 31, 63] {
            let mut inputs = numbers(2 * 64, 5);
            inputs[64 + at] = damage;
            for isa in available(Kind::Bytes) {
                let output = product(&shape, &matrix, &inputs, isa);
                assert!(output[..40].iter().all(|x| x.is_finite()), "the row beside it is whole");
                assert!(output[40..].iter().all(|x| x.is_nan()), "{damage} at {at} is lost ({isa:?})");
            }
        }
    }
}

/// bfloat16 says NaN and infinity as float32 does.
#[test]
fn what_is_not_finite_shows_in_bfloat16() {
    let (weight, shape) = (Weight::floats(63, 40, 1), stored(Kind::Bfloat16, 63, 40));
    let matrix = packed(&shape, &[&weight]);
    for damage in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let mut inputs = numbers(2 * 63, 5);
        inputs[63 + 62] = damage;
        for isa in available(Kind::Bfloat16) {
            let output = product(&shape, &matrix, &inputs, isa);
            assert!(output[..40].iter().all(|x| x.is_finite()), "the row beside it is whole");
            assert!(output[40..].iter().all(|x| !x.is_finite()), "{damage} is lost ({isa:?})");
        }
    }
}

/// A weight in float16 is what it is in float32, by rows and by columns.
#[test]
fn halves_are_packed_as_what_they_are() {
    let (inner, columns) = (37, 45);
    let numbers: Vec<f16> = numbers(inner * columns, 3).into_iter().map(f16::from_f32).collect();
    let whole: Vec<u8> = numbers.iter().flat_map(|x| x.to_f32().to_le_bytes()).collect();
    let half: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    for by_column in [false, true] {
        for kind in [Kind::Floats, Kind::Bfloat16] {
            let shape = stored(kind, inner, columns);
            let pack = |number, values: &[u8]| {
                let mut bytes = vec![0; shape.bytes()];
                let part = Part::Floats(Floats { number, values, columns, by_column });
                pack::pack(&shape, &[part], 0..shape.panels(), &mut bytes);
                bytes
            };
            assert_eq!(pack(Number::Float16, &half), pack(Number::Float32, &whole), "{kind:?}, {by_column}");
        }
    }
}

/// Nor by a norm, which finds a mean of squares that is not finite.
#[test]
fn what_is_not_finite_shows_after_a_norm() {
    let weight = Weight::blocks(8, 32, 64, 40, false, 1);
    let shape = stored(Kind::Bytes, 64, 40);
    let (matrix, ones) = (packed(&shape, &[&weight]), [1.0; 64]);
    for damage in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut inputs = numbers(64, 5);
        inputs[20] = damage;
        let norm = Some(Norm { weight: &ones, epsilon: 1e-5 });
        for isa in available(Kind::Bytes) {
            let output = product_of(&shape, &matrix, Operands { norm, ..Operands::plain(&inputs) }, isa);
            assert!(output.iter().all(|x| x.is_nan()), "{damage} is lost ({isa:?})");
        }
    }
}

#[test]
fn zeros_and_next_to_nothing_give_zero() {
    let weight = Weight::blocks(4, 32, 64, 33, false, 1);
    let shape = stored(Kind::Bytes, 64, 33);
    let matrix = packed(&shape, &[&weight]);
    for value in [0.0, -0.0, f32::MIN_POSITIVE, 1e-40] {
        assert!(product(&shape, &matrix, &[value; 64], best_isa()).iter().all(|x| *x == 0.0));
    }
}

#[test]
fn memory_is_used_again_for_matrices_of_the_same_shapes() {
    // Odd sizes, so that there are columns and elements beyond the last.
    let shapes = [stored(Kind::Bytes, 100, 40), stored(Kind::Floats, 33, 70)];
    let (spare, threads) = (Arc::<Spare>::default(), 2);
    let packed = |shapes: &[Shape], spare: Option<&Arc<Spare>>, seed: u64| {
        let part = |index: usize, then: &mut dyn FnMut(&[Part<'_>])| {
            let Shape { kind, inputs, columns, .. } = shapes[index];
            let seed = seed + index as u64;
            let weight = match kind {
                Kind::Bytes => Weight::blocks(8, 32, inputs, columns, false, seed),
                _ => Weight::floats(inputs, columns, seed),
            };
            then(&[weight.part()]);
            Ok(())
        };
        Packed::pack::<PackError>(shapes, threads, spare.cloned(), part).expect("memory")
    };
    let bytes = |packed: &Packed| packed.arena.bytes().to_vec();
    let first = packed(&shapes, Some(&spare), 1);
    let place = first.arena.bytes().as_ptr();
    drop(first);
    let second = packed(&shapes, Some(&spare), 2);
    assert_eq!(second.arena.bytes().as_ptr(), place, "the memory of the first");
    assert_eq!(bytes(&second), bytes(&packed(&shapes, None, 2)));
    let beside = packed(&shapes, Some(&spare), 3);
    assert_eq!(bytes(&beside), bytes(&packed(&shapes, None, 3)), "the second is not touched");
    drop((second, beside));
    let others = [stored(Kind::Bytes, 100, 41), stored(Kind::Floats, 33, 70)];
    assert_eq!(bytes(&packed(&others, Some(&spare), 4)), bytes(&packed(&others, None, 4)), "of other shapes");
}
