//! The programs of `tests/fixtures/sandbox`, and a host that they can try to harm.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use foreturn::reward::pass_rate::{TestSettings, Tester, TestsRun};
use foreturn::sandbox::{Isolation, Limits, NOBODY};
use serde::Deserialize;

/// Words that every Python process of the library has on its command line.
const DRIVER: &str = "takes its job from standard input";

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Written {
    about: String,
    mode: String,
    entry_point: String,
    code: Vec<String>,
    tests: Vec<String>,
    passes: bool,
    share: Option<f64>,
    reason: Option<String>,
    timeout_s: Option<u64>,
    cpu_s: Option<u64>,
    architecture: Option<String>,
}

/// A program with its tests, and what has to come out.
pub(crate) struct Case {
    pub(crate) about: String,
    pub(crate) mode: &'static str,
    pub(crate) code: String,
    pub(crate) tests: String,
    pub(crate) entry_point: String,
    pub(crate) passes: bool,
    pub(crate) share: Option<f64>,
    pub(crate) reason: Option<String>,
    wall: Duration,
    cpu: Duration,
}

/// The cases of all files, once for each way of running tests that they are for.
pub(crate) fn cases(host: &Host) -> Vec<Case> {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sandbox");
    let folder = std::env::var_os("FIXTURES").map_or_else(own, PathBuf::from);
    let mut cases = Vec::new();
    for name in ["ordinary.json", "hostile.json"] {
        let text = std::fs::read_to_string(folder.join(name)).expect(name);
        let written: Vec<Written> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        for case in written {
            if case.architecture.as_ref().is_some_and(|needed| needed != std::env::consts::ARCH) {
                eprintln!("left out on this processor: {}", case.about);
                continue;
            }
            let modes: &[&'static str] = match case.mode.as_str() {
                "apart" => &["apart"],
                "together" => &["together"],
                "both" => &["apart", "together"],
                other => panic!("{}: mode {other}", case.about),
            };
            cases.extend(modes.iter().map(|mode| host.case(case.clone(), mode)));
        }
    }
    cases
}

/// A tester with limits that make for quick tests.
pub(crate) fn tester(case: &Case, isolation: Isolation) -> Tester {
    Tester::new(TestSettings {
        interpreter: super::PYTHON.into(),
        packages: Vec::new(),
        visible: Vec::new(),
        tests_run: if case.mode == "apart" { TestsRun::Apart } else { TestsRun::Together },
        isolation,
        limits: Limits {
            wall: case.wall,
            cpu: case.cpu,
            memory: 300 << 20,
            processes: 32,
            file_size: 16 << 20,
            files: 32 << 20,
            output: 1 << 20,
        },
        user: NOBODY,
    })
}

/// What a hostile program could reach if it were not locked up.
pub(crate) struct Host {
    folder: tempfile::TempDir,
    secret: PathBuf,
    shared: PathBuf,
    tcp: TcpListener,
    path_socket: UnixListener,
    abstract_socket: UnixListener,
    name: String,
    folders: Vec<PathBuf>,
}

impl Host {
    pub(crate) fn new() -> Self {
        let folders = folders();
        let folder = tempfile::tempdir().expect("a folder");
        let open = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
        };
        open(folder.path(), 0o755);
        let (secret, shared) = (folder.path().join("secret"), folder.path().join("shared"));
        std::fs::write(&secret, "xyzzy").expect("a file");
        open(&secret, 0o666);
        std::fs::create_dir(&shared).expect("a folder");
        open(&shared, 0o777);
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let path_socket = UnixListener::bind(folder.path().join("socket")).expect("a socket");
        open(&folder.path().join("socket"), 0o777);
        let name = format!("foreturn-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let abstract_socket = UnixListener::bind_addr(&address).expect("a socket");
        tcp.set_nonblocking(true).expect("a port");
        path_socket.set_nonblocking(true).expect("a socket");
        abstract_socket.set_nonblocking(true).expect("a socket");
        Host { folder, secret, shared, tcp, path_socket, abstract_socket, name, folders }
    }

    fn case(&self, written: Written, mode: &'static str) -> Case {
        let port = self.tcp.local_addr().expect("an address").port().to_string();
        let pid = std::process::id().to_string();
        let socket = self.folder.path().join("socket");
        let places = [
            ("{SECRET}", self.secret.to_str()),
            ("{SHARED}", self.shared.to_str()),
            ("{SOCKET}", socket.to_str()),
            ("{ABSTRACT}", Some(self.name.as_str())),
            ("{PORT}", Some(&port)),
            ("{PID}", Some(&pid)),
        ];
        let text = written.code.join("\n");
        let code = places.iter().fold(text, |code, (place, text)| code.replace(place, text.expect("UTF-8")));
        Case {
            about: written.about,
            mode,
            code,
            tests: written.tests.join("\n"),
            entry_point: written.entry_point,
            passes: written.passes,
            share: written.share,
            reason: written.reason,
            wall: Duration::from_secs(written.timeout_s.unwrap_or(20)),
            cpu: Duration::from_secs(written.cpu_s.unwrap_or(20)),
        }
    }

    /// Nobody called, nothing was changed, nothing was left.
    pub(crate) fn unharmed(&self) {
        assert_eq!(std::fs::read_to_string(&self.secret).expect("the secret"), "xyzzy");
        let left: Vec<_> = std::fs::read_dir(&self.shared).expect("the folder").collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(self.tcp.accept().expect_err("no caller").kind(), ErrorKind::WouldBlock);
        assert_eq!(self.path_socket.accept().expect_err("no caller").kind(), ErrorKind::WouldBlock);
        assert_eq!(self.abstract_socket.accept().expect_err("no caller").kind(), ErrorKind::WouldBlock);
        assert_eq!(children(), "", "children are left");
        let running = running(DRIVER);
        assert!(running.is_empty(), "processes are left: {running:?}");
        assert_eq!(folders(), self.folders, "folders are left");
        for path in ["/x", "/usr/lib/x", "/etc/x", "/var/tmp/x", "/tmp/huge", "/tmp/t.db"] {
            assert!(!Path::new(path).exists(), "{path}");
        }
    }
}

/// This process's children, by any of its threads, as numbers.
pub(crate) fn children() -> String {
    let threads = std::fs::read_dir("/proc/self/task").expect("/proc");
    let list = |thread: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(thread.expect("a thread").path().join("children")).unwrap_or_default()
    };
    threads.map(list).collect()
}

/// Processes of this machine that have `words` on their command line.
pub(crate) fn running(words: &str) -> Vec<PathBuf> {
    let has = |path: &PathBuf| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(words)
    };
    let processes = std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok).map(|entry| entry.path());
    processes.filter(has).collect()
}

/// Folders of runs without isolation.
pub(crate) fn folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(std::env::temp_dir()).expect("a temporary folder").filter_map(Result::ok);
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("foreturn-"));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(named).collect();
    folders.sort();
    folders
}
