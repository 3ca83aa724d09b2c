//! Matrix products of packed tokens and weights as an operator of ONNX Runtime on the CPU.
//!
//! `foreturn.PackedMatMul` takes rows of float32 and names its matrix by number. Matrices are packed once ([`pack`]) and lie
//! outside of the graph. Two more inputs replace passes over all rows: the weight of the norm that would have come before
//! the product, and the residual stream that would have been added after it. The kernel gives a row the same bits beside any
//! others ([`inputs`], [`bytes`], [`numbers`]).
//!
//! # Why not ONNX Runtime's
//!
//! ONNX Runtime's products of few rows stay far from what processor and memory can do. With 12 rows, a decoding step's, its
//! float32 products reach a quarter to a half of it. With 512 rows, its MatMulNBits reaches a third. Its products in 8 bits
//! round each input by its neighbours in the batch, or take twice the time.
//!
//! # Tiles
//!
//! A tile ([`tile`]) is a few rows of inputs and one panel of 32 columns. Its sums stay in registers while the inner
//! dimension goes by once. A tile has up to six rows of bytes ([`bytes`]), or twelve of floats or bfloat16 ([`numbers`]). One
//! lane sums a number of the product, over the inner dimension in order, whichever rows share its tile and whichever thread
//! computes it. Inputs are rounded by their own block alone. So a row has the same bits in any batch.
//!
//! # Division of work
//!
//! Many rows are divided between threads by rows. Each thread rounds its own rows and multiplies them by the whole matrix, so
//! rounded inputs stay in its processor's cache. Few rows are divided by columns.
//!
//! Query, key and value of a layer are one product. So are gate and up projection, with their activation, in turns of
//! sixteen columns. With norms and sums taken over, a layer of a quantised model is five nodes: four products and
//! attention.

mod bytes;
pub mod call;
mod dispatch;
mod inputs;
mod numbers;
pub mod pack;
#[cfg(test)]
mod tests;
mod tile;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::TensorElementType;

use self::call::{Call, Norm, Operands, Rounded};
use self::pack::{Arena, Epilogue, Kind, Part, Shape};
use super::dot;
use super::simd::Isa;
use crate::PackError;
use crate::operator;

/// Name under which rewritten graphs call the operator, in the domain of attention.
pub const OPERATOR: &str = "PackedMatMul";
/// The attribute that numbers the matrix.
pub const MATRIX: &str = "matrix";
/// The norm's attribute.
pub const EPSILON: &str = "epsilon";

/// The operator's inputs, in order.
pub mod input {
    pub const ROWS: usize = 0;
    pub const NORM: usize = 1;
    pub const RESIDUAL: usize = 2;
    pub const COUNT: usize = 3;
}

/// Whether this processor has what makes these products worthwhile; elsewhere ONNX Runtime's are faster.
pub fn is_worthwhile() -> bool {
    dot::best_isa() != Isa::Scalar
}

/// The packed matrices of a model. Sessions may share them.
#[derive(Default)]
pub struct Packed {
    arena: Arena,
    /// Each matrix with where it lies.
    shapes: Vec<(Shape, Range<usize>)>,
    /// Gets the memory when nobody needs these matrices any more.
    spare: Option<Arc<Spare>>,
}

/// The memory of matrices that are gone, for the next ones of the same shapes. A system clears the memory that it gives, which
/// takes as long as packing; a virtual machine may have to ask for it first.
#[derive(Default)]
pub struct Spare(Mutex<Packed>);

impl Spare {
    /// What is kept, if it has these shapes.
    fn take(&self, shapes: &[(Shape, Range<usize>)]) -> Option<Arena> {
        let kept = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        (kept.shapes == shapes).then(|| kept.into_arena())
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        if let Some(spare) = self.spare.take() {
            let kept = std::mem::take(self);
            *spare.0.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        }
    }
}

/// The matrices of a session, with what its products need.
pub struct Matrices {
    packed: Arc<Packed>,
    /// Rounded inputs of the product under way: products of one session come one after the other.
    scratch: Mutex<Rounded>,
    threads: usize,
}

