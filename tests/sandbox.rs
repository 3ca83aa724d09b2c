//! Foreign code: right, wrong and hostile programs (`tests/fixtures/sandbox`), each of which has to get the right
//! verdict, leave nothing behind and do the host no harm.
//!
//! The programs are run twice, in processes of their own: as the user who runs the tests; and with SIGCHLD ignored, by
//! an ordinary user where the tests are run by root.
//!
//! A program of its own, because it runs itself again in those processes, and because it counts the children that its
//! process has and the folders that are left: nothing else may start one meanwhile.
#![allow(clippy::disallowed_methods, reason = "a test may panic where the system refuses a thread")]
#![cfg(all(feature = "sandbox", target_os = "linux"))]
#![allow(clippy::print_stderr)]

mod programs;

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use foreturn::ErrorKind;
use foreturn::chat::{Message, Role};
use foreturn::reward::{Answered, MetricInput, MetricSettings};
use foreturn::rollout::Goal;
use foreturn::sandbox::{End, Isolation, Limit, Limits, Program, Sandbox};
use programs::{Case, Host, cases, tester};

/// The interpreter that programs run in.
const PYTHON: &str = "/usr/bin/python3";

/// One after the other, for each looks for what it has left.
static TURN: Mutex<()> = Mutex::new(());

/// This test's turn, where this machine can run it; says so where it can't, and fails where CI demands it.
fn able() -> Option<MutexGuard<'static, ()>> {
    let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let python = Path::new(PYTHON).is_file();
    let namespaces = Sandbox::default().run(vec![Program::new("/usr/lib/no-such-program")]);
    let isolated = matches!(&namespaces, Err(e) if e.to_string().contains("cannot execute"));
    if python && isolated {
        return Some(turn);
    }
    let why = if python { format!("no isolation: {namespaces:?}") } else { format!("there is no {PYTHON}") };
    assert!(std::env::var_os("CI").is_none(), "tests of the sandbox can't run: {why}");
    eprintln!("SKIPPED, this machine can't run foreign code: {why}");
    None
}

/// Set in processes of their own that tests run themselves in.
const CHILD: &str = "FORETURN_TEST_CHILD";

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs a test in another process.
fn elsewhere(test: &str, user: Option<u32>, ignore_children: bool) {
    let folder = tempfile::tempdir().expect("a folder");
    // Where the build folder and the sources are may be out of another user's reach.
    let (copy, fixtures) = (folder.path().join("tests"), folder.path().join("fixtures"));
    std::fs::copy(std::env::current_exe().expect("this program"), &copy).expect("a copy");
    std::fs::create_dir(&fixtures).expect("a folder");
    for file in
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sandbox")).expect("fixtures")
    {
        let file = file.expect("a file");
        std::fs::copy(file.path(), fixtures.join(file.file_name())).expect("a copy");
    }
    let mut open = Command::new("chmod");
    assert!(open.args(["-R", "a+rX"]).arg(folder.path()).status().expect("chmod").success());
    let mut command = Command::new(&copy);
    command.args(["--exact", test, "--nocapture"]).current_dir("/").env(CHILD, "1");
    command.env("FIXTURES", &fixtures);
    command.env("FORETURN_SECRET", "xyzzy");
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    if ignore_children {
        // SAFETY: `signal` may be called between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGCHLD, libc::SIG_IGN);
                Ok(())
            })
        };
    }
    let done = command.output().expect("a process");
    let said = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(done.status.success() && said.contains("1 passed"), "as {user:?}, {ignore_children}:\n{said}");
    eprintln!("{}", said.lines().find(|line| line.contains("verdicts")).unwrap_or_default());
}

fn is_root() -> bool {
    // SAFETY: takes nothing.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn programs_get_their_verdicts_here() {
    if is_child() {
        return programs_under_test();
    }
    if let Some(_turn) = able() {
        elsewhere("programs_get_their_verdicts_here", None, false);
    }
}

#[test]
fn programs_get_their_verdicts_as_another_user_with_children_ignored() {
    if let Some(_turn) = able() {
        elsewhere("programs_get_their_verdicts_here", is_root().then_some(65534), true);
    }
}

#[test]
fn the_hosts_memory_does_not_count() {
    if is_child() {
        return a_large_host();
    }
    if let Some(_turn) = able() {
        elsewhere("the_hosts_memory_does_not_count", None, false);
        elsewhere("the_hosts_memory_does_not_count", is_root().then_some(65534), false);
    }
}

