//! Paged attention as an operator of ONNX Runtime on the CPU.
//!
//! The operator takes the inputs of `com.microsoft.PagedAttention`, which has no CPU kernel, under our own domain: packed
//! tokens of several sequences, a key and a value cache in blocks, a block table. It writes the caches in place and has no
//! other output than its rows. The caches' inner layout is ours ([`layout`]), because nobody else reads them on the host.
//!
//! The attributes are that operator's: `num_heads`, `kv_num_heads`, `scale`, `softcap` (0 for none), `local_window_size`
//! (tokens that a token sees, itself included; -1 for all before it), `do_rotary` and `rotary_interleaved`. `head_size` is
//! our own. So is one input: `rope_offset` (`[B]`) is the row of the rotary tables at which a sequence's positions begin. A
//! model whose tables depend on the sequence's length needs it.
//!
//! # Two passes
//!
//! A call is two passes over its tokens. [`Call::prepare`] rotates a token's query and key, and writes its key and value
//! into its slot of the cache ([`prepare`]). Then [`Call::attend`] computes a few queries of one key-value head against the
//! cache, with an online softmax ([`tile`]).
//!
//! # Same bits in any batch
//!
//! A query row depends on its own sequence alone. One lane sums a key's score, over the head's dimensions in order. Keys
//! come in tiles of [`layout::TILE`], which start at absolute positions. Sums over keys run in order of position (in
//! bfloat16, pair by pair of positions), and a fixed tree folds lanes. How rows are grouped, cut into chunks or spread over
//! threads decides only which of these independent chains run side by side.
//!
//! # Blocks of 16 tokens
//!
//! A block is as wide as the widest register has floats, so one load fills it. Small blocks cost no sharing, because
//! sequences that part within a block copy its common rows.
//!
//! # Common keys are read once
//!
//! Sequences that are decoding stand one after the other in a step, and about eight of them share a work item. The item
//! walks over their keys tile by tile. Neighbours share a tile if their tables name the same blocks there, so a tree of
//! futures is walked as a tree. Each row still takes its keys in its own order.

mod bytes;
pub mod call;
mod dispatch;
mod form;
pub mod layout;
mod numbers;
mod prepare;
mod tile;

use std::ops::Range;

use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::{DynTensorValueType, TensorElementType, ValueRef, ValueType};

use self::call::{Call, Item, Packed, Rotary};
use self::layout::{Heads, MAX_HEAD, Stored};
use super::simd::{Isa, LANES};
use crate::operator;

/// Domain and name under which the rewritten graph calls the operator.
pub const DOMAIN: &str = "foreturn";
/// See [`DOMAIN`].
pub const OPERATOR: &str = "PagedAttention";
/// Most heads of a layer.
pub const MAX_HEADS: usize = 1 << 16;
/// Tokens of a cache block.
pub const BLOCK_SIZE: usize = LANES;

/// Positions of the operator's inputs.
mod input {
    pub(super) const QUERY: usize = 0;
    pub(super) const KEY: usize = 1;
    pub(super) const VALUE: usize = 2;
    pub(super) const KEY_CACHE: usize = 3;
    pub(super) const VALUE_CACHE: usize = 4;
    pub(super) const CUMULATIVE_LENGTHS: usize = 5;
    pub(super) const PAST_LENGTHS: usize = 6;
    pub(super) const BLOCK_TABLE: usize = 7;
    pub(super) const COS_CACHE: usize = 8;
    pub(super) const SIN_CACHE: usize = 9;
    pub(super) const SLOT_MAPPING: usize = 10;
    pub(super) const ROPE_OFFSET: usize = 11;
}

/// The operator, over caches of one kind.
pub struct PagedAttention(pub Stored);

impl Operator for PagedAttention {
    type Kernel<'attr> = PagedAttentionKernel;

