//! A trace of rankings as one HTML page for any browser: candidates with their intervals, their futures as a tree, the
//! answers of judges, and the cost. The page is a single file that loads nothing, so it can be mailed or archived.
//!
//! `shown` is the part of the lines that the page shows. `collect` brings the lines of one ranking together. `page` writes the
//! page from `page.html`, `page.css`, `page.js` and `futures.js`.

mod collect;
mod page;
mod shown;

use std::io::BufRead;
use std::path::Path;

use serde::Serialize;

use self::collect::{Collection, Ranking};
use self::shown::Line;
use crate::trace::lines::Lines;
use crate::{Error, ErrorKind, Result, files};

/// The most unreadable lines that are named one by one.
const NAMED: usize = 20;

/// The content of a trace, ready to be written as a page.
///
/// ```
/// let trace = r#"{"kind": "rollout", "ranking": "r1", "candidate": 0, "sample": 0, "reward": 0.5, "ended": "window"}"#;
/// let report = foreturn::report::Report::from_lines(trace.as_bytes(), "trace.jsonl")?;
/// assert_eq!((report.rankings(), report.rollouts()), (1, 1));
/// assert!(report.to_html()?.contains("<!doctype html>"));
/// # Ok::<(), foreturn::Error>(())
/// ```
#[derive(Debug)]
pub struct Report {
    source: String,
    rankings: Vec<Ranking>,
    unreadable: Unreadable,
    unknown: usize,
}

/// Lines that could not be read.
#[derive(Debug, Default, Serialize)]
struct Unreadable {
    count: usize,
    first: Vec<Complaint>,
}

#[derive(Debug, Serialize)]
struct Complaint {
    /// From 1.
    line: usize,
    why: String,
}

/// The part of the page that is read first.
#[derive(Serialize)]
struct Index<'a> {
    source: &'a str,
    version: &'a str,
    unreadable: &'a Unreadable,
    unknown: usize,
    rankings: Vec<Entry<'a>>,
}

/// The name of a ranking, and what tells it from the others.
#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    /// The beginning of the last message before the candidates.
    about: String,
    rollouts: usize,
}

impl Report {
    /// Reads a trace, a file of JSON lines. Lines that cannot be read, such as one that a crash cut off, are counted, and the
    /// page says so. Fails if the file cannot be read, or if no line of it can.
    pub fn read(trace: impl AsRef<Path>) -> Result<Self> {
        let trace = trace.as_ref();
        let (file, _) = files::open_named(trace, files::Kind::INPUT)?;
        let name = trace.file_name().unwrap_or(trace.as_os_str()).to_string_lossy();
        Report::from_lines(std::io::BufReader::new(file), &name).map_err(|error| match error.kind() {
            ErrorKind::Io => Error::io("read", trace, std::io::Error::other(error)),
            _ => error.context(trace.display()),
        })
    }

    /// As [`Report::read`], from anything that has lines. The page calls it `source`.
    pub fn from_lines(lines: impl BufRead, source: &str) -> Result<Self> {
        let mut collection = Collection::default();
        let (mut unreadable, mut unknown, mut read) = (Unreadable::default(), 0, 0);
        let mut lines = Lines::new(lines, source);
        while let Some((number, line)) = lines.advance()? {
            match Line::parse(line) {
                Ok(Some(line)) => {
                    collection.add(line);
                    read += 1;
                }
                Ok(None) => unknown += 1,
                Err(why) => unreadable.add(number, why),
            }
        }
        if read == 0 {
            return Err(nothing_read(&unreadable, unknown));
        }
        Ok(Report { source: source.to_owned(), rankings: collection.finish(), unreadable, unknown })
    }

    /// Keeps only the rankings with these names.
    pub fn keep(&mut self, names: &[String]) -> Result<()> {
        for name in names {
            if !self.rankings.iter().any(|ranking| ranking.id == *name) {
                let there: Vec<_> = self.rankings.iter().take(5).map(|ranking| format!("`{}`", ranking.id)).collect();
                let more = if self.rankings.len() > there.len() { ", …" } else { "" };
                return Err(Error::invalid_request(format!(
                    "no ranking `{name}` in {}, which has {}{more}",
                    self.source,
                    there.join(", ")
                )));
            }
        }
        self.rankings.retain(|ranking| names.contains(&ranking.id));
        Ok(())
    }

    /// Number of rankings.
    pub fn rankings(&self) -> usize {
        self.rankings.len()
    }

    /// Number of futures of all rankings.
    pub fn rollouts(&self) -> usize {
        self.rankings.iter().map(|ranking| ranking.rollouts.len()).sum()
    }

    /// Number of lines that could not be read.
    pub fn unreadable(&self) -> usize {
        self.unreadable.count
    }

    /// The page.
    pub fn to_html(&self) -> Result<String> {
        let index = Index {
            source: &self.source,
            version: env!("CARGO_PKG_VERSION"),
            unreadable: &self.unreadable,
            unknown: self.unknown,
            rankings: self.rankings.iter().map(Entry::of).collect(),
        };
        page::render(&index, &self.rankings)
    }

