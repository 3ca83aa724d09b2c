//! The system calls that a program in the sandbox may make.
//!
//! This is a list of allowed calls. Other calls fail with ENOSYS, as on a kernel that is too old, so that libraries
//! fall back to allowed ones. These are left out on purpose: tracing and the memory of other processes, namespaces and
//! mounts, keys, bpf, io_uring, userfaultfd, and sockets other than Unix ones; memory that is neither a process's
//! resident memory nor in a file system of limited size (memfd, System V, shared anonymous memory, huge pages, larger
//! buffers of pipes and sockets); and calls that affect the host through a file that is mounted read-only
//! (notifications, `flock`, leases). Locks of `fcntl` can't be told apart here, because databases need them for their
//! own files. The [watch](super::watch) looks for locks on other files.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::{Error, Result};

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

const FILES: &[c_long] = calls! {
    SYS_read SYS_write SYS_close SYS_fstat SYS_lseek SYS_pread64 SYS_pwrite64 SYS_readv SYS_writev SYS_preadv
    SYS_pwritev SYS_preadv2 SYS_pwritev2 SYS_openat SYS_openat2 SYS_newfstatat SYS_statx SYS_faccessat SYS_faccessat2
    SYS_readlinkat SYS_mkdirat SYS_unlinkat SYS_symlinkat SYS_linkat SYS_renameat2 SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat
    SYS_utimensat SYS_ftruncate SYS_truncate SYS_fallocate SYS_fsync SYS_fdatasync SYS_sync_file_range
    SYS_dup SYS_dup3 SYS_pipe2 SYS_getdents64 SYS_getcwd SYS_chdir SYS_fchdir SYS_umask SYS_statfs SYS_fstatfs
    SYS_sendfile SYS_copy_file_range SYS_splice SYS_tee SYS_fadvise64 SYS_readahead SYS_close_range SYS_getxattr
    SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
    SYS_eventfd2 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_ppoll
    SYS_pselect6 SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime SYS_signalfd4
};

const MEMORY: &[c_long] = calls! {
    SYS_brk SYS_munmap SYS_mprotect SYS_mremap SYS_madvise SYS_msync SYS_mincore SYS_mlock SYS_munlock
    SYS_get_mempolicy SYS_membarrier
};

const PROCESSES: &[c_long] = calls! {
    SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_kill SYS_tkill SYS_tgkill SYS_getpid
    SYS_getppid SYS_gettid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups
    SYS_getpgid SYS_setpgid SYS_getsid SYS_setsid SYS_prctl SYS_set_tid_address SYS_set_robust_list
    SYS_get_robust_list SYS_rseq SYS_futex SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity
    SYS_sched_getparam SYS_sched_getscheduler SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_getpriority
    SYS_setpriority SYS_getrusage SYS_times SYS_sysinfo SYS_uname SYS_getrandom SYS_getcpu SYS_capget
    SYS_restart_syscall
};

const SIGNALS: &[c_long] = calls! {
    SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigsuspend SYS_rt_sigtimedwait
    SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_sigaltstack SYS_setitimer SYS_getitimer SYS_timer_create
    SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete
};

const CLOCKS: &[c_long] =
    calls! { SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday };

const SOCKETS: &[c_long] = calls! {
    SYS_bind SYS_connect SYS_listen SYS_accept SYS_accept4 SYS_getsockname SYS_getpeername SYS_sendto SYS_recvfrom
    SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg SYS_getsockopt SYS_shutdown
};

/// Older variants of the calls above, which newer processors don't have.
#[cfg(target_arch = "x86_64")]
const OLD: &[c_long] = calls! {
    SYS_open SYS_creat SYS_stat SYS_lstat SYS_access SYS_readlink SYS_mkdir SYS_rmdir SYS_unlink SYS_symlink SYS_link
    SYS_rename SYS_renameat SYS_chmod SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat SYS_dup2 SYS_pipe SYS_poll
    SYS_select SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_signalfd SYS_getdents SYS_fork SYS_vfork
    SYS_getpgrp SYS_alarm SYS_pause SYS_time SYS_arch_prctl SYS_getrlimit SYS_setrlimit
};
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[c_long] = &[];

