//! A control group (version 2) for the programs of a run, if one is available. The kernel then limits their memory to
//! the byte, including its own memory for them.
//!
//! The group is made below this process's own, or beside it, because a group with processes in it can't divide memory
//! among groups below. In both cases, this user must be allowed to write to the parent, and the parent must divide
//! memory, as delegated groups of a service manager do.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The oldest kernel on which a process of another user can enter through a file that this process opened.
const OLDEST: (u32, u32) = (5, 16);

/// See the module. Dropping it removes the group. By then, nothing may run in it.
pub(super) struct Group {
    folder: PathBuf,
}

impl Group {
    /// Makes a group with limits on bytes and processes. Also returns the file through which a process enters the group
    /// by writing "0".
    ///
    /// # Errors
    /// The reason why there can't be one.
    pub(super) fn new(memory: u64, processes: u64) -> Result<(Group, OwnedFd), String> {
        let release = crate::files::read_kernel("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST {
            return Err(format!("Linux {}.{} or newer is needed", OLDEST.0, OLDEST.1));
        }
        let read = |path: &str| crate::files::read_kernel(path).map_err(|e| format!("{path}: {e}"));
        let own = own(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
            .ok_or("no file system of control groups (version 2) is mounted")?;
        let mut why = format!("{} doesn't divide memory", own.display());
        for parent in [Some(own.as_path()), own.parent()].into_iter().flatten() {
            let divides = crate::files::read_kernel(parent.join("cgroup.subtree_control")).unwrap_or_default();
            if divides.split_whitespace().any(|controller| controller == "memory") {
                match Group::below(parent, memory, processes) {
                    Ok(made) => return Ok(made),
                    Err(e) => why = format!("{}: {e}", parent.display()),
                }
            }
        }
        Err(why)
    }

    fn below(parent: &Path, memory: u64, processes: u64) -> io::Result<(Group, OwnedFd)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("foreturn-{}-{number}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let group = Group { folder };
        let set = |name: &str, value: &str| std::fs::write(group.folder.join(name), value);
        set("memory.max", &memory.to_string())?;
        // All are ended, so that none goes on beyond its limits.
        set("memory.oom.group", "1")?;
        // Not every kernel has them.
        let _ = set("memory.swap.max", "0");
        let _ = set("pids.max", &processes.to_string());
        let enter = std::fs::File::options().write(true).open(group.folder.join("cgroup.procs"))?;
        Ok((group, enter.into()))
    }

    /// Whether the kernel ended programs because they ran out of memory.
    pub(super) fn ran_out(&self) -> bool {
        let events = crate::files::read_kernel(self.folder.join("memory.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count != "0"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel removes ended processes from the group a moment after their end. If removing fails, an empty group
        // stays.
        for _ in 0..100 {
            match std::fs::remove_dir(&self.folder) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(Duration::from_millis(1)),
                _ => return,
            }
        }
    }
}

/// The folder of this process's group.
fn own(mounts: &str, groups: &str) -> Option<PathBuf> {
    // proc_pid_mountinfo(5): the root within the file system and the mount's place are the fourth and fifth fields; the
    // kind comes after a dash.
    let place = mounts.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        (kind.starts_with("cgroup2 ") && fields.next() == Some("/")).then(|| fields.next()).flatten()
    })?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // Outside of what this mount shows.
    (!path.starts_with("..")).then(|| if path.is_empty() { place.into() } else { Path::new(place).join(path) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found() {
        let mounts =
            "24 1 0:22 / /proc rw - proc proc rw\n29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 none rw";
        assert_eq!(own(mounts, "0::/user.slice/a.scope\n"), Some("/sys/fs/cgroup/user.slice/a.scope".into()));
        assert_eq!(own(mounts, "1:memory:/x\n0::/\n"), Some("/sys/fs/cgroup".into()));
        assert_eq!(own(mounts, "0::/../b\n"), None);
        assert_eq!(own(mounts, "1:memory:/x\n"), None);
        assert_eq!(own("29 23 0:26 /sub /mnt rw - cgroup2 none rw", "0::/\n"), None);
    }

    /// If this machine has one, it exists as long as it is held.
    #[test]
    fn a_group_goes_with_its_owner() {
        match Group::new(1 << 30, 10) {
            Ok((group, _)) => {
                let folder = group.folder.clone();
                let most = crate::files::read_kernel(folder.join("memory.max")).expect("a limit");
                assert_eq!((most.trim(), group.ran_out()), ("1073741824", false));
                drop(group);
                assert!(!folder.exists());
            }
            Err(why) => assert!(!why.is_empty()),
        }
    }
}
