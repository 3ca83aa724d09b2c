//! Messages of a sandbox's processes to the host, on a pipe that no program has.

use super::sys;
use std::os::fd::RawFd;

/// A record's length in bytes. It is below PIPE_BUF, so records of several writers don't mix.
pub(super) const LENGTH: usize = 12;

/// A step on the way to a running program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    Descriptors,
    Source,
    Identity,
    Root,
    Mount,
    Temporary,
    Proc,
    Pivot,
    Signals,
    Fork,
    SharedMemory,
    Landlock,
    Limits,
    Capabilities,
    Seccomp,
    Folder,
    Execute,
}

impl Stage {
    const ALL: [Stage; 17] = [
        Stage::Descriptors,
        Stage::Source,
        Stage::Identity,
        Stage::Root,
        Stage::Mount,
        Stage::Temporary,
        Stage::Proc,
        Stage::Pivot,
        Stage::Signals,
        Stage::Fork,
        Stage::SharedMemory,
        Stage::Landlock,
        Stage::Limits,
        Stage::Capabilities,
        Stage::Seccomp,
        Stage::Folder,
        Stage::Execute,
    ];

    /// A description of the step that failed.
    pub(super) fn what(self) -> &'static str {
        match self {
            Stage::Descriptors => "arrange the descriptors",
            Stage::Source => "open a visible path",
            Stage::Identity => "become the other user",
            Stage::Root => "make a root folder",
            Stage::Mount => "put a path into the root folder",
            Stage::Temporary => "mount a temporary folder",
            Stage::Proc => "mount /proc",
            Stage::Pivot => "enter the root folder",
            Stage::Signals => "arrange signals",
            Stage::Fork => "start a process",
            Stage::SharedMemory => "mount /dev/shm",
            Stage::Landlock => "confine with Landlock",
            Stage::Limits => "set limits",
            Stage::Capabilities => "give up capabilities",
            Stage::Seccomp => "confine with seccomp",
            Stage::Folder => "enter the temporary folder",
            Stage::Execute => "execute",
        }
    }
}

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// `stage` failed with an `errno`, at its `at`th item.
    Failed { stage: Stage, at: u16, errno: i32 },
    /// A program ended with a wait status.
    Ended { program: u16, status: i32 },
    /// All programs together used more memory than allowed.
    Memory,
    /// All programs together used more CPU time than allowed.
    Cpu,
    /// A program locked a file of the host.
    Lock,
}

impl Record {
    fn bytes(self) -> [u8; LENGTH] {
        let (tag, stage, at, value) = match self {
            Record::Failed { stage, at, errno } => (1, stage as u8, at, errno),
            Record::Ended { program, status } => (2, 0, program, status),
            Record::Memory => (3, 0, 0, 0),
            Record::Cpu => (4, 0, 0, 0),
            Record::Lock => (5, 0, 0, 0),
        };
        let mut bytes = [0; LENGTH];
        bytes[0] = tag;
        bytes[1] = stage;
        bytes[2..4].copy_from_slice(&at.to_ne_bytes());
        bytes[4..8].copy_from_slice(&value.to_ne_bytes());
        bytes
    }

    /// Reads a record that [`send`](Record::send) wrote.
    pub(super) fn read(bytes: &[u8; LENGTH]) -> Option<Record> {
        let at = u16::from_ne_bytes([bytes[2], bytes[3]]);
        let value = i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        match bytes[0] {
            1 => Some(Record::Failed { stage: *Stage::ALL.get(usize::from(bytes[1]))?, at, errno: value }),
            2 => Some(Record::Ended { program: at, status: value }),
            3 => Some(Record::Memory),
            4 => Some(Record::Cpu),
            5 => Some(Record::Lock),
            _ => None,
        }
    }

    pub(super) fn send(self, status: RawFd) {
        sys::write_once(status, &self.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_pipe() {
        for (at, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, at);
            let record = Record::Failed { stage, at: 513, errno: libc::EPERM };
            assert_eq!(Record::read(&record.bytes()), Some(record));
        }
        for record in [Record::Ended { program: 1, status: 0x8b }, Record::Memory, Record::Cpu, Record::Lock] {
            assert_eq!(Record::read(&record.bytes()), Some(record));
        }
        assert_eq!(Record::read(&[9; LENGTH]), None);
    }
}
