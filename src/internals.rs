//! Thin access to private parts for `benches/internals.rs` and `benches/instructions.rs`, behind the feature
//! `internals`. Anything here may change at any time.

use std::time::Instant;

use ndarray::{Array2, ArrayView2};

use crate::Result;
use crate::decode::cache::Cache;
use crate::decode::executor::{Executor, Step};
use crate::decode::rope::{Variant, Variants};
use crate::decode::scheduler::{Budget, Next, Reader, Scheduler, SchedulerOptions};
use crate::decode::urgency::Urgency;
use crate::kernels::attention::BLOCK_SIZE;
use crate::kernels::attention::call::{Call, Item, Packed};
use crate::kernels::attention::layout::{Heads, Stored};
use crate::kernels::dot;
use crate::kernels::matmul::call::{Call as Product, Operands, Rounded};
use crate::kernels::matmul::pack::{self, Blocks, Epilogue, Floats, Kind, Number, Part, Shape};
use crate::kernels::simd::Isa;

/// The instruction set that the kernels choose here: `avx512`, `avx2` or `scalar`.
pub fn isa() -> String {
    Isa::detect().name().to_owned()
}

/// The prefix tree.
pub struct Tree(Cache);

impl Tree {
    /// A tree over `blocks` blocks.
    pub fn new(blocks: usize) -> Self {
        Tree(Cache::new(blocks, BLOCK_SIZE))
    }

    /// Takes a sequence's blocks, as if its rows were computed at once, and releases them. Returns the number of rows
    /// that were already there.
    pub fn pass(&mut self, tokens: &[u32]) -> usize {
        let path = self.0.attach(Variant::Short, tokens);
        let mut there = 0;
        for (at, &node) in path.iter().enumerate() {
            there += self.0.filled(node);
            assert!(self.0.ensure_block(node), "the sequence fits");
            self.0.fill(node, (tokens.len() - at * BLOCK_SIZE).min(BLOCK_SIZE));
        }
        self.0.release(path);
        there
    }
}

/// The scheduler over a model that computes nothing.
pub struct Schedule {
    /// Number of blocks in the cache.
    pub blocks: usize,
    /// Number of prompt tokens per step.
    pub step_tokens: usize,
    /// Number of tokens that each sequence samples.
    pub new_tokens: usize,
}

impl Schedule {
    /// Runs sequences that start together to their end. Returns the number of steps.
    pub fn run(&self, prompts: &[Vec<u32>]) -> usize {
        let options = SchedulerOptions {
            blocks: self.blocks,
            block_size: BLOCK_SIZE,
            max_sequences: 64,
            max_logit_rows: 64,
            block_bytes: 1,
            variants: Variants::default(),
        };
        let mut scheduler = Scheduler::new(options);
        for prompt in prompts {
            let reader = Counter { next: prompt.len() - 1, left: self.new_tokens };
            scheduler.submit(prompt.clone(), self.new_tokens, Urgency::default(), reader).expect("the sequence fits");
        }
        let (mut steps, mut ended) = (0, Vec::new());
        let budget = Budget { tokens: self.step_tokens, least: 1, rate: None, now: Instant::now() };
        while !scheduler.is_idle() {
            scheduler.step(&budget, &mut Nothing, &mut ended);
            steps += 1;
        }
        steps
    }
}

/// Samples token 0 until there are enough of them.
struct Counter {
    next: usize,
    left: usize,
}

impl Reader for Counter {
    fn next_position(&self) -> usize {
        self.next
    }

    fn read(&mut self, _: usize, _: &[u32], _: &[f32]) -> Result<Next> {
        self.next += 1;
        self.left -= 1;
        Ok(if self.left == 0 { Next::Finish } else { Next::Append(0) })
    }
}

struct Nothing;

impl Executor for Nothing {
    fn copy_block(&mut self, _: u32, _: u32) {}

    fn run(&mut self, step: &Step, read: &mut dyn FnMut(ArrayView2<'_, f32>)) -> Result<()> {
        read(Array2::zeros((step.logit_rows.len(), 1)).view());
        Ok(())
    }
}

/// One sequence's attention in one layer of SmolLM2-135M, without rotary embedding, on one thread.
pub struct Attention {
    stored_as: Stored,
    past: usize,
    tokens: usize,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    key_cache: Vec<f32>,
    value_cache: Vec<f32>,
    table: Vec<i32>,
    queries: Vec<f32>,
    output: Vec<f32>,
}

impl Attention {
    const HEADS: Heads = Heads { query: 9, kv: 3, size: 64 };

