//! In place of constraints in builds without them.

use std::sync::Arc;

use crate::decode::constraint::JsonSchema;
use crate::model::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Refuses every schema.
#[derive(Default)]
pub(crate) struct Constraints {}

/// There is none.
pub(crate) enum Constraint {}

impl Constraints {
    pub(crate) fn start(&mut self, schema: &Arc<JsonSchema>, _: &Tokenizer, _: &[u32]) -> Result<Constraint> {
        Err(Error::unsupported(format!(
            "a reply in JSON (`{}`) from a local model: this build has no constrained sampling. Build foreturn with its \
             feature `constraints`",
            schema.name
        )))
    }
}

impl Constraint {
    pub(crate) fn allowed(&mut self) -> Result<&[u32]> {
        match *self {}
    }

    pub(crate) fn accept(&mut self, _: u32) -> Result<()> {
        match *self {}
    }

    pub(crate) fn is_complete(&self) -> bool {
        match *self {}
    }
}
