//! Ranks two replies by where they lead. Run it after `make demo`:
//! `ORT_DYLIB_PATH=target/onnxruntime/lib cargo run --release --example rank`.
#![allow(clippy::print_stdout, reason = "an example")]

use foreturn::{Config, Engine, RankOptions};

fn main() -> foreturn::Result<()> {
    let engine = Engine::new(Config::from_file("examples/foreturn.toml")?)?;
    let request = r#"{
        "conversation": [{"role": "user", "content": "Write a poem."}],
        "candidates": ["What should it be about?", "Roses are red, violets are blue."],
        "goal": {"task": "write a poem", "prompt": "A poem about my late dog, who loved the sea."},
        "window": 1, "samples": 2
    }"#;
    let ranking = engine.rank(request.parse()?, RankOptions::default())?;
    for candidate in &ranking.candidates {
        println!("candidate {}: {:?} ± {:?}", candidate.candidate, candidate.reward, candidate.std_error);
    }
    Ok(())
}
