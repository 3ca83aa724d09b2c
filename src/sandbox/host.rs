//! The host's side of a run: it starts `init`, reads the pipes, keeps the time, and ends the run.

use std::io::{ErrorKind as IoErrorKind, PipeReader, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::group::Group;
use super::plan::{HostEnds, Plan, ProgramEnds};
use super::record::{LENGTH, Record, Stage};
use super::{End, Limit, Outcome, Sandbox, init, sys};
use crate::{Error, ErrorKind, Result};

/// The time that `init` may take to end its processes if it runs without isolation.
const PATIENCE: Duration = Duration::from_secs(5);

/// See [`Sandbox::run`].
pub(super) fn run(mut plan: Plan, sandbox: &Sandbox) -> Result<Vec<Outcome>> {
    let deadline = Instant::now() + sandbox.limits.wall;
    let host = plan.host.take().ok_or_else(|| Error::internal("a plan without ends of pipes"))?;
    for fd in host.descriptors() {
        unblock(fd)?;
    }
    let init = Init::start(&mut plan)?;
    let prepared = if plan.isolated { init.map_user(plan.user) } else { Ok(()) };
    prepared.and_then(|()| init.go(&host.control))?;
    let names: Vec<String> = plan.mounts.iter().map(|mount| mount.source.to_string_lossy().into_owned()).collect();
    let paths: Vec<String> = plan.programs.iter().map(|start| start.path.to_string_lossy().into_owned()).collect();
    // The sandbox's ends. A pipe ends only when no process has them.
    drop(plan);

    let HostEnds { mut status, control, programs, folder, group } = host;
    let mut run = Run::new(programs, sandbox.limits.output);
    run.attend(&mut status, deadline);
    init.end(control);
    run.records(&mut status);
    // The rest in the pipes. The limit applies here too.
    run.serve();
    if group.as_ref().is_some_and(Group::ran_out) {
        run.limit = Some(Limit::Memory);
    }
    drop((folder, group));
    run.outcomes(&names, &paths)
}

impl HostEnds {
    fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let programs = self.programs.iter().flat_map(|ends| {
            let report = ends.report.as_ref().map(AsRawFd::as_raw_fd);
            [ends.stdout.as_raw_fd(), ends.stderr.as_raw_fd()].into_iter().chain(report)
        });
        std::iter::once(self.status.as_raw_fd()).chain(programs)
    }
}

/// Reading and writing never wait.
fn unblock(fd: RawFd) -> Result<()> {
    // SAFETY: an open descriptor and numbers.
    if unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) } == -1 {
        let e = std::io::Error::last_os_error();
        return Err(Error::new(ErrorKind::Io, format!("cannot set up a pipe: {e}")).with_source(e));
    }
    Ok(())
}

/// The first process, from the host's side. Dropping it kills it.
struct Init {
    pid: libc::pid_t,
    pidfd: OwnedFd,
    isolated: bool,
}

