//! The C ABI as hosts meet it: programs in C and C++, built with the compilers of this machine against the shared and the
//! static library of `target/release`, run as they are, under valgrind and under AddressSanitizer. `make test` builds the
//! libraries first.
#![allow(clippy::disallowed_methods, reason = "a test may panic where the system refuses a thread")]

#[path = "../../tests/common/watched.rs"]
mod watched;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::thread;

use foreturn::export::{ExportOptions, export};
use serde_json::Value;
use tempfile::TempDir;

/// What the static library needs of the system; `tools/package.py` writes the same into foreturn.pc.
const NATIVE: [&str; 1] = ["-lm"];

/// Scenarios that hold a clock to something: they run while no other test of this program does.
const TIMED: [&str; 2] = ["cancelled", "idle"];

/// Held for reading by whatever keeps processors busy.
static BUSY: RwLock<()> = RwLock::new(());

fn busy() -> RwLockReadGuard<'static, ()> {
    BUSY.read().unwrap_or_else(PoisonError::into_inner)
}

/// Every other scenario of `c/suite.c` that needs nothing but the models.
const SCENARIOS: [&str; 16] = [
    "arguments",
    "calls",
    "candidates",
    "refreshed",
    "threads",
    "destroyed",
    "overloaded",
    "callbacks",
    "signals",
    "streams",
    "surroundings",
    "forked",
    "exits",
    "environment",
    "logged",
    "runs",
];

/// What valgrind looks at, a process each: all but the child that `forked` leaves, which frees nothing.
/// AddressSanitizer looks at all scenarios without a clock, except those of [`FORKING`].
const UNDER_VALGRIND: [&str; 9] = [
    "arguments",
    "calls",
    "candidates",
    "refreshed",
    "destroyed",
    "overloaded",
    "callbacks",
    "environment",
    "signals,streams,surroundings,logged,threads",
];

/// Scenarios whose children allocate. AddressSanitizer's allocator (GCC 12) does not release its locks at a fork, so a child
/// hangs where another thread was allocating at that moment.
const FORKING: [&str; 2] = ["forked", "exits"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn built(name: &str) -> PathBuf {
    let path = root().join("target/release").join(name);
    assert!(path.exists(), "{} is missing: run `make test`, which builds it", path.display());
    path
}

/// What all tests need: the library under its names, the tiny models.
struct Stage {
    folder: TempDir,
}

impl Stage {
    fn get() -> &'static Stage {
        static STAGE: OnceLock<Stage> = OnceLock::new();
        STAGE.get_or_init(|| {
            let folder = tempfile::tempdir().expect("a folder");
            for name in ["libforeturn.so", "libforeturn.so.0"] {
                std::os::unix::fs::symlink(built("libforeturn.so"), folder.path().join(name)).expect("a link");
            }
            for model in ["smollm2", "llama-reward"] {
                tiny(model, folder.path());
            }
            with_other_weights(&folder.path().join("smollm2"), &folder.path().join("smollm2-next"));
            Stage { folder }
        })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The flags that link the shared library, found again at run time.
    fn shared(&self) -> Vec<String> {
        let folder = self.path().display();
        vec![
            format!("-L{folder}"),
            "-lforeturn".into(),
            format!("-Wl,-rpath,{folder}"),
            "-pthread".into(),
            "-lm".into(),
        ]
    }
}

/// A tiny model with room for a conversation, exported to `folder/name`.
fn tiny(name: &str, folder: &Path) {
    let fixtures = root().join("tests/fixtures/models");
    let checkpoint = folder.join(format!("{name}-checkpoint"));
    fs::create_dir(&checkpoint).expect("a folder");
    let reference = fs::read(fixtures.join(name).join("reference.json")).expect("a reference");
    let reference: Value = serde_json::from_slice(&reference).expect("JSON");
    let tokenizer = reference["tokenizer"].as_str().expect("its tokenizer");
    for from in [fixtures.join(name).join("checkpoint"), fixtures.join("tokenizers").join(tokenizer)] {
        for file in fs::read_dir(&from).expect("a folder") {
            let file = file.expect("a file").path();
            fs::copy(&file, checkpoint.join(file.file_name().expect("a name"))).expect("a copy");
        }
    }
    let path = checkpoint.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("a config")).expect("JSON");
    config["max_position_embeddings"] = 8192.into();
    fs::write(&path, config.to_string()).expect("written");
    export(&ExportOptions::new(&checkpoint, folder.join(name)), &mut |_| ()).expect("an export");
}