    fn name(&self) -> &str {
        OPERATOR
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        use TensorElementType::{Float32, Int32};
        let cache = self.0.element();
        [
            OperatorInput::required(Float32),
            OperatorInput::optional(Float32),
            OperatorInput::optional(Float32),
            OperatorInput::required(cache),
            OperatorInput::required(cache),
            OperatorInput::required(Int32),
            OperatorInput::required(Int32),
            OperatorInput::required(Int32),
            OperatorInput::optional(Float32),
            OperatorInput::optional(Float32),
            OperatorInput::required(Int32),
            OperatorInput::optional(Int32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        operator::guard(OPERATOR, || PagedAttentionKernel::new(self.0, context))
    }
}

pub struct PagedAttentionKernel {
    heads: Heads,
    scale: f32,
    softcap: f32,
    window: usize,
    rotary: bool,
    interleaved: bool,
    isa: Isa,
    stored_as: Stored,
    // Scratch, kept between calls.
    items: Vec<Item>,
    /// Each token's row of the rotary tables.
    rope_rows: Vec<usize>,
    /// Room for numbers of either kind.
    queries: Vec<f32>,
    /// Used where the head size is not a multiple of sixteen.
    padded_output: Vec<f32>,
}

impl PagedAttentionKernel {
    /// The kernel of one node, over caches of what `stored_as` says.
    fn new(stored_as: Stored, context: &KernelContext<'_>) -> ort::Result<Self> {
        let positive = |name: &str| match context.get::<i64>(name) {
            Some(n) if n > 0 && n <= MAX_HEADS as i64 => Ok(n as usize),
            other => {
                Err(ort::Error::new(format!("{OPERATOR}: attribute `{name}` is {other:?}, not a positive number")))
            }
        };
        let (query, kv, size) = (positive("num_heads")?, positive("kv_num_heads")?, positive("head_size")?);
        if size > MAX_HEAD {
            return Err(ort::Error::new(format!("{OPERATOR}: heads of {size} numbers are larger than {MAX_HEAD}")));
        }
        if query % kv != 0 {
            return Err(ort::Error::new(format!(
                "{OPERATOR}: {query} query heads are not a multiple of {kv} key-value heads"
            )));
        }
        let scale = context.get::<f32>("scale").filter(|scale| *scale != 0.0).unwrap_or(1.0 / (size as f32).sqrt());
        let softcap = context.get::<f32>("softcap").unwrap_or(0.0);
        if !softcap.is_finite() || softcap < 0.0 {
            return Err(ort::Error::new(format!(
                "{OPERATOR}: attribute `softcap` is {softcap}, not a positive number"
            )));
        }
        let window = match context.get::<i64>("local_window_size").unwrap_or(-1) {
            -1 => usize::MAX,
            size if size > 0 => size as usize,
            size => {
                let complaint = "neither -1 nor a positive number";
                return Err(ort::Error::new(format!(
                    "{OPERATOR}: attribute `local_window_size` is {size}, {complaint}"
                )));
            }
        };
        Ok(PagedAttentionKernel {
            heads: Heads { query, kv, size },
            scale,
            softcap,
            window,
            rotary: context.get::<i64>("do_rotary").unwrap_or(0) != 0,
            interleaved: context.get::<i64>("rotary_interleaved").unwrap_or(0) != 0,
            isa: stored_as.best_isa(),
            stored_as,
            items: Vec::new(),
            rope_rows: Vec::new(),
            queries: Vec::new(),
            padded_output: Vec::new(),
        })
    }
}

/// Fails the run with a message that names the operator.
fn refuse<T>(message: String) -> ort::Result<T> {
    Err(ort::Error::new(format!("{OPERATOR}: {message}")))
}

/// The floats of a tensor input.
fn floats<'v>(value: &'v Option<ValueRef<'_>>, name: &str) -> ort::Result<(Vec<usize>, &'v [f32])> {
    let Some(value) = value else { return refuse(format!("input `{name}` is missing")) };
    let (shape, data) = value.try_extract_tensor::<f32>()?;
    Ok((shape.iter().map(|&d| d as usize).collect(), data))
}

fn integers<'v>(value: &'v Option<ValueRef<'_>>, name: &str) -> ort::Result<&'v [i32]> {
    match value {
        Some(value) => Ok(value.try_extract_tensor::<i32>()?.1),
        None => refuse(format!("input `{name}` is missing")),
    }
}

impl Kernel for PagedAttentionKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        operator::guard(OPERATOR, || self.attend(context))
    }
}