impl Packed {
    /// Packs the matrices of these shapes on `threads` threads, asking `parts` for the weights of each in turn. The memory
    /// comes from `spare`, if it has any of these shapes, and goes there in the end.
    ///
    /// # Errors
    /// There is no memory for them, or `parts` fails.
    pub fn pack<E: From<PackError> + Send>(
        shapes: &[Shape],
        threads: usize,
        spare: Option<Arc<Spare>>,
        parts: impl Fn(usize, &mut dyn FnMut(&[Part<'_>])) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let mut end = 0;
        let ranges = shapes.iter().map(|shape| {
            let start = end;
            end += shape.bytes();
            (*shape, start..end)
        });
        let shapes: Vec<_> = ranges.collect();
        let kept = spare.as_ref().and_then(|spare| spare.take(&shapes));
        let mut arena = kept.map_or_else(|| Arena::new(end), Ok)?;
        let mut rest = arena.bytes_mut();
        let mut jobs = Vec::new();
        for (index, (shape, range)) in shapes.iter().enumerate() {
            let (here, after) = rest.split_at_mut(range.len());
            rest = after;
            jobs.push((index, shape, here));
        }
        // The largest first, so that no thread is left alone with it.
        jobs.sort_by_key(|(.., bytes)| bytes.len());
        let jobs = Mutex::new(jobs);
        let work = || {
            loop {
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some((index, shape, to)) = job else { return Ok(()) };
                parts(index, &mut |parts| pack::pack(shape, parts, 0..shape.panels(), to))?;
            }
        };
        thread::scope(|scope| {
            let spawn = |_| thread::Builder::new().name("foreturn-pack".into()).spawn_scoped(scope, work);
            let others: Vec<_> = (1..threads).map(spawn).collect();
            let mine = work();
            let join = |other: std::io::Result<thread::ScopedJoinHandle<'_, Result<(), E>>>| match other {
                Ok(other) => other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(refused) => Err(PackError::Thread(refused).into()),
            };
            others.into_iter().map(join).chain([mine]).collect::<Result<(), E>>()
        })?;
        Ok(Packed { arena, shapes, spare })
    }

    fn into_arena(mut self) -> Arena {
        std::mem::take(&mut self.arena)
    }

    /// The matrix of this number: its shape and its bytes.
    fn matrix(&self, index: usize) -> Option<(Shape, &[u8])> {
        let (shape, range) = self.shapes.get(index)?;
        Some((*shape, &self.arena.bytes()[range.clone()]))
    }
}

impl Matrices {
    /// For a session that runs on `threads` threads.
    pub fn new(packed: Arc<Packed>, threads: usize) -> Self {
        Matrices { packed, scratch: Mutex::default(), threads }
    }
}

/// The operator over a model's matrices.
pub struct PackedMatMul(pub Arc<Matrices>);

impl Operator for PackedMatMul {
    type Kernel<'attr> = PackedMatMulKernel;

    fn name(&self) -> &str {
        OPERATOR
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let float = TensorElementType::Float32;
        [OperatorInput::required(float), OperatorInput::optional(float), OperatorInput::optional(float)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Self::Kernel<'attr>> {
        operator::guard(OPERATOR, || {
            let index = context.get::<i64>(MATRIX).and_then(|index| usize::try_from(index).ok());
            match index.and_then(|index| Some((index, self.0.packed.matrix(index)?.0))) {
                Some((index, shape)) => {
                    let (matrices, epsilon) = (Arc::clone(&self.0), context.get::<f32>(EPSILON).unwrap_or(0.0));
                    Ok(PackedMatMulKernel { matrices, index, epsilon, isa: dispatch::best_isa(shape.kind) })
                }
                None => Err(ort::Error::new(format!("{OPERATOR}: there is no matrix {index:?}"))),
            }
        })
    }
}

/// Output rows that several threads fill.
struct Output(*mut f32);

// SAFETY: threads take rows of their own.
unsafe impl Sync for Output {}

impl Output {
    /// # Safety
    /// The rows lie in the output, which outlives them, and nobody else has them.
    unsafe fn rows<'a>(&self, rows: Range<usize>, width: usize) -> &'a mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(rows.start * width), rows.len() * width) }
    }
}

pub struct PackedMatMulKernel {
    matrices: Arc<Matrices>,
    index: usize,
    epsilon: f32,
    isa: Isa,
}

/// Most rows that go over a matrix of floats at once: their inputs stay in a cache.
const FLOAT_ROWS: usize = 96;

impl Kernel for PackedMatMulKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        operator::guard(OPERATOR, || self.product(context))
    }
}