/// A copy of an export whose weights are a little smaller. Its `tensors.txt` says where each tensor lies in its file, for
/// hosts without JSON: name, place, bytes, and shape with its length before it.
fn with_other_weights(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for file in fs::read_dir(from).expect("a folder").map(|file| file.expect("a file")) {
        fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
    let data = to.join("model.safetensors");
    let mut bytes = fs::read(&data).expect("weights");
    let (length, rest) = bytes.split_first_chunk_mut::<8>().expect("a header");
    let (header, rest) = rest.split_at_mut(u64::from_le_bytes(*length) as usize);
    let start = 8 + header.len();
    let header: Value = serde_json::from_slice(header).expect("JSON");
    let (mut changed, mut list) = (0, String::new());
    for (name, tensor) in header.as_object().expect("tensors").iter().filter(|(_, tensor)| tensor["dtype"] == "F32") {
        let at = |end: usize| tensor["data_offsets"][end].as_u64().expect("an offset") as usize;
        for number in rest[at(0)..at(1)].as_chunks_mut::<4>().0 {
            *number = (0.9 * f32::from_le_bytes(*number)).to_le_bytes();
            changed += 1;
        }
        let shape: Vec<String> = tensor["shape"].as_array().expect("a shape").iter().map(Value::to_string).collect();
        let (place, bytes) = (start + at(0), at(1) - at(0));
        list.push_str(&format!("{name} {place} {bytes} {} {}\n", shape.len(), shape.join(" ")));
    }
    fs::write(to.join("tensors.txt"), list).expect("written");
    assert!(changed > 0, "{} has no floats", data.display());
    fs::write(&data, bytes).expect("written");
}

/// A tool of this machine; where it is missing, the test is skipped with a word, which CI doesn't allow.
#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn tool(name: &str) -> Option<&str> {
    if Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return Some(name);
    }
    assert!(std::env::var_os("CI").is_none(), "{name} is missing");
    eprintln!("skipped: {name} is missing");
    None
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(name)
}

const C: [&str; 6] = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g"];
const CPP: [&str; 6] = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g"];

/// Compiles a program; `flags` before the source, `link` behind it.
fn compile(compiler: &str, flags: &[&str], source: &Path, to: &Path, link: &[impl AsRef<OsStr>]) {
    let mut command = Command::new(compiler);
    command.args(flags).arg("-I").arg(root().join("include")).arg(source).arg("-o").arg(to).args(link);
    let _busy = busy();
    let output = command.output().expect("the compiler runs");
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The suite against the shared library.
fn suite() -> &'static Path {
    static SUITE: OnceLock<PathBuf> = OnceLock::new();
    SUITE.get_or_init(|| {
        let to = Stage::get().path().join("suite");
        compile("gcc", &C, &source("suite.c"), &to, &Stage::get().shared());
        to
    })
}

fn runtime() -> PathBuf {
    let path = root().join("target/onnxruntime/lib/libonnxruntime.so");
    assert!(path.exists(), "{} is missing: run `make test`, which fetches it", path.display());
    path
}

/// Runs a command to its end; it has to write nothing and to succeed.
fn silent(command: &mut Command) {
    let _busy = busy();
    run(command);
}

