//! Puts weights into the exported folder: float32 `.safetensors` are linked as they are, everything else is widened to
//! float32, or packed in few bits, and written.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::checkpoint::{Checkpoint, WeightFile};
use super::graph::{Packing, Weight};
use super::quantize::{self, Layout, Names};
use super::rope::Table;
use super::safetensors::{self, Entry, Part};
use super::{Placement, WeightsFile};
use crate::finite::Refused;
use crate::onnx::TensorProto;
use crate::onnx::tensor_proto::DataType;
use crate::{Error, Result};

/// The file of the rotary tables. They are no weights, so that a weights file can be replaced without them.
const ROTARY: &str = "rotary.safetensors";

/// Initialisers that refer to files of the folder, and those files.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) initialisers: Vec<TensorProto>,
    pub(super) files: Vec<WeightsFile>,
}

/// Stores `weights` in `folder`; `progress` takes the bytes written and the bytes to write in all.
pub(super) fn store(
    checkpoint: &Checkpoint,
    weights: &[Weight<'_>],
    folder: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Stored> {
    let files = &checkpoint.files;
    let linked: Vec<bool> = (0..files.len())
        .map(|file| {
            let mut used = weights.iter().filter(|weight| weight.tensor.file == file).peekable();
            files[file].name.ends_with(".safetensors")
                && used.peek().is_some()
                && used.all(|weight| weight.packing.is_none() && weight.tensor.is_plain_float32())
        })
        .collect();
    let mut stored = Stored::default();
    for weight in weights.iter().filter(|weight| linked[weight.tensor.file]) {
        weight.tensor.check(&files[weight.tensor.file], Refused::NotFinite)?;
    }
    for (file, _) in files.iter().zip(&linked).filter(|(_, linked)| **linked) {
        stored.files.push(WeightsFile { name: file.name.clone(), placement: link(file, folder)? });
    }
    let is_taken = |name: &str| stored.files.iter().any(|file| file.name == name);
    let name = ["model.safetensors", "converted.safetensors"].into_iter().find(|name| !is_taken(name));
    let name = name.unwrap_or("model-converted.safetensors");

    let is_written = |weight: &&Weight<'_>| !linked[weight.tensor.file];
    let parts: Vec<Part<'_>> = weights
        .iter()
        .filter(is_written)
        .map(|weight| {
            let file = &files[weight.tensor.file];
            match &weight.packing {
                None => widened(weight, file),
                Some(packing) => packed(weight, packing.layout, file),
            }
        })
        .collect();
    let mut offsets = BTreeMap::new();
    if !parts.is_empty() {
        offsets = safetensors::write(&folder.join(name), &parts, progress)?;
        stored.files.push(WeightsFile { name: name.to_owned(), placement: Placement::Written });
    }
    for (weight, part) in weights.iter().filter(is_written).zip(&parts) {
        let written = part.entries.iter().map(|entry| entry.initialiser(name, offsets[&entry.name]));
        match &weight.packing {
            None => stored.initialisers.extend(written),
            Some(packing) => stored.initialisers.extend(packed_initialisers(weight, packing, written)),
        }
    }
    for Weight { name, tensor, .. } in weights.iter().filter(|weight| linked[weight.tensor.file]) {
        let entry = Entry { name: name.clone(), kind: DataType::Float, shape: tensor.shape.clone() };
        stored.initialisers.push(entry.initialiser(&files[tensor.file].name, tensor.offset as u64));
    }
    Ok(stored)
}

/// A tensor in float32.
fn widened<'a>(weight: &'a Weight<'_>, file: &'a WeightFile) -> Part<'a> {
    let entry = Entry { name: weight.name.clone(), kind: DataType::Float, shape: weight.tensor.shape.clone() };
    Part {
        entries: vec![entry],
        check: Box::new(|| weight.tensor.check(file, Refused::NotFinite)),
        write: Box::new(|sink| weight.tensor.write_float32(&file.data, sink)),
    }
}

/// A matrix in few bits.
fn packed<'a>(weight: &'a Weight<'_>, layout: Layout, file: &'a WeightFile) -> Part<'a> {
    let names = Names::of(&weight.name);
    let (rows, blocks) = (layout.rows, layout.stored_blocks());
    let entry = |name, kind, shape: &[usize]| Entry { name, kind, shape: shape.to_vec() };
    let mut entries = vec![
        entry(names.scales, DataType::Float, &[rows, blocks]),
        entry(names.quants, DataType::Uint8, &[rows, blocks, layout.block_bytes()]),
    ];
    if layout.minima {
        entries.push(entry(names.zero_points, DataType::Uint8, &[rows, layout.zero_point_bytes()]));
    }
    Part {
        entries,
        // A block's range is a difference, and its scale a part of that.
        check: Box::new(|| weight.tensor.check(file, Refused::NotFarFromInfinity)),
        write: Box::new(move |sink| quantize::write(weight.tensor, &file.data, &layout, sink)),
    }
}

/// What the graph names of a packed weight: the bytes of its quants under one name or under two.
fn packed_initialisers(
    weight: &Weight<'_>,
    packing: &Packing,
    written: impl Iterator<Item = TensorProto>,
) -> Vec<TensorProto> {
    let names = Names::of(&weight.name);
    let mut initialisers: Vec<TensorProto> = written.collect();
    let Some(quants) = initialisers.iter().position(|tensor| tensor.name() == names.quants) else {
        return initialisers;
    };
    if packing.is_table {
        let mut table = initialisers[quants].clone();
        table.name = Some(names.table);
        table.dims = vec![packing.layout.rows as i64, table.dims[1..].iter().product()];
        initialisers.push(table);
    }
    if !packing.is_factor {
        initialisers.remove(quants);
    }
    initialisers
}

/// Writes the rotary `tables`; gives their initialisers.
pub(super) fn store_rotary(tables: &[Table<'_>], folder: &Path) -> Result<Vec<TensorProto>> {
    if tables.is_empty() {
        return Ok(vec![]);
    }
    type Function = fn(f64) -> f64;
    let functions: [Function; 2] = [f64::cos, f64::sin];
    let parts: Vec<Part<'_>> = tables
        .iter()
        .flat_map(|table| [&table.cos, &table.sin].into_iter().zip(functions).map(move |named| (table, named)))
        .map(|(table, (name, function))| Part {
            entries: vec![Entry {
                name: name.clone(),
                kind: DataType::Float,
                shape: vec![table.positions, table.width()],
            }],
            check: Box::new(|| Ok(())),
            write: Box::new(move |sink| table.write(function, sink)),
        })
        .collect();
    let offsets = safetensors::write(&folder.join(ROTARY), &parts, &mut |_, _| {})?;
    let entries = parts.iter().flat_map(|part| &part.entries);
    Ok(entries.map(|entry| entry.initialiser(ROTARY, offsets[&entry.name])).collect())
}

/// A hard link where the file system can, so that nothing is stored twice; else a copy.
fn link(file: &WeightFile, folder: &Path) -> Result<Placement> {
    let target = folder.join(&file.name);
    if fs::hard_link(&file.path, &target).is_ok() {
        return Ok(Placement::HardLinked);
    }
    fs::copy(&file.path, &target).map_err(|error| Error::io("copy weights to", &target, error))?;
    Ok(Placement::Copied)
}

#[cfg(test)]
mod tests;
