//! The GGUF container: metadata, then tensor descriptions, then aligned tensor data.
//!
//! Every count, length and offset is checked against the bytes that are really there before it is used, and nothing is
//! allocated from a count: a hostile file costs at most its own size.

use std::collections::HashMap;

use crate::export::checkpoint::is_sound_name;
use crate::export::format::{self, Format};
use crate::{Error, Result, mistaken};

/// ggml's own limit on a tensor's dimensions.
const MAX_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;
const MAGIC: &[u8] = b"GGUF";
/// The deepest arrays of arrays. They are legal, and deeper ones are meant to exhaust the stack.
const MAX_NESTING: usize = 4;

/// A parsed file, borrowing its strings and arrays.
#[derive(Debug)]
pub(crate) struct Gguf<'a> {
    pub(super) metadata: HashMap<&'a str, Value<'a>>,
    pub(super) tensors: Vec<TensorInfo<'a>>,
}

/// A tensor's description; its range lies inside the file and overlaps no other's.
#[derive(Debug)]
pub(super) struct TensorInfo<'a> {
    pub(super) name: &'a str,
    /// Outermost dimension first: the reverse of the order in the file.
    pub(super) shape: Vec<usize>,
    pub(super) format: &'static Format,
    /// From the start of the file.
    pub(super) offset: usize,
    pub(super) bytes: usize,
}

/// A metadata value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(&'a str),
    Array(Array<'a>),
}

/// An array whose elements were checked when the file was parsed and are decoded as they are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Array<'a> {
    element: u32,
    len: u64,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    pub(super) fn iter(self) -> impl Iterator<Item = Value<'a>> {
        let mut reader = Reader { rest: self.bytes, position: 0 };
        (0..self.len).map_while(move |_| reader.value(self.element, 1).ok())
    }
}

impl<'a> Value<'a> {
    pub(super) fn text(self) -> Option<&'a str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn unsigned(self) -> Option<u64> {
        match self {
            Value::Unsigned(number) => Some(number),
            Value::Signed(number) => u64::try_from(number).ok(),
            _ => None,
        }
    }

    pub(super) fn array(self) -> Option<Array<'a>> {
        if let Value::Array(array) = self { Some(array) } else { None }
    }
}

/// Parses the file `label`, whose bytes are `data`.
pub(crate) fn parse<'a>(label: &str, data: &'a [u8]) -> Result<Gguf<'a>> {
    parse_inner(data).map_err(|complaint| match complaint {
        Complaint::Damaged(text) => Error::invalid_model(match mistaken::recognise(data) {
            Some(what) if !data.starts_with(MAGIC) => format!("{label} {what}"),
            _ => format!("{label} is not a sound GGUF file: {text}"),
        }),
        Complaint::Unsupported(text) => Error::unsupported(format!("{label}: {text}")),
    })
}

/// The reason why parsing stopped, before the file's name is added.
#[derive(Debug)]
enum Complaint {
    Damaged(String),
    Unsupported(String),
}

fn damaged<T>(text: impl Into<String>) -> Result<T, Complaint> {
    Err(Complaint::Damaged(text.into()))
}

fn parse_inner(data: &[u8]) -> Result<Gguf<'_>, Complaint> {
    let mut reader = Reader { rest: data, position: 0 };
    if reader.take(4)? != MAGIC {
        return damaged("it does not start with `GGUF`");
    }
    match reader.u32()? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => {
            return Err(Complaint::Unsupported("it is big-endian; convert it again on a little-endian machine".into()));
        }
        version => {
            return Err(Complaint::Unsupported(format!("GGUF version {version}; this version reads 2 and 3")));
        }
    }
    let tensor_count = reader.u64()?;
    let metadata_count = reader.u64()?;
    let metadata = read_metadata(&mut reader, metadata_count)?;
    let described = read_descriptions(&mut reader, tensor_count)?;
    let tensors = place_tensors(described, alignment(&metadata)?, reader.position as u64, data.len() as u64)?;
    Ok(Gguf { metadata, tensors })
}

fn read_metadata<'a>(reader: &mut Reader<'a>, count: u64) -> Result<HashMap<&'a str, Value<'a>>, Complaint> {
    let mut metadata = HashMap::new();
    for _ in 0..count {
        let key = reader.text()?;
        let kind = reader.u32()?;
        let value = reader.value(kind, 0).map_err(|complaint| match complaint {
            Complaint::Damaged(text) => Complaint::Damaged(format!("metadata `{}`: {text}", shortened(key))),
            other @ Complaint::Unsupported(_) => other,
        })?;
        if metadata.insert(key, value).is_some() {
            return damaged(format!("metadata `{}` is there twice", shortened(key)));
        }
    }
    Ok(metadata)
}

fn alignment(metadata: &HashMap<&str, Value<'_>>) -> Result<u64, Complaint> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(value) => match value.unsigned() {
            Some(alignment) if alignment.is_power_of_two() && (8..=1 << 20).contains(&alignment) => Ok(alignment),
            _ => damaged(format!("`general.alignment` is {value:?}, not a power of two of 8 or more")),
        },
    }
}

/// A tensor's description as it stands in the file.
struct Described<'a> {
    name: &'a str,
    shape: Vec<usize>,
    format: &'static Format,
    /// From the start of the data section.
    offset: u64,
    bytes: u64,
}

