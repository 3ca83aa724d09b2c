//! System calls without a libc function, or with one that does more than the call. All of them may be made between
//! `fork` and `exec` in a process with threads, because they don't allocate or lock.

use std::ffi::CStr;
use std::os::fd::RawFd;

use libc::{c_int, c_long, c_uint};

/// An `errno`.
pub(super) type Errno = c_int;

/// The current `errno`.
pub(super) fn errno() -> Errno {
    // SAFETY: the location is this thread's own.
    unsafe { *libc::__errno_location() }
}

/// Turns C's error convention into a `Result`.
pub(super) fn checked(result: c_long) -> Result<c_long, Errno> {
    if result == -1 { Err(errno()) } else { Ok(result) }
}

/// [`checked`], for functions of an `int`.
pub(super) fn done(result: c_int) -> Result<c_int, Errno> {
    if result == -1 { Err(errno()) } else { Ok(result) }
}

/// Starts a process in its own `namespaces`. Its end sends no signal, so neither a handler for SIGCHLD nor a
/// `waitpid(-1)` of the host notices it. Returns 0 in the child, which must then make only system calls.
///
/// # Errors
/// The kernel's.
pub(super) fn clone_silent(namespaces: c_int, pidfd: &mut RawFd) -> Result<libc::pid_t, Errno> {
    // libc's constant has a type that is too narrow.
    const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
    // SAFETY: a structure of numbers; zero means "not wanted" for each.
    let mut request: libc::clone_args = unsafe { std::mem::zeroed() };
    request.flags = namespaces as u64 | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    request.pidfd = std::ptr::from_mut(pidfd) as u64;
    // SAFETY: without CLONE_VM this is a fork: the child goes on with a copy of this thread's stack and memory.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut request, size_of::<libc::clone_args>()) };
    checked(result).map(|pid| pid as libc::pid_t)
}

/// Starts a child like `fork`, in its own `namespaces`, without the extra work of libc's `fork`.
///
/// # Errors
/// The kernel's.
pub(super) fn fork(namespaces: c_int) -> Result<libc::pid_t, Errno> {
    // SAFETY: without CLONE_VM this is a fork; zeros ask for no new stack and no thread identifiers.
    let result = unsafe { libc::syscall(libc::SYS_clone, c_long::from(namespaces | libc::SIGCHLD), 0, 0, 0, 0) };
    checked(result).map(|pid| pid as libc::pid_t)
}

/// Makes a copy of the mounts at `path` that is not attached anywhere.
///
/// # Errors
/// The kernel's.
pub(super) fn open_tree(path: &CStr) -> Result<RawFd, Errno> {
    const OPEN_TREE_CLONE: c_uint = 1;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as c_uint | libc::AT_RECURSIVE as c_uint;
    // SAFETY: `path` ends in a zero.
    let result = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    checked(result).map(|fd| fd as RawFd)
}

/// Attaches the mount `fd` at `target`.
///
/// # Errors
/// The kernel's.
pub(super) fn move_mount(fd: RawFd, target: &CStr) -> Result<(), Errno> {
    const MOVE_MOUNT_F_EMPTY_PATH: c_uint = 4;
    // SAFETY: both paths end in a zero.
    let result = unsafe {
        libc::syscall(libc::SYS_move_mount, fd, c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), MOVE_MOUNT_F_EMPTY_PATH)
    };
    checked(result).map(drop)
}

/// Attributes of mounts, for [`set_attributes`] and [`mount_proc`].
pub(super) const RDONLY: u64 = 1;
pub(super) const NOSUID: u64 = 2;
pub(super) const NODEV: u64 = 4;
pub(super) const NOEXEC: u64 = 8;

/// Adds attributes to the mount `fd` (or, with [`libc::AT_FDCWD`], to the one at `path`) and those under it.
///
/// # Errors
/// The kernel's.
pub(super) fn set_attributes(fd: RawFd, path: &CStr, attributes: u64, recursive: bool) -> Result<(), Errno> {
    let request = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path ends in a zero, and the structure is as long as said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            path.as_ptr(),
            flags as c_uint,
            &raw const request,
            size_of_val(&request),
        )
    };
    checked(result).map(drop)
}

/// Mounts the processes of the caller's PID namespace at `/proc`, and nothing else of procfs. With `hide`, a process
/// sees only those that it may trace.
///
/// # Errors
/// The kernel's.
pub(super) fn mount_proc(target: &CStr, hide: bool) -> Result<(), Errno> {
    let options = if hide { c"hidepid=2,subset=pid" } else { c"subset=pid" };
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(c"proc", target, c"proc", flags, options)
}

/// `mount(2)`.
///
/// # Errors
/// The kernel's.
pub(super) fn mount(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: libc::c_ulong,
    options: &CStr,
) -> Result<(), Errno> {
    // SAFETY: all of them end in a zero.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    done(result).map(drop)
}

/// Makes the working directory, which is a mount, the root, and detaches the old root.
///
/// # Errors
/// The kernel's.
pub(super) fn enter_root() -> Result<(), Errno> {
    // SAFETY: constant texts. The old root is mounted over the new one at ".", and is detached there.
    unsafe {
        checked(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        done(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        done(libc::chdir(c"/".as_ptr())).map(drop)
    }
}

/// Closes the descriptors `first..=last`, or (with CLOSE_RANGE_CLOEXEC) lets `exec` close them.
///
/// # Errors
/// The kernel's.
pub(super) fn close_range(first: c_uint, last: c_uint, flags: c_uint) -> Result<(), Errno> {
    // SAFETY: numbers only; no object of this process that owns one of them is used afterwards.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

/// Waits for the process of `pidfd` and reaps it. The host may have reaped it already (`waitpid(-1, …, __WALL)`), which
/// is fine too.
pub(super) fn reap(pidfd: RawFd, block: bool) -> bool {
    loop {
        // SAFETY: a structure of numbers.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::__WALL | if block { 0 } else { libc::WNOHANG };
        // SAFETY: `info` outlives the call.
        let result = unsafe { libc::waitid(libc::P_PIDFD, pidfd as libc::id_t, &raw mut info, options) };
        if result == 0 {
            // SAFETY: filled by `waitid`, or left zero if nothing has ended yet.
            return unsafe { info.si_pid() } != 0;
        }
        if errno() != libc::EINTR {
            return true;
        }
    }
}

/// Sends SIGKILL to the process of `pidfd`. Does nothing if it has ended.
pub(super) fn kill(pidfd: RawFd) {
    // SAFETY: numbers and a null for "no further information".
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGKILL, std::ptr::null::<u8>(), 0) };
}

/// Writes `bytes` in one call. Returns whether all were written.
pub(super) fn write_once(fd: RawFd, bytes: &[u8]) -> bool {
    // SAFETY: the slice is readable for its length.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) == bytes.len() as isize }
}

/// Ends this process without running any handlers.
pub(super) fn exit(code: c_int) -> ! {
    // SAFETY: never returns, runs no handlers.
    unsafe { libc::_exit(code) }
}
