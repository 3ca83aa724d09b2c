//! The file of the user's requests.

use foreturn::engine::Request;
use foreturn::{Error, ErrorKind, Result};
use serde::Serialize;

use super::super::super::args::LoadArgs;
use super::super::super::output;

/// A line of the file.
pub(super) struct Line {
    /// Its name in messages.
    pub(super) name: String,
    pub(super) request: Request,
    /// The route that a server answers it on, and the body.
    pub(super) path: &'static str,
    pub(super) body: Vec<u8>,
}

impl Line {
    fn new(name: String, text: &str) -> Result<Self> {
        let request: Request = text.parse().map_err(|e: Error| e.context(&name))?;
        let (path, body) = match &request {
            Request::Rank(request) => ("/v1/rank", written(request)?),
            Request::Score(request) => ("/v1/score", written(request)?),
        };
        Ok(Line { name, request, path, body })
    }
}

fn written(request: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(request)
        .map_err(|e| Error::new(ErrorKind::Internal, format!("the request can't be written as JSON: {e}")))
}

/// Reads the requests.
pub(super) fn read(given: &LoadArgs) -> Result<Vec<Line>> {
    // The command line asks for it.
    let path = given.requests.clone().unwrap_or_default();
    let (text, origin) = output::read(&path)?;
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let lines: Vec<Line> =
        numbered.map(|(at, line)| Line::new(format!("{origin}, line {}", at + 1), line)).collect::<Result<_>>()?;
    if lines.is_empty() {
        let message = format!("{origin} has no requests; it needs one on each line");
        return Err(Error::new(ErrorKind::InvalidRequest, message));
    }
    Ok(lines)
}