impl PagedAttentionKernel {
    fn attend(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let query = context.input(input::QUERY)?;
        let (shape, query) = floats(&query, "query")?;
        let (key, value) = (context.input(input::KEY)?, context.input(input::VALUE)?);
        let (key_cache, value_cache) = (context.input(input::KEY_CACHE)?, context.input(input::VALUE_CACHE)?);
        let lengths = context.input(input::CUMULATIVE_LENGTHS)?;
        let past = context.input(input::PAST_LENGTHS)?;
        let table = context.input(input::BLOCK_TABLE)?;
        let slots = context.input(input::SLOT_MAPPING)?;
        let offsets = context.input(input::ROPE_OFFSET)?;
        let (cos, sin) = (context.input(input::COS_CACHE)?, context.input(input::SIN_CACHE)?);

        let width: usize = shape.last().copied().unwrap_or(0);
        let tokens = query.len().checked_div(width).unwrap_or(0);
        let (query, key, value) = self.split(query, width, &key, &value)?;
        let (cache_shape, key_cache) = self.cache(&key_cache, "key_cache")?;
        let (value_shape, value_cache) = self.cache(&value_cache, "value_cache")?;
        let blocks = cache_shape.first().copied().unwrap_or(0);
        let numbers = blocks * BLOCK_SIZE * self.heads.kv * self.stored_as.row(self.heads);
        if cache_shape.iter().product::<usize>() != numbers || value_shape != cache_shape {
            return refuse(format!("the cache of shape {cache_shape:?} does not fit {:?}", self.heads));
        }
        let batch = Batch {
            lengths: integers(&lengths, "cumulative_sequence_length")?,
            past: integers(&past, "past_seqlens")?,
            table: integers(&table, "block_table")?,
            slots: integers(&slots, "slot_mapping")?,
            rope_offsets: if offsets.is_some() { integers(&offsets, "rope_offset")? } else { &[] },
        };
        batch.validate(tokens, blocks)?;
        let rotary = match self.rotary {
            true => Some(self.rotary(&cos, &sin, batch.last_rope_row())?),
            false => None,
        };

        let mut output_shape: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        if let Some(last) = output_shape.last_mut() {
            *last = (self.heads.query * self.heads.size) as i64;
        }
        let Some(mut output) = context.output(0, output_shape)? else { return refuse("no output".into()) };
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let stored = self.heads.stored();
        let padded = stored != self.heads.size;
        let row = self.heads.query * stored;
        self.queries.resize(tokens * row, 0.0);
        if padded {
            self.padded_output.resize(tokens * row, 0.0);
        }
        self.plan(&batch);
        let call = Call {
            heads: self.heads,
            scale: self.scale,
            softcap: self.softcap,
            window: self.window,
            rotary,
            query,
            key,
            value,
            // The caches are inputs that this operator updates in place, as its contract says; nobody else reads them
            // during a run, and no slice of them exists here.
            key_cache,
            value_cache,
            stored_as: self.stored_as,
            block_table: batch.table,
            table_width: batch.table.len() / batch.past.len().max(1),
            past: batch.past,
            queries: self.queries.as_mut_ptr().cast(),
            output: if padded { self.padded_output.as_mut_ptr() } else { output.as_mut_ptr() },
        };
        let (items, rope_rows, slots, isa) = (&self.items, &self.rope_rows, batch.slots, self.isa);
        operator::par_for(OPERATOR, context, tokens, 0, |token| {
            // SAFETY: sizes were validated above; each token is prepared once and slots of a batch are distinct; the caches'
            // pointers may be written through, and no slice of the caches lives.
            unsafe { call.prepare(token, rope_rows[token], usize::try_from(slots[token]).ok(), isa) };
        })?;
        operator::par_for(OPERATOR, context, items.len(), items.len(), |i| {
            // SAFETY: all tokens are prepared; each item is computed once.
            unsafe { call.attend(items[i], isa) };
        })?;
        if padded {
            let size = self.heads.size;
            for (to, from) in output.chunks_exact_mut(size).zip(self.padded_output.chunks_exact(stored)) {
                to.copy_from_slice(&from[..size]);
            }
        }
        Ok(())
    }