fn run(command: &mut Command) {
    let Output { status, stdout, stderr } =
        command.env("ORT_DYLIB_PATH", runtime()).output().expect("the program starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success() && stdout.is_empty() && stderr.is_empty(), "{command:?}: {status}\n{stdout}\n{stderr}");
}

#[test]
fn every_promise_of_the_header_is_kept() {
    for scenario in SCENARIOS {
        silent(Command::new(suite()).args([scenario.as_ref(), Stage::get().path().as_os_str()]));
    }
}

#[test]
fn a_host_in_c_sends_nothing_to_the_runtimes_maker() {
    let program = || {
        let mut command = Command::new(suite());
        command.arg("stays").arg(Stage::get().path());
        command
    };
    let _busy = busy();
    watched::keeps_to_itself(program, runtime().to_str().expect("a path"));
}

#[test]
fn engines_begin_and_end_as_the_header_says() {
    let to = Stage::get().path().join("guest");
    compile("gcc", &C, &source("guest.c"), &to, &Stage::get().shared());
    let scenarios = [
        "checked",
        "misconfigured",
        "bounded",
        "cored",
        "unloaded",
        "loaded_locally",
        "forked_first",
        "unloadable",
        "ending",
        "late",
        "cleared",
    ];
    for scenario in scenarios {
        silent(Command::new(&to).args([scenario.as_ref(), Stage::get().path().as_os_str()]));
    }
}

/// What each scenario of `c/misuse.c` gets wrong is its own.
const MISUSE: [&str; 4] = ["metrics", "models", "requests", "results"];

#[test]
fn a_host_that_breaks_the_rules_is_told_so_and_goes_on() {
    let to = Stage::get().path().join("misuse");
    compile("gcc", &C, &source("misuse.c"), &to, &Stage::get().shared());
    for scenario in MISUSE {
        silent(Command::new(&to).args([scenario.as_ref(), Stage::get().path().as_os_str()]));
    }
}

/// A locale with a decimal comma. `None` where the system has no sources of locales, which CI doesn't allow.
#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn comma_locale() -> Option<&'static str> {
    let to = Stage::get().path().join("de_DE.UTF-8");
    let mut localedef = Command::new("localedef");
    let made = localedef.args(["-i", "de_DE", "-f", "UTF-8"]).arg(&to).output();
    if made.is_ok_and(|output| output.status.success()) {
        return Some("de_DE.UTF-8");
    }
    assert!(std::env::var_os("CI").is_none(), "there are no sources of locales: install the package locales");
    eprintln!("skipped: there are no sources of locales");
    None
}

#[test]
fn a_host_whose_numbers_have_commas_is_understood() {
    let Some(name) = comma_locale() else { return };
    let mut host = Command::new(suite());
    host.arg("commas").arg(Stage::get().path());
    silent(host.env("LOCPATH", Stage::get().path()).env("COMMA_LOCALE", name));
}

/// `c/server.c`, built once.
fn server() -> &'static Path {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    SERVER.get_or_init(|| {
        let to = Stage::get().path().join("server");
        compile("gcc", &C, &source("server.c"), &to, &Stage::get().shared());
        to
    })
}

#[test]
fn a_server_under_load_gets_what_the_header_says() {
    for scenario in ["priority", "shed", "many", "churned", "pinned", "interrupted"] {
        silent(Command::new(server()).args([scenario.as_ref(), Stage::get().path().as_os_str()]));
    }
}

#[test]
fn engines_of_one_model_have_one_copy_of_its_weights() {
    let model = root().join("target/models/smollm2-135m-instruct");
    assert!(model.exists(), "{} is missing: run `make test`, which exports it", model.display());
    silent(Command::new(server()).arg("sharing").arg(model));
}

#[test]
fn submitting_takes_no_time_and_deadlines_hold() {
    let program = server();
    let _alone = BUSY.write().unwrap_or_else(PoisonError::into_inner);
    for scenario in ["submitted", "punctual"] {
        run(Command::new(program).args([scenario.as_ref(), Stage::get().path().as_os_str()]));
    }
}

#[test]
fn a_host_that_loads_the_library_by_hand_may_close_it() {
    let to = Stage::get().path().join("plugin");
    compile("gcc", &C, &source("plugin.c"), &to, &["-ldl"]);
    for more in [&[][..], &["deep"]] {
        let mut host = Command::new(&to);
        host.arg(Stage::get().path().join("libforeturn.so")).arg(Stage::get().path().join("smollm2"));
        silent(host.args(more));
    }
}

#[test]
fn cancelling_takes_a_step_and_waiting_takes_no_time() {
    let program = suite();
    let _alone = BUSY.write().unwrap_or_else(PoisonError::into_inner);
    for scenario in TIMED {
        run(Command::new(program).args([scenario.as_ref(), Stage::get().path().as_os_str()]));
    }
}

