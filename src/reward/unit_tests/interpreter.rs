//! Finds the files of an interpreter by asking it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::sandbox::{Isolation, Limits, Program, Sandbox};
use crate::{Error, Result};

const PROBE: &str = include_str!("probe.py");

/// The oldest version with everything that the Python side uses.
const OLDEST: (u32, u32) = (3, 10);

/// A Python, and the paths that have to be visible for it to run.
#[derive(Debug, Deserialize)]
pub(super) struct Interpreter {
    pub(super) executable: PathBuf,
    pub(super) paths: Vec<PathBuf>,
    version: (u32, u32),
}

impl Interpreter {
    /// Asks the interpreter at `path`. It runs with the host's rights, because the author of the configuration chose
    /// it.
    ///
    /// # Errors
    /// It doesn't exist, is not a Python, or is too old.
    pub(super) fn find(path: &Path) -> Result<Interpreter> {
        let refused = |why: String| Error::unsupported(format!("interpreter {}: {why}", path.display()));
        let mut program = Program::new(path);
        program.args = ["-I", "-B", "-c", PROBE].map(Into::into).to_vec();
        program.report = true;
        let limits = Limits { wall: Duration::from_secs(60), ..Limits::default() };
        let sandbox = Sandbox { isolation: Isolation::None, limits, ..Sandbox::default() };
        let outcomes = sandbox.run(vec![program]).map_err(|e| refused(e.to_string()))?;
        let answer = outcomes.first().map(|outcome| outcome.report.as_slice()).unwrap_or_default();
        let interpreter: Interpreter = serde_json::from_slice(answer).map_err(|_| {
            let said = outcomes.first().map(|outcome| String::from_utf8_lossy(&outcome.stderr).into_owned());
            let said = said.unwrap_or_default();
            refused(format!(
                "it doesn't answer as Python does ({}). Give the interpreter itself, not a wrapper",
                said.lines().last().unwrap_or("it says nothing")
            ))
        })?;
        if interpreter.version < OLDEST {
            let ((major, minor), (least, least_minor)) = (interpreter.version, OLDEST);
            return Err(refused(format!("Python {major}.{minor} is too old: {least}.{least_minor} is the oldest")));
        }
        Ok(interpreter)
    }
}
