//! The forms in which checkpoints store numbers, and their widening to float32.
//!
//! The blocks of the quantised forms are ggml's: a few scales, then packed integers. Another form is one more row.

pub(super) mod affine;
mod k_quants;
mod small_blocks;
#[cfg(test)]
mod tests;

use half::f16;
use half::slice::HalfFloatSliceExt as _;

use crate::finite::{Float, Refused};

/// One way of storing the elements of a tensor.
#[derive(Debug)]
pub(crate) struct Format {
    /// The name that messages use.
    pub(super) name: &'static str,
    /// The number of this type in GGUF files; none for forms that GGUF lacks.
    pub(super) ggml_type: u32,
    /// Elements that are stored together.
    pub(super) block_elements: usize,
    /// Bytes of such a block.
    pub(super) block_bytes: usize,
    /// The numbers of a block that decide whether its elements are finite.
    pub(super) floats: Floats,
    /// Widens whole blocks: `input` is n·`block_bytes` long and `output` n·`block_elements`.
    pub(super) widen: fn(input: &[u8], output: &mut [f32]),
}

/// The floating-point numbers of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Floats {
    /// The block is one number.
    All(Float),
    /// The block has float16 scales and minima at these bytes. The rest are integers.
    Scales(&'static [usize]),
}

pub(super) static F32: Format = Format {
    name: "F32",
    ggml_type: 0,
    block_elements: 1,
    block_bytes: 4,
    floats: Floats::All(Float::Float32),
    widen: widen_f32,
};
pub(super) static F16: Format = Format {
    name: "F16",
    ggml_type: 1,
    block_elements: 1,
    block_bytes: 2,
    floats: Floats::All(Float::Float16),
    widen: widen_f16,
};
pub(super) static BF16: Format = Format {
    name: "BF16",
    ggml_type: 30,
    block_elements: 1,
    block_bytes: 2,
    floats: Floats::All(Float::Bfloat16),
    widen: widen_bf16,
};
pub(super) static Q4_0: Format = Format {
    name: "Q4_0",
    ggml_type: 2,
    block_elements: 32,
    block_bytes: 18,
    floats: Floats::Scales(&[0]),
    widen: small_blocks::widen_q4_0,
};
pub(super) static Q4_1: Format = Format {
    name: "Q4_1",
    ggml_type: 3,
    block_elements: 32,
    block_bytes: 20,
    floats: Floats::Scales(&[0, 2]),
    widen: small_blocks::widen_q4_1,
};
pub(super) static Q5_0: Format = Format {
    name: "Q5_0",
    ggml_type: 6,
    block_elements: 32,
    block_bytes: 22,
    floats: Floats::Scales(&[0]),
    widen: small_blocks::widen_q5_0,
};
pub(super) static Q5_1: Format = Format {
    name: "Q5_1",
    ggml_type: 7,
    block_elements: 32,
    block_bytes: 24,
    floats: Floats::Scales(&[0, 2]),
    widen: small_blocks::widen_q5_1,
};
pub(super) static Q8_0: Format = Format {
    name: "Q8_0",
    ggml_type: 8,
    block_elements: 32,
    block_bytes: 34,
    floats: Floats::Scales(&[0]),
    widen: small_blocks::widen_q8_0,
};
pub(super) static Q2_K: Format = Format {
    name: "Q2_K",
    ggml_type: 10,
    block_elements: 256,
    block_bytes: 84,
    floats: Floats::Scales(&[80, 82]),
    widen: k_quants::widen_q2_k,
};
pub(super) static Q3_K: Format = Format {
    name: "Q3_K",
    ggml_type: 11,
    block_elements: 256,
    block_bytes: 110,
    floats: Floats::Scales(&[108]),
    widen: k_quants::widen_q3_k,
};
pub(super) static Q4_K: Format = Format {
    name: "Q4_K",
    ggml_type: 12,
    block_elements: 256,
    block_bytes: 144,
    floats: Floats::Scales(&[0, 2]),
    widen: k_quants::widen_q4_k,
};
pub(super) static Q5_K: Format = Format {
    name: "Q5_K",
    ggml_type: 13,
    block_elements: 256,
    block_bytes: 176,
    floats: Floats::Scales(&[0, 2]),
    widen: k_quants::widen_q5_k,
};
pub(super) static Q6_K: Format = Format {
    name: "Q6_K",
    ggml_type: 14,
    block_elements: 256,
    block_bytes: 210,
    floats: Floats::Scales(&[208]),
    widen: k_quants::widen_q6_k,
};

/// The forms that GGUF tensors may have.
pub(super) static GGUF_FORMATS: [&Format; 13] =
    [&F32, &F16, &BF16, &Q4_0, &Q4_1, &Q5_0, &Q5_1, &Q8_0, &Q2_K, &Q3_K, &Q4_K, &Q5_K, &Q6_K];

/// The names of ggml's types by number, so that what can't be read is at least refused by name.
const GGML_TYPE_NAMES: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// The form with this number in GGUF files; otherwise what to call it in a refusal.
pub(super) fn from_ggml(number: u32) -> Result<&'static Format, String> {
    GGUF_FORMATS.into_iter().find(|format| format.ggml_type == number).ok_or_else(|| {
        GGML_TYPE_NAMES
            .iter()
            .find(|(known, _)| *known == number)
            .map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned())
    })
}

impl Format {
    /// The bytes that `elements` take; none where they don't fill whole blocks or overflow.
    pub(super) fn bytes(&self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block_elements as u64) {
            return None;
        }
        (elements / self.block_elements as u64).checked_mul(self.block_bytes as u64)
    }

    /// The first element of `blocks` that is not finite, or whose scale isn't, and that number.
    pub(super) fn first_refused(&self, blocks: &[u8], refused: Refused) -> Option<(usize, f64)> {
        match self.floats {
            Floats::All(float) => float.first(blocks, refused),
            Floats::Scales(places) => {
                let halves = |block: &[u8]| {
                    let of = |&at: &usize| Float::Float16.first(&block[at..at + 2], Refused::NonFinite);
                    places.iter().find_map(of).map(|(_, number)| number)
                };
                let mut found = blocks.chunks_exact(self.block_bytes).map(halves).enumerate();
                found.find_map(|(block, number)| Some((block * self.block_elements, number?)))
            }
        }
    }
}

fn pair(bytes: &[u8]) -> [u8; 2] {
    [bytes[0], bytes[1]]
}

/// The f16 at byte `at` of a block.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes(pair(&block[at..])).to_f32()
}

fn widen_f32(input: &[u8], output: &mut [f32]) {
    for (bytes, value) in input.chunks_exact(4).zip(output) {
        *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
}

fn widen_f16(input: &[u8], output: &mut [f32]) {
    /// Numbers that are widened in one go, by the processor's own instruction where it has one.
    const MANY: usize = 256;
    let mut halves = [f16::ZERO; MANY];
    for (bytes, values) in input.chunks(2 * MANY).zip(output.chunks_mut(MANY)) {
        for (bytes, half) in bytes.chunks_exact(2).zip(&mut halves) {
            *half = f16::from_le_bytes(pair(bytes));
        }
        halves[..values.len()].convert_to_f32_slice(values);
    }
}

fn widen_bf16(input: &[u8], output: &mut [f32]) {
    for (bytes, value) in input.chunks_exact(2).zip(output) {
        // The upper half of a float32. (half's conversion has a branch for NaN, which keeps it from taking several at once.)
        *value = f32::from_bits(u32::from(u16::from_le_bytes(pair(bytes))) << 16);
    }
}