/// The filter, ready for the kernel.
///
/// # Errors
/// Processors that seccompiler doesn't know.
pub(super) fn filter() -> Result<BpfProgram> {
    let failed = |e: &dyn std::fmt::Display| Error::unsupported(format!("cannot make a seccomp filter: {e}"));
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| failed(&e))?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = [FILES, MEMORY, PROCESSES, SIGNALS, CLOCKS, SOCKETS, OLD]
        .concat()
        .into_iter()
        .map(|call| (call, Vec::new()))
        .collect();
    conditions(&mut rules).map_err(|e| failed(&e))?;
    SeccompFilter::new(rules, SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow, architecture)
        .and_then(BpfProgram::try_from)
        .map_err(|e| failed(&e))
}

/// Calls that are allowed only with certain arguments.
fn conditions(rules: &mut BTreeMap<i64, Vec<SeccompRule>>) -> Result<(), seccompiler::BackendError> {
    use SeccompCmpArgLen::Dword;
    const NAMESPACES: u64 = (libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP) as u64;
    // Typing into a terminal. The type of libc's constant differs between systems.
    const TIOCSTI: u64 = 0x5412;
    const SHARED: u64 = libc::MAP_SHARED as u64;
    const ANONYMOUS: u64 = libc::MAP_ANONYMOUS as u64;
    const HUGE: u64 = libc::MAP_HUGETLB as u64;
    let when = |argument, operator, value: u64| SeccompCondition::new(argument, Dword, operator, value);
    let none_of = |argument, flags| when(argument, SeccompCmpOp::MaskedEq(flags), 0);
    let is = |argument, value: c_int| when(argument, SeccompCmpOp::Eq, value as u64);
    let is_not = |argument, value: c_int| when(argument, SeccompCmpOp::Ne, value as u64);
    // The call is allowed if all conditions of one of the rules hold.
    let mut allow = |call: c_long, any: Vec<Vec<SeccompCondition>>| {
        rules.insert(call, any.into_iter().map(SeccompRule::new).collect::<Result<_, _>>()?);
        Ok(())
    };
    // clone3 hides its flags behind a pointer, so it is not allowed, and libc uses clone.
    allow(libc::SYS_clone, vec![vec![none_of(0, NAMESPACES)?]])?;
    allow(libc::SYS_socket, vec![vec![is(0, libc::AF_UNIX)?]])?;
    allow(libc::SYS_socketpair, vec![vec![is(0, libc::AF_UNIX)?]])?;
    allow(
        libc::SYS_setsockopt,
        vec![vec![is_not(1, libc::SOL_SOCKET)?], vec![is_not(2, libc::SO_SNDBUF)?, is_not(2, libc::SO_SNDBUFFORCE)?]],
    )?;
    allow(libc::SYS_ioctl, vec![vec![when(1, SeccompCmpOp::Ne, TIOCSTI)?]])?;
    allow(libc::SYS_mmap, vec![vec![none_of(3, HUGE | ANONYMOUS)?], vec![none_of(3, HUGE | SHARED)?]])?;
    allow(
        libc::SYS_fcntl,
        vec![vec![is_not(1, libc::F_SETLEASE)?, is_not(1, libc::F_NOTIFY)?, is_not(1, libc::F_SETPIPE_SZ)?]],
    )?;
    // The process's own limits, not those of another process.
    allow(libc::SYS_prlimit64, vec![vec![is(0, 0)?]])
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_filter_compiles() {
        let program = super::filter().expect("a filter");
        assert!(program.len() > 100 && program.len() < 4096, "{} instructions", program.len());
    }
}
