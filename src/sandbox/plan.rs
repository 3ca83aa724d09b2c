//! Everything that the processes of a sandbox will need, prepared while memory may still be allocated.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use libc::c_char;
use seccompiler::BpfProgram;

use super::group::Group;
use super::kernel::{Held, MOST_DESCRIPTORS};
use super::{Isolation, Limits, Program, Sandbox, landlock, seccomp, sys};
use crate::{Error, ErrorKind, Result};

/// Descriptors of a sandbox's processes are this or above, so that moving them to where a program expects them (below)
/// overwrites none of them.
pub(super) const FIRST_DESCRIPTOR: RawFd = 64;

/// Size of `/dev/shm` in bytes.
pub(super) const SHARED_MEMORY: u64 = 16 << 20;

/// Paths that dynamic programs need, in addition to their own files. Missing ones are left out.
const SYSTEM: [&str; 9] = [
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/usr/share/zoneinfo",
];

/// The host's part of a run: the other ends of its pipes.
pub(super) struct HostEnds {
    pub(super) status: PipeReader,
    pub(super) control: UnixStream,
    pub(super) programs: Vec<ProgramEnds>,
    /// Without isolation, the temporary folder.
    pub(super) folder: Option<Temporary>,
    /// The control group of the programs, if one is available.
    pub(super) group: Option<Group>,
}

/// The other ends of a program's streams.
pub(super) struct ProgramEnds {
    pub(super) stdout: PipeReader,
    pub(super) stderr: PipeReader,
    pub(super) report: Option<PipeReader>,
}

/// A path that the sandbox shows.
pub(super) struct Mount {
    pub(super) source: CString,
    /// Relative to the root folder.
    pub(super) target: CString,
    pub(super) attributes: u64,
    /// The mount, once it is open.
    pub(super) fd: RawFd,
}

/// A program, ready for `execve`.
pub(super) struct Start {
    pub(super) path: CString,
    /// Points into `_arguments`; ends in a null.
    pub(super) argv: Vec<*const c_char>,
    pub(super) envp: Vec<*const c_char>,
    /// Its descriptors and the numbers that it has them under.
    pub(super) descriptors: Vec<(OwnedFd, RawFd)>,
    /// Both ends of a pipe that ends when the program is executed, or when it is clear that it won't be.
    pub(super) executed: (OwnedFd, OwnedFd),
    /// Its keeper, once it runs.
    pub(super) keeper: libc::pid_t,
    _arguments: Vec<CString>,
}

/// See the module.
pub(super) struct Plan {
    pub(super) isolated: bool,
    /// The host's user to become; none if the host is not root.
    pub(super) user: Option<u32>,
    pub(super) status: OwnedFd,
    pub(super) control: OwnedFd,
    /// The descriptors of all this, in order.
    pub(super) keep: Vec<RawFd>,
    /// Relative to the root folder, parents first.
    pub(super) folders: Vec<CString>,
    pub(super) files: Vec<CString>,
    pub(super) symlinks: Vec<(CString, CString)>,
    pub(super) mounts: Vec<Mount>,
    /// Mount options of the temporary folder.
    pub(super) temporary: CString,
    /// The folder in which programs start.
    pub(super) folder: CString,
    pub(super) limits: Vec<(libc::__rlimit_resource_t, u64)>,
    pub(super) filter: BpfProgram,
    pub(super) rules: Option<OwnedFd>,
    /// The file that puts a process into the control group, if there is one.
    pub(super) enter: Option<OwnedFd>,
    pub(super) programs: Vec<Start>,
    /// Pages of memory, of `page` bytes each, and clock ticks that all may use together.
    pub(super) pages: u64,
    pub(super) page: u64,
    pub(super) ticks: u64,
    /// The watch's count of memory that the kernel holds.
    pub(super) held: Held,
    pub(super) host: Option<HostEnds>,
}

