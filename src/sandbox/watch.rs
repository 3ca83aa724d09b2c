//! Total use by all processes of a sandbox, read from its `/proc` without allocating.

use std::os::fd::RawFd;

use super::kernel::Held;
use super::sys;

/// Memory and processor time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Resident pages of all processes. Pages that two of them share count twice.
    pub(super) pages: u64,
    /// Clock ticks of all processes, and of those that have ended and were waited for.
    pub(super) ticks: u64,
}

/// Sums over the processes in the folder `processes`. A process that ends meanwhile counts through its parent's totals.
/// The memory of `own` processes is a copy of the host's and doesn't count. Memory that the kernel holds for the others
/// is added to `held`.
pub(super) fn usage(processes: RawFd, own: impl Fn(u64) -> bool, held: &mut Held) -> Usage {
    let mut total = Usage::default();
    held.begin();
    each_number(processes, |name| {
        let mut line = [0_u8; 512];
        let Some(Usage { pages, ticks }) = parse(read_file(processes, Path::of(name).then(b"stat").bytes(), &mut line))
        else {
            return;
        };
        total.ticks += ticks;
        if !number(name).is_some_and(&own) {
            total.pages += pages;
            held.add(processes, name);
        }
    });
    total
}

/// A path of short names, with zeros at its end.
pub(super) struct Path {
    bytes: [u8; 64],
    length: usize,
}

impl Path {
    pub(super) fn of(name: &[u8]) -> Self {
        let path = Path { bytes: [0; 64], length: 0 };
        path.join(name)
    }

    /// The path below it, under `name`.
    pub(super) fn then(self, name: &[u8]) -> Self {
        self.join(b"/").join(name)
    }

    fn join(mut self, text: &[u8]) -> Self {
        // The last byte stays a zero.
        let end = (self.length + text.len()).min(self.bytes.len() - 1);
        let room = end - self.length;
        self.bytes[self.length..end].copy_from_slice(&text[..room]);
        self.length = end;
        self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Calls `found` with each name in the folder that is a number.
pub(super) fn each_number(folder: RawFd, mut found: impl FnMut(&[u8])) {
    #[repr(align(8))]
    struct Buffer([u8; 4096]);
    // Offsets of the record's length and the name in `linux_dirent64`.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let mut buffer = Buffer([0; 4096]);
    // SAFETY: numbers only.
    unsafe { libc::lseek(folder, 0, libc::SEEK_SET) };
    loop {
        // SAFETY: a buffer and its length.
        let read = unsafe { libc::syscall(libc::SYS_getdents64, folder, buffer.0.as_mut_ptr(), buffer.0.len()) };
        let Ok(read @ 1..) = usize::try_from(read) else { return };
        let mut rest = buffer.0.get(..read).unwrap_or_default();
        while let Some(&[low, high]) = rest.get(LENGTH..LENGTH + 2) {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let name = rest.get(NAME..length).unwrap_or_default();
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            if !name.is_empty() && name.iter().all(u8::is_ascii_digit) {
                found(name);
            }
            rest = rest.get(length.max(NAME)..).unwrap_or_default();
        }
    }
}

/// The start of a file below `folder`; `path` ends in a zero.
fn read_file<'a>(folder: RawFd, path: &[u8], buffer: &'a mut [u8]) -> &'a [u8] {
    // SAFETY: `path` ends in a zero; the descriptor is closed at once; a buffer and its length.
    let read = unsafe {
        let fd = libc::openat(folder, path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd == -1 {
            return &[];
        }
        let read = libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len());
        libc::close(fd);
        read
    };
    buffer.get(..usize::try_from(read).unwrap_or(0)).unwrap_or_default()
}

/// Reads a line of `/proc/PID/stat` (proc_pid_stat(5)). The program chooses the name in parentheses, so fields are
/// counted from the last parenthesis.
fn parse(line: &[u8]) -> Option<Usage> {
    let name = line.iter().rposition(|byte| *byte == b')')?;
    let mut usage = Usage::default();
    // The field after the name is the third.
    for (at, field) in line.get(name + 2..)?.split(|byte| *byte == b' ').enumerate() {
        match at + 3 {
            // utime, stime, cutime, cstime
            14..=17 => usage.ticks += number(field)?,
            24 => {
                usage.pages = number(field)?;
                return Some(usage);
            }
            _ => {}
        }
    }
    None
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Kills this process's children, and their children as they become its own, until there are none. Used without
/// namespaces.
pub(super) fn children_end() {
    loop {
        let mut list = [0_u8; 4096];
        // SAFETY: takes nothing.
        let own = unsafe { libc::getpid() };
        let mut path = [0_u8; 64];
        write_path(&mut path, own.unsigned_abs());
        for child in read_file(libc::AT_FDCWD, &path, &mut list).split(|byte| *byte == b' ') {
            if let Some(pid @ 2..) = number(child) {
                // SAFETY: numbers only. A child's number is not reused before it is waited for, below.
                unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
            }
        }
        // SAFETY: a null for the status.
        let ended = unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
        if ended == -1 && sys::errno() == libc::ECHILD {
            return;
        }
    }
}

/// `/proc/self/task/PID/children`, and zeros.
fn write_path(path: &mut [u8; 64], pid: u32) {
    let mut digits = [0_u8; 10];
    let mut count = 0;
    let mut rest = pid;
    while count == 0 || rest > 0 {
        digits[count] = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
    }
    let digits = digits[..count].iter().rev();
    for (to, from) in path.iter_mut().zip(b"/proc/self/task/".iter().chain(digits).chain(b"/children")) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pose_as_fields() {
        let line = b"7 (a) R 1 2 3) S 1 7 7 0 -1 4194560 1 2 3 4 50 6 70 8 20 0 1 0 99 1000 123 184467 1";
        assert_eq!(parse(line), Some(Usage { pages: 123, ticks: 134 }));
        assert_eq!(parse(b"7 (cut off) S 1 7"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn this_process_is_seen() {
        let folder = std::fs::File::open("/proc").expect("/proc");
        let folder = std::os::fd::AsRawFd::as_raw_fd(&folder);
        let mut held = Held::new(8);
        let own = u64::from(std::process::id());
        let this = usage(folder, |pid| pid != own, &mut held);
        assert!(this.pages > 100 && this.ticks > 0, "{this:?}");
        assert_eq!(usage(folder, |_| true, &mut held).pages, 0);
    }

    #[test]
    fn a_path_is_written() {
        let mut path = [0; 64];
        write_path(&mut path, 4071);
        assert!(path.starts_with(b"/proc/self/task/4071/children\0"));
    }
}
