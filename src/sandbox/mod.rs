//! Runs programs that nobody trusts. Linux only.
//!
//! One run is one sandbox, with one private temporary folder, in which one or more programs run beside each other. The
//! first leads: when it ends, all end. What is what:
//!
//! ```text
//! host ── clone3 ──▶ init         namespaces: user, mount, PID, network, IPC, UTS, cgroup; builds the root; watches
//!                      ├─ keeper    PID and mount namespaces of one program; waits for it
//!                      │    └─ program   another user, no capabilities, Landlock, seccomp, limits
//!                      └─ keeper ─ …
//! ```
//!
//! Between `clone3` and `execve` there are only system calls on what `plan` prepared, so the host may have threads. All of
//! these processes are copies of the host until they execute something, so only what was executed counts as a program's
//! memory. Programs are executed one after the other, in order: none runs while one that leads it is still being set up.
//!
//! Memory is held to its limit by `watch` (what processes use) and `kernel` (what is held for them), by `seccomp`, which
//! refuses what these two can't see, and by `group`, a control group, where one can be had.
//!
//! Its children's signals are left alone: `init` never executes anything, so it keeps its exit signal of none, and
//! neither a handler for SIGCHLD, nor SIGCHLD ignored, nor a `waitpid(-1)` in the host meets it. When `init` ends, the
//! kernel ends everything in its PID namespace, and the host sees `init` end only after that.
//!
//! This module knows nothing of metrics; docs/code-execution.md says what is isolated and what is not.

mod group;
mod host;
mod init;
mod keeper;
mod kernel;
mod landlock;
mod plan;
mod record;
mod seccomp;
mod sys;
mod watch;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Result;

/// Whether programs run isolated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// In the sandbox; where it can't be had, nothing runs.
    #[default]
    Required,
    /// As the host's own user, with limits for each process and nothing else. For machines that are a sandbox already.
    None,
}

/// What all programs of a run may use together, unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Time from start to end, by the clock.
    pub wall: Duration,
    /// Processor time. Looked at every 20 ms; without isolation, of each process.
    pub cpu: Duration,
    /// Bytes of address space of each process, and of resident memory of all together with what the kernel holds for them
    /// (looked at every 20 ms; see [`MemoryLimit`]).
    pub memory: u64,
    /// Processes and threads; without isolation, of the user.
    pub processes: u64,
    /// Bytes of one file.
    pub file_size: u64,
    /// Bytes of all files in the temporary folder; unlimited without isolation.
    pub files: u64,
    /// Bytes that a program may write to one of its standard streams or to its report.
    pub output: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            wall: Duration::from_secs(30),
            cpu: Duration::from_secs(30),
            memory: 2 << 30,
            processes: 64,
            file_size: 64 << 20,
            files: 256 << 20,
            output: 1 << 20,
        }
    }
}

/// Where programs run.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Whether they are isolated.
    pub isolation: Isolation,
    /// What they may use.
    pub limits: Limits,
    /// Files and folders that they see, read-only, under the same paths, beside the system's libraries. They have to be
    /// absolute and readable by [`user`](Sandbox::user).
    pub visible: Vec<PathBuf>,
    /// The host's user and group that they run as where the host is root; else they run as the host's own user, under
    /// another number. Never 0.
    pub user: u32,
}

/// The user `nobody`, whom nothing should belong to.
pub const NOBODY: u32 = 65534;

impl Default for Sandbox {
    fn default() -> Self {
        Sandbox { isolation: Isolation::default(), limits: Limits::default(), visible: Vec::new(), user: NOBODY }
    }
}

/// The way in which [`Limits::memory`] of all programs together is held on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "memory_limit", rename_all = "snake_case")]
pub enum MemoryLimit {
    /// By a control group of the kernel, beside what [`Watch`](MemoryLimit::Watch) does.
    ControlGroup,
    /// By looking every 20 ms, and by refusing what can't be seen so.
    Watch {
        /// Why there is no control group.
        reason: String,
    },
}

impl MemoryLimit {
    /// Tries to make a control group.
    pub fn here() -> Self {
        match group::Group::new(1 << 30, 1) {
            Ok(_) => MemoryLimit::ControlGroup,
            Err(reason) => MemoryLimit::Watch { reason },
        }
    }
}

impl std::fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MemoryLimit::ControlGroup => f.write_str("memory is limited by a control group"),
            MemoryLimit::Watch { reason } => {
                write!(f, "memory is limited by a watch that looks every 20 ms (no control group: {reason})")
            }
        }
    }
}

/// A program to be run, and what it is given.
#[derive(Debug)]
pub struct Program {
    /// The file to execute, absolute.
    pub path: PathBuf,
    /// Its arguments, without its own name.
    pub args: Vec<OsString>,
    /// What it finds on its standard input.
    pub input: Vec<u8>,
    /// Whether it has a descriptor 3, whose bytes become [`Outcome::report`].
    pub report: bool,
    /// Descriptors that it has as 4, 5, …: ends of pipes to other programs of the run.
    pub links: Vec<OwnedFd>,
}

impl Program {
    /// A program without input, report or links.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Program { path: path.into(), args: Vec::new(), input: Vec::new(), report: false, links: Vec::new() }
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// By itself, with this exit status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// Together with the leading program.
    Stopped,
    /// All were ended, for one of them ran into this limit.
    Limit(Limit),
    /// Something outside ended the sandbox, as the kernel does where the machine has no memory left.
    Lost,
}

/// A limit that ends a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Limits::wall`].
    Wall,
    /// [`Limits::cpu`].
    Cpu,
    /// [`Limits::memory`] of all processes together.
    Memory,
    /// [`Limits::output`].
    Output,
    /// No locks on files of the host (looked at every 20 ms).
    Lock,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Exited(code) => write!(f, "it exited with status {code}"),
            End::Signalled(signal) => write!(f, "it was ended by signal {signal}"),
            End::Stopped => f.write_str("it was stopped"),
            End::Limit(Limit::Wall) => f.write_str("the time was up"),
            End::Limit(Limit::Cpu) => f.write_str("the processor time was used up"),
            End::Limit(Limit::Memory) => f.write_str("the memory was used up"),
            End::Limit(Limit::Output) => f.write_str("it wrote more than allowed"),
            End::Limit(Limit::Lock) => f.write_str("it locked a file of the host"),
            End::Lost => f.write_str("the sandbox was ended from outside, perhaps by the kernel for want of memory"),
        }
    }
}

/// What became of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended. Says nothing about whether the program did what it should: it chooses its exit status itself.
    pub end: End,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
    /// What it wrote to descriptor 3.
    pub report: Vec<u8>,
}

impl Sandbox {
    /// Runs `programs` beside each other until the first has ended or a limit is reached, ends whatever they started,
    /// and returns their outcomes in order. Blocks.
    ///
    /// # Errors [`Unsupported`](crate::ErrorKind::Unsupported) where the isolation can't be had on this machine, or a
    /// program can't be started; [`Io`](crate::ErrorKind::Io) where the host runs out of descriptors or processes.
    pub fn run(&self, programs: Vec<Program>) -> Result<Vec<Outcome>> {
        host::run(plan::Plan::new(self, programs)?, self)
    }
}