/// Run by the one above, in a process of its own: a right program with a limit far below what its host holds.
fn a_large_host() {
    let ballast = vec![1_u8; 2 << 30];
    for settings in ["memory = \"128MiB\"", "memory = \"128MiB\"\ntests_run = \"together\""] {
        // For as long as the watch takes to look a few times.
        let messages = [
            "import time\ndef f(x):\n    time.sleep(0.1)\n    return x + 1",
            "def f(x):\n    held = b'x' * (60 << 20)\n    import os, time\n    os.fork() or os.fork()\n    held2 = held + \
             b'y'\n    time.sleep(5)",
        ];
        let values = values(settings, TESTS, &messages);
        let values: Vec<f64> = values.into_iter().map(|value| value.expect("a value")).collect();
        assert_eq!(values, [1.0, 0.0], "{settings}");
    }
    assert!(ballast.iter().step_by(4096).all(|byte| *byte == 1));
}

#[test]
fn a_sandbox_that_is_ended_from_outside_is_lost() {
    let Some(_turn) = able() else { return };
    let (sandbox, program) = shell("sleep 60");
    let running = std::thread::spawn(move || sandbox.run(vec![program]).expect("outcomes"));
    let children =
        || -> Vec<i32> { programs::children().split_whitespace().filter_map(|pid| pid.parse().ok()).collect() };
    let started = (0..500).find_map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        children().first().copied()
    });
    // SAFETY: numbers only: a child of this process, which has no other meanwhile.
    unsafe { libc::kill(started.expect("the sandbox's first process"), libc::SIGKILL) };
    assert_eq!(running.join().expect("a thread")[0].end, End::Lost);
}