#[test]
fn the_hosts_own_runtime_is_used_if_asked_for() {
    let mut host = Command::new(suite());
    silent(host.args(["loaded".as_ref(), Stage::get().path().as_os_str()]).env("HOST_RUNTIME", runtime()));
}

#[test]
fn a_library_planted_in_the_working_directory_is_never_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("planted.c");
    let text =
        "#include <stdio.h>\n__attribute__((constructor)) static void mark(void) { fopen(\"opened\", \"w\"); }\n";
    fs::write(&program, text).expect("written");
    compile("gcc", &["-shared", "-fPIC"], &program, &folder.path().join("libonnxruntime.so"), &[] as &[&str]);
    let mut host = Command::new(suite());
    host.args(["planted".as_ref(), Stage::get().path().as_os_str()]).current_dir(folder.path());
    silent(host.env_remove("LD_LIBRARY_PATH"));
    assert!(!folder.path().join("opened").exists(), "it was opened");
}

#[test]
fn a_c_host_gets_the_numbers_of_the_command_line() {
    let folder = Stage::get().path();
    let (config, request) = (folder.join("rank.toml"), folder.join("rank.json"));
    let toml = "seed = 3\n[models.m]\npath = \"smollm2\"\n[rollout]\nwindow = 2\nsamples = 3\nmax_user_tokens = 12\n\
                max_policy_tokens = 12\n[[metrics]]\nkind = \"token_amount\"\n";
    let json = r#"{"conversation": [{"role": "user", "content": "Write a poem."}],
        "candidates": ["Roses are red.", "What about?"], "goal": {"task": "writing", "prompt": "A poem about a dog."}}"#;
    fs::write(&config, toml).expect("written");
    fs::write(&request, json).expect("written");
    let mut host = Command::new(suite());
    host.arg("rank").arg(folder).arg(&config).arg(json);
    let mut line = Command::new(built("foreturn"));
    line.args(["rank", "--json", "--config"]).arg(&config).arg("--request").arg(&request);
    let mut rankings = [&mut host, &mut line].map(|command| {
        let _busy = busy();
        let output = command.env("ORT_DYLIB_PATH", runtime()).output().expect("the program starts");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    });
    rankings.iter_mut().for_each(forget_times);
    assert!(rankings[0]["ranking"][0]["reward"].is_number());
    assert_eq!(rankings[0], rankings[1]);
}

/// Takes out what differs from run to run: times, and tokens that another one's cache had.
fn forget_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| name != "seconds" && name != "reused_tokens");
            fields.values_mut().for_each(forget_times);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_times),
        _ => {}
    }
}

#[test]
fn the_static_library_links_with_the_flags_that_are_told() {
    let to = Stage::get().path().join("suite-static");
    let archive = built("libforeturn.a");
    let link: Vec<&OsStr> = std::iter::once(archive.as_os_str()).chain(NATIVE.iter().map(OsStr::new)).collect();
    compile("gcc", &C, &source("suite.c"), &to, &link);
    silent(Command::new(&to).args(["callbacks".as_ref(), Stage::get().path().as_os_str()]));
}

#[test]
fn headers_compile_twice_in_c_and_in_cpp() {
    let folder = Stage::get().path();
    let c = folder.join("twice.c");
    fs::write(
        &c,
        "#include <foreturn.h>\n#include <foreturn.h>\nint main(void) { return foreturn_version().size == 0; }\n",
    )
    .expect("written");
    let cpp = folder.join("twice.cpp");
    let text = "#include <foreturn.hpp>\n#include <foreturn.h>\n#include <foreturn.hpp>\n\
                int main() { return foreturn::version().empty(); }\n";
    fs::write(&cpp, text).expect("written");
    for compiler in ["gcc", "clang"] {
        let Some(compiler) = tool(compiler) else { continue };
        compile(compiler, &C, &c, &folder.join("twice"), &Stage::get().shared());
        compile(compiler, &C, &source("suite.c"), &folder.join(format!("suite-{compiler}")), &Stage::get().shared());
    }
    for compiler in ["g++", "clang++"] {
        let Some(compiler) = tool(compiler) else { continue };
        for more in [&[][..], &["-fno-exceptions"], &["-DFORETURN_EXCEPTIONS"]] {
            let flags = [&CPP[..], more].concat();
            compile(compiler, &flags, &cpp, &folder.join("twice++"), &Stage::get().shared());
        }
    }
}

