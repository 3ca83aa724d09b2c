//! Checkpoints, as every reader produces them: hyper-parameters, tensors by their Hugging Face names, tokenizer files,
//! special tokens.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use serde_json::{Map, Value};

use super::adapter::Delta;
use super::config::Config;
use super::format::{self, Floats, Format};
use crate::files::{self, Kind, Seen};
use crate::finite::{self, Refused};
use crate::{Error, Result};

/// A checkpoint, read but not yet widened or copied.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) config: Config,
    pub(super) files: Vec<WeightFile>,
    /// Tensors by the names that transformers gives them.
    pub(super) tensors: BTreeMap<String, Tensor>,
    /// Divisors of the rotary frequencies, where the checkpoint stores them as a tensor.
    pub(super) rope_factors: Option<Vec<f32>>,
    /// Says that the weights of norms already include the one that Gemma adds to them.
    pub(super) norms_include_one: bool,
    pub(super) tokenizer: Vec<TokenizerFile>,
    pub(super) special: SpecialTokens,
    /// The fields of `generation_config.json`; empty where there is none.
    pub(super) generation: Map<String, Value>,
    /// The modules that a folder of sentence-transformers lists.
    pub(super) modules: Option<Modules>,
}

/// The files that sentence-transformers puts beside an encoder.
#[derive(Debug)]
pub(super) struct Modules {
    /// `modules.json`, as the user knows it.
    pub(super) list: String,
    /// In the order of the list.
    pub(super) modules: Vec<Module>,
    /// `config_sentence_transformers.json`
    pub(super) texts: Option<Config>,
    /// `sentence_bert_config.json`
    pub(super) encoder: Option<Config>,
    /// Says that the tokenizer turns text into lower case.
    pub(super) lowers: bool,
}

/// An entry of `modules.json`, with what lies in its folder.
#[derive(Debug)]
pub(super) struct Module {
    /// Its class, with the package.
    pub(super) kind: String,
    /// Its folder's name. Its weights are among the checkpoint's, as `PATH.NAME`.
    pub(super) path: String,
    pub(super) folder: PathBuf,
    pub(super) config: Option<Config>,
    pub(super) has_weights: bool,
}

/// A mapped file that holds weights.
#[derive(Debug)]
pub(super) struct WeightFile {
    /// The real file, links resolved.
    pub(super) path: PathBuf,
    /// Its name in the checkpoint.
    pub(super) name: String,
    pub(super) data: Mmap,
    pub(super) file: File,
    /// Its state when it was mapped.
    pub(super) seen: Seen,
}

impl WeightFile {
    /// Maps the file at `path`, following links.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let real = std::fs::canonicalize(path).map_err(|error| Error::io("find", path, error))?;
        let (file, metadata) = files::open_as(&real, Kind::GRAPH)?;
        Self::map(path, file, Seen::new(&real, &metadata))
    }

    /// Maps a file that is open; `seen` is its state when it was opened. Another file may have its name by now.
    pub(super) fn reopen(file: &File, seen: &Seen) -> Result<Self> {
        seen.check_open(file)?;
        let file = file.try_clone().map_err(|error| Error::io("map", seen.path(), error))?;
        Self::map(seen.path(), file, seen.clone())
    }

    /// Refuses a file that was written to since it was opened.
    pub(super) fn check(&self) -> Result<()> {
        self.seen.check_open(&self.file)
    }

    #[allow(unsafe_code, reason = "a mapped file")]
    fn map(path: &Path, file: File, seen: Seen) -> Result<Self> {
        // SAFETY: the mapping is read-only and private to this process. Another process that cuts the file off while
        // it is being exported can make reads fail with SIGBUS, as for every reader of mapped weights. One that changes
        // it is noticed when all is read.
        let data = unsafe { Mmap::map(&file) }.map_err(|error| Error::io("map", path, error))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(WeightFile { path: seen.path().to_owned(), name, data, file, seen })
    }
}

/// Returns whether a tensor's name can be shown: it does not flood a message, and a terminal does not obey it.
pub(super) fn is_sound_name(name: &str) -> bool {
    name.len() <= 1024 && !name.contains(char::is_control)
}

/// Says early what [`files::read`] would refuse.
pub(super) fn refuse_all_but_files(path: &Path) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::io("read", path, error))?;
    if metadata.is_file() {
        return Ok(());
    }
    Err(Error::invalid_model(format!("{} is not an ordinary file: is it the right one?", path.display())))
}

/// The place of a tensor, and the form in which it is stored.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) format: &'static Format,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    /// Index into [`Checkpoint::files`].
    pub(super) file: usize,
    /// Byte range in that file; the reader has checked that it lies inside and fits format and shape.
    pub(super) offset: usize,
    pub(super) bytes: usize,
    /// The name in the file, for messages.
    pub(super) origin: String,
    pub(super) rows: RowOrder,
    /// The difference that an adapter makes, in standard order.
    pub(super) delta: Option<Arc<Delta>>,
}

/// The order of a tensor's rows in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowOrder {
    /// As transformers has them.
    Standard,
    /// The two halves of each head's rows interleaved, as llama.cpp wants the query and key projections.
    InterleavedHeads {
        /// Rows of one head.
        head_size: usize,
    },
}

impl RowOrder {
    /// The place of row `row` of the standard order.
    pub(super) fn stored_row(self, row: usize) -> usize {
        match self {
            RowOrder::Standard => row,
            RowOrder::InterleavedHeads { head_size } => {
                let (head, within) = (row / head_size, row % head_size);
                let (half, pair) = (within / (head_size / 2), within % (head_size / 2));
                head * head_size + 2 * pair + half
            }
        }
    }
}

