//! Ctrl-C in the middle of a run.

use foreturn::engine::CancelToken;
use foreturn::tasks::{Stopped, Summary};
use foreturn::{Error, ErrorKind, Result};

use super::output;

/// The exit status of a process that was interrupted, as shells have it.
pub(super) const STATUS: u8 = 130;

/// The first Ctrl-C cancels `token`, so that the run writes what is finished. The second ends the process at once.
pub(super) fn cancels(token: CancelToken) -> Result<()> {
    let failed = |e: std::io::Error| Error::new(ErrorKind::Io, format!("signals cannot be heard: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let listen = async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            token.cancel();
            output::status("interrupted: what is finished is written; press Ctrl-C again to end at once");
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(STATUS.into());
        }
    };
    let thread = std::thread::Builder::new().name("foreturn-interrupt".into());
    thread.spawn(move || runtime.block_on(listen)).map(drop).map_err(failed)
}

/// The end of a command whose run was interrupted.
pub(super) fn refuse(summary: &Summary) -> Result<()> {
    match summary.stopped {
        Stopped::Cancelled => {
            Err(Error::new(ErrorKind::Cancelled, "the run was interrupted; run the same command to go on"))
        }
        _ => Ok(()),
    }
}
