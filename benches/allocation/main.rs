//! Measures the allocation of rollouts on simulated rankings whose truth is known; docs/allocation.md shows the results.
//!
//! ```text
//! cargo bench --bench allocation                                        a quick look
//! cargo bench --bench allocation -- --write docs/data/allocation.json   what the documentation shows
//! ```
//!
//! No models, no clocks; seeds are fixed, so the same numbers come out every time.
#![allow(clippy::disallowed_methods, reason = "a bench may panic where the system refuses a thread")]
#![allow(clippy::print_stderr, missing_docs)]

mod calibration;
mod coverage;
mod needs;
mod run;
mod world;

use serde_json::json;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test --benches` only wants to see that it starts.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let path = arguments
        .iter()
        .position(|argument| argument == "--write")
        .map(|at| arguments.get(at + 1).expect("--write needs the path of the file to write").clone());
    let more = if path.is_some() { 4 } else { 1 };
    let (needs, (coverage, calibration)) = std::thread::scope(|scope| {
        let needs = scope.spawn(|| needs::measure(100 * more));
        let rest = (coverage::measure(125 * more), calibration::measure(500 * more));
        (needs.join().expect("no panic"), rest)
    });
    if let Some(path) = path {
        let results = json!({ "needs": needs, "coverage": coverage, "calibration": calibration });
        let text = serde_json::to_string_pretty(&results).expect("numbers");
        std::fs::write(&path, text + "\n").unwrap_or_else(|error| panic!("cannot write {path}: {error}"));
    }
}