/// Run by the two above, in a process of its own.
fn programs_under_test() {
    assert!(std::env::var_os("FORETURN_SECRET").is_some(), "there has to be something to find");
    let before = Instant::now();
    let host = Host::new();
    let cases = cases(&host);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let start = Instant::now();
                    if let Err(why) = run(case) {
                        wrong.lock().expect("a lock").push(format!("{} ({}): {why}", case.about, case.mode));
                    }
                    eprintln!("{:6.2} s {} ({})", start.elapsed().as_secs_f64(), case.about, case.mode);
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("a lock");
    assert!(wrong.is_empty(), "{} of {} verdicts are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    host.unharmed();
    assert!(cases.len() >= 100, "{} cases", cases.len());
    eprintln!("{} verdicts in {:.1} s", cases.len(), before.elapsed().as_secs_f64());
}

fn run(case: &Case) -> Result<(), String> {
    let verdict = tester(case, Isolation::Required)
        .verdict(&case.code, &case.tests, Some(&case.entry_point))
        .map_err(|e| e.to_string())?;
    if verdict.all() != case.passes {
        return Err(format!("{verdict:?}"));
    }
    if case.share.is_some_and(|share| (verdict.share() - share).abs() > 1e-12) {
        return Err(format!("the share is {}", verdict.share()));
    }
    match (&case.reason, &verdict.reason) {
        (Some(wanted), Some(given)) if !given.contains(wanted.as_str()) => Err(format!("reason: {given}")),
        (_, None) if !case.passes => Err("no reason".to_owned()),
        _ => Ok(()),
    }
}

/// A shell command in the sandbox, with tools of the system in sight.
fn shell(text: &str) -> (Sandbox, Program) {
    let visible = ["/bin/sh", "/bin/cat", "/bin/sleep"].map(PathBuf::from).to_vec();
    let limits = Limits { wall: Duration::from_secs(5), output: 1000, ..Limits::default() };
    let mut program = Program::new("/bin/sh");
    program.args = vec!["-c".into(), text.into()];
    program.report = true;
    (Sandbox { visible, limits, ..Sandbox::default() }, program)
}

#[test]
fn streams_status_and_report_come_back() {
    let Some(_turn) = able() else { return };
    let (mut sandbox, mut program) = shell("cat; echo out; echo err >&2; echo told >&3; exit 7");
    sandbox.limits.output = 1 << 20;
    program.input = b"in ".repeat(200_000);
    let outcomes = sandbox.run(vec![program]).expect("a run");
    assert_eq!(outcomes[0].end, End::Exited(7));
    assert_eq!(outcomes[0].stdout, [b"in ".repeat(200_000), b"out\n".to_vec()].concat());
    assert_eq!((outcomes[0].stderr.as_slice(), outcomes[0].report.as_slice()), (&b"err\n"[..], &b"told\n"[..]));

    let (sandbox, program) = shell("kill -9 $$");
    assert_eq!(sandbox.run(vec![program]).expect("a run")[0].end, End::Signalled(libc::SIGKILL));
}

#[test]
fn limits_end_a_run() {
    let Some(_turn) = able() else { return };
    let (mut sandbox, program) = shell("sleep 60");
    sandbox.limits.wall = Duration::from_millis(300);
    let start = Instant::now();
    assert_eq!(sandbox.run(vec![program]).expect("a run")[0].end, End::Limit(Limit::Wall));
    assert!(start.elapsed() < Duration::from_secs(5));

    let (sandbox, program) = shell("while true; do echo 0123456789; done");
    let outcomes = sandbox.run(vec![program]).expect("a run");
    assert_eq!((outcomes[0].end, outcomes[0].stdout.len()), (End::Limit(Limit::Output), 1000));
}

#[test]
fn the_first_program_leads_and_links_connect() {
    let Some(_turn) = able() else { return };
    let (from, to) = std::io::pipe().expect("a pipe");
    let (sandbox, mut reader) = shell("cat <&4");
    let (_, mut writer) = shell("echo hello >&4; exec 4>&-; sleep 60");
    reader.links = vec![from.into()];
    writer.links = vec![to.into()];
    let outcomes = sandbox.run(vec![reader, writer]).expect("a run");
    assert_eq!((outcomes[0].end, outcomes[0].stdout.as_slice()), (End::Exited(0), &b"hello\n"[..]));
    assert_eq!(outcomes[1].end, End::Stopped);
}

#[test]
fn programs_of_a_run_share_the_folder_and_nothing_else() {
    let Some(_turn) = able() else { return };
    let (sandbox, leader) = shell("while [ ! -s /tmp/x ]; do :; done; cat /tmp/x; cat /dev/shm/y; echo /proc/[0-9]*");
    let (_, other) = shell("echo y > /dev/shm/y; echo x > /tmp/z; exec 3>&-; cat /tmp/z > /tmp/x; sleep 60");
    let outcomes = sandbox.run(vec![leader, other]).expect("a run");
    let said = String::from_utf8_lossy(&outcomes[0].stdout);
    assert!(said.starts_with("x\n/proc/") && said.split_whitespace().count() == 2, "{outcomes:?}");
}

#[test]
fn without_isolation_everything_ends_too() {
    let Some(_turn) = able() else { return };
    let before = folders();
    let (mut sandbox, program) =
        shell("(sleep 1234567 &) ; (sleep 1234567 & sleep 1234567) & echo $TMPDIR; echo x > f; exit 3");
    sandbox.isolation = Isolation::None;
    let outcomes = sandbox.run(vec![program]).expect("a run");
    assert_eq!(outcomes[0].end, End::Exited(3));
    let folder = String::from_utf8_lossy(&outcomes[0].stdout).trim().to_owned();
    assert!(folder.contains("foreturn-") && !Path::new(&folder).exists(), "{folder}");
    assert!(programs::running("1234567").is_empty());
    assert!(folders().is_subset(&before));
}

fn folders() -> BTreeSet<PathBuf> {
    programs::folders().into_iter().collect()
}

#[test]
fn what_cannot_be_run_is_an_error() {
    let Some(_turn) = able() else { return };
    for path in ["/usr/lib/no-such-program", "/etc/hostname"] {
        let e = Sandbox::default().run(vec![Program::new(path)]).expect_err(path);
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        assert!(e.to_string().contains(path), "{e}");
    }
    let sandbox = Sandbox { visible: vec!["/no/such/folder".into()], ..Sandbox::default() };
    assert_eq!(sandbox.run(vec![shell("").1]).expect_err("no such folder").kind(), ErrorKind::Io);
    let sandbox = Sandbox { user: 0, ..Sandbox::default() };
    assert_eq!(sandbox.run(vec![shell("").1]).expect_err("root").kind(), ErrorKind::InvalidConfig);
}

/// The metric with `settings`, and what it makes of a message.
fn metric(settings: &str) -> foreturn::Result<std::sync::Arc<dyn foreturn::Metric>> {
    let settings = format!("interpreter = \"{PYTHON}\"\n{settings}").parse().expect("TOML");
    foreturn::reward::build_metric("pass_rate", settings)
}

const TESTS: &str = "assert f(1) == 2\nassert f(2) == 3\n";

fn values(settings: &str, tests: &str, messages: &[&str]) -> Vec<foreturn::Result<f64>> {
    let goal = Goal { tests: Some(tests.into()), entry_point: Some("f".into()), ..Goal::default() };
    let messages: Vec<Message> = messages.iter().map(|text| Message::new(Role::Assistant, *text)).collect();
    let inputs = messages.iter().map(|response| MetricInput::new(response, &goal, &|_| 0));
    let scored: Vec<Answered<'_>> = inputs.map(|input| Answered { input, answers: &[] }).collect();
    let metric = metric(settings).expect("a metric");
    metric.check(&goal).expect("a goal");
    metric.score(&scored).into_iter().map(|value| value.map(|value| value.value)).collect()
}

#[test]
fn the_metric_runs_the_code_of_a_message() {
    let Some(_turn) = able() else { return };
    let messages = [
        "Here you are:\n```python\ndef f(x):\n    return x + 1\n```\nIt adds one.",
        "def f(x):\n    return 2",
        "I'd rather not.",
        "```python\ndef f(x):\n    return x * 2 if x == 1 else x + 1\n```",
    ];
    for settings in ["", "tests_run = \"together\"\nparallel = 2"] {
        let values: Vec<f64> =
            values(settings, TESTS, &messages).into_iter().map(|value| value.expect("a value")).collect();
        assert_eq!(values, [1.0, 0.0, 0.0, 1.0], "{settings}");
    }
    let partial = values("partial = true\nparallel = 3", TESTS, &messages[..2]);
    assert_eq!(partial.into_iter().map(|value| value.expect("a value")).collect::<Vec<_>>(), [1.0, 0.5]);
}

#[test]
fn tests_that_cannot_be_run_are_errors_and_not_zeros() {
    let Some(_turn) = able() else { return };
    let right = ["def f(x):\n    return x + 1"];
    for (tests, words) in [
        ("assert f(1) ==", "not Python"),
        ("print(f(1))", "has no tests"),
        ("assert np.all(f(1) == 2)", "`np`"),
        ("assert f(lambda x: x) == 2", "tests_run = \"together\""),
        ("def one(): return 1\nassert f(one) == 2", "`one`"),
        ("given = open('/dev/null')\nassert f(1) == 2\nassert f(given) == 2", "tests_run = \"together\""),
        ("import no_such_module\nassert f(1) == 2", "no_such_module"),
        ("def check(candidate):\n    import no_such_module\n    assert candidate(1) == 2", "no_such_module"),
        ("import sys\nimport no_such_module\nassert f(1) == 2", "no_such_module"),
        ("one = {}['one']\nassert f(1) == 2", "KeyError"),
        ("open('/no/such/file')\nassert f(1) == 2", "/no/such/file"),
        ("import os\nos.abort()\nassert f(1) == 2", "even without a solution"),
    ] {
        // Whatever the program is: a right one, a wrong one, none, and one that exits.
        let programs = [right[0], "def f(x):\n    return 'wrong'", "no Python", "import os\nos._exit(0)"];
        for value in values("", tests, &programs) {
            let e = value.expect_err(tests);
            let kind = if words.starts_with("even") { ErrorKind::Runtime } else { ErrorKind::InvalidRequest };
            assert_eq!(e.kind(), kind, "{e}");
            assert!(e.to_string().contains(words), "{e}");
        }
    }
    let together = values("tests_run = \"together\"", "print(f(1))", &right).remove(0);
    assert_eq!(together.expect_err("no tests").kind(), ErrorKind::InvalidRequest);
}

#[test]
fn settings_and_goals_are_checked() {
    for (settings, words) in [
        ("memory = \"1MiB\"", "64MiB"),
        ("timeout_s = 0", "timeout_s = 0"),
        ("parallel = 0", "parallel = 0"),
        ("user = 0", "root"),
        ("isolation = \"off\"", "off"),
        ("tests_run = \"elsewhere\"", "elsewhere"),
        ("memmory = 1", "memmory"),
    ] {
        let e = metric(settings).err().expect(settings);
        assert_eq!(e.kind(), ErrorKind::InvalidConfig, "{e}");
        assert!(e.to_string().contains(words), "{e}");
    }
    let nothing = foreturn::reward::build_metric("pass_rate", MetricSettings::default());
    assert!(nothing.err().expect("an error").to_string().contains("interpreter is missing"));
    let nowhere: MetricSettings = "interpreter = \"no/python\"".parse().expect("TOML");
    let e = foreturn::reward::build_metric("pass_rate", nowhere.in_folder("/base")).err().expect("an error");
    assert!(e.to_string().contains("/base/no/python"), "{e}");

    let goal = |tests: Option<&str>, entry_point: Option<&str>| Goal {
        tests: tests.map(str::to_owned),
        entry_point: entry_point.map(str::to_owned),
        ..Goal::default()
    };
    let apart = metric("").expect("a metric");
    assert!(apart.check(&goal(Some(TESTS), Some("f"))).is_ok());
    assert!(apart.check(&goal(Some(TESTS), None)).expect_err("none").to_string().contains("goal.entry_point"));
    assert!(apart.check(&goal(None, Some("f"))).expect_err("none").to_string().contains("goal.tests"));
    let together = metric("tests_run = \"together\"").expect("a metric");
    assert!(together.check(&goal(Some(TESTS), None)).is_ok());
    assert!(together.check(&goal(Some("def check(candidate):\n    pass"), None)).is_err());
}

#[test]
fn an_interpreter_that_is_none_is_an_error() {
    let Some(_turn) = able() else { return };
    let settings = "interpreter = \"/bin/sh\"".parse().expect("TOML");
    let metric = foreturn::reward::build_metric("pass_rate", settings).expect("a metric");
    let goal = Goal { tests: Some(TESTS.into()), entry_point: Some("f".into()), ..Goal::default() };
    let response = Message::new(Role::Assistant, "def f(x):\n    return x + 1");
    let input = MetricInput::new(&response, &goal, &|_| 0);
    let e = metric.score(&[Answered { input, answers: &[] }]).remove(0).expect_err("no Python");
    assert!(e.kind() == ErrorKind::Unsupported && e.to_string().contains("/bin/sh"), "{e}");
}

/// The same programs that find nothing in the sandbox find something without it: the sandbox is what stops them.
#[test]
fn without_isolation_hostile_programs_find_the_host() {
    let Some(_turn) = able() else { return };
    let host = Host::new();
    let harmless = ["a caller of Unix sockets", "a reader of homes and of the host's files", "processes of others"];
    let cases = cases(&host);
    let cases: Vec<_> = cases.iter().filter(|case| harmless.contains(&case.about.as_str())).collect();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let verdict = programs::tester(case, Isolation::None).verdict(&case.code, &case.tests, Some(&case.entry_point));
        assert!(!verdict.expect("a verdict").all(), "{} ({})", case.about, case.mode);
    }
}

