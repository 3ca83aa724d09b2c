//! Reads a trace, line by line.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use super::lines::{Kind, Line, Lines, Unread};
use super::record::Record;
use crate::rank::Ranking;
use crate::{Error, Result, files};

/// Iterates over the records of a trace, in the order of the file.
///
/// Each line is read by itself: a line that cannot be read is an `Err`, and the next call goes on with the line after it.
/// A crash leaves such a line, which [`LineError::is_cut_off`] tells from other faults. The reader ends where the file ends
/// or cannot be read on. Unknown fields are passed over, because later versions add some.
///
/// ```no_run
/// use foreturn::trace::{Record, TraceReader};
///
/// for record in TraceReader::open("rollouts.jsonl")? {
///     match record {
///         Ok(Record::Rollout { ranking, rollout }) => println!("{ranking}: {:?}", rollout.reward),
///         Ok(_) => {}
///         Err(error) if error.is_cut_off() => eprintln!("{error}"),
///         Err(error) => return Err(error.into()),
///     }
/// }
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug)]
pub struct TraceReader<R = BufReader<File>> {
    lines: Lines<R>,
    ended: bool,
}

impl TraceReader {
    /// Opens a trace.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] if the file cannot be opened.
    pub fn open(trace: impl AsRef<Path>) -> Result<Self> {
        let trace = trace.as_ref();
        let (file, _) = files::open_named(trace, files::Kind::INPUT)?;
        Ok(TraceReader::new(BufReader::new(file), &trace.display().to_string()))
    }
}

impl<R: BufRead> TraceReader<R> {
    /// Reads a trace from anything that has lines; `origin` names it in messages.
    pub fn new(lines: R, origin: &str) -> Self {
        TraceReader { lines: Lines::new(lines, origin), ended: false }
    }
}

impl<R: BufRead> Iterator for TraceReader<R> {
    type Item = Result<Record, LineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let (line, read) = match self.lines.advance() {
            Ok(Some((line, text))) => (line, record(text)),
            Ok(None) => {
                self.ended = true;
                return None;
            }
            Err(error) => {
                self.ended = true;
                return Some(Err(LineError { line: None, cut_off: false, error }));
            }
        };
        Some(read.map_err(|Unread { cut_off, why }| {
            let error = Error::invalid_request(format!("line {line} of {}: {why}", self.lines.source()));
            LineError { line: Some(line), cut_off, error }
        }))
    }
}

fn record(line: &[u8]) -> Result<Record, Unread> {
    #[derive(Deserialize)]
    struct Outcome {
        result: Box<Ranking>,
    }
    Ok(match Line::parse(line)? {
        Line::Known { kind: Kind::Request, ranking, body } => Record::Request { ranking, request: body.read()? },
        Line::Known { kind: Kind::Rollout, ranking, body } => Record::Rollout { ranking, rollout: body.read()? },
        Line::Known { kind: Kind::Ranking, ranking, body } => {
            let Outcome { result } = body.read()?;
            Record::Ranking { ranking, result }
        }
        Line::Other { kind, body } => Record::Other { kind, fields: body.read()? },
    })
}

/// The reason why a line of a trace could not be read. The message names the line and the trace.
#[derive(Debug)]
pub struct LineError {
    line: Option<usize>,
    cut_off: bool,
    error: Error,
}

impl LineError {
    /// The number of the line, from 1. `None` where the trace itself could not be read on.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// Tells whether the line only lacks its end. A crash of the writer leaves such a line.
    pub fn is_cut_off(&self) -> bool {
        self.cut_off
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(formatter)
    }
}

impl std::error::Error for LineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<LineError> for Error {
    fn from(error: LineError) -> Self {
        error.error
    }
}
