//! Runs untrusted programs. Linux only.
//!
//! A run is one sandbox with a private temporary folder, in which one or more programs run at the same time. The first
//! leads: when it ends, all end. The processes are:
//!
//! ```text
//! host ── clone3 ──▶ init         namespaces: user, mount, PID, network, IPC, UTS, cgroup; builds the root; watches
//!                      ├─ keeper    PID and mount namespaces of one program; waits for it
//!                      │    └─ program   another user, no capabilities, Landlock, seccomp, limits
//!                      └─ keeper ─ …
//! ```
//!
//! Between `clone3` and `execve`, only system calls on data from `plan` are made, so the host may have threads. All of
//! these processes are copies of the host until they execute something, so only executed programs count towards the
//! memory limit. Programs are executed one after another, in order. None runs while one before it is still being set
//! up.
//!
//! Memory is limited by `watch` (memory of processes) and `kernel` (memory held for them), by `seccomp`, which refuses
//! memory that these two can't see, and by `group`, a control group, if one is available.
//!
//! The host's child signals are not affected. `init` never executes anything, so it never gets an exit signal, and
//! neither a handler for SIGCHLD, nor an ignored SIGCHLD, nor a `waitpid(-1)` in the host notices it. When `init` ends,
//! the kernel ends everything in its PID namespace, and the host sees `init` end only after that.
//!
//! This module knows nothing about metrics. docs/code-execution.md says what is isolated and what is not.

mod failure;
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
    /// In the sandbox. If it isn't available, nothing runs.
    #[default]
    Required,
    /// As the host's own user, with limits per process and nothing else. For machines that are themselves a sandbox.
    None,
}

/// The resources that all programs of a run may use together, unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Wall time from start to end.
    pub wall: Duration,
    /// Processor time, checked every 20 ms. Without isolation, this is per process.
    pub cpu: Duration,
    /// Bytes of address space per process, and of resident memory of all processes together, including memory that the
    /// kernel holds for them (checked every 20 ms; see [`MemoryLimit`]).
    pub memory: u64,
    /// Number of processes and threads. Without isolation, all of the user's count.
    pub processes: u64,
    /// Bytes per file.
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

/// The place in which programs run.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Whether they are isolated.
    pub isolation: Isolation,
    /// The resources that they may use.
    pub limits: Limits,
    /// Files and folders that they see, read-only, under the same paths, in addition to the system's libraries. The
    /// paths have to be absolute and readable by [`user`](Sandbox::user).
    pub visible: Vec<PathBuf>,
    /// The host's user and group that they run as, if the host is root. Otherwise they run as the host's own user,
    /// under another number. Never 0.
    pub user: u32,
}

/// The user `nobody`, which should own nothing.
pub const NOBODY: u32 = 65534;

impl Default for Sandbox {
    fn default() -> Self {
        Sandbox { isolation: Isolation::default(), limits: Limits::default(), visible: Vec::new(), user: NOBODY }
    }
}

/// The way in which this machine enforces `Limits::memory` of all programs together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "memory_limit", rename_all = "snake_case")]
pub enum MemoryLimit {
    /// By a control group of the kernel, in addition to [`Watch`](MemoryLimit::Watch).
    ControlGroup,
    /// By a check every 20 ms, and by refusing memory that the check can't see.
    Watch {
        /// The reason why there is no control group.
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

/// A program to run, and its inputs.
#[derive(Debug)]
pub struct Program {
    /// The file to execute, absolute.
    pub path: PathBuf,
    /// Its arguments, without its own name.
    pub args: Vec<OsString>,
    /// Its standard input.
    pub input: Vec<u8>,
    /// Whether it has a descriptor 3, whose bytes become [`Outcome::report`].
    pub report: bool,
    /// Its descriptors 4, 5, …: ends of pipes to other programs of the run.
    pub links: Vec<OwnedFd>,
}

impl Program {
    /// A program without input, report or links.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Program { path: path.into(), args: Vec::new(), input: Vec::new(), report: false, links: Vec::new() }
    }
}

/// The end of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// By itself, with this exit status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// Together with the leading program.
    Stopped,
    /// All were ended because one of them reached this limit.
    Limit(Limit),
    /// Something outside ended the sandbox, as the kernel does if the machine runs out of memory.
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
    /// No locks on files of the host (checked every 20 ms).
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
            End::Lost => {
                f.write_str("the sandbox was ended from outside, perhaps by the kernel because memory ran out")
            }
        }
    }
}

/// The outcome of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its end. This does not say whether the program did its job, because it chooses its own exit status.
    pub end: End,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// Its output on descriptor 3.
    pub report: Vec<u8>,
}

impl Sandbox {
    /// Runs `programs` at the same time until the first has ended or a limit is reached. Then ends everything that they
    /// started, and returns their outcomes in order. Blocks.
    ///
    /// # Errors [`Unsupported`](crate::ErrorKind::Unsupported) if the isolation isn't available on this machine, or a
    /// program can't be started; [`Io`](crate::ErrorKind::Io) if the host runs out of descriptors or processes.
    pub fn run(&self, programs: Vec<Program>) -> Result<Vec<Outcome>> {
        host::run(plan::Plan::new(self, programs)?, self)
    }
}