    /// `tokens` new tokens after `past` tokens in the cache, which is of float32 or, with `bytes`, of int8.
    pub fn new(bytes: bool, past: usize, tokens: usize) -> Self {
        let stored_as = if bytes { Stored::Int8 } else { Stored::Float32 };
        let Heads { query, kv, size } = Self::HEADS;
        let blocks = (past + tokens).div_ceil(BLOCK_SIZE);
        // Finite numbers that are not all alike.
        let floats = |n: usize| (0..n).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect::<Vec<f32>>();
        let numbers = blocks * stored_as.block_bytes(Self::HEADS) / size_of::<f32>();
        Attention {
            stored_as,
            past,
            tokens,
            query: floats(tokens * query * size),
            key: floats(tokens * kv * size),
            value: floats(tokens * kv * size),
            key_cache: floats(numbers),
            value_cache: floats(numbers),
            table: (0..blocks as i32).rev().collect(),
            queries: vec![0.0; tokens * query * size],
            output: vec![0.0; tokens * query * size],
        }
    }

    /// Writes the new tokens' keys and values, and computes their outputs. Returns one of them.
    pub fn run(&mut self) -> f32 {
        let Heads { query, kv, size } = Self::HEADS;
        let call = Call {
            heads: Self::HEADS,
            scale: 1.0 / (size as f32).sqrt(),
            softcap: 0.0,
            window: usize::MAX,
            rotary: None,
            query: Packed { data: &self.query, offset: 0, stride: query * size },
            key: Packed { data: &self.key, offset: 0, stride: kv * size },
            value: Packed { data: &self.value, offset: 0, stride: kv * size },
            stored_as: self.stored_as,
            key_cache: self.key_cache.as_mut_ptr().cast(),
            value_cache: self.value_cache.as_mut_ptr().cast(),
            block_table: &self.table,
            table_width: self.table.len(),
            past: &[self.past as i32],
            queries: self.queries.as_mut_ptr().cast(),
            output: self.output.as_mut_ptr(),
        };
        let (isa, step) = (self.stored_as.best_isa(), Self::HEADS.tokens_per_item());
        for token in 0..self.tokens {
            let position = self.past + token;
            let slot = self.table[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE;
            // SAFETY: the head size is a multiple of sixteen, so the buffers have the sizes that the call's fields
            // document; one thread; every slot is inside the cache.
            unsafe { call.prepare(token, position, Some(slot), isa) };
        }
        for token in (0..self.tokens).step_by(step) {
            let (count, position) = (step.min(self.tokens - token), self.past + token);
            let item = Item { token, count, position, sequence: 0, apart: false, head: 0, heads: 0 };
            for heads in Self::HEADS.shares() {
                // SAFETY: as above; all tokens are prepared.
                unsafe { call.attend(item.of(heads), isa) };
            }
        }
        self.output[0]
    }
}

/// Rows of inputs times one weight, on one thread.
pub struct MatMul {
    shape: Shape,
    matrix: Vec<u8>,
    inputs: Vec<f32>,
    rounded: Rounded,
    output: Vec<f32>,
}

impl MatMul {
    /// `rows` rows of `inputs` numbers; `columns` columns in float32 or, with `bytes`, in 8 bits in blocks of 32.
    pub fn new(bytes: bool, rows: usize, inputs: usize, columns: usize) -> Self {
        let kind = if bytes { Kind::Bytes } else { Kind::Floats };
        let shape = Shape { kind, epilogue: Epilogue::Store, inputs, block_sums: false, columns };
        let floats = |n: usize| (0..n).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect::<Vec<f32>>();
        let little_endian = |n: usize| floats(n).into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        let quants: Vec<u8> = (0..inputs * columns).map(|i| (i * 31 % 251) as u8).collect();
        let (values, scales) = (little_endian(inputs * columns), little_endian(inputs / 32 * columns));
        let part = match kind {
            Kind::Floats | Kind::Bfloat16 => {
                Part::Floats(Floats { number: Number::Float32, values: &values, columns, by_column: true })
            }
            Kind::Bytes | Kind::Nibbles => Part::Blocks(Blocks {
                bits: 8,
                block: 32,
                columns,
                quants: &quants,
                scales: &scales,
                zero_points: None,
            }),
        };
        let mut matrix = vec![0; shape.bytes()];
        pack::pack(&shape, &[part], 0..shape.panels(), &mut matrix);
        let output = vec![0.0; rows * columns];
        MatMul { shape, matrix, inputs: floats(rows * inputs), rounded: Rounded::default(), output }
    }

    /// Computes the product. Returns one number of it.
    pub fn run(&mut self) -> f32 {
        let (isa, mut scratch) = (dot::best_isa(), Vec::new());
        let call = Product::new(
            self.shape,
            isa,
            &self.matrix,
            Operands::plain(&self.inputs),
            &mut self.rounded,
            &mut self.output,
        );
        // SAFETY: one thread.
        unsafe {
            if self.shape.kind != Kind::Floats {
                (0..call.rows).for_each(|row| call.quantise(row, &mut Vec::new()));
            }
            (0..self.shape.panels()).for_each(|panel| call.multiply(panel, 0, call.rows, &mut scratch));
        }
        self.output[0]
    }
}
