//! The first process of a sandbox: builds its root folder, starts a keeper for each program, and watches over them.
//!
//! It runs in a copy of the host's memory, so it only makes system calls: it does not allocate, lock or panic.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, RawFd};

use super::failure::Failure;
use super::keeper;
use super::plan::Plan;
use super::record::{Record, Stage};
use super::sys::{self, Errno, checked, done};
use super::watch::{Usage, children_end, usage};

/// The user and group that programs see themselves as.
pub(super) const INSIDE: u32 = 1000;

/// The watch's interval in milliseconds.
const INTERVAL: i32 = 20;

/// Never returns. When it ends, everything in the sandbox ends.
pub(super) fn main(plan: &mut Plan) -> ! {
    let watch = match set_up(plan) {
        Ok(watch) => watch,
        Err(failure) => failure.send(plan.status.as_raw_fd()),
    };
    for at in 0..plan.programs.len() {
        let namespaces = if plan.isolated { libc::CLONE_NEWPID | libc::CLONE_NEWNS } else { 0 };
        match sys::fork(namespaces) {
            Ok(0) => keeper::main(plan, at),
            Ok(pid) => plan.programs[at].keeper = pid,
            Err(errno) => Failure { stage: Stage::Fork, at, errno }.send(plan.status.as_raw_fd()),
        }
    }
    plan.close_programs();
    // Less eagerly than its programs, so that the end of a program can be told from the end of the sandbox.
    sys::write_once(watch.sacrifice, b"500");
    serve(plan, &watch);
    if !plan.isolated {
        children_end();
    }
    sys::exit(0)
}

/// The state that [`serve`] watches.
struct Watch {
    /// Becomes readable when a child has ended.
    children: RawFd,
    /// `/proc` of the sandbox's PID namespace; -1 without isolation.
    processes: RawFd,
    /// Sets how eagerly the kernel ends this process if memory runs out.
    sacrifice: RawFd,
}

fn set_up(plan: &mut Plan) -> Result<Watch, Failure> {
    close_others(&plan.keep).map_err(Failure::of(Stage::Descriptors))?;
    let mut go = 0_u8;
    // SAFETY: one byte, readable and ours.
    if unsafe { libc::read(plan.control.as_raw_fd(), (&raw mut go).cast(), 1) } != 1 {
        // The host gave up.
        sys::exit(1);
    }
    // If memory runs out, programs are ended before the host. A missing file is not a reason to refuse. SAFETY:
    // constant text.
    let sacrifice = unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    sys::write_once(sacrifice, b"1000");
    // SAFETY: numbers only.
    unsafe { libc::umask(0o022) };
    if plan.isolated {
        for (at, mount) in plan.mounts.iter_mut().enumerate() {
            mount.fd = sys::open_tree(&mount.source).map_err(|errno| Failure { stage: Stage::Source, at, errno })?;
        }
        identity(plan.user.is_some()).map_err(Failure::of(Stage::Identity))?;
        root_folder(plan)?;
    } else {
        // SAFETY: numbers only. Programs that outlive their parents become this process's children.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    }
    let children = signals().map_err(Failure::of(Stage::Signals))?;
    let processes = if plan.isolated { open(c"/proc").map_err(Failure::of(Stage::Proc))? } else { -1 };
    Ok(Watch { children, processes, sacrifice })
}

/// Closes the host's descriptors, except `keep` (in order).
fn close_others(keep: &[RawFd]) -> Result<(), Errno> {
    let mut next = 0_u32;
    for fd in keep {
        let fd = *fd as u32;
        if fd > next {
            sys::close_range(next, fd - 1, 0)?;
        }
        next = fd + 1;
    }
    sys::close_range(next, u32::MAX, 0)
}

/// Becomes [`INSIDE`], which the host has mapped to a user other than itself if it could. Capabilities within the
/// namespaces stay, because neither number is root's.
fn identity(groups: bool) -> Result<(), Errno> {
    // SAFETY: numbers and a null. These are plain calls, because libc's functions would notify other threads, and there
    // are none.
    unsafe {
        if groups {
            checked(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()))?;
        }
        checked(libc::syscall(libc::SYS_setresgid, INSIDE, INSIDE, INSIDE))?;
        checked(libc::syscall(libc::SYS_setresuid, INSIDE, INSIDE, INSIDE))?;
        // No process may read this copy of the host's memory.
        done(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0))?;
        done(libc::sethostname(c"sandbox".as_ptr(), 7)).map(drop)
    }
}

