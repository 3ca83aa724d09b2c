//! Names the shared library: hosts link against `libforeturn.so.N`, where N grows when the ABI breaks. Exported is only
//! what this crate exports: `llguidance` has a C interface of its own (`llg_…`), which is nobody's business here.
//!
//! An optimised build knows its commit: FORETURN_COMMIT, or what git says. Others would be made anew after each commit.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libforeturn.so.0");
        println!("cargo:rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
    }
    println!("cargo:rerun-if-env-changed=FORETURN_COMMIT");
    if let Some(commit) = commit() {
        println!("cargo:rustc-env=FORETURN_BUILD_COMMIT={commit}");
    }
}

fn commit() -> Option<String> {
    if let Some(given) = env::var("FORETURN_COMMIT").ok().filter(|given| !given.is_empty()) {
        return Some(given);
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?).parent()?.to_path_buf();
    // Without a repository of its own, git would name the one that this folder happens to lie in.
    if !env::var("PROFILE").is_ok_and(|profile| profile == "release") || !root.join(".git").exists() {
        return None;
    }
    let commit = git(&root, &["rev-parse", "HEAD"])?;
    // The log grows with every commit and checkout. A file that isn't there would have this built anew each time.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&root, &["rev-parse", "--git-path", file]).map(|path| root.join(path));
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    Some(commit)
}

/// What git says; `None` if it isn't there or fails.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