/// Where user namespaces are off, nothing runs, unless the settings say so.
#[test]
fn without_namespaces_nothing_runs() {
    if is_child() {
        return nothing_runs_here();
    }
    let Some(_turn) = able() else { return };
    let program = std::env::current_exe().expect("this program");
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" --exact without_namespaces_nothing_runs";
    let done = Command::new("unshare")
        .args(["-Ur", "sh", "-c", script])
        .arg(program)
        .env(CHILD, "1")
        .output()
        .expect("unshare");
    let said = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

/// Run by the one above, where there are no user namespaces.
fn nothing_runs_here() {
    let right = ["def f(x):\n    return x + 1"];
    let e = values("", TESTS, &right).remove(0).expect_err("no namespaces");
    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
    assert!(e.to_string().contains("isolation = \"none\""), "{e}");
    let without = values("isolation = \"none\"", TESTS, &right).remove(0);
    assert_eq!(without.expect("a value"), 1.0);
}

#[test]
fn the_sandbox_ends_with_the_host() {
    if is_child() {
        return a_host_to_be_killed();
    }
    let Some(_turn) = able() else { return };
    let program = std::env::current_exe().expect("this program");
    let mut host = Command::new(program)
        .args(["--exact", "the_sandbox_ends_with_the_host"])
        .env(CHILD, "1")
        .spawn()
        .expect("a process");
    let soon = |done: &dyn Fn() -> bool| {
        (0..500).any(|_| {
            done() || {
                std::thread::sleep(Duration::from_millis(20));
                false
            }
        })
    };
    let started = soon(&|| !programs::running("7654321").is_empty());
    host.kill().expect("a process to kill");
    host.wait().expect("an end");
    assert!(started && soon(&|| programs::running("7654321").is_empty()));
}

/// Run by the one above, which kills it.
fn a_host_to_be_killed() {
    let (mut sandbox, program) = shell("sleep 7654321 & sleep 7654321");
    sandbox.limits.wall = Duration::from_secs(60);
    let outcomes = sandbox.run(vec![program]);
    panic!("it was not killed: {outcomes:?}");
}
