//! Threads that the system may refuse. Containers and users have limits, and a library must not end its host because of
//! them.

use std::fmt::Write as _;
use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use crate::{Error, ErrorKind, Result};

/// Starts a thread. `purpose` is part of the error if it can't be started.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    purpose: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    Builder::new().name(name.into()).spawn(work).map_err(|e| refused(purpose, e))
}

/// Like [`spawn`], for a thread that ends with `scope`.
pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    purpose: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.into()).spawn_scoped(scope, work).map_err(|e| refused(purpose, e))
}

/// Lets other threads go on when this one is woken and every processor is busy: whoever wakes it is one of them, and waits for
/// nothing. It has no smaller share of the processors. Where the system has no such rule, nothing changes.
#[allow(unsafe_code, reason = "system calls")]
pub(crate) fn let_others_first() {
    #[cfg(target_os = "linux")]
    // SAFETY: both calls are about the calling thread, and the structure is one of zeros.
    unsafe {
        // A host that has rules of its own for its threads keeps them.
        if libc::sched_getscheduler(0) == libc::SCHED_OTHER {
            let parameters: libc::sched_param = std::mem::zeroed();
            let _ = libc::sched_setscheduler(0, libc::SCHED_BATCH, &parameters);
        }
    }
}

/// The result of a scoped thread. Its panic continues in this thread.
pub(crate) fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The error for a thread that could not be started.
pub(crate) fn refused(purpose: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot start a thread {purpose}: {error}. {}", limits())).with_source(error)
}

/// The limits that may have prevented a new thread, and the remedies.
pub(crate) fn limits() -> String {
    let mut text = String::from("The system refuses more threads:");
    let mut none = true;
    let mut add = |limit: Option<String>| {
        if let Some(limit) = limit {
            none = false;
            let _ = write!(text, " {limit};");
        }
    };
    add(rlimit(libc::RLIMIT_NPROC as i32).map(|most| format!("this user may have {most} (`ulimit -u`)")));
    add(rlimit(libc::RLIMIT_AS as i32)
        .map(|most| format!("this process may have {most} bytes of addresses (`ulimit -v`)")));
    add(control_group().map(|most| format!("its control group may have {most} (`pids.max`)")));
    if none {
        text.push_str(" the whole machine's limit is reached (`kernel.threads-max`, `kernel.pid_max`), or its memory;");
    }
    text.push_str(" raise the limit, or lower `threads` under [runtime]");
    text
}

/// A limit of this process, unless there is none.
#[allow(unsafe_code, reason = "a system call")]
fn rlimit(resource: i32) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the place is valid for writing, and the resource is one of the system's.
    let known = unsafe { libc::getrlimit(resource as _, &raw mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// The limit on processes and threads of this process's control group, which containers have.
fn control_group() -> Option<String> {
    let groups = crate::files::read_kernel("/proc/self/cgroup").ok()?;
    let places = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let (kind, path) = (if controllers == "pids" { "pids" } else { "" }, path.trim_start_matches('/'));
        let root = std::path::Path::new("/sys/fs/cgroup").join(kind);
        // A container sees its own group as the root.
        Some([root.join(path), root])
    });
    let limits = places.flatten().filter_map(|place| crate::files::read_kernel(place.join("pids.max")).ok());
    limits.map(|limit| limit.trim().to_owned()).find(|limit| limit != "max")
}
