//! A trace as bytes: one line after the other, with their kinds.
//!
//! Traces are foreign: other versions wrote them, a crash cut them off, somebody edited them. So a line has a limit, an empty
//! line means nothing, and a line that cannot be read does not end the reading.

use std::io::{BufRead, Read as _};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Error, ErrorKind, Result, json};

/// Most bytes of a line. The longest lines are those of rankings, with all candidates.
const LONGEST: u64 = 1 << 28;

/// The lines of a trace.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    from: R,
    /// The trace's name in messages.
    source: String,
    number: usize,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(from: R, source: &str) -> Self {
        Lines { from, source: source.to_owned(), number: 0, line: Vec::new() }
    }

    /// The next line that is not empty, with its number, which counts from 1. `None` at the end.
    ///
    /// # Errors
    /// The trace cannot be read on.
    pub(crate) fn advance(&mut self) -> Result<Option<(usize, &[u8])>> {
        let Lines { from, source, number, line } = self;
        loop {
            line.clear();
            *number += 1;
            let bytes = from.by_ref().take(LONGEST).read_until(b'\n', line).map_err(|error| {
                Error::new(ErrorKind::Io, format!("line {number} of {source}: {error}")).with_source(error)
            })?;
            if bytes == 0 {
                return Ok(None);
            }
            if bytes as u64 == LONGEST && !line.ends_with(b"\n") {
                let why = format!("line {number} of {source} has more than {LONGEST} bytes: this is not a trace");
                return Err(Error::invalid_request(why));
            }
            if !line.trim_ascii().is_empty() {
                // The end of a line that was cut off within a text is not a part of the text.
                return Ok(Some((*number, line.trim_ascii())));
            }
        }
    }

    /// The trace's name in messages.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }
}

/// The kinds of lines that this version knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Rollout,
    Ranking,
}

/// A line, read as far as its kind.
#[derive(Debug)]
pub(crate) enum Line<'a> {
    /// A line of a ranking.
    Known { kind: Kind, ranking: String, body: Body<'a> },
    /// A line of a kind that a later version may know.
    Other { kind: String, body: Body<'a> },
}

/// The whole line, to be read into the type of its kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body<'a>(&'a [u8]);

/// The reason why a line cannot be read.
#[derive(Debug)]
pub(crate) struct Unread {
    /// True if the line only lacks its end, as after a crash.
    pub(crate) cut_off: bool,
    /// As a sentence's end: "line 3: …".
    pub(crate) why: String,
}

impl<'a> Line<'a> {
    pub(crate) fn parse(line: &'a [u8]) -> Result<Self, Unread> {
        #[derive(Deserialize)]
        struct Head {
            kind: String,
        }
        #[derive(Deserialize)]
        struct Name {
            ranking: String,
        }
        let body = Body(line);
        let Head { kind } = body.read()?;
        let kind = match kind.as_str() {
            "request" => Kind::Request,
            "rollout" => Kind::Rollout,
            "ranking" => Kind::Ranking,
            _ => return Ok(Line::Other { kind, body }),
        };
        let Name { ranking } = body.read()?;
        Ok(Line::Known { kind, ranking, body })
    }
}

impl Body<'_> {
    pub(crate) fn read<T: DeserializeOwned>(self) -> Result<T, Unread> {
        let text = self.0.strip_prefix(b"\xef\xbb\xbf").unwrap_or(self.0);
        if text.trim_ascii_start().starts_with(b"[") {
            // It would be taken for an object whose fields come in the order of the type.
            return Err(Unread { cut_off: false, why: "it is a list: a line of a trace is a JSON object".into() });
        }
        json::parse(text).map_err(|error| {
            let (cut_off, why) = (error.is_cut_off(text), error.to_string());
            let why = match error.near(text) {
                _ if cut_off => format!("it is cut off, as by a crash ({why})"),
                // The message names the field already, and the place is the end of its object.
                Some(_) if why.starts_with("missing field") => why,
                Some(field) => format!("{why}, near `{field}`"),
                None => why,
            };
            Unread { cut_off, why }
        })
    }
}
