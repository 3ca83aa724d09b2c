//! `foreturn report`.

use std::path::Path;

use foreturn::report::Report;
use foreturn::{Error, ErrorKind, Result, files};

use super::args::ReportArgs;
use super::output;

/// From this size on, browsers take seconds to open a page.
const LARGE_BYTES: u64 = 100 << 20;

pub(super) fn report(args: &ReportArgs) -> Result<()> {
    if args.trace.is_dir() {
        return evaluation(args);
    }
    let mut report = if args.trace == Path::new("-") {
        Report::from_lines(std::io::stdin().lock(), "standard input")?
    } else {
        refuse_same_file(&args.trace, &args.output)?;
        Report::read(&args.trace)?
    };
    if !args.ranking.is_empty() {
        report.keep(&args.ranking)?;
    }
    report.write(&args.output)?;
    if report.unreadable() > 0 {
        output::warning(&format!("{} could not be read; the page says which", count(report.unreadable(), "line")));
    }
    let bytes = std::fs::metadata(&args.output).map_or(0, |page| page.len());
    if bytes > LARGE_BYTES {
        output::warning(&format!("the page is {} MB large; choose rankings with --ranking", bytes >> 20));
    }
    let (rankings, futures) = (count(report.rankings(), "ranking"), count(report.rollouts(), "future"));
    output::line(format!("{}: {rankings}, {futures}", args.output.display()))
}

/// The page of an evaluation's folder.
fn evaluation(args: &ReportArgs) -> Result<()> {
    if !args.ranking.is_empty() {
        let message =
            format!("{} is an evaluation, which has no rankings to choose: leave --ranking out", args.trace.display());
        return Err(Error::new(ErrorKind::InvalidRequest, message));
    }
    let page = foreturn::evaluate::page(&args.trace)?;
    let failed = |e| Error::io("write", &args.output, e);
    files::replace(&args.output, |out| out.write_all(page.as_bytes()).map_err(failed))?;
    let what = if args.trace.join("sweep.json").is_file() { "a sweep" } else { "an evaluation" };
    output::line(format!("{}: {what}", args.output.display()))
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Refuses a page that would take the place of the trace.
fn refuse_same_file(trace: &Path, page: &Path) -> Result<()> {
    match (trace.canonicalize(), page.canonicalize()) {
        (Ok(trace), Ok(same)) if trace == same => Err(Error::new(
            ErrorKind::InvalidRequest,
            format!("{} is the trace itself; give another name with -o", page.display()),
        )),
        _ => Ok(()),
    }
}