#[test]
fn the_cpp_wrapper_does_what_the_header_does() {
    let to = Stage::get().path().join("wrapper");
    compile("g++", &CPP, &source("wrapper.cpp"), &to, &Stage::get().shared());
    let model = Stage::get().path().join("smollm2");
    silent(Command::new(&to).arg(&model).arg(model.with_file_name("smollm2-next")));
}

#[test]
fn exceptions_come_out_of_results_and_never_through_the_library() {
    let to = Stage::get().path().join("exceptions");
    compile("g++", &CPP, &source("exceptions.cpp"), &to, &Stage::get().shared());
    silent(Command::new(&to).arg(Stage::get().path().join("smollm2")));
}

/// Builds a C++ example, optimised as its user would.
fn example(name: &str) -> PathBuf {
    let to = Stage::get().path().join(name);
    let source = root().join("examples/cpp").join(name).with_extension("cpp");
    compile("g++", &[&CPP[..], &["-O2"]].concat(), &source, &to, &Stage::get().shared());
    to
}

/// Runs an example, which has to succeed; gives what it wrote to stdout and to stderr.
fn outputs(command: &mut Command) -> (String, String) {
    let _busy = busy();
    let output = command.env("ORT_DYLIB_PATH", runtime()).output().expect("the program starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    (stdout.into_owned(), stderr.into_owned())
}

#[test]
fn the_quickstart_scores_and_falls_back() {
    let program = example("quickstart");
    let source = fs::read_to_string(root().join("examples/cpp/quickstart.cpp")).expect("its source");
    assert!(source.lines().count() <= 60, "it is to be short");
    let run =
        |model, deadline: &str| outputs(Command::new(&program).arg(Stage::get().path().join(model)).arg(deadline));
    let (answer, complaints) = run("smollm2", "60000");
    assert!(["Wait a day.", "What does the first error message say?"].contains(&answer.trim_end()), "{answer}");
    assert_eq!(complaints, "");
    // A model with a score head has no log-probabilities, so scoring is refused.
    let (answer, complaints) = run("llama-reward", "60000");
    assert_eq!(answer, "Wait a day.\n");
    assert!(complaints.starts_with("no scores: "), "{complaints}");
}

#[test]
fn the_load_generator_measures_each_phase() {
    let settings = "--alone 0.2 --capacity 0.2 --load 0.5 --overload 0.5 --overload-rate 20000 --max-queued 1 \
                    --history 100 --tokens 8 --conversations 2 --deadline-ms 1000";
    let mut load = Command::new(example("load"));
    load.arg(Stage::get().path().join("smollm2")).args(settings.split_whitespace());
    let (json, table) = outputs(&mut load);
    let report: Value = serde_json::from_str(&json).expect("JSON");
    let number = |phase: &str, name: &str| {
        report[phase][name].as_f64().unwrap_or_else(|| panic!("{phase} has no {name}: {json}"))
    };
    assert!((60.0..150.0).contains(&number("all", "history_tokens")), "{json}");
    assert!((4.0..14.0).contains(&number("all", "candidate_tokens")), "{json}");
    assert!((0.0..1.0).contains(&number("alone", "outside_of_steps")), "{json}");
    assert!(number("capacity", "in_time_per_second") > 0.0, "{json}");
    for phase in ["load", "overload"] {
        assert!(number(phase, "latency_ms_p50") > 0.0 && number(phase, "submit_us_p99") > 0.0, "{json}");
        assert_eq!(number(phase, "failed"), 0.0, "{json}");
    }
    assert!(number("load", "in_time") > 0.0, "{json}");
    assert!(number("overload", "refused") > 0.0 && number("overload", "refusal_us_p99") > 0.0, "{json}");
    assert!(table.contains("outside_of_steps"), "{table}");
}

#[test]
fn valgrind_finds_no_error_and_no_leak() {
    let Some(valgrind) = tool("valgrind") else { return };
    let suppressions = format!("--suppressions={}", source("valgrind.supp").display());
    let check = |scenarios: &str| {
        let mut command = Command::new(valgrind);
        // Fair, or a thread that the program waits for may be left out for minutes.
        command.args([
            "--fair-sched=yes",
            "--quiet",
            "--error-exitcode=9",
            "--leak-check=full",
            "--errors-for-leak-kinds=definite",
        ]);
        // What is indirectly or possibly lost belongs to ONNX Runtime's environment, which lives as long as the process.
        command.args(["--show-leak-kinds=definite", &suppressions]);
        silent(command.arg(suite()).args([scenarios.as_ref(), Stage::get().path().as_os_str()]));
    };
    // Two at a time: under valgrind all threads of a process share one processor.
    let rest = Mutex::new(UNDER_VALGRIND.iter());
    let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| std::iter::from_fn(next).for_each(|scenarios| check(scenarios)));
        }
    });
}