impl Tensor {
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns whether the bytes in the file are the float32 weights themselves.
    pub(super) fn is_plain_float32(&self) -> bool {
        std::ptr::eq(self.format, &format::F32) && self.rows == RowOrder::Standard && self.delta.is_none()
    }

    /// Widens row `row` of the standard order into `values`, with what an adapter adds to it. `data` is the whole file.
    pub(super) fn widen_row(&self, data: &[u8], row: usize, values: &mut [f32]) {
        (self.format.widen)(self.row(data, row), values);
        if let Some(delta) = &self.delta {
            delta.add_to(row, values);
        }
    }

    /// The stored bytes of row `row` of the standard order, where rows are whole blocks. `data` is the whole file.
    pub(super) fn row<'d>(&self, data: &'d [u8], row: usize) -> &'d [u8] {
        let bytes = self.bytes / self.shape[0];
        let start = self.offset + self.rows.stored_row(row) * bytes;
        &data[start..start + bytes]
    }

    /// As [`Tensor::check`], for a tensor of `file`.
    pub(super) fn check_in(&self, file: &WeightFile, refused: Refused) -> Result<()> {
        self.check(&file.data, refused).map_err(|why| Error::invalid_model(format!("{}: {why}", file.path.display())))
    }

    /// Refuses a tensor with a value that is not finite, or whose scale isn't, naming it and its place. `data` is the whole
    /// file.
    pub(super) fn check(&self, data: &[u8], refused: Refused) -> Result<(), String> {
        let stored = &data[self.offset..self.offset + self.bytes];
        let Some((index, number)) = self.format.first_refused(stored, refused) else { return Ok(()) };
        let (name, place) = (&self.origin, finite::place(index, &self.shape));
        let what = match self.format.floats {
            Floats::All(_) => format!("tensor `{name}` holds {number} at {place}"),
            Floats::Scales(_) => {
                format!("the block at {place} of tensor `{name}` has {number} as its scale or minimum")
            }
        };
        let why =
            if number.is_finite() { "which is too large to be packed in few bits" } else { "not a finite number" };
        Err(format!("{what}, {why}. {}", finite::REMEDY))
    }

    /// Writes the float32 values, little endian, rows in standard order. `data` is the whole file.
    pub(super) fn write_float32(&self, data: &[u8], sink: &mut (impl Write + ?Sized)) -> io::Result<()> {
        let stored = &data[self.offset..self.offset + self.bytes];
        match self.rows {
            RowOrder::Standard if self.delta.is_none() => {
                // Pieces of about 256 KiB: large enough to be quick, small enough for the cache.
                let piece = (1 << 16) / self.format.block_elements * self.format.block_bytes;
                stored.chunks(piece).try_for_each(|piece| write_widened(self.format, piece, sink))
            }
            _ => {
                let mut values = vec![0.0; self.elements() / self.shape[0].max(1)];
                (0..self.shape[0]).try_for_each(|row| {
                    self.widen_row(data, row, &mut values);
                    write_floats(&values, sink)
                })
            }
        }
    }
}

fn write_widened(format: &Format, blocks: &[u8], sink: &mut (impl Write + ?Sized)) -> io::Result<()> {
    let mut values = vec![0.0; blocks.len() / format.block_bytes * format.block_elements];
    (format.widen)(blocks, &mut values);
    write_floats(&values, sink)
}

fn write_floats(values: &[f32], sink: &mut (impl Write + ?Sized)) -> io::Result<()> {
    let mut bytes = vec![0; size_of_val(values)];
    for (value, place) in values.iter().zip(bytes.chunks_exact_mut(size_of::<f32>())) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    sink.write_all(&bytes)
}

/// A file of the exported folder that belongs to the tokenizer.
#[derive(Debug)]
pub(super) struct TokenizerFile {
    pub(super) name: String,
    pub(super) content: Content,
}

/// The source of such a file.
#[derive(Debug)]
pub(super) enum Content {
    /// Copied from the checkpoint.
    Copied(PathBuf),
    /// Made from the checkpoint's metadata.
    Made(Vec<u8>),
}

/// Token ids that end or start texts.
#[derive(Debug, Default, Clone)]
pub(super) struct SpecialTokens {
    pub(super) bos: Option<u64>,
    /// Any of these ends a reply; the tokenizer's own first.
    pub(super) eos: Vec<u64>,
    pub(super) pad: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_order_undoes_llama_cpps_interleaving() {
        // llama.cpp: reshape [heads, 2, half, …], swap the two middle axes.
        let (heads, half) = (3, 4);
        let mut interleaved = vec![0; heads * 2 * half];
        for head in 0..heads {
            for part in 0..2 {
                for pair in 0..half {
                    let standard = head * 2 * half + part * half + pair;
                    interleaved[head * 2 * half + pair * 2 + part] = standard;
                }
            }
        }
        let order = RowOrder::InterleavedHeads { head_size: 2 * half };
        let restored: Vec<usize> = (0..heads * 2 * half).map(|row| interleaved[order.stored_row(row)]).collect();
        assert_eq!(restored, (0..heads * 2 * half).collect::<Vec<_>>());
    }

    #[test]
    fn interleaved_rows_are_written_in_standard_order() {
        let data: Vec<u8> = [0f32, 2.0, 1.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = Tensor {
            format: &format::F32,
            shape: vec![4, 1],
            file: 0,
            offset: 0,
            bytes: 16,
            origin: "q".to_owned(),
            rows: RowOrder::InterleavedHeads { head_size: 4 },
            delta: None,
        };
        assert!(!tensor.is_plain_float32());
        let mut written = Vec::new();
        tensor.write_float32(&data, &mut written).unwrap();
        let expected: Vec<u8> = [0f32, 1.0, 2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(written, expected);
    }
}
