//! What the executors of a paged graph have in common: the weights that it gets from memory, the inputs of a step, and the
//! logits that come back.

use std::borrow::Cow;

use ndarray::{ArrayView2, s};

use super::{Step, wrong_width};
use crate::Result;
use crate::model::ModelFolder;
use crate::model::rewrite::{PagedGraph, names};
use crate::model::source::{Source, in_memory};
use crate::runtime::session::{InMemory, Session};

/// The graph of `paged` as ONNX Runtime gets it, and the values that are not in the folder's files. The weights come from
/// `given`, or from the files, which must not have changed.
pub(super) fn graph<'a>(
    folder: &ModelFolder,
    paged: &'a PagedGraph,
    given: Option<&dyn Source>,
) -> Result<(Cow<'a, [u8]>, Option<InMemory>)> {
    if let Some(source) = given {
        let (bytes, memory) = in_memory(paged, folder.file().graph(), source)?;
        return Ok((Cow::Owned(bytes), Some(memory)));
    }
    folder.file().check_unchanged()?;
    paged.unread.check(&folder.file().data_folder)?;
    let converted = &paged.converted;
    let memory = if converted.is_empty() { None } else { Some(folder.converted(converted)?) };
    Ok((Cow::Borrowed(&*paged.bytes), memory))
}

/// The names and shapes by which a session of a paged graph is fed and read.
pub(super) struct Ports {
    /// The model's folder and the file that says `width`, for messages.
    pub(super) name: String,
    width_from: &'static str,
    /// Logits a row.
    width: usize,
    token_input: String,
    position_input: Option<String>,
    /// True if token ids are a vector, and not a batch of one row.
    flat: bool,
    logits: String,
}

impl Ports {
    pub(super) fn new(folder: &ModelFolder, paged: &PagedGraph) -> Self {
        let decoder = &folder.config().model.decoder;
        Ports {
            name: folder.path().display().to_string(),
            width_from: folder.config().width_source(),
            width: folder.row_width(),
            token_input: decoder.inputs.input_ids.clone(),
            position_input: paged.takes_positions.then(|| decoder.inputs.position_ids.clone()),
            flat: paged.flat,
            logits: decoder.outputs.logits.clone(),
        }
    }

    /// Sets the inputs of a step that every provider takes, except the wanted rows.
    pub(super) fn set(&self, session: &mut Session, step: &Step) -> Result<()> {
        let (tokens, sequences) = (step.tokens.len(), step.sequences());
        let row = &[1, tokens][usize::from(self.flat)..];
        session.set(&self.token_input, row, step.tokens.clone())?;
        if let Some(name) = &self.position_input {
            session.set(name, row, step.positions.clone())?;
        }
        session.set(names::CUMULATIVE, &[sequences + 1], step.cumulative.clone())?;
        session.set(names::PAST, &[sequences], step.past.clone())?;
        session.set(names::BLOCK_TABLE, &[sequences, step.block_table.len() / sequences], step.block_table.clone())
    }

    /// Runs the step, whose inputs are set, and hands its logits to `read`.
    pub(super) fn run(
        &self,
        session: &mut Session,
        step: &Step,
        read: &mut dyn FnMut(ArrayView2<'_, f32>),
    ) -> Result<()> {
        let rows = step.logit_rows.len();
        // An empty Gather is not worth relying on: one row more is computed and not read.
        let wanted = if rows == 0 { vec![0] } else { step.logit_rows.clone() };
        let computed = wanted.len();
        session.set(names::LOGIT_ROWS, &[computed], wanted)?;
        let expected = self.width;
        let checked = session.run(&self.logits, |logits| {
            let width = logits.shape().last().copied().unwrap_or(0);
            // More logits than expected would be read at the wrong places, so they are as wrong as fewer.
            match logits.into_shape_with_order((computed, expected)) {
                Ok(logits) => {
                    read(logits.slice_move(s![..rows, ..]));
                    Ok(())
                }
                Err(_) => Err(width),
            }
        })?;
        checked.map_err(|width| wrong_width(&self.name, self.width_from, expected, width))
    }
}