impl Init {
    fn start(plan: &mut Plan) -> Result<Init> {
        let namespaces = libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP;
        let mut pidfd = -1;
        let isolated = plan.isolated;
        match sys::clone_silent(if isolated { namespaces } else { 0 }, &mut pidfd) {
            Ok(0) => init::main(plan),
            // SAFETY: just made by the kernel, and owned by nothing else.
            Ok(pid) => Ok(Init { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) }, isolated }),
            Err(errno) if isolated => Err(cannot_isolate("make namespaces", &std::io::Error::from_raw_os_error(errno))),
            Err(errno) => {
                let e = std::io::Error::from_raw_os_error(errno);
                Err(Error::new(ErrorKind::Io, format!("cannot start a process: {e}")).with_source(e))
            }
        }
    }

    /// Maps the user inside to a user of the host.
    fn map_user(&self, user: Option<u32>) -> Result<()> {
        let write = |name: &str, text: String| {
            std::fs::write(format!("/proc/{}/{name}", self.pid), text)
                .map_err(|e| cannot_isolate(&format!("write {name} of the user namespace"), &e))
        };
        // SAFETY: take nothing, cannot fail.
        let (uid, gid) = user.map_or_else(|| unsafe { (libc::geteuid(), libc::getegid()) }, |user| (user, user));
        if user.is_none() {
            // The kernel requires this of ordinary users before they may map groups.
            write("setgroups", "deny".to_owned())?;
        }
        write("gid_map", format!("{} {gid} 1", init::INSIDE))?;
        write("uid_map", format!("{} {uid} 1", init::INSIDE))
    }

    /// Lets it go on, now that its user is mapped.
    fn go(&self, control: &UnixStream) -> Result<()> {
        // SAFETY: one byte. Without SIGPIPE, which would end a host that doesn't expect it.
        match unsafe { libc::send(control.as_raw_fd(), [1_u8].as_ptr().cast(), 1, libc::MSG_NOSIGNAL) } {
            1 => Ok(()),
            _ => Err(cannot_isolate("start", &std::io::Error::last_os_error())),
        }
    }

    /// Ends it and everything that it started. Without a namespace that ends with it, it waits for `control`.
    fn end(self, control: impl Sized) {
        drop(control);
        if !self.isolated {
            let start = Instant::now();
            while !sys::reap(self.pidfd.as_raw_fd(), false) {
                if start.elapsed() > PATIENCE {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        // Both do nothing if it has ended and been reaped.
        sys::kill(self.pidfd.as_raw_fd());
        sys::reap(self.pidfd.as_raw_fd(), true);
    }
}

/// A pipe that is read up to a limit.
struct Stream {
    pipe: Option<PipeReader>,
    bytes: Vec<u8>,
    /// Whether there was more than the limit. The pipe stays open, because the writer has to be ended and not told.
    full: bool,
}

impl Stream {
    fn new(pipe: Option<PipeReader>) -> Self {
        Stream { pipe, bytes: Vec::new(), full: false }
    }

    fn fd(&self) -> RawFd {
        self.pipe.as_ref().filter(|_| !self.full).map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Reads what is there. Returns false if this is more than `most` in total.
    fn read(&mut self, most: u64) -> bool {
        let mut part = [0; 16384];
        while let Some(pipe) = self.pipe.as_mut().filter(|_| !self.full) {
            match pipe.read(&mut part) {
                Ok(0) => self.pipe = None,
                Ok(read) => {
                    let room = usize::try_from(most).unwrap_or(usize::MAX) - self.bytes.len();
                    self.bytes.extend_from_slice(&part[..read.min(room)]);
                    self.full = read > room;
                }
                Err(e) if e.kind() == IoErrorKind::Interrupted => {}
                Err(e) if e.kind() == IoErrorKind::WouldBlock => break,
                Err(_) => self.pipe = None,
            }
        }
        !self.full
    }
}

/// The state of one program.
struct State {
    /// Standard output, standard error, report.
    streams: [Stream; 3],
    status: Option<i32>,
}

impl State {
    fn new(ends: ProgramEnds) -> Self {
        let ProgramEnds { stdout, stderr, report } = ends;
        let streams = [Stream::new(Some(stdout)), Stream::new(Some(stderr)), Stream::new(report)];
        State { streams, status: None }
    }
}

struct Run {
    programs: Vec<State>,
    output: u64,
    limit: Option<Limit>,
    failure: Option<(Stage, u16, i32)>,
    /// Whether `init` is gone.
    over: bool,
}

impl Run {
    fn new(programs: Vec<ProgramEnds>, output: u64) -> Self {
        let programs = programs.into_iter().map(State::new).collect();
        Run { programs, output, limit: None, failure: None, over: false }
    }

    /// Serves the pipes until there is a reason to end the run.
    fn attend(&mut self, status: &mut PipeReader, deadline: Instant) {
        while !self.over && self.limit.is_none() && self.failure.is_none() && self.leader_runs() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.limit = Some(Limit::Wall);
                return;
            }
            let look = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut polled = vec![look(status.as_raw_fd())];
            for state in &self.programs {
                polled.extend(state.streams.iter().map(|stream| look(stream.fd())));
            }
            let timeout = i32::try_from(left.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
            // SAFETY: an array and its length.
            unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
            self.records(status);
            self.serve();
        }
    }

    fn leader_runs(&self) -> bool {
        self.programs.first().is_some_and(|program| program.status.is_none())
    }

    fn serve(&mut self) {
        for state in &mut self.programs {
            for stream in &mut state.streams {
                if !stream.read(self.output) {
                    self.limit = self.limit.or(Some(Limit::Output));
                }
            }
        }
    }

    /// Reads the records that are there.
    fn records(&mut self, status: &mut PipeReader) {
        loop {
            let mut bytes = [0; LENGTH];
            match status.read(&mut bytes) {
                Ok(LENGTH) => match Record::read(&bytes) {
                    Some(Record::Failed { stage, at, errno }) => {
                        self.failure = self.failure.or(Some((stage, at, errno)));
                    }
                    Some(Record::Ended { program, status }) => {
                        if let Some(state) = self.programs.get_mut(usize::from(program)) {
                            state.status = state.status.or(Some(status));
                        }
                    }
                    Some(Record::Memory) => self.limit = self.limit.or(Some(Limit::Memory)),
                    Some(Record::Cpu) => self.limit = self.limit.or(Some(Limit::Cpu)),
                    Some(Record::Lock) => self.limit = self.limit.or(Some(Limit::Lock)),
                    None => {}
                },
                Err(e) if e.kind() == IoErrorKind::Interrupted => {}
                Err(e) if e.kind() == IoErrorKind::WouldBlock => return,
                _ => {
                    self.over = true;
                    return;
                }
            }
        }
    }

    fn outcomes(self, mounts: &[String], programs: &[String]) -> Result<Vec<Outcome>> {
        if let Some((stage, at, errno)) = self.failure {
            return Err(refused(stage, usize::from(at), errno, mounts, programs));
        }
        let limit = self.limit;
        let lost = self.leader_runs();
        let outcome = |state: State| {
            let end = match (state.status, limit) {
                (_, Some(limit)) => End::Limit(limit),
                (Some(status), None) if libc::WIFEXITED(status) => End::Exited(libc::WEXITSTATUS(status)),
                (Some(status), None) => End::Signalled(libc::WTERMSIG(status)),
                (None, None) if lost => End::Lost,
                (None, None) => End::Stopped,
            };
            let [stdout, stderr, report] = state.streams.map(|stream| stream.bytes);
            Outcome { end, stdout, stderr, report }
        };
        Ok(self.programs.into_iter().map(outcome).collect())
    }
}

/// The error for a step that the sandbox's own processes could not take.
fn refused(stage: Stage, at: usize, errno: i32, mounts: &[String], programs: &[String]) -> Error {
    let e = std::io::Error::from_raw_os_error(errno);
    match stage {
        Stage::Source | Stage::Mount => {
            let path = mounts.get(at).map_or("?", String::as_str);
            cannot_isolate(&format!("{} ({path})", stage.what()), &e)
        }
        Stage::Execute => {
            let path = programs.get(at).map_or("?", String::as_str);
            Error::unsupported(format!(
                "cannot execute {path} in the sandbox: {e}. It has to be a program and not a script, and others must \
                 be able to read it and the folders above it"
            ))
            .with_source(e)
        }
        _ => cannot_isolate(stage.what(), &e),
    }
}

/// The error for a machine that lacks something. It names the alternative.
fn cannot_isolate(what: &str, e: &std::io::Error) -> Error {
    Error::unsupported(format!(
        "foreign code can't be isolated on this machine: cannot {what}: {e}. This takes Linux 5.13 or newer with \
         Landlock, seccomp and user namespaces that this user may make (in a container, they are often off). \
         isolation = \"none\" runs the code anyway, with this program's own rights"
    ))
}