impl PackedMatMulKernel {
    fn product(&self, context: &ComputeContext) -> ort::Result<()> {
        let refuse = |why: String| Err(ort::Error::new(format!("{OPERATOR}: {why}")));
        let Some((shape, matrix)) = self.matrices.packed.matrix(self.index) else {
            return refuse(format!("there is no matrix {}", self.index));
        };
        let Some(input) = context.input(input::ROWS)? else { return refuse("the input is missing".into()) };
        let (norm, residual) = (context.input(input::NORM)?, context.input(input::RESIDUAL)?);
        let (dims, inputs) = input.try_extract_tensor::<f32>()?;
        let mut dims: Vec<i64> = dims.iter().copied().collect();
        match dims.last_mut() {
            Some(last) if *last == shape.inputs as i64 => *last = shape.outputs() as i64,
            _ => return refuse(format!("an input of shape {dims:?} has not {} numbers a row", shape.inputs)),
        }
        let Some(mut output) = context.output(0, dims)? else { return refuse("no output".into()) };
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let norm = norm.as_ref().map(|weight| weight.try_extract_tensor::<f32>()).transpose()?;
        let norm = norm.map(|(_, weight)| Norm { weight, epsilon: self.epsilon });
        let residual = residual.as_ref().map(|residual| residual.try_extract_tensor::<f32>()).transpose()?;
        let residual = residual.map(|(_, residual)| residual);
        if norm.is_some_and(|norm| norm.weight.len() != shape.inputs || shape.kind == Kind::Floats) {
            return refuse("the norm's weight does not fit the matrix".into());
        }
        if residual.is_some_and(|residual| residual.len() != output.len() || shape.epilogue != Epilogue::Store) {
            return refuse("what is to be added does not fit the product".into());
        }
        let operands = Operands { norm, residual, ..Operands::plain(inputs) };
        let tiles = (inputs.len() / shape.inputs).div_ceil(bytes::ROWS);
        if shape.kind != Kind::Floats && tiles >= self.matrices.threads * PIECES {
            return self.by_rows(shape, matrix, operands, output, tiles, context);
        }
        let mut rounded = self.matrices.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let call = Call::new(shape, self.isa, matrix, operands, &mut rounded, output);
        self.quantise(&call, context)?;
        self.multiply(&call, context)
    }
}

/// Pieces of the work for each thread, so that a late one delays little.
const PIECES: usize = 4;

/// What a thread needs for its work, kept from call to call.
#[derive(Default)]
struct Scratch {
    /// Rounded inputs of the rows that it is at.
    rounded: Rounded,
    /// A normalised row.
    row: Vec<f32>,
    panel: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl PackedMatMulKernel {
    /// Many rows: each thread rounds some and multiplies them by all of the matrix. Rounded inputs never leave its cache;
    /// written by one processor and read by all, in each product anew, they cost a twentieth of the time.
    fn by_rows(
        &self,
        shape: Shape,
        matrix: &[u8],
        operands: Operands<'_>,
        output: &mut [f32],
        tiles: usize,
        context: &ComputeContext,
    ) -> ort::Result<()> {
        let (rows, pieces) = (operands.inputs.len() / shape.inputs, self.matrices.threads * PIECES);
        let output = Output(output.as_mut_ptr());
        operator::par_for(OPERATOR, context, pieces, pieces, |piece| {
            let row = |piece: usize| (piece * tiles / pieces * bytes::ROWS).min(rows);
            let rows = row(piece)..row(piece + 1);
            // SAFETY: pieces have rows of their own, and the output holds as many as the input.
            let output = unsafe { output.rows(rows.clone(), shape.outputs()) };
            SCRATCH.with_borrow_mut(|Scratch { rounded, row, panel: scratch }| {
                let call = Call::new(shape, self.isa, matrix, operands.rows(&rows, &shape), rounded, output);
                // SAFETY: this thread alone works on these rows, and rounds them first.
                unsafe {
                    (0..call.rows).for_each(|index| call.quantise(index, row));
                    (0..shape.panels()).for_each(|panel| call.multiply(panel, 0, call.rows, scratch));
                }
            });
        })
    }

    /// Rounds the inputs, unless the matrix is one of floats.
    fn quantise(&self, call: &Call<'_>, context: &ComputeContext) -> ort::Result<()> {
        /// Rows that are worth waking a thread for.
        const ROWS: usize = 8;
        if call.shape.kind == Kind::Floats {
            return Ok(());
        }
        let rows = |range: Range<usize>| {
            SCRATCH.with_borrow_mut(|scratch| {
                // SAFETY: each row is rounded once.
                range.for_each(|row| unsafe { call.quantise(row, &mut scratch.row) });
            });
        };
        if call.rows < 2 * ROWS {
            rows(0..call.rows);
            return Ok(());
        }
        let chunks = call.rows.div_ceil(ROWS);
        operator::par_for(OPERATOR, context, chunks, 0, |chunk| rows(chunk * ROWS..call.rows.min((chunk + 1) * ROWS)))
    }

    /// Few rows, or floats: each thread has some of the columns.
    fn multiply(&self, call: &Call<'_>, context: &ComputeContext) -> ort::Result<()> {
        let panels = call.shape.panels();
        // Rather more pieces than fewer: eighteen panels in nine pieces leave one of two threads with five.
        let width = (panels / (self.matrices.threads * 2 * PIECES)).max(1);
        let rows = if call.shape.kind == Kind::Floats { FLOAT_ROWS } else { call.rows.max(1) };
        operator::par_for(OPERATOR, context, panels.div_ceil(width), 0, |piece| {
            let panels = piece * width..panels.min((piece + 1) * width);
            let mut scratch = Vec::new();
            for first in (0..call.rows).step_by(rows) {
                for panel in panels.clone() {
                    // SAFETY: all rows are rounded; each panel is in one piece.
                    unsafe { call.multiply(panel, first, call.rows.min(first + rows), &mut scratch) };
                }
            }
        })
    }
}
