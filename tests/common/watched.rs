//! A fresh process and what it does that nobody asked for: files in its home, threads, names that it looks up.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What was seen of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Files under its home and its cache folder.
    pub(crate) files: Vec<PathBuf>,
    /// Threads at the end.
    pub(crate) threads: usize,
    /// Names that it looked up.
    pub(crate) lookups: Vec<String>,
    /// Time until the first look-up, or the whole time.
    pub(crate) after: Duration,
}

/// The library that sees look-ups, in `folder`.
fn spy(folder: &Path) -> PathBuf {
    let library = folder.join("spy.so");
    let source = Path::new(file!()).with_file_name("spy.c");
    // `file!()` is relative to the workspace, the working directory of a test to its package.
    let source = [Path::new("."), Path::new("..")].map(|up| up.join(&source)).into_iter().find(|path| path.exists());
    let source = source.expect("spy.c beside this file");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    assert!(built.expect("a C compiler").success());
    library
}

/// Runs a process that stays for at most `limit`, with an empty home and nothing in its environment but `variables`, until
/// it looks up a name.
pub(crate) fn watch(command: &mut Command, variables: &[(&str, &str)], limit: Duration) -> Seen {
    let folder = tempfile::tempdir().expect("a folder");
    let names = folder.path().join("lookups");
    for home in ["home", "cache"] {
        std::fs::create_dir(folder.path().join(home)).expect("a folder");
    }
    command.env_clear().envs(variables.iter().copied()).env("PATH", std::env::var_os("PATH").expect("a PATH"));
    command.env("HOME", folder.path().join("home")).env("XDG_CACHE_HOME", folder.path().join("cache"));
    command.env("LD_PRELOAD", spy(folder.path())).env("SPY", &names).stdin(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().expect("it starts");
    while start.elapsed() < limit && !names.exists() {
        assert_eq!(child.try_wait().expect("a child"), None, "it ended");
        std::thread::sleep(Duration::from_millis(50));
    }
    let after = start.elapsed();
    let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).expect("its threads").count();
    child.kill().expect("it can be ended");
    child.wait().expect("it ends");
    let lookups = std::fs::read_to_string(&names).unwrap_or_default().lines().map(str::to_owned).collect();
    let mut files = Vec::new();
    ["home", "cache"].iter().for_each(|home| collect(&folder.path().join(home), &mut files));
    Seen { files, threads, lookups, after }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

/// Holds a process to silence. Before that, the same process with reports allowed shows that they would be seen.
pub(crate) fn keeps_to_itself(command: impl Fn() -> Command, runtime: &str) {
    const LIMIT: Duration = Duration::from_secs(30);
    let variables = |telemetry: Option<&'static str>| {
        let mut variables = vec![("ORT_DYLIB_PATH", runtime)];
        variables.extend(telemetry.map(|value| ("ORT_DISABLE_TELEMETRY", value)));
        variables
    };
    let loud = watch(&mut command(), &variables(Some("0")), LIMIT);
    assert!(!loud.files.is_empty() && !loud.lookups.is_empty(), "the pinned runtime is expected to report: {loud:?}");
    // Twice as long as it took: a busy machine is slow in both.
    let off = watch(&mut command(), &variables(Some("1")), loud.after);
    let ours = watch(&mut command(), &variables(None), 2 * loud.after);
    assert_eq!((&ours.files, &ours.lookups), (&Vec::new(), &Vec::new()));
    assert_eq!(ours.threads, off.threads, "threads besides those of a runtime that was told to be silent");
    assert!(loud.threads > ours.threads, "{loud:?}");
}
