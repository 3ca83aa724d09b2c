//! Requests to rank, one a file or many.

use std::path::{Path, PathBuf};

use foreturn::rank::Candidates;
use foreturn::{Error, ErrorKind, RankRequest, Result, json};
use serde_json::Value;

use super::super::output;

/// A request, and where it stands.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) origin: String,
    pub(super) request: RankRequest,
}

/// Reads `--request` files: each a request, a list of them, or with `.jsonl` one a line.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Request>> {
    let mut all = Vec::new();
    for path in paths {
        let (text, origin) = output::read(path)?;
        let requests = parse(&text, &origin, has_lines(path))?;
        if requests.is_empty() {
            return Err(invalid(format!("{origin}: there are no requests")));
        }
        all.extend(requests);
    }
    Ok(all)
}

fn has_lines(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jsonl")
}

fn parse(text: &str, origin: &str, lines: bool) -> Result<Vec<Request>> {
    if lines {
        let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
        return lines.map(|(line, number)| request(line, format!("{origin}, line {number}"))).collect();
    }
    if !text.trim_start().starts_with('[') {
        return Ok(vec![request(text, origin.to_owned())?]);
    }
    let list: Vec<Value> =
        json::parse_strictly(text).map_err(|e| invalid(format!("{origin}: not a list of ranking requests: {e}")))?;
    list.iter().enumerate().map(|(at, value)| request(&value.to_string(), format!("{origin}[{at}]"))).collect()
}

fn request(json: &str, origin: String) -> Result<Request> {
    let request = json.parse::<RankRequest>().map_err(|e| e.context(&origin))?;
    if let Candidates::Sample(count) = request.candidates {
        return Err(invalid(format!(
            "{origin}: candidates is {count}: each model would sample others, so give a list of texts"
        )));
    }
    Ok(Request { origin, request })
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(candidates: &str) -> String {
        format!("{{\"conversation\": [{{\"role\": \"user\", \"content\": \"hi\"}}], \"candidates\": {candidates}}}")
    }

    #[test]
    fn a_file_holds_one_request_a_list_or_lines() {
        let origins = |text: &str, lines| -> Vec<String> {
            parse(text, "r", lines).expect("requests").into_iter().map(|request| request.origin).collect()
        };
        let good = one(r#"["a", "b"]"#);
        assert_eq!(origins(&format!("\n{good}"), false), ["r"]);
        assert_eq!(origins(&format!(" [{good},\n{good}]"), false), ["r[0]", "r[1]"]);
        assert_eq!(origins(&format!("{good}\n\n{good}\n"), true), ["r, line 1", "r, line 3"]);
        assert!(origins("[]", false).is_empty() && origins("\n", true).is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let good = one(r#"["a", "b"]"#);
        for (text, lines, start, part) in [
            (format!("{good}\n{}\n", one("[]")), true, "r, line 2: ", "candidates is empty"),
            (format!("{good}\n{{\n"), true, "r, line 2: ", "not a ranking request"),
            (format!("[{good}, {}]", one(r#"["a", 3]"#)), false, "r[1]: ", "candidates[1] is 3"),
            (format!("[{good}, 4]"), false, "r[1]: ", "not a ranking request"),
            (format!("[{good}, "), false, "r: ", "not a list of ranking requests"),
            (one("2"), false, "r: ", "candidates is 2: each model would sample others"),
        ] {
            let message = parse(&text, "r", lines).expect_err("refused").to_string();
            assert!(message.starts_with(start) && message.contains(part), "{message}");
        }
    }
}