impl Plan {
    /// Checks and prepares a run.
    ///
    /// # Errors
    /// Paths that don't exist or are not absolute, no Landlock, no descriptors left.
    pub(super) fn new(sandbox: &Sandbox, programs: Vec<Program>) -> Result<Plan> {
        let isolated = sandbox.isolation == Isolation::Required;
        // SAFETY: takes nothing, cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        if sandbox.user == 0 {
            return Err(Error::invalid_config("user = 0: foreign programs don't run as root; 65534 is `nobody`"));
        }
        let visible = visible(&sandbox.visible)?;
        let folder = if isolated { None } else { Some(Temporary::new()?) };
        let inside = folder.as_ref().map_or(Path::new("/tmp"), |folder| &folder.0);
        let (status, status_end) = pipe()?;
        let (control_end, control) = UnixStream::pair()
            .map_err(|e| Error::new(ErrorKind::Io, format!("cannot make a pair of sockets: {e}")).with_source(e))?;
        let count = programs.len() as u64;
        let page = system(libc::_SC_PAGESIZE, 4096);
        let (starts, ends) = starts(programs, folder.as_ref().map(|folder| folder.0.as_path()))?;
        let (group, enter) = if isolated { group(&sandbox.limits, count)? } else { (None, None) };
        let mut plan = Plan {
            isolated,
            user: root.then_some(sandbox.user),
            status: raise(status_end.into())?,
            control: raise(control_end.into())?,
            keep: Vec::new(),
            folders: Vec::new(),
            files: Vec::new(),
            symlinks: Vec::new(),
            mounts: Vec::new(),
            temporary: CString::new(format!("mode=0700,size={},nr_inodes=65536", sandbox.limits.files))
                .map_err(|_| Error::internal("a number with a zero byte"))?,
            folder: text(inside.as_os_str())?,
            limits: limits(&sandbox.limits, isolated, count),
            filter: if isolated { seccomp::filter()? } else { BpfProgram::new() },
            rules: if isolated { Some(raise(landlock::rules(&visible)?)?) } else { None },
            enter,
            programs: starts,
            pages: sandbox.limits.memory / page,
            page,
            held: Held::new(sandbox.limits.processes),
            ticks: sandbox.limits.cpu.as_millis() as u64 * system(libc::_SC_CLK_TCK, 100) / 1000,
            host: Some(HostEnds { status, control, programs: ends, folder, group }),
        };
        if isolated {
            plan.root_folder(&visible)?;
        }
        let own = [&plan.status, &plan.control].into_iter().chain(&plan.rules).chain(&plan.enter);
        let given = plan.programs.iter().flat_map(|start| start.descriptors.iter().map(|(fd, _)| fd));
        let executed = plan.programs.iter().flat_map(|start| [&start.executed.0, &start.executed.1]);
        let mut keep: Vec<RawFd> = own.chain(given).chain(executed).map(AsRawFd::as_raw_fd).collect();
        keep.sort_unstable();
        plan.keep = keep;
        Ok(plan)
    }

    /// Closes descriptors that belong only to the programs. A pipe ends only when no process has its other end. Makes
    /// only system calls.
    pub(super) fn close_programs(&self) {
        let given = self.programs.iter().flat_map(|start| start.descriptors.iter().map(|(fd, _)| fd));
        given.chain(self.programs.iter().map(|start| &start.executed.1)).for_each(close);
    }

    /// Waits until the program before the `at`th is executed, so that no program runs and interferes while one before
    /// it is still being set up. Makes only system calls.
    pub(super) fn await_turn(&self, at: usize) {
        for (other, start) in self.programs.iter().enumerate() {
            if other != at {
                close(&start.executed.1);
            }
        }
        if let Some(before) = at.checked_sub(1).and_then(|before| self.programs.get(before)) {
            let mut nothing = 0_u8;
            // SAFETY: one byte, writable and ours. Nothing is written, so it returns at the pipe's end.
            unsafe { libc::read(before.executed.0.as_raw_fd(), (&raw mut nothing).cast(), 1) };
        }
    }

    /// The contents of the root folder.
    fn root_folder(&mut self, visible: &[PathBuf]) -> Result<()> {
        let mut folders = BTreeSet::from(["proc", "dev", "dev/shm"].map(PathBuf::from));
        let devices = landlock::DEVICES.iter().map(Path::new).filter(|path| path.exists());
        let device = sys::RDONLY | sys::NOSUID | sys::NOEXEC;
        let plain = sys::RDONLY | sys::NOSUID | sys::NODEV;
        let paths = devices.map(|path| (path, device)).chain(visible.iter().map(|path| (path.as_path(), plain)));
        for (path, attributes) in paths {
            let target = path.strip_prefix("/").unwrap_or(path);
            folders.extend(target.ancestors().skip(1).filter(|folder| *folder != Path::new("")).map(Path::to_owned));
            // If the distribution merged /lib and /usr/lib, one is a link to the other.
            if let Some(to) = system_link(path) {
                self.symlinks.push((text(to.as_os_str())?, text(target.as_os_str())?));
                continue;
            }
            if path.is_dir() {
                folders.insert(target.to_owned());
            } else {
                self.files.push(text(target.as_os_str())?);
            }
            let (source, target) = (text(path.as_os_str())?, text(target.as_os_str())?);
            self.mounts.push(Mount { source, target, attributes, fd: -1 });
        }
        // Already there.
        folders.remove(Path::new("tmp"));
        // In order, so parents come first.
        self.folders = folders.iter().map(|folder| text(folder.as_os_str())).collect::<Result<_>>()?;
        Ok(())
    }
}

