//! Landlock: a second barrier around files, in addition to the mounts, and around signals and abstract sockets.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope, path_beneath_rules,
};

use super::sys::{Errno, checked};
use crate::{Error, Result};

/// Devices that a program may read, and write except for [`ZERO`].
pub(super) const DEVICES: [&str; 4] = ["/dev/null", ZERO, "/dev/random", "/dev/urandom"];

/// If it were writable, a shared mapping of it would be memory outside of any process's resident memory.
const ZERO: &str = "/dev/zero";

/// Rights that kernels know, the newest first. A rule may name only rights that the kernel handles, and trying is
/// simpler than keeping track of versions.
const GENERATIONS: [ABI; 4] = [ABI::V5, ABI::V3, ABI::V2, ABI::V1];

/// Rules that let a program read and execute `visible` paths of the host, and use [`DEVICES`]. Mounts inside the
/// sandbox are [added](allow) there. If the kernel's Landlock knows them, the network, foreign abstract sockets and
/// foreign processes are out of reach. Otherwise only the namespaces keep them away.
///
/// # Errors
/// The kernel has no Landlock, or it is off.
pub(super) fn rules(visible: &[PathBuf]) -> Result<OwnedFd> {
    let failed = |e: landlock::RulesetError| Error::unsupported(format!("cannot make Landlock rules: {e}"));
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V4)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(visible, AccessFs::from_read(ABI::V1))))
        .map_err(failed)?;
    for path in DEVICES {
        let write = if path == ZERO { BitFlags::EMPTY } else { AccessFs::WriteFile | AccessFs::IoctlDev };
        let device = write | AccessFs::ReadFile;
        if let Ok(file) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(file, device)).map_err(failed)?;
        }
    }
    Option::<OwnedFd>::from(rules)
        .ok_or_else(|| Error::unsupported("the kernel has no Landlock, or it is off (`lsm=` on its command line)"))
}

/// Adds everything below the open folder to the rules, for reading or for all uses. Makes only system calls.
///
/// # Errors
/// The kernel's.
pub(super) fn allow(rules: RawFd, folder: RawFd, write: bool) -> Result<(), Errno> {
    #[repr(C, packed)]
    struct Beneath {
        allowed: u64,
        folder: i32,
    }
    const LANDLOCK_RULE_PATH_BENEATH: i32 = 1;
    let mut result = Err(libc::EINVAL);
    for abi in GENERATIONS {
        let rights = if write { AccessFs::from_all(abi) } else { AccessFs::from_read(ABI::V1) };
        let rule = Beneath { allowed: rights.bits(), folder };
        // SAFETY: the structure is the kernel's `landlock_path_beneath_attr`.
        let call = unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &raw const rule, 0)
        };
        result = checked(call).map(drop);
        if result != Err(libc::EINVAL) {
            break;
        }
    }
    result
}

/// Confines the calling process by `rules`, for good. Makes only system calls.
///
/// # Errors
/// The kernel's.
pub(super) fn restrict(rules: RawFd) -> Result<(), Errno> {
    // SAFETY: numbers only.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules, 0) }).map(drop)
}

/// The descriptor's number.
pub(super) fn number(rules: Option<&OwnedFd>) -> RawFd {
    rules.map_or(-1, AsRawFd::as_raw_fd)
}
