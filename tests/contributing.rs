//! CONTRIBUTING.md's patch, applied to a copy of this package and run: what it promises about adding a metric holds.
//!
//! A program of its own, because it runs cargo, which keeps every processor busy: no other test runs at the same time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

/// What cargo needs to build the package and its tests.
const PARTS: [&str; 11] =
    ["Cargo.toml", "Cargo.lock", "build.rs", "cli", "serve", "docs", "src", "ffi", "tests", "benches", "examples"];

const CASES: &str = "tests/fixtures/ranking/metrics/question_marks.json";

#[test]
fn the_patch_that_adds_a_metric_applies_and_its_cases_pass() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("contributing");
    if copy.exists() {
        fs::remove_dir_all(&copy).expect("the last copy can be removed");
    }
    for part in PARTS {
        copy_with_times(&root.join(part), &copy.join(part));
    }
    apply(&root.join("CONTRIBUTING.md"), &copy);

    let passed = run_metric_cases(&copy);
    assert!(passed.status.success(), "{}", text(&passed));
    assert!(text(&passed).contains("1 passed"), "{}", text(&passed));

    // Had the new metric's case been passed over, a wrong value in it would go unnoticed.
    let cases = fs::read_to_string(copy.join(CASES)).expect("the patch's data file");
    let wrong = cases.replace("\"value\": 0.5", "\"value\": 0.25");
    assert_ne!(wrong, cases, "the case's value");
    fs::write(copy.join(CASES), wrong).expect("writable");
    let failed = run_metric_cases(&copy);
    assert!(!failed.status.success(), "{}", text(&failed));
    assert!(
        text(&failed).contains("question_marks.json (one of two messages asks): 0.5 for 0.25"),
        "{}",
        text(&failed)
    );
}

/// Copies files with their times of modification, by which cargo knows what it has built already.
fn copy_with_times(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("a folder");
        for entry in fs::read_dir(from).expect("a readable folder") {
            let entry = entry.expect("an entry");
            copy_with_times(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        let parent = to.parent().expect("a file in a folder");
        fs::create_dir_all(parent)
            .and_then(|()| fs::copy(from, to))
            .unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        set_modified(to, modified(from));
    }
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|metadata| metadata.modified()).expect("a time of modification")
}

fn set_modified(path: &Path, time: SystemTime) {
    let file = File::options().write(true).open(path).expect("a writable file");
    file.set_modified(time).expect("a time that can be set");
}

/// Applies the one patch in `document` to the package in `folder`.
fn apply(document: &Path, folder: &Path) {
    let written = fs::read_to_string(document).expect("CONTRIBUTING.md");
    let mut blocks = written.split("\n```diff\n").skip(1).map(|rest| rest.split_once("\n```").expect("an end").0);
    let (patch, None) = (blocks.next().expect("a patch"), blocks.next()) else { panic!("more than one patch") };
    let file = folder.join("metric.patch");
    fs::write(&file, format!("{patch}\n")).expect("writable");
    // Git must not take the folder for a part of the repository around it.
    let mut git = Command::new("git");
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(variable);
    }
    git.env("GIT_CEILING_DIRECTORIES", folder.parent().expect("a parent"));
    let applied = git.current_dir(folder).arg("apply").arg(&file).output().expect("git runs");
    assert!(applied.status.success(), "{}", text(&applied));

    let files: Vec<PathBuf> =
        patch.lines().filter_map(|line| line.strip_prefix("+++ b/")).map(|name| folder.join(name)).collect();
    assert_eq!(files.len(), 3, "one source file, one line in a list, one data file");
    let original = env!("CARGO_MANIFEST_DIR");
    for path in files {
        let name = path.strip_prefix(folder).expect("in the folder");
        let before = Path::new(original).join(name);
        let time = if before.exists() { modified(&before).max(modified(document)) } else { modified(document) };
        set_modified(&path, time);
    }
}

/// Runs the test of single metrics in the copy, with the dependencies that are built already: those of the whole workspace,
/// because one package alone would have them with other features.
fn run_metric_cases(folder: &Path) -> Output {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    // The copy's programs would have the names of ours with the same profile, and take their place.
    let debug = if std::env::var("CARGO_PROFILE_DEV_DEBUG").is_ok_and(|ours| ours == "0") { "1" } else { "0" };
    let mut command = Command::new(env!("CARGO"));
    // What this test was given by the cargo that runs it would have build scripts run again, now and in the next `make test`.
    let given = |name: &str| name == "OUT_DIR" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(given)) {
        command.env_remove(name);
    }
    command
        .args(["test", "--offline", "--workspace", "--test", "it"])
        .args(["rank::ranking::metrics_give_the_values_in_their_data_files", "--", "--exact"])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_PROFILE_DEV_DEBUG", debug)
        .output()
        .expect("cargo runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_readme_shows_the_examples_that_are_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let example = read("examples/rank.rs");
    let code = &example[example.find("use foreturn").expect("the code after the comments")..];
    let readme = read("README.md");
    assert!(readme.contains(code.trim()), "README.md and examples/rank.rs differ");
    let (_, shown) = readme.split_once("```c\n").expect("C in README.md");
    let (shown, _) = shown.split_once("```").expect("its end");
    assert!(read("examples/c/rank.c").contains(shown), "README.md and examples/c/rank.c differ");
    // `make test-python` runs what the guide shows.
    let (_, shown) = readme.split_once("```python\n").expect("Python in README.md");
    let (shown, _) = shown.split_once("```").expect("its end");
    assert!(read("docs/python.md").contains(shown), "README.md and docs/python.md differ");
}
