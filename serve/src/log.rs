//! Lines on standard error. They are written by a thread of their own, so that a reader that hangs holds up nobody.

use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};

/// Lines that wait for their reader. Further ones are lost.
const LINES: usize = 1024;

enum Line {
    Text(String),
    /// Everything before it was written.
    Flush(SyncSender<()>),
}

static WRITER: OnceLock<Option<SyncSender<Line>>> = OnceLock::new();

fn writer() -> Option<&'static SyncSender<Line>> {
    let start = || {
        let (send, lines) = sync_channel(LINES);
        let write = move || {
            for line in lines {
                match line {
                    // Who closed it loses the line, not the server.
                    Line::Text(text) => drop(std::io::stderr().lock().write_all(text.as_bytes())),
                    Line::Flush(done) => drop(done.try_send(())),
                }
            }
        };
        std::thread::Builder::new().name("foreturn-log".into()).spawn(write).ok().map(|_| send)
    };
    WRITER.get_or_init(start).as_ref()
}

/// Writes a line.
pub(crate) fn say(line: &str) {
    if let Some(writer) = writer() {
        let _ = writer.try_send(Line::Text(format!("{line}\n")));
    }
}

/// Waits until the lines so far are written, for a moment.
pub(crate) fn flush() {
    let (done, waits) = sync_channel(1);
    if writer().is_some_and(|writer| writer.try_send(Line::Flush(done)).is_ok()) {
        let _ = waits.recv_timeout(std::time::Duration::from_secs(1));
    }
}