#[test]
fn address_sanitizer_finds_no_error_and_no_leak() {
    let to = Stage::get().path().join("suite-asan");
    let flags = [&C[..], &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]].concat();
    compile("gcc", &flags, &source("suite.c"), &to, &Stage::get().shared());
    let misuse = Stage::get().path().join("misuse-asan");
    compile("gcc", &flags, &source("misuse.c"), &misuse, &Stage::get().shared());
    let scenarios = SCENARIOS.iter().filter(|scenario| !FORKING.contains(scenario)).map(|scenario| (&to, scenario));
    for (program, scenario) in scenarios.chain(MISUSE.iter().map(|scenario| (&misuse, scenario))) {
        let mut command = Command::new(program);
        command.env("ASAN_OPTIONS", "detect_leaks=1:detect_odr_violation=2");
        silent(command.args([OsStr::new(scenario), Stage::get().path().as_os_str()]));
    }
}

/// A program of `c/` under the thread sanitizer. `None` where this machine's compiler has none, which CI doesn't allow.
#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn under_thread_sanitizer(name: &str) -> Option<PathBuf> {
    let flags = [&C[..], &["-fsanitize=thread"]].concat();
    let trial = Stage::get().path().join("trial");
    fs::write(trial.with_extension("c"), "int main(void) { return 0; }\n").expect("written");
    let mut gcc = Command::new("gcc");
    gcc.arg("-fsanitize=thread").arg(trial.with_extension("c")).arg("-o").arg(&trial);
    let works = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    if !works(&mut gcc) || !works(&mut Command::new(&trial)) {
        assert!(std::env::var_os("CI").is_none(), "gcc has no thread sanitizer here: install libgcc's for its version");
        eprintln!("skipped: gcc has no thread sanitizer here");
        return None;
    }
    let to = Stage::get().path().join(format!("{name}-tsan"));
    compile("gcc", &flags, &source(name).with_extension("c"), &to, &Stage::get().shared());
    Some(to)
}

/// Runs a scenario. What the sanitizer's compiler did not see, the library and ONNX Runtime, is left out: Rust's locks are
/// system calls and ONNX Runtime's are atomic numbers, so each use of memory in them would look like a race. `check.h` says
/// what the header promises about their order, so nothing is left that has to be suppressed.
fn sanitized(program: &Path, scenario: &str) -> Command {
    let mut command = Command::new(program);
    command.args([scenario.as_ref(), Stage::get().path().as_os_str()]);
    command.env("TSAN_OPTIONS", "ignore_noninstrumented_modules=1").env("ORT_DYLIB_PATH", runtime());
    command
}

#[test]
fn thread_sanitizer_finds_no_race_in_what_callbacks_and_results_share() {
    for (name, scenarios) in [
        ("suite", &SCENARIOS[..]),
        ("guest", &["ending", "late"]),
        ("server", &["priority", "shed"]),
        ("misuse", &MISUSE),
    ] {
        let Some(program) = under_thread_sanitizer(name) else { return };
        scenarios.iter().for_each(|scenario| silent(&mut sanitized(&program, scenario)));
    }
    // It does find one where there is one.
    let Some(program) = under_thread_sanitizer("server") else { return };
    let output = sanitized(&program, "racy").output().expect("the program starts");
    let found = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && found.contains("data race") && found.contains("on_progress"), "{found}");
}
