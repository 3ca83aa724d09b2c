//! Memory that the kernel holds for the processes of a sandbox and that is not resident memory of any process: the
//! contents of pipes and sockets, the entries of their file tables, locks and mappings. `/proc` doesn't have its size,
//! so the maximum is counted. This module also finds locks on files of the host. It doesn't allocate while it counts.

use std::os::fd::RawFd;

use super::watch::{Path, each_number};

/// Number of descriptors that a process may have.
pub(super) const MOST_DESCRIPTORS: u64 = 256;

/// Maximum number of bytes in a pipe: without `F_SETPIPE_SZ`, sixteen pages.
const PIPE: u64 = 64 << 10;

/// Sizes of a lock, a mapping, and a file's inode with its name, in bytes: those of `/proc/slabinfo`, rounded up.
const LOCK: u64 = 256;
const MAPPING: u64 = 256;
const INODE: u64 = 1280;

/// Many mappings take long to count, but also long to make, so they are counted only once in this number of looks.
const MAPPINGS_EVERY: u32 = 8;

/// See the module.
pub(super) struct Held {
    /// Maximum number of bytes in a socket.
    socket: u64,
    /// The device of the temporary folder.
    scratch: libc::dev_t,
    /// Numbers of the pipes and sockets that were seen, each with the look that saw it, because processes share them.
    seen: Vec<(u64, u32)>,
    look: u32,
    descriptors: u64,
    mappings: u64,
    /// Whether a file outside the temporary folder is locked.
    pub(super) locked: bool,
}

impl Held {
    /// Room for all that `processes` can have open.
    pub(super) fn new(processes: u64) -> Self {
        const DEFAULT: u64 = 212_992;
        let buffer = crate::files::read_kernel("/proc/sys/net/core/wmem_default").ok();
        let buffer = buffer.and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT);
        let room = processes.saturating_mul(2 * MOST_DESCRIPTORS).clamp(1 << 10, 1 << 16);
        Held {
            // A message is accepted while the buffer isn't full, and may be as long as the buffer.
            socket: 2 * buffer,
            scratch: 0,
            seen: vec![(0, 0); room.next_power_of_two() as usize],
            look: 0,
            descriptors: 0,
            mappings: 0,
            locked: false,
        }
    }

    /// Sets the temporary folder.
    pub(super) fn set_scratch(&mut self, path: &std::ffi::CStr) {
        self.scratch = status(libc::AT_FDCWD, path.to_bytes_with_nul()).map_or(0, |status| status.st_dev);
    }

    /// Begins a new look.
    pub(super) fn begin(&mut self) {
        self.look = self.look.wrapping_add(1);
        self.descriptors = 0;
        if self.counts_mappings() {
            self.mappings = 0;
        }
    }

    fn counts_mappings(&self) -> bool {
        self.look % MAPPINGS_EVERY == 1
    }

    /// Adds what the kernel holds for the process `name`.
    pub(super) fn add(&mut self, processes: RawFd, name: &[u8]) {
        let folder = open(processes, Path::of(name).then(b"fd").bytes(), libc::O_DIRECTORY);
        if folder != -1 {
            each_number(folder, |fd| self.descriptor(processes, name, folder, fd));
            close(folder);
        }
        if self.counts_mappings() {
            let lines = |part: &[u8]| part.iter().filter(|byte| **byte == b'\n').count() as u64;
            each_part(processes, Path::of(name).then(b"maps").bytes(), |part| self.mappings += MAPPING * lines(part));
        }
    }

    fn descriptor(&mut self, processes: RawFd, name: &[u8], folder: RawFd, fd: &[u8]) {
        let mut target = [0_u8; 32];
        // SAFETY: the name ends in a zero; a buffer and its length.
        let length = unsafe {
            libc::readlinkat(folder, Path::of(fd).bytes().as_ptr().cast(), target.as_mut_ptr().cast(), target.len())
        };
        let target = target.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
        let bytes = match target.split(|byte| *byte == b'[').next() {
            Some(b"socket:") => self.socket,
            Some(b"pipe:") => PIPE,
            _ if target.starts_with(b"/") => return self.locks(processes, name, folder, fd),
            _ => return,
        };
        let number = target.iter().filter(|byte| byte.is_ascii_digit());
        if self.is_new(number.fold(0, |value, digit| value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))) {
            self.descriptors += bytes;
        }
    }

    /// Whether a number is seen for the first time in this look. If there is no room left, this is true for each
    /// number.
    fn is_new(&mut self, number: u64) -> bool {
        const STEPS: usize = 64;
        let mask = self.seen.len() - 1;
        let start = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize;
        for step in 0..STEPS {
            let Some(slot) = self.seen.get_mut((start + step) & mask) else { return true };
            if slot.1 != self.look {
                *slot = (number, self.look);
                return true;
            }
            if slot.0 == number {
                return false;
            }
        }
        true
    }

    /// Counts the locks that were made through a descriptor, and checks whose file it is.
    fn locks(&mut self, processes: RawFd, name: &[u8], folder: RawFd, fd: &[u8]) {
        let mut locks = 0;
        each_part(processes, Path::of(name).then(b"fdinfo").then(fd).bytes(), |part| {
            locks += part.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"lock:")).count() as u64;
        });
        if locks > 0 {
            self.descriptors += LOCK * locks;
            // Files that it may write are its own, except devices, which have no locks.
            let foreign = status(folder, Path::of(fd).bytes()).is_some_and(|status| status.st_dev != self.scratch);
            self.locked |= foreign && !writable(folder, fd);
        }
    }

    /// Total bytes in the last look.
    pub(super) fn bytes(&self) -> u64 {
        // SAFETY: a structure of numbers, filled by the call.
        let files = unsafe {
            let mut system: libc::statfs = std::mem::zeroed();
            let failed = libc::statfs(c"/tmp".as_ptr(), &raw mut system) != 0;
            if failed { 0 } else { system.f_files.saturating_sub(system.f_ffree) }
        };
        self.descriptors + self.mappings + INODE * files
    }
}

