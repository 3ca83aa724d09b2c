//! Puts weights into the exported folder. Float32 `.safetensors` are copied as they are, or linked on request. All
//! others are widened to float32, rounded to half precision or packed in few bits, and written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use super::checkpoint::{Checkpoint, WeightFile};
use super::graph::{Form, Packing, Weight};
use super::narrow;
use super::quantize::{self, Layout, Names};
use super::rope::Table;
use super::safetensors::{self, Entry, Part};
use super::{Placement, WeightsFile};
use crate::finite::Refused;
use crate::model::rewrite::precision::Precision;
use crate::onnx::TensorProto;
use crate::onnx::tensor_proto::DataType;
use crate::{Error, Result};

/// The file of the rotary tables. They are not weights, so a file of weights can be replaced without them.
pub(super) const ROTARY: &str = "rotary.safetensors";

/// Initialisers that refer to files of the folder, and those files.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) initialisers: Vec<TensorProto>,
    pub(super) files: Vec<WeightsFile>,
}

/// The place for weights, and the way in which files get there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) folder: &'a Path,
    /// Gives a file that stays as it is a second name there, instead of a copy.
    pub(super) hard_link: bool,
}

/// Stores `weights` in a folder; `progress` takes the bytes written and the bytes to write in all.
pub(super) fn store(
    checkpoint: &Checkpoint,
    weights: &[Weight<'_>],
    place: Place<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Stored> {
    let files = &checkpoint.files;
    let whole: Vec<bool> = (0..files.len()).map(|file| stays(&files[file], file, weights)).collect();
    let is_written = |weight: &&Weight<'_>| !whole[weight.tensor.file];
    for weight in weights.iter().filter(|weight| whole[weight.tensor.file]) {
        weight.tensor.check_in(&files[weight.tensor.file], Refused::NonFinite)?;
    }
    let parts: Vec<Part<'_>> =
        weights.iter().filter(is_written).map(|weight| part(weight, &files[weight.tensor.file])).collect();
    let written: u64 = parts.iter().map(Part::bytes).sum();
    let whole_files: Vec<&WeightFile> =
        files.iter().zip(&whole).filter(|(_, whole)| **whole).map(|(file, _)| file).collect();
    let (brought, done) = bring_all(&whole_files, place, &mut |done, total| progress(done, written + total))?;
    let mut stored = Stored { files: brought, ..Stored::default() };
    let is_taken = |name: &str| stored.files.iter().any(|file| file.name == name);
    let name = ["model.safetensors", "converted.safetensors"].into_iter().find(|name| !is_taken(name));
    let name = name.unwrap_or("model-converted.safetensors");
    let mut offsets = BTreeMap::new();
    if !parts.is_empty() {
        let progress = &mut |now, _| progress(done + now, done + written);
        offsets = safetensors::write(&place.folder.join(name), &parts, progress)?;
        stored.files.push(WeightsFile { name: name.to_owned(), placement: Placement::Written });
    }
    // A file that was written to meanwhile has made the export a mixture.
    files.iter().try_for_each(|file| file.seen.check())?;
    for (weight, part) in weights.iter().filter(is_written).zip(&parts) {
        let written = part.entries.iter().map(|entry| entry.initialiser(name, offsets[&entry.name]));
        match &weight.form {
            Form::Float32 | Form::Half(_) => stored.initialisers.extend(written),
            Form::Packed(packing) => stored.initialisers.extend(packed_initialisers(weight, packing, written)),
        }
    }
    for Weight { name, tensor, .. } in weights.iter().filter(|weight| whole[weight.tensor.file]) {
        let entry = Entry { name: name.clone(), kind: DataType::Float, shape: tensor.shape.clone() };
        stored.initialisers.push(entry.initialiser(&files[tensor.file].name, tensor.offset as u64));
    }
    Ok(stored)
}

/// A weight that does not stay as it is, in its written form.
fn part<'a>(weight: &'a Weight<'_>, file: &'a WeightFile) -> Part<'a> {
    match &weight.form {
        Form::Float32 => widened(weight, file),
        Form::Half(precision) => narrowed(weight, *precision, file),
        Form::Packed(packing) => packed(weight, packing.layout, file),
    }
}

/// A tensor in float32.
fn widened<'a>(weight: &'a Weight<'_>, file: &'a WeightFile) -> Part<'a> {
    let entry = Entry { name: weight.name.clone(), kind: DataType::Float, shape: weight.tensor.shape.clone() };
    Part {
        entries: vec![entry],
        check: Box::new(|| weight.tensor.check_in(file, Refused::NonFinite)),
        write: Box::new(|sink| weight.tensor.write_float32(&file.data, sink)),
    }
}

/// A matrix in half precision.
fn narrowed<'a>(weight: &'a Weight<'_>, to: Precision, file: &'a WeightFile) -> Part<'a> {
    let tensor = weight.tensor;
    Part {
        entries: vec![Entry { name: weight.name.clone(), kind: to.data_type(), shape: tensor.shape.clone() }],
        check: Box::new(move || {
            tensor.check_in(file, Refused::NonFinite)?;
            narrow::check(to, tensor, &file.data).map_err(|error| error.context(file.path.display()))
        }),
        write: Box::new(move |sink| narrow::write(to, tensor, &file.data, sink)),
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
        check: Box::new(|| weight.tensor.check_in(file, Refused::Huge)),
        write: Box::new(move |sink| quantize::write(weight.tensor, &file.data, &layout, sink)),
    }
}

/// The names that the graph has for a packed weight. The bytes of its quants have one name or two.
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

/// Returns whether the file, number `index` of the checkpoint, can be part of the export as it is.
fn stays(file: &WeightFile, index: usize, weights: &[Weight<'_>]) -> bool {
    let mut used = weights.iter().filter(|weight| weight.tensor.file == index).peekable();
    file.name.ends_with(".safetensors")
        && used.peek().is_some()
        && used.all(|weight| matches!(weight.form, Form::Float32) && weight.tensor.is_plain_float32())
}

/// Brings files into the folder as they are. Returns what became of them, and the bytes copied. `progress` takes the
/// bytes copied so far, and those to copy in all.
fn bring_all(
    files: &[&WeightFile],
    place: Place<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Vec<WeightsFile>, u64)> {
    let mut total: u64 = files.iter().map(|file| file.seen.length()).sum();
    let (mut brought, mut done) = (Vec::new(), 0);
    for file in files {
        let placement = bring(file, place, &mut |copied| progress(done + copied, total))?;
        match placement {
            Placement::HardLinked => total -= file.seen.length(),
            _ => done += file.seen.length(),
        }
        brought.push(WeightsFile { name: file.name.clone(), placement });
    }
    Ok((brought, done))
}

/// Brings a file into the folder as it is. `progress` takes the bytes copied so far.
fn bring(file: &WeightFile, place: Place<'_>, progress: &mut dyn FnMut(u64)) -> Result<Placement> {
    let target = place.folder.join(&file.name);
    if place.hard_link && fs::hard_link(&file.path, &target).is_ok() {
        return Ok(Placement::HardLinked);
    }
    /// Bytes between two reports.
    const PIECE: u64 = 64 << 20;
    let failed = |error| Error::io("copy weights to", &target, error);
    let mut copy = File::create_new(&target).map_err(failed)?;
    let mut done = 0;
    loop {
        // The kernel copies. Some file systems let both files share their blocks.
        let copied = io::copy(&mut (&file.file).take(PIECE), &mut copy).map_err(failed)?;
        if copied == 0 {
            return Ok(Placement::Copied);
        }
        done += copied;
        progress(done);
    }
}

#[cfg(test)]
mod tests;