/// Closes a descriptor that this copy of the process neither uses again nor drops.
fn close(fd: &OwnedFd) {
    // SAFETY: as said; the plan's owner is another process.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// The target of a library folder of the system that is a link.
fn system_link(path: &Path) -> Option<PathBuf> {
    SYSTEM.iter().any(|system| path == Path::new(system)).then(|| std::fs::read_link(path).ok()).flatten()
}

/// The paths to show, none within another: the system's, and `wanted` under their own names and under the targets of
/// links in them.
fn visible(wanted: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).filter(|path| path.exists()).collect();
    for path in wanted {
        let reserved = ["/proc", "/dev"].iter().any(|own| path.starts_with(own));
        if !path.is_absolute() || path.parent().is_none() || reserved || path == Path::new("/tmp") {
            return Err(Error::invalid_config(format!(
                "{}: a sandbox shows absolute paths, but not the root folder, /tmp, or what is in /proc and /dev",
                path.display()
            )));
        }
        let real = path.canonicalize().map_err(|e| Error::io("find", path, e))?;
        paths.extend([path.components().collect(), real]);
    }
    // Shorter ones first, so that a path within another finds it.
    paths.sort_by_key(|path| (path.components().count(), path.clone()));
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in paths {
        if !kept.iter().any(|outer| path.starts_with(outer)) {
            kept.push(path);
        }
    }
    Ok(kept)
}

/// Programs with their pipes, and the host's ends of these.
fn starts(programs: Vec<Program>, folder: Option<&Path>) -> Result<(Vec<Start>, Vec<ProgramEnds>)> {
    let mut starts = Vec::new();
    let mut ends = Vec::new();
    for Program { path, args, input, report, links } in programs {
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = pipe()?;
        let mut descriptors =
            vec![(raise(held(&input)?)?, 0), (raise(stdout_end.into())?, 1), (raise(stderr_end.into())?, 2)];
        let report = if report {
            let (report, report_end) = pipe()?;
            descriptors.push((raise(report_end.into())?, 3));
            Some(report)
        } else {
            None
        };
        for (link, number) in links.into_iter().zip(4..) {
            descriptors.push((raise(link)?, number));
        }
        let (executed, executed_end) = pipe()?;
        let executed = (raise(executed.into())?, raise(executed_end.into())?);
        let name = text(path.as_os_str())?;
        let mut arguments = vec![name.clone()];
        for argument in &args {
            arguments.push(text(argument)?);
        }
        let argv = arguments.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        let mut envp = Vec::new();
        if let Some(folder) = folder {
            // Nothing else tells a program its own folder if /tmp is the host's.
            let variable = text(OsStr::from_bytes(&[b"TMPDIR=", folder.as_os_str().as_bytes()].concat()))?;
            envp.push(variable.as_ptr());
            arguments.push(variable);
        }
        envp.push(std::ptr::null());
        starts.push(Start { path: name, argv, envp, descriptors, executed, keeper: 0, _arguments: arguments });
        ends.push(ProgramEnds { stdout, stderr, report });
    }
    Ok((starts, ends))
}

/// Limits per process, none above the host's own.
fn limits(wanted: &Limits, isolated: bool, programs: u64) -> Vec<(libc::__rlimit_resource_t, u64)> {
    let mut limits = vec![
        // No core dump, not even to a program of the host, which the kernel would still call at 0.
        (libc::RLIMIT_CORE, 1),
        (libc::RLIMIT_CPU, wanted.cpu.as_secs_f64().ceil() as u64),
        (libc::RLIMIT_FSIZE, wanted.file_size),
        (libc::RLIMIT_NOFILE, MOST_DESCRIPTORS),
        (libc::RLIMIT_MEMLOCK, 1 << 16),
        (libc::RLIMIT_MSGQUEUE, 0),
        (libc::RLIMIT_STACK, 8 << 20),
    ];
    if isolated {
        // `init` and the keepers belong to the same user.
        limits.push((libc::RLIMIT_NPROC, wanted.processes + 1 + programs));
    }
    // The last one, because nothing after it can get more memory.
    limits.push((libc::RLIMIT_AS, wanted.memory));
    for (resource, value) in &mut limits {
        let mut own = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `own` outlives the call.
        if unsafe { libc::getrlimit(*resource, &raw mut own) } == 0 {
            *value = own.rlim_max.min(*value);
        }
    }
    limits
}

