//! The verdict, from the lines of the channel.

use std::collections::HashSet;

use serde::Deserialize;

use crate::sandbox::End;
use crate::{Error, Result};

/// The number of tests that a program passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The number of tests that passed.
    pub passed: usize,
    /// The number of tests in the tests' text; at least one.
    pub total: usize,
    /// The first failure, if not all passed.
    pub reason: Option<String>,
}

impl Verdict {
    /// Whether all tests passed.
    pub fn all(&self) -> bool {
        self.passed == self.total
    }

    /// The share of the tests that passed, in [0, 1].
    pub fn share(&self) -> f64 {
        self.passed as f64 / self.total as f64
    }

    pub(super) fn none(total: usize, why: &str) -> Self {
        Verdict { passed: 0, total, reason: Some(why.to_owned()) }
    }

    /// Counts the results of the tests in `names`, which is not empty. A process with an incomplete account ended by
    /// `end`. An account that a solution had a part in can't say that the tests are broken.
    pub(super) fn of(records: Records, names: &[String], end: End) -> Verdict {
        if let Some(why) = records.failed {
            return Verdict::none(names.len(), &format!("the solution is missing: {why}"));
        }
        let mut told = HashSet::new();
        let mut passed = 0;
        let mut reason = None;
        for (name, why) in &records.ran {
            let known = name.as_ref().filter(|name| names.contains(name));
            let what = name.as_deref().unwrap_or("what comes before a test");
            match (known, why) {
                // An honest run does not report a test twice.
                (Some(name), _) if !told.insert(name.clone()) => {
                    return Verdict::none(names.len(), &format!("{name}: two verdicts"));
                }
                (Some(_), None) => passed += 1,
                (_, Some(why)) => reason = reason.or_else(|| Some(format!("{what}: {why}"))),
                (None, None) => return Verdict::none(names.len(), &format!("{what}: there is no such test")),
            }
        }
        if passed < names.len() && reason.is_none() {
            let missing = names.iter().find(|name| !told.contains(*name));
            let missing = missing.map_or("a test", String::as_str);
            reason = Some(format!("{missing} has no verdict: {end}"));
        }
        Verdict { passed, total: names.len(), reason: reason.filter(|_| passed < names.len()) }
    }
}

/// The report that came through the channel.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Records {
    /// The names of the tests.
    pub(super) tests: Option<Vec<String>>,
    /// Tests that ran, with the reasons of failures. Without a name, it is the code around tests.
    pub(super) ran: Vec<(Option<String>, Option<String>)>,
    /// The reason why the solution could not be loaded.
    pub(super) failed: Option<String>,
    /// The reason why the tests can't be run.
    pub(super) broken: Option<String>,
    /// Whether the tests' own code reached the first call of the entry point, or its end.
    pub(super) loaded: bool,
    /// Whether the account is complete.
    pub(super) done: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    nonce: String,
    tests: Option<Vec<String>>,
    ran: Option<String>,
    why: Option<String>,
    failed: Option<String>,
    broken: Option<String>,
    #[serde(default)]
    loaded: bool,
    #[serde(default)]
    done: bool,
}

/// Reads the lines of a report. An unfinished last line is ignored, because its writer was stopped.
///
/// # Errors
/// A line is invalid or doesn't have the `nonce`.
pub(super) fn read(report: &[u8], nonce: &str) -> Result<Records> {
    let mut records = Records::default();
    let whole = report.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    for line in report[..whole].split_inclusive(|byte| *byte == b'\n') {
        let line: Line = serde_json::from_slice(line)
            .map_err(|e| Error::internal(format!("an invalid line in the verdict's channel: {e}")))?;
        if line.nonce != nonce {
            return Err(Error::internal("a foreign line in the verdict's channel"));
        }
        records.tests = records.tests.or(line.tests);
        records.failed = records.failed.or(line.failed);
        // From the last one, which has the most information.
        records.broken = line.broken.or(records.broken);
        records.loaded |= line.loaded;
        if line.ran.is_some() || line.why.is_some() {
            records.ran.push((line.ran, line.why));
        } else if line.done {
            records.done = true;
            break;
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(lines: &[&str]) -> Result<Verdict> {
        let report: String = lines.iter().map(|line| format!("{{\"nonce\": \"n\", {line}}}\n")).collect();
        let names = ["A.a".to_owned(), "A.b".to_owned()];
        Ok(Verdict::of(read(report.as_bytes(), "n")?, &names, End::Exited(0)))
    }

    #[test]
    fn only_tests_that_there_are_count() {
        let both = verdict(&[r#""ran": "A.a", "why": null"#, r#""ran": "A.b", "why": null"#]).expect("a verdict");
        assert_eq!(both, Verdict { passed: 2, total: 2, reason: None });
        let one = verdict(&[r#""ran": "A.a", "why": null"#, r#""done": true"#]).expect("a verdict");
        assert_eq!((one.passed, one.share()), (1, 0.5));
        assert!(one.reason.expect("a reason").starts_with("A.b has no verdict"));
        let failed = verdict(&[r#""ran": "A.a", "why": "2 != 3""#, r#""ran": "A.b", "why": null"#]).expect("a verdict");
        assert_eq!((failed.passed, failed.reason.as_deref()), (1, Some("A.a: 2 != 3")));
    }

    #[test]
    fn what_an_honest_run_never_says_is_no_pass() {
        let twice = [r#""ran": "A.a", "why": null"#; 2];
        assert_eq!(verdict(&twice).expect("a verdict").passed, 0);
        assert_eq!(verdict(&[r#""ran": "A.c", "why": null"#]).expect("a verdict").passed, 0);
        let late = [r#""done": true"#, r#""ran": "A.a", "why": null"#];
        assert_eq!(verdict(&late).expect("a verdict").passed, 0);
        assert!(read(b"{\"nonce\": \"m\", \"done\": true}\n", "n").is_err());
        assert!(read(b"ok\n", "n").is_err());
    }

    #[test]
    fn a_solution_cannot_break_the_tests() {
        let told = [r#""ran": "A.a", "why": null"#, r#""broken": "no Python""#, r#""ran": "A.b", "why": "1 != 2""#];
        let one = verdict(&told).expect("a verdict");
        assert_eq!((one.passed, one.total), (1, 2));
    }

    #[test]
    fn an_account_is_complete_when_it_says_so() {
        let read = |text: &str| read(text.as_bytes(), "n").expect("records");
        let records = read("{\"nonce\": \"n\", \"loaded\": true}\n{\"nonce\": \"n\", \"done\": tr");
        assert!(records.loaded && !records.done);
        assert!(read("{\"nonce\": \"n\", \"done\": true}\n").done);
    }
}