    /// Writes the page, whole or not at all. It replaces an earlier one.
    pub fn write(&self, page: impl AsRef<Path>) -> Result<()> {
        let (page, html) = (page.as_ref(), self.to_html()?);
        files::replace(page, |out| out.write_all(html.as_bytes()).map_err(|e| Error::io("write", page, e)))
    }
}

impl Unreadable {
    fn add(&mut self, line: usize, why: String) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(Complaint { line, why });
        }
    }
}

impl<'a> Entry<'a> {
    fn of(ranking: &'a Ranking) -> Self {
        const LENGTH: usize = 120;
        let request = ranking.request.as_ref();
        let last = request.and_then(|request| request.conversation.last()?.content.as_deref()).unwrap_or_default();
        Entry { id: &ranking.id, about: last.chars().take(LENGTH).collect(), rollouts: ranking.rollouts.len() }
    }
}

fn nothing_read(unreadable: &Unreadable, unknown: usize) -> Error {
    let expected = "a trace has lines like {\"kind\": \"rollout\", \"ranking\": …}";
    Error::invalid_request(match unreadable.first.first() {
        Some(Complaint { line, why }) => format!("no line can be read; line {line}: {why}; {expected}"),
        None if unknown > 0 => format!("none of the {unknown} lines is of a known kind; {expected}"),
        None => format!("there is nothing in it; {expected}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLLOUT: &str = r#"{"kind":"rollout","ranking":"a","candidate":0,"sample":0}"#;

    fn read(text: &str) -> Result<Report> {
        Report::from_lines(text.as_bytes(), "trace.jsonl")
    }

    #[test]
    fn what_is_whole_is_read_and_the_rest_is_counted() {
        let report = read(&format!("{ROLLOUT}\r\n\n  \n{{\"kind\":\"later\"}}\nnonsense\n{}", &ROLLOUT[..30])).unwrap();
        assert_eq!((report.rollouts(), report.unreadable(), report.unknown), (1, 2, 1));
        let lines: Vec<_> = report.unreadable.first.iter().map(|complaint| complaint.line).collect();
        assert_eq!(lines, [5, 6]);
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let error = Report::from_lines(endless, "x").unwrap_err();
        assert!(error.to_string().contains("more than 268435456 bytes"), "{error}");
    }

    #[test]
    fn a_byte_order_mark_and_pythons_constants_are_read() {
        let text = format!("\u{feff}{}", ROLLOUT.replacen('{', "{\"unread\": NaN, ", 1));
        assert_eq!(read(&text).unwrap().rollouts(), 1);
    }

    #[test]
    fn a_trace_cut_off_anywhere_is_read_or_refused() {
        let text = include_str!("../../tests/fixtures/report/poem_and_maths.jsonl");
        let first = text.find('\n').unwrap();
        for end in (0..text.len().min(first * 3)).filter(|&end| text.is_char_boundary(end)) {
            // The last line end is not needed.
            assert_eq!(read(&text[..end]).is_ok(), end >= first, "{end}");
        }
    }

    #[test]
    fn a_damaged_byte_costs_its_line_at_most() {
        let text = include_str!("../../tests/fixtures/report/poem_and_maths.jsonl");
        let lines: Vec<&str> = text.lines().collect();
        // A request, two futures and a result.
        assert!(lines[lines.len() - 7].starts_with("{\"kind\": \"ranking\""));
        let whole = [lines[0], lines[2], lines[3], lines[lines.len() - 7]].join("\n").into_bytes();
        for at in (0..whole.len()).step_by(97) {
            for byte in *b"\"{]9e\\\n\xff" {
                let mut damaged = whole.clone();
                damaged[at] = byte;
                let report = Report::from_lines(&*damaged, "trace.jsonl").unwrap();
                // A line end within a line makes two of it.
                let lost = report.unreadable() + report.unknown;
                assert!(lost <= 2, "byte {byte} at {at}");
                assert!(report.to_html().is_ok());
            }
        }
    }

    #[test]
    fn nothing_readable_is_an_error_that_says_why() {
        for (text, why) in [
            ("", "there is nothing in it"),
            ("\n \n", "there is nothing in it"),
            ("{}", "no line can be read; line 1: missing field `kind`"),
            ("\n{\"kind\":\"rollout\",\"ranking\":3}", "line 2: invalid type: integer `3`, expected a string"),
            ("{\"kind\":\"later\"}", "none of the 1 lines is of a known kind"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn rankings_are_kept_by_name() {
        let text = ["a", "b", "c"].map(|id| ROLLOUT.replace("\"a\"", &format!("{id:?}"))).join("\n");
        let mut report = read(&text).unwrap();
        let error = report.keep(&["d".into()]).unwrap_err().to_string();
        assert_eq!(error, "no ranking `d` in trace.jsonl, which has `a`, `b`, `c`");
        report.keep(&["c".into(), "a".into()]).unwrap();
        assert_eq!(report.rankings(), 2);
    }
}