    /// The shape of a cache, and where it lies. Slices of it are gone when this returns: the operator writes there.
    fn cache(&self, value: &Option<ValueRef<'_>>, name: &str) -> ort::Result<(Vec<usize>, *mut u8)> {
        let Some(given) = value else { return refuse(format!("input `{name}` is missing")) };
        let shape = match given.dtype() {
            ValueType::Tensor { ty, shape, .. } if *ty == self.stored_as.element() => shape,
            other => {
                return refuse(format!("input `{name}` is a {other}, not a tensor of {}", self.stored_as.element()));
            }
        };
        // ONNX Runtime's own pointer (GetTensorMutableData), not that of a slice: through a shared one nothing may be written.
        let data = given.view().downcast::<DynTensorValueType>()?.data_ptr().cast_mut();
        Ok((shape.iter().map(|&d| d as usize).collect(), data.cast()))
    }

    /// Views of query, key and value, which come apart or packed side by side in the query input.
    fn split<'v>(
        &self,
        query: &'v [f32],
        width: usize,
        key: &'v Option<ValueRef<'_>>,
        value: &'v Option<ValueRef<'_>>,
    ) -> ort::Result<(Packed<'v>, Packed<'v>, Packed<'v>)> {
        let (q, kv) = (self.heads.query * self.heads.size, self.heads.kv * self.heads.size);
        if key.is_none() && value.is_none() {
            if width != q + 2 * kv {
                return refuse(format!("packed query, key and value have width {width}, not {}", q + 2 * kv));
            }
            let part = |offset| Packed { data: query, offset, stride: width };
            return Ok((part(0), part(q), part(q + kv)));
        }
        let (_, key) = floats(key, "key")?;
        let (_, value) = floats(value, "value")?;
        let tokens = query.len() / q.max(1);
        if width != q || key.len() != tokens * kv || value.len() != tokens * kv {
            return refuse(format!(
                "query width {width}, key {} and value {} floats do not fit {:?}",
                key.len(),
                value.len(),
                self.heads
            ));
        }
        let part = |data, stride| Packed { data, offset: 0, stride };
        Ok((part(query, q), part(key, kv), part(value, kv)))
    }

    fn rotary<'v>(
        &self,
        cos: &'v Option<ValueRef<'_>>,
        sin: &'v Option<ValueRef<'_>>,
        last: usize,
    ) -> ort::Result<Rotary<'v>> {
        let (shape, cos) = floats(cos, "cos_cache")?;
        let (_, sin) = floats(sin, "sin_cache")?;
        let (rows, half) = match shape[..] {
            [rows, half] if half > 0 && 2 * half <= self.heads.size && sin.len() == cos.len() => (rows, half),
            _ => return refuse(format!("rotary tables of shape {shape:?} do not fit {:?}", self.heads)),
        };
        if last >= rows {
            return refuse(format!("position {last} is beyond the {rows} rows of the rotary tables"));
        }
        Ok(Rotary { cos, sin, half, interleaved: self.interleaved })
    }

    /// Rotary rows of the tokens, and the work items, heaviest (last in a long sequence) first within a sequence.
    fn plan(&mut self, batch: &Batch<'_>) {
        self.items.clear();
        self.rope_rows.clear();
        let mut sequence = 0;
        while sequence < batch.past.len() {
            let (tokens, past) = (batch.tokens(sequence), batch.past[sequence] as usize);
            let row = past + batch.rope_offset(sequence);
            self.rope_rows.extend(row..row + tokens.len());
            // Replies under way come one after the other: those of one prompt have most of their keys in common.
            let most = self.heads.sequences_per_item();
            let apart = (sequence + 1..batch.past.len()).take_while(|&other| batch.tokens(other).len() == 1);
            let apart = if tokens.len() == 1 { 1 + apart.take(most - 1).count() } else { 1 };
            for other in sequence + 1..sequence + apart {
                self.rope_rows.push(batch.past[other] as usize + batch.rope_offset(other));
            }
            let item = Item {
                token: tokens.start,
                count: apart,
                position: past,
                sequence,
                apart: apart > 1,
                head: 0,
                heads: 0,
            };
            if apart > 1 {
                self.items.extend(self.heads.shares().map(|heads| item.of(heads)));
            } else {
                let step = self.heads.tokens_per_item();
                for token in tokens.clone().step_by(step).rev() {
                    let (count, position) = (step.min(tokens.end - token), past + token - tokens.start);
                    let item = Item { token, count, position, ..item };
                    self.items.extend(self.heads.shares().map(|heads| item.of(heads)));
                }
            }
            sequence += apart;
        }
    }
}