/// Builds the root folder in a separate file system and enters it. Everything that is not mounted there becomes
/// invisible.
fn root_folder(plan: &Plan) -> Result<(), Failure> {
    const HERE: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;
    let root = Failure::of(Stage::Root);
    sys::mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"").map_err(&root)?;
    sys::mount(c"tmpfs", c"/tmp", c"tmpfs", HERE, c"mode=0755,size=1m,nr_inodes=8192").map_err(&root)?;
    // SAFETY: constant text.
    done(unsafe { libc::chdir(c"/tmp".as_ptr()) }).map_err(&root)?;
    // First, because visible paths may be in it. SAFETY: constant text.
    done(unsafe { libc::mkdir(c"tmp".as_ptr(), 0o755) }).map_err(&root)?;
    sys::mount(c"tmpfs", c"tmp", c"tmpfs", HERE, &plan.temporary).map_err(Failure::of(Stage::Temporary))?;
    for folder in &plan.folders {
        // SAFETY: ends in a zero.
        done(unsafe { libc::mkdir(folder.as_ptr(), 0o755) }).map_err(&root)?;
    }
    for file in &plan.files {
        // SAFETY: ends in a zero; the descriptor is closed at once.
        unsafe {
            let fd = done(libc::open(file.as_ptr(), libc::O_CREAT | libc::O_WRONLY | libc::O_CLOEXEC, 0o644));
            libc::close(fd.map_err(&root)?);
        }
    }
    for (to, at) in &plan.symlinks {
        // SAFETY: both end in a zero.
        done(unsafe { libc::symlink(to.as_ptr(), at.as_ptr()) }).map_err(&root)?;
    }
    for (at, mount) in plan.mounts.iter().enumerate() {
        let failure = |errno| Failure { stage: Stage::Mount, at, errno };
        sys::set_attributes(mount.fd, c"", mount.attributes, true).map_err(failure)?;
        sys::move_mount(mount.fd, &mount.target).map_err(failure)?;
        // SAFETY: opened in `set_up`, and not used again.
        unsafe { libc::close(mount.fd) };
    }
    // While the host's /proc is still visible, because the kernel shows no more of it than a process already sees.
    sys::mount_proc(c"proc", false).map_err(Failure::of(Stage::Proc))?;
    sys::enter_root().map_err(Failure::of(Stage::Pivot))?;
    sys::set_attributes(libc::AT_FDCWD, c"/", sys::RDONLY, false).map_err(root)
}

/// Blocks all signals, and makes ended children readable.
fn signals() -> Result<RawFd, Errno> {
    // SAFETY: sets of signals on the stack; the disposition is a constant.
    unsafe {
        // The host may ignore SIGCHLD. Children inherit this, and then can't wait for anything.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        done(libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()))?;
        let mut children: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut children);
        libc::sigaddset(&raw mut children, libc::SIGCHLD);
        done(libc::signalfd(-1, &raw const children, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))
    }
}

/// Returns when the leading program's keeper has ended, a limit is reached, or the host is gone.
fn serve(plan: &mut Plan, watch: &Watch) {
    // Until it is executed, a program is a copy of the host, whose memory is not the program's.
    let mut executing = plan.programs.last().map_or(-1, |last| last.executed.0.as_raw_fd());
    plan.held.set_scratch(c"/tmp");
    loop {
        let look = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut ready = [look(plan.control.as_raw_fd()), look(watch.children), look(executing)];
        let timeout = if plan.isolated { INTERVAL } else { -1 };
        // SAFETY: an array and its length.
        unsafe { libc::poll(ready.as_mut_ptr(), 3, timeout) };
        if ready[0].revents != 0 {
            return;
        }
        if ready[1].revents != 0 && leader_ended(plan, watch.children) {
            return;
        }
        if ready[2].revents != 0 {
            executing = -1;
        }
        if plan.isolated
            && executing == -1
            && let Some(record) = exceeded(plan, watch.processes)
        {
            return record.send(plan.status.as_raw_fd());
        }
    }
}

/// The resource that the programs use too much of.
fn exceeded(plan: &mut Plan, processes: RawFd) -> Option<Record> {
    let Plan { programs, held, .. } = plan;
    let own = |pid: u64| pid == 1 || programs.iter().any(|start| u64::try_from(start.keeper) == Ok(pid));
    let Usage { pages, ticks } = usage(processes, own, held);
    if pages + held.bytes() / plan.page > plan.pages {
        return Some(Record::Memory);
    }
    if ticks > plan.ticks {
        return Some(Record::Cpu);
    }
    held.locked.then_some(Record::Lock)
}

/// Reaps all children that have ended. Returns whether the first keeper was among them.
fn leader_ended(plan: &Plan, children: RawFd) -> bool {
    let mut noted = [0_u8; size_of::<libc::signalfd_siginfo>()];
    // SAFETY: a buffer and its length. The contents don't matter.
    unsafe { libc::read(children, noted.as_mut_ptr().cast(), noted.len()) };
    let mut leader = false;
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid <= 0 {
            return leader;
        }
        for (at, start) in plan.programs.iter().enumerate() {
            if start.keeper == pid {
                // This matters only if the keeper was killed. Otherwise it has already reported.
                Record::Ended { program: at as u16, status }.send(plan.status.as_raw_fd());
                leader |= at == 0;
            }
        }
    }
}

/// Opens a folder to read it or to name it.
pub(super) fn open(path: &CStr) -> Result<RawFd, Errno> {
    // SAFETY: ends in a zero.
    done(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) })
}
