//! The only file that writes to the terminal.

use std::error::Error as _;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::str::FromStr;

use console::Term;
use foreturn::{Error, ErrorKind, Result, files};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// Writes a line to standard output. A reader that has gone away is the end of the program, not a failure.
pub(super) fn line(text: impl AsRef<str>) -> Result<()> {
    write(text.as_ref())?;
    write("\n")
}

/// Writes text to standard output as it stands.
pub(super) fn write(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|e| Error::io("write to", Path::new("standard output"), e)),
    }
}

/// The columns that output may take: those of the terminal, or 100 where the output is not read on a terminal.
pub(super) fn width() -> usize {
    const WITHOUT_TERMINAL: usize = 100;
    const NARROWEST: usize = 60;
    match Term::stdout().size_checked() {
        Some((_, columns)) => usize::from(columns).max(NARROWEST),
        None => WITHOUT_TERMINAL,
    }
}

/// Writes one JSON document.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value)
        .map_err(|e| Error::new(ErrorKind::Internal, format!("the result can't be written as JSON: {e}")))?;
    line(text)
}

/// Reports a failure on standard error, with its causes if they say more.
#[allow(clippy::print_stderr, reason = "this is where errors are reported")]
pub(super) fn error(error: &Error) {
    // Parsers end their messages with a line end.
    let message = error.to_string();
    eprintln!("foreturn: {}", message.trim_end());
    let mut cause = error.source();
    while let Some(source) = cause {
        let text = source.to_string();
        // Messages usually quote their cause already.
        if !message.contains(text.trim_end()) {
            eprintln!("  caused by: {}", text.trim_end());
        }
        cause = source.source();
    }
}

/// Says on standard error what a user should know although the command goes on.
#[allow(clippy::print_stderr, reason = "this is where warnings are shown")]
pub(super) fn warning(text: &str) {
    eprintln!("foreturn: warning: {text}");
}

/// Says on standard error how far a command is, where standard error is not a terminal and shows no bar.
#[allow(clippy::print_stderr, reason = "this is where progress is shown")]
pub(super) fn status(text: &str) {
    eprintln!("{text}");
}

/// A progress bar on standard error. It is invisible if standard error is not a terminal.
pub(super) fn progress(total: u64, template: &str) -> ProgressBar {
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), target).with_style(style)
}

/// What a file says, or standard input for `-`. An error begins with the file's name.
pub(super) fn parse<T: FromStr<Err = Error>>(path: &Path) -> Result<T> {
    let (text, origin) = read(path)?;
    text.parse().map_err(|e: Error| e.context(origin))
}

/// The contents of a file, or of standard input for `-`, with a name for messages.
pub(super) fn read(path: &Path) -> Result<(String, String)> {
    let name = if path == Path::new("-") { "standard input".into() } else { path.display().to_string() };
    Ok((files::read_argument(path, files::Kind::INPUT)?, name))
}
