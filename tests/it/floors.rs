//! The floors of `src/`: a folder imports only those below it.
//!
//! The test reads the paths in the source, not the compiler's view of it, so that it fails with a file, a line and two
//! names. It looks at everything outside of tests and comments.

use std::path::{Path, PathBuf};

/// The folders and files at the top of `src/`, lowest first. A line is a floor; neighbours on a floor don't know each other.
const FLOORS: &[&[&str]] = &[
    &["kernels"],
    &["error"],
    &["mistaken"],
    &["files", "finite", "json"],
    &["thread"],
    &["byte_size", "message", "onnx", "sandbox", "stats"],
    &["runtime"],
    &["model"],
    &["decode", "export"],
    &["score"],
    &["chat"],
    &["rollout"],
    &["reward"],
    &["rank"],
    &["trace"],
    &["config", "likeness", "report"],
    &["engine"],
    &["tasks"],
    &["dataset", "evaluate"],
];

/// What stands outside of the order: the crate's root, and doors that only benches and tests open.
const OUTSIDE: &[&str] = &["lib", "internals", "testing"];

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&name))
}

/// All source files below a folder.
fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The code of a file: its lines without comments, up to its unit tests.
fn code(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = source.lines().take_while(|line| !line.starts_with("mod tests {"));
    lines.enumerate().map(|(index, line)| (index + 1, line.split("//").next().unwrap()))
}

/// The first names after each `crate::` of a file, those in braces included, with their lines.
fn imports(source: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // How deep in the braces of a `use crate::{` the text is.
    let mut depth = 0;
    for (line, code) in code(source) {
        let mut rest = code;
        loop {
            if depth == 0 {
                let Some((_, after)) = rest.split_once("crate::") else { break };
                rest = after;
                match rest.strip_prefix('{') {
                    Some(inside) => (depth, rest) = (1, inside),
                    None => found.push((line, name(rest))),
                }
            } else {
                let mut start = true;
                let mut end = rest.len();
                for (at, character) in rest.char_indices() {
                    match character {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' => start = true,
                        ' ' => {}
                        _ if depth == 1 && start => {
                            found.push((line, name(&rest[at..])));
                            start = false;
                        }
                        _ => start = false,
                    }
                    if depth == 0 {
                        end = at;
                        break;
                    }
                }
                rest = &rest[end..];
                if depth > 0 {
                    break;
                }
            }
        }
    }
    found
}

/// The identifier that a text begins with.
fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn no_folder_imports_one_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in &files {
        let inside = path.strip_prefix(&src).unwrap();
        let top = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let test = path.ends_with("tests.rs") || inside.iter().any(|part| part == "tests");
        if test || OUTSIDE.contains(&top) {
            continue;
        }
        let Some(own) = floor(top) else {
            wrong.push(format!("src/{top} is on no floor: add it to FLOORS in tests/it/floors.rs"));
            continue;
        };
        for (line, imported) in imports(&std::fs::read_to_string(path).unwrap()) {
            let Some(other) = floor(&imported) else { continue };
            seen += 1;
            if other > own || (other == own && imported != top) {
                wrong.push(format!(
                    "src/{}:{line}: `{top}` imports `{imported}`, which is not below it",
                    inside.display()
                ));
            }
        }
    }
    assert!(seen > 400, "only {seen} imports were found, so the test does not read the source any more");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The files of the kernels with several, lowest first.
const FILES: &[(&str, &[&str])] = &[
    ("kernels/attention", &["layout", "form", "call", "prepare", "tile", "numbers", "bytes", "dispatch", "mod"]),
    ("kernels/matmul", &["pack", "call", "inputs", "tile", "bytes", "numbers", "dispatch", "mod"]),
];

#[test]
fn no_file_of_a_kernel_imports_one_above_it() {
    for (folder, files) in FILES {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder);
        let mut there = Vec::new();
        sources(&folder, &mut there);
        there.retain(|path| !path.ends_with("tests.rs"));
        let mut seen = 0;
        for path in there {
            let own = path.file_stem().unwrap().to_str().unwrap();
            let floor = |name: &str| files.iter().position(|file| *file == name);
            let Some(here) = floor(own) else { panic!("{} has no place in FILES", path.display()) };
            for (line, code) in code(&std::fs::read_to_string(&path).unwrap()) {
                for (at, from) in code.match_indices("super::") {
                    let imported = name(&code[at + from.len()..]);
                    let Some(other) = floor(&imported) else { continue };
                    seen += 1;
                    assert!(
                        other < here,
                        "{}:{line}: `{own}` imports `{imported}`, which is not below it",
                        path.display()
                    );
                }
            }
        }
        assert!(seen >= files.len(), "only {seen} imports were found in {}", folder.display());
    }
}

#[test]
fn imports_are_found_in_braces_and_bodies() {
    let source = "use crate::{Error, model::{a, b}, rank};\n// crate::engine\nfn f() { crate::chat::x(crate::score::y) }\n\
                  use crate::{\n    decode,\n    onnx::{c, d},\n};\nmod tests {\nuse crate::engine;\n}";
    let names: Vec<_> = imports(source).into_iter().map(|(line, name)| format!("{line} {name}")).collect();
    assert_eq!(names, ["1 Error", "1 model", "1 rank", "3 chat", "3 score", "5 decode", "6 onnx"]);
}