/// Whether the descriptor was opened for writing: its link in `/proc` is then writable.
fn writable(folder: RawFd, fd: &[u8]) -> bool {
    // SAFETY: the name ends in a zero; a structure of numbers, filled by the call.
    unsafe {
        let mut status: libc::stat = std::mem::zeroed();
        let name = Path::of(fd);
        let flag = libc::AT_SYMLINK_NOFOLLOW;
        libc::fstatat(folder, name.bytes().as_ptr().cast(), &raw mut status, flag) == 0 && status.st_mode & 0o200 != 0
    }
}

/// The result of `stat` for a path below `folder`. The path ends in a zero.
fn status(folder: RawFd, path: &[u8]) -> Option<libc::stat> {
    // SAFETY: a structure of numbers, filled by the call.
    unsafe {
        let mut status: libc::stat = std::mem::zeroed();
        let done = libc::fstatat(folder, path.as_ptr().cast(), &raw mut status, 0) == 0;
        done.then_some(status)
    }
}

fn open(folder: RawFd, path: &[u8], flags: libc::c_int) -> RawFd {
    // SAFETY: `path` ends in a zero.
    unsafe { libc::openat(folder, path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC | flags) }
}

fn close(fd: RawFd) {
    // SAFETY: opened here, and not used again.
    unsafe { libc::close(fd) };
}

/// Calls `found` with a file's content, part by part. In files of `/proc`, parts end with a whole line.
fn each_part(folder: RawFd, path: &[u8], mut found: impl FnMut(&[u8])) {
    let mut part = [0_u8; 8192];
    let fd = open(folder, path, 0);
    if fd == -1 {
        return;
    }
    // SAFETY: a buffer and its length.
    while let Ok(read @ 1..) = usize::try_from(unsafe { libc::read(fd, part.as_mut_ptr().cast(), part.len()) }) {
        found(part.get(..read).unwrap_or_default());
    }
    close(fd);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    /// This process, counted once more.
    fn look(held: &mut Held) -> u64 {
        let processes = std::fs::File::open("/proc").expect("/proc");
        held.begin();
        held.add(processes.as_raw_fd(), std::process::id().to_string().as_bytes());
        held.descriptors
    }

    #[test]
    fn pipes_sockets_and_locks_count_once() {
        let mut held = Held::new(4);
        held.set_scratch(c"/dev/shm");
        let before = look(&mut held);
        // So many that files opened and closed by other tests don't matter.
        let pipes: Vec<_> = (0..50).map(|_| std::io::pipe().expect("a pipe")).collect();
        let sockets: Vec<_> = (0..50).map(|_| std::os::unix::net::UnixStream::pair().expect("sockets")).collect();
        let copies: Vec<_> = sockets.iter().map(|(one, _)| one.try_clone().expect("a copy")).collect();
        let more = look(&mut held).saturating_sub(before);
        let once = 50 * (2 * held.socket + PIPE);
        assert!((once / 2..once + 50 * held.socket / 2).contains(&more), "{more} of {once}");
        drop((pipes, sockets, copies));
        let file = std::fs::File::open(std::env::current_exe().expect("this program")).expect("a file");
        file.lock_shared().expect("a lock");
        look(&mut held);
        assert!(held.locked);
    }

    #[test]
    fn a_full_table_counts_every_time() {
        let mut held = Held::new(1);
        held.begin();
        let new = (0..100_000).filter(|number| held.is_new(*number)).count();
        assert_eq!(new, 100_000);
    }

    #[test]
    fn mappings_count() {
        let mut held = Held::new(1);
        look(&mut held);
        assert!(held.mappings > 10 * MAPPING, "{}", held.mappings);
    }
}