fn read_descriptions<'a>(reader: &mut Reader<'a>, count: u64) -> Result<Vec<Described<'a>>, Complaint> {
    let mut described = Vec::new();
    for _ in 0..count {
        let name = reader.text()?;
        let shown = shortened(name);
        if !is_sound_name(name) {
            return damaged(format!("tensor `{shown}`: no model has such a name"));
        }
        let dimensions = reader.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return damaged(format!(
                "tensor `{shown}` has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible"
            ));
        }
        let mut elements = 1u64;
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = reader.u64()?;
            let product = elements.checked_mul(size).filter(|&product| product > 0 && isize::try_from(product).is_ok());
            let Some(product) = product else {
                return damaged(format!("tensor `{shown}` has a dimension of {size}"));
            };
            elements = product;
            shape.push(size as usize);
        }
        let format = format::from_ggml(reader.u32()?).map_err(|kind| {
            let known = format::GGUF_FORMATS.map(|format| format.name).join(", ");
            Complaint::Unsupported(format!(
                "tensor `{shown}` is stored as {kind}; this version reads {known}: use a GGUF of such a type"
            ))
        })?;
        // Blocks run along the innermost dimension, which is the first in the file.
        let bytes = format.bytes(elements).filter(|_| shape[0] % format.block_elements == 0);
        let Some(bytes) = bytes else {
            return damaged(format!(
                "tensor `{shown}`: rows of {} elements do not fill {} blocks",
                shape[0], format.name
            ));
        };
        shape.reverse();
        described.push(Described { name, shape, format, offset: reader.u64()?, bytes });
    }
    Ok(described)
}

fn place_tensors<'a>(
    described: Vec<Described<'a>>,
    alignment: u64,
    header_end: u64,
    file_len: u64,
) -> Result<Vec<TensorInfo<'a>>, Complaint> {
    let start = header_end.next_multiple_of(alignment);
    let mut tensors = Vec::new();
    for tensor in described {
        let shown = shortened(tensor.name);
        if tensor.offset % alignment != 0 {
            return damaged(format!("tensor `{shown}` starts at {}, not a multiple of {alignment}", tensor.offset));
        }
        let begin = start.checked_add(tensor.offset);
        let end = begin.and_then(|begin| begin.checked_add(tensor.bytes)).filter(|&end| end <= file_len);
        let (Some(begin), Some(_)) = (begin, end) else {
            return damaged(format!(
                "tensor `{shown}` needs {} bytes at offset {}, beyond the file's {file_len}: is the download complete?",
                tensor.bytes, tensor.offset
            ));
        };
        // Inside the mapped file, so both fit an address.
        let (offset, bytes) = (begin as usize, tensor.bytes as usize);
        tensors.push(TensorInfo { name: tensor.name, shape: tensor.shape, format: tensor.format, offset, bytes });
    }
    refuse_overlaps(&tensors)?;
    Ok(tensors)
}

fn refuse_overlaps(tensors: &[TensorInfo<'_>]) -> Result<(), Complaint> {
    let mut order: Vec<&TensorInfo<'_>> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            return damaged(format!("tensors `{}` and `{}` overlap", shortened(pair[0].name), shortened(pair[1].name)));
        }
    }
    order.sort_by_key(|tensor| tensor.name);
    match order.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => damaged(format!("tensor `{}` is there twice", shortened(pair[0].name))),
        None => Ok(()),
    }
}

/// A name as a message shows it, cut off because a hostile file must not flood the terminal.
fn shortened(name: &str) -> String {
    let mut text: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    if name.chars().nth(80).is_some() {
        text.push('…');
    }
    text
}

/// Takes values off the front of the bytes that are left.
struct Reader<'a> {
    rest: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], Complaint> {
        let split = usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count));
        let Some((taken, rest)) = split else {
            return damaged(format!(
                "it ends {} bytes after offset {}, where {count} are needed: is the download complete?",
                self.rest.len(),
                self.position
            ));
        };
        self.rest = rest;
        self.position += taken.len();
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Complaint> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, Complaint> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, Complaint> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn text(&mut self) -> Result<&'a str, Complaint> {
        let len = self.u64()?;
        let start = self.position;
        std::str::from_utf8(self.take(len)?)
            .or_else(|error| damaged(format!("the text at offset {start} is not UTF-8: {error}")))
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value<'a>, Complaint> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.bytes::<1>()?[0])),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.bytes()?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.bytes()?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.bytes()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.bytes()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.bytes()?))),
            7 => Value::Bool(self.bytes::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => Value::Array(self.array(depth)?),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.bytes()?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            _ => return damaged(format!("values of type {kind} do not exist")),
        })
    }

    fn array(&mut self, depth: usize) -> Result<Array<'a>, Complaint> {
        if depth >= MAX_NESTING {
            return damaged(format!("arrays are nested more than {MAX_NESTING} deep"));
        }
        let element = self.u32()?;
        let len = self.u64()?;
        let before = self.rest;
        let start = self.position;
        match fixed_size(element) {
            Some(size) => {
                let Some(bytes) = len.checked_mul(size) else {
                    return damaged(format!("an array of {len} elements"));
                };
                self.take(bytes)?;
            }
            // Texts and arrays have to be walked; each takes bytes, so the walk ends with the file.
            None => {
                for _ in 0..len {
                    self.value(element, depth + 1)?;
                }
            }
        }
        Ok(Array { element, len, bytes: &before[..self.position - start] })
    }
}

/// The bytes of a value whose size doesn't vary.
fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