/// The batch's integer inputs.
struct Batch<'a> {
    lengths: &'a [i32],
    past: &'a [i32],
    table: &'a [i32],
    slots: &'a [i32],
    /// Empty where all positions begin at the tables' first row.
    rope_offsets: &'a [i32],
}

impl Batch<'_> {
    /// A sequence's tokens in this call.
    fn tokens(&self, sequence: usize) -> Range<usize> {
        self.lengths[sequence] as usize..self.lengths[sequence + 1] as usize
    }

    /// Checks every number that becomes an index.
    fn validate(&self, tokens: usize, blocks: usize) -> ort::Result<()> {
        let sequences = self.past.len();
        let ascending = self.lengths.windows(2).all(|w| w[0] <= w[1]);
        if self.lengths.len() != sequences + 1
            || !ascending
            || self.lengths.first() != Some(&0)
            || self.lengths.last().is_none_or(|&last| last as usize != tokens)
        {
            return refuse(format!(
                "cumulative lengths {:?} do not fit {sequences} sequences of {tokens} tokens",
                self.lengths
            ));
        }
        if self.slots.len() != tokens
            || self.slots.iter().any(|&slot| slot >= 0 && slot as usize >= blocks * BLOCK_SIZE)
        {
            return refuse(format!("slot_mapping does not fit {tokens} tokens and {blocks} blocks"));
        }
        if !self.rope_offsets.is_empty()
            && (self.rope_offsets.len() != sequences || self.rope_offsets.iter().any(|&offset| offset < 0))
        {
            return refuse(format!("rope_offset {:?} does not fit {sequences} sequences", self.rope_offsets));
        }
        let width = self.table.len().checked_div(sequences).unwrap_or(0);
        for (sequence, past) in self.past.iter().enumerate() {
            let length = (self.lengths[sequence + 1] - self.lengths[sequence]) as usize;
            let needed = usize::try_from(*past).map(|past| (past + length).div_ceil(BLOCK_SIZE)).unwrap_or(usize::MAX);
            let row = &self.table[sequence * width..][..width];
            if needed > width || row[..needed].iter().any(|&block| block < 0 || block as usize >= blocks) {
                return refuse(format!("block_table row {sequence} does not hold {needed} blocks below {blocks}"));
            }
        }
        Ok(())
    }

    fn rope_offset(&self, sequence: usize) -> usize {
        self.rope_offsets.get(sequence).map_or(0, |&offset| offset as usize)
    }

    /// The last row of the rotary tables that is needed.
    fn last_rope_row(&self) -> usize {
        let ends = self
            .past
            .iter()
            .zip(self.lengths.windows(2))
            .enumerate()
            .map(|(sequence, (&past, w))| past as usize + (w[1] - w[0]) as usize + self.rope_offset(sequence));
        ends.max().unwrap_or(0).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests;
