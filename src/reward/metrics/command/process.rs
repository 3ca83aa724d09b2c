//! Programs with limits on their time and output.
//!
//! One thread writes the program's input and two read its outputs, so that no order of reading and writing can
//! deadlock. The program leads its own process group, which is killed as a whole.

use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, ErrorKind, Result};

/// Maximum length of the end of standard error that a message quotes.
const STDERR_BYTES: usize = 2000;

/// Time to wait for the end of standard error after everything else has ended, because a stray child may hold it open.
const STDERR_GRACE: Duration = Duration::from_millis(200);

/// A program and its limits.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) empty_environment: bool,
    pub(super) timeout: Duration,
    /// Maximum number of bytes of standard output.
    pub(super) max_output: usize,
}

/// The output of a program.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) stdout: Vec<u8>,
    path: PathBuf,
    stderr: String,
}

impl Output {
    /// The error for a program without usable output.
    pub(super) fn unusable(&self, what: &str) -> Error {
        unusable(&self.path, what, &self.stderr)
    }
}

fn unusable(path: &Path, what: &str, stderr: &str) -> Error {
    let said = if stderr.is_empty() { String::new() } else { format!(". Its standard error ends: {stderr}") };
    Error::new(ErrorKind::ModelOutput, format!("`{}`: {what}{said}", path.display()))
}

impl Program {
    /// Runs it on `input` until it has ended and its output is closed.
    ///
    /// # Errors
    /// It could not be started, took too long, wrote too much, or ended with a failure.
    pub(super) fn run(&self, input: Vec<u8>) -> Result<Output> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.empty_environment {
            command.env_clear();
        }
        // Far beyond any clock if it would overflow.
        let deadline = Instant::now().checked_add(self.timeout);
        let mut running = Running { child: command.spawn().map_err(|e| self.not_started(e))?, ended: false };
        let child = &mut running.child;
        let piped = || Error::internal("a pipe to the program is missing");
        write_all(child.stdin.take().ok_or_else(piped)?, input).map_err(|e| self.not_started(e))?;
        let stdout = Stream::read(child.stdout.take().ok_or_else(piped)?, Keep::First(self.max_output));
        let stderr = Stream::read(child.stderr.take().ok_or_else(piped)?, Keep::Last(STDERR_BYTES));
        let (stdout, stderr) = (stdout.map_err(|e| self.not_started(e))?, stderr.map_err(|e| self.not_started(e))?);

        let failure = match stdout.wait(deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))) {
            Some(End::TooMuch) => Some(format!("it wrote more than max_output = {} bytes", self.max_output)),
            Some(End::Closed) => match running.wait(deadline) {
                Exit::Running => Some(self.too_slow()),
                Exit::Ended(status) if !status.success() => Some(format!("it failed ({status})")),
                Exit::Ended(_) | Exit::Unknown => None,
            },
            Some(End::Failed(error)) => Some(format!("its output could not be read: {error}")),
            None => Some(self.too_slow()),
        };
        drop(running);
        let _ = stderr.wait(Some(STDERR_GRACE));
        let stderr = String::from_utf8_lossy(&stderr.kept()).trim().to_owned();
        match failure {
            None => Ok(Output { stdout: stdout.kept(), path: self.path.clone(), stderr }),
            Some(what) => Err(unusable(&self.path, &what, &stderr)),
        }
    }

    fn too_slow(&self) -> String {
        format!("it took longer than timeout_s = {} and was stopped", self.timeout.as_secs_f64())
    }

    fn not_started(&self, error: std::io::Error) -> Error {
        Error::new(ErrorKind::Io, format!("`{}` could not be started: {error}", self.path.display())).with_source(error)
    }
}

/// The end of a program.
enum Exit {
    Ended(ExitStatus),
    Running,
    /// The host ignores SIGCHLD, so its children leave no status.
    Unknown,
}

/// A running program. Dropping it kills the program and its group, unless its end was seen before.
struct Running {
    child: Child,
    ended: bool,
}

impl Running {
    /// Waits for the end of a program that has closed its output.
    fn wait(&mut self, deadline: Option<Instant>) -> Exit {
        let mut pause = Duration::from_micros(200);
        let exit = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Exit::Ended(status),
                Err(_) => break Exit::Unknown,
                Ok(None) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return Exit::Running,
                Ok(None) => thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        self.ended = true;
        exit
    }
}

impl Drop for Running {
    #[allow(unsafe_code, reason = "a system call")]
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let Ok(group) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: a system call without memory. The child leads the group of its number. It was not waited for, so
            // the number is not reused, even if the child itself has ended and left others behind.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        let _ = self.child.wait();
    }
}

/// Writes on a separate thread. If a program doesn't read all of it, this is not a failure, because its output decides.
fn write_all(mut stdin: ChildStdin, input: Vec<u8>) -> std::io::Result<()> {
    let write = move || {
        block_sigpipe();
        let _ = stdin.write_all(&input);
    };
    start(write)
}

fn start(work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    crate::thread::spawn("foreturn-command", "to talk to it", work).map(drop).map_err(std::io::Error::other)
}

/// Blocks SIGPIPE on this thread, because otherwise a program that closes its input could end a host that doesn't
/// ignore the signal. A pending signal ends with the thread.
#[allow(unsafe_code, reason = "system calls")]
fn block_sigpipe() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set before it is used. The thread's old mask is not requested.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// The part of a stream to keep.
#[derive(Clone, Copy)]
enum Keep {
    /// All of it, up to a maximum.
    First(usize),
    /// Its last bytes.
    Last(usize),
}

/// The reason why reading ended.
enum End {
    Closed,
    TooMuch,
    Failed(std::io::Error),
}

/// A stream that is read on a separate thread. The thread outlives this if another process holds the stream open.
struct Stream {
    kept: Arc<Mutex<Vec<u8>>>,
    end: Receiver<End>,
}

impl Stream {
    fn read(mut from: impl Read + Send + 'static, keep: Keep) -> std::io::Result<Stream> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (ended, end) = channel();
        let into = Arc::clone(&kept);
        let read = move || {
            let mut chunk = [0; 1 << 14];
            let end = loop {
                match from.read(&mut chunk) {
                    Ok(0) => break End::Closed,
                    Ok(count) if !keep_bytes(&into, keep, &chunk[..count]) => break End::TooMuch,
                    Ok(_) => {}
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => break End::Failed(e),
                }
            };
            let _ = ended.send(end);
        };
        start(read)?;
        Ok(Stream { kept, end })
    }

    /// The reason why reading ended; `None` if it still goes on after `time`.
    fn wait(&self, time: Option<Duration>) -> Option<End> {
        let Some(time) = time else { return self.end.recv().ok() };
        self.end.recv_timeout(time).ok()
    }

    fn kept(&self) -> Vec<u8> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether there was room.
fn keep_bytes(into: &Mutex<Vec<u8>>, keep: Keep, bytes: &[u8]) -> bool {
    let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
    kept.extend_from_slice(bytes);
    match keep {
        Keep::First(most) => kept.len() <= most,
        Keep::Last(most) => {
            let excess = kept.len().saturating_sub(most);
            kept.drain(..excess);
            true
        }
    }
}