/// A control group for everything that all programs use together, including their files in memory.
fn group(limits: &Limits, programs: u64) -> Result<(Option<Group>, Option<OwnedFd>)> {
    let files = limits.files.saturating_add(programs * SHARED_MEMORY);
    match Group::new(limits.memory.saturating_add(files), limits.processes + programs) {
        Ok((group, enter)) => Ok((Some(group), Some(raise(enter)?))),
        // The watch enforces the limit, though less exactly.
        Err(_) => Ok((None, None)),
    }
}

/// A number from the system.
fn system(name: libc::c_int, default: u64) -> u64 {
    // SAFETY: takes a number; -1 means unknown.
    u64::try_from(unsafe { libc::sysconf(name) }).ok().filter(|value| *value > 0).unwrap_or(default)
}

/// A file in memory that holds `bytes` and can't be changed. Unlike a pipe, it doesn't have to be fed, and a program
/// that doesn't read causes no SIGPIPE.
fn held(bytes: &[u8]) -> Result<OwnedFd> {
    let failed = |e: std::io::Error| {
        Error::new(ErrorKind::Io, format!("cannot hold {} bytes of input: {e}", bytes.len())).with_source(e)
    };
    // SAFETY: the name ends in a zero.
    let fd = unsafe { libc::memfd_create(c"input".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd == -1 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    // SAFETY: just made, and owned by nothing else.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(bytes).and_then(|()| file.rewind()).map_err(failed)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: an open descriptor and numbers.
    if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } == -1 {
        return Err(failed(std::io::Error::last_os_error()));
    }
    Ok(file.into())
}

fn pipe() -> Result<(PipeReader, PipeWriter)> {
    std::io::pipe().map_err(|e| Error::new(ErrorKind::Io, format!("cannot make a pipe: {e}")).with_source(e))
}

/// The same descriptor under a number of at least [`FIRST_DESCRIPTOR`].
fn raise(fd: OwnedFd) -> Result<OwnedFd> {
    // SAFETY: duplicates an open descriptor.
    let raised = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR) };
    if raised == -1 {
        let e = std::io::Error::last_os_error();
        return Err(Error::new(ErrorKind::Io, format!("cannot duplicate a descriptor: {e}")).with_source(e));
    }
    // SAFETY: just made, and owned by nothing else.
    Ok(unsafe { OwnedFd::from_raw_fd(raised) })
}

fn text(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| Error::invalid_request(format!("{text:?} has a zero byte: no argument or path may have one")))
}

/// A folder of the host that is removed when this is dropped.
pub(super) struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Self> {
        let base = std::env::temp_dir();
        let mut template = text(base.join("foreturn-XXXXXX").as_os_str())?.into_bytes_with_nul();
        // SAFETY: ends in a zero, and is changed in place.
        if unsafe { libc::mkdtemp(template.as_mut_ptr().cast()) }.is_null() {
            return Err(Error::io("create a folder in", &base, std::io::Error::last_os_error()));
        }
        template.pop();
        Ok(Temporary(PathBuf::from(OsStr::from_bytes(&template))))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Folders that a program made unwritable stay, because no error can be reported here, and the system cleans its
        // temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_within_others_are_left_out() {
        let paths = visible(&["/usr/lib/os-release".into(), "/usr".into(), "/usr/bin".into()]).expect("paths");
        assert!(paths.contains(&PathBuf::from("/usr")), "{paths:?}");
        assert!(!paths.iter().any(|path| path != Path::new("/usr") && path.starts_with("/usr")), "{paths:?}");
    }

    #[test]
    fn paths_that_cannot_be_shown_are_refused() {
        for path in ["usr", "/", "/no/such/path", "/tmp", "/proc/1", "/dev/sda"] {
            assert!(visible(&[path.into()]).is_err(), "{path}");
        }
    }
}
