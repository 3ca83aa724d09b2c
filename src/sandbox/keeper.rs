//! The first process of a program's own PID namespace. It starts the program, waits for it, and reports how it ended.
//! Everything that the program leaves behind ends with the keeper.
//!
//! Like [`init`](super::init), it only makes system calls.

use std::os::fd::{AsRawFd, RawFd};

use super::failure::Failure;
use super::init::open;
use super::landlock;
use super::plan::{FIRST_DESCRIPTOR, Plan, Start};
use super::record::{Record, Stage};
use super::sys::{self, Errno, checked, done};

/// Never returns.
pub(super) fn main(plan: &Plan, at: usize) -> ! {
    let status = plan.status.as_raw_fd();
    if plan.isolated
        && let Err(failure) = surroundings(plan)
    {
        failure.send(status);
    }
    match sys::fork(0) {
        Ok(0) => match become_program(plan, at) {
            Ok(never) => match never {},
            Err(failure) => Failure { at, ..failure }.send(status),
        },
        Ok(pid) => {
            plan.close_programs();
            let ended = wait(pid);
            Record::Ended { program: at as u16, status: ended }.send(status);
            sys::exit(0)
        }
        Err(errno) => Failure { stage: Stage::Fork, at, errno }.send(status),
    }
}

/// The program's private parts: its view of processes, and shared memory.
fn surroundings(plan: &Plan) -> Result<(), Failure> {
    let proc = Failure::of(Stage::Proc);
    sys::mount_proc(c"/proc", true).map_err(&proc)?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount(c"tmpfs", c"/dev/shm", c"tmpfs", flags, c"mode=0700,size=16m,nr_inodes=1024")
        .map_err(Failure::of(Stage::SharedMemory))?;
    let rules = landlock::number(plan.rules.as_ref());
    for (path, write) in [(c"/tmp", true), (c"/dev/shm", true), (c"/proc", false)] {
        let folder = open(path).map_err(Failure::of(Stage::Landlock))?;
        landlock::allow(rules, folder, write).map_err(Failure::of(Stage::Landlock))?;
    }
    Ok(())
}

/// Reaps orphans until `program` has ended.
fn wait(program: libc::pid_t) -> i32 {
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
        if pid == program {
            return status;
        }
        if pid == -1 && sys::errno() != libc::EINTR {
            return libc::SIGKILL;
        }
    }
}

/// Gives up everything that the program must not have, and becomes the program.
fn become_program(plan: &Plan, at: usize) -> Result<std::convert::Infallible, Failure> {
    let start = &plan.programs[at];
    if let Some(enter) = &plan.enter {
        // As far as it is available, because the watch is always there.
        sys::write_once(enter.as_raw_fd(), b"0");
    }
    // SAFETY: takes nothing. Without a terminal, the program can't type into one.
    unsafe { libc::setsid() };
    descriptors(start).map_err(Failure::of(Stage::Descriptors))?;
    // SAFETY: ends in a zero.
    done(unsafe { libc::chdir(plan.folder.as_ptr()) }).map_err(Failure::of(Stage::Folder))?;
    signals();
    if plan.isolated {
        capabilities().map_err(Failure::of(Stage::Capabilities))?;
    }
    // SAFETY: numbers only.
    done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map_err(Failure::of(Stage::Capabilities))?;
    if let Some(rules) = &plan.rules {
        landlock::restrict(rules.as_raw_fd()).map_err(Failure::of(Stage::Landlock))?;
    }
    plan.await_turn(at);
    for (resource, value) in &plan.limits {
        // The kernel warns at the soft limit and kills at the hard one.
        let hard = if *resource == libc::RLIMIT_CPU { value.saturating_add(1) } else { *value };
        let limit = libc::rlimit { rlim_cur: *value, rlim_max: hard };
        // SAFETY: `limit` outlives the call.
        done(unsafe { libc::setrlimit(*resource, &raw const limit) }).map_err(Failure::of(Stage::Limits))?;
    }
    if plan.isolated && seccompiler::apply_filter(&plan.filter).is_err() {
        return Err(Failure { stage: Stage::Seccomp, at: 0, errno: sys::errno() });
    }
    // SAFETY: all three end in a null, and what they point to lives as long as the plan.
    unsafe { libc::execve(start.path.as_ptr(), start.argv.as_ptr(), start.envp.as_ptr()) };
    Err(Failure { stage: Stage::Execute, at: 0, errno: sys::errno() })
}

/// Puts the program's descriptors where it expects them. The others are [`FIRST_DESCRIPTOR`] or above, and close when
/// it is executed.
fn descriptors(start: &Start) -> Result<(), Errno> {
    sys::close_range(0, FIRST_DESCRIPTOR as u32 - 1, 0)?;
    for (from, to) in &start.descriptors {
        // SAFETY: `to` is free, because all below FIRST_DESCRIPTOR were closed.
        done(unsafe { libc::dup2(from.as_raw_fd(), *to) })?;
    }
    Ok(())
}

/// Every signal gets its default action, and none is blocked, because the host's settings must not affect the program.
fn signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: a constant disposition. Signals that can't be set fail, and are left alone.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: a set on the stack.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Gives up all capabilities, and the means to get them back.
fn capabilities() -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    for capability in 0..64 {
        // SAFETY: numbers only. The first number that the kernel doesn't know ends the list.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } == -1 {
            if sys::errno() != libc::EINVAL {
                return Err(sys::errno());
            }
            break;
        }
    }
    let header = Header { version: VERSION_3, pid: 0 };
    // Effective, permitted and inheritable, in two halves.
    let none = [0_u32; 6];
    // SAFETY: both outlive the call and have the layout of version 3. Ambient ones go with the permitted.
    checked(unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) }).map(drop)
}

/// The descriptors that a program must not inherit are above this.
const _: () = assert!(FIRST_DESCRIPTOR > 8 as RawFd);
