//! New weights for a model that serves: how long they take, which memory they take for a moment, and how long requests wait
//! meanwhile, beside saving a checkpoint, exporting it and loading an engine anew.
//!
//! ```sh
//! cargo bench --bench refresh               # SmolLM2-135M in float32
//! cargo bench --bench refresh -- int8       # or int4: quantised by the rules of the export, from the same tensors
//! ```
//!
//! All routes start from the trainer's float32 tensors in memory, and take turns, five rounds in one run.

#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use foreturn::config::ModelConfig;
use foreturn::engine::{Model, RefreshOptions};
use foreturn::export::{ExportOptions, NamedTensor, Quantize, TensorType, export};
use foreturn::{Config, Engine, Result};
use safetensors::SafeTensors;

mod support;

const ROUNDS: usize = 5;

/// SmolLM2-135M's, as `save_pretrained` writes it.
const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576,
    "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "vocab_size": 49152, "rope_theta": 100000, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true,
    "max_position_embeddings": 8192, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"}"#;

/// A model as a trainer has it, and a folder to write to.
struct Trainer {
    /// The weights as a `.safetensors` file in memory.
    weights: Vec<u8>,
    /// The folder that the tokenizer comes from.
    model: PathBuf,
    quantize: Quantize,
    scratch: tempfile::TempDir,
}

impl Trainer {
    /// Saves a checkpoint and exports it.
    fn export(&self) -> Result<PathBuf> {
        let (from, to) = (self.scratch.path().join("checkpoint"), self.scratch.path().join("export"));
        std::fs::create_dir_all(&from).expect("a folder");
        std::fs::remove_file(from.join("model.safetensors")).ok();
        std::fs::write(from.join("model.safetensors"), &self.weights).expect("written");
        std::fs::write(from.join("config.json"), CONFIG).expect("written");
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(self.model.join(name), from.join(name)).expect("copied");
        }
        // The quickest that there is in float32.
        let hard_link = self.quantize == Quantize::None;
        let options = ExportOptions::new(&from, &to);
        let options = ExportOptions { quantize: self.quantize, overwrite: true, hard_link, ..options };
        export(&options, &mut |_| {})?;
        Ok(to)
    }
}

fn engine(path: &Path) -> Result<Engine> {
    let mut config = Config::default();
    config.runtime = support::runtime();
    config.models.insert("policy".into(), ModelConfig::local(path));
    Engine::new(config)
}

/// Bytes that this process has resident, and the most since the last call.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let of = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).expect("a line");
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") << 10
    };
    let memory = (of("VmRSS:"), of("VmHWM:"));
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak can be reset");
    memory
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The longest that one of many short scores took while `work` ran on another thread.
fn longest_wait(policy: &Model, work: impl FnOnce()) -> Duration {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let start = Instant::now();
                policy.logprobs((100..108).collect::<Vec<u32>>()).expect("served");
                longest = longest.max(start.elapsed());
            }
            longest
        });
        work();
        over.store(true, Ordering::Relaxed);
        asker.join().expect("served")
    })
}

fn main() -> Result<()> {
    let form = std::env::args().nth(1).unwrap_or_default();
    let quantize = match &*form {
        "int8" => Quantize::Int8,
        "int4" => Quantize::Int4,
        _ => Quantize::None,
    };
    let model = support::model();
    let weights = std::fs::read(model.join("model.safetensors")).expect("the model's weights");
    let trainer = Trainer { weights, model, quantize, scratch: tempfile::tempdir().expect("a folder") };
    let parsed = SafeTensors::deserialize(&trainer.weights).expect("a file of weights");
    let held: Vec<_> =
        parsed.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec(), view.data())).collect();
    let tensors: Vec<NamedTensor<'_>> =
        held.iter().map(|(name, shape, data)| NamedTensor::new(name, TensorType::Float32, shape, data)).collect();
    let served = engine(&trainer.export()?)?;
    let policy = served.model("policy")?;
    let (mut seconds, mut peaks) = ([const { Vec::new() }; 3], [0; 3]);
    for route in (0..ROUNDS).flat_map(|_| 0..3) {
        let (before, _) = memory();
        let start = Instant::now();
        match route {
            0 => drop(engine(&trainer.export()?)?),
            1 => drop(policy.refresh(trainer.export()?, RefreshOptions::default())?),
            _ => drop(policy.refresh_with(&tensors, RefreshOptions::default())?),
        }
        seconds[route].push(start.elapsed().as_secs_f64());
        peaks[route] = memory().1.saturating_sub(before).max(peaks[route]);
    }
    let alone = longest_wait(&policy, || std::thread::sleep(Duration::from_secs(2)));
    let beside = longest_wait(&policy, || drop(policy.refresh_with(&tensors, RefreshOptions::default())));
    let seconds = seconds.map(median);
    let routes = ["save, export, load", "save, export, refresh", "refresh_with"];
    for (name, (seconds, peak)) in routes.iter().zip(seconds.iter().zip(peaks)) {
        println!("{name:22} {seconds:7.3} s   {:6} MiB more for a moment", peak >> 20);
    }
    println!("refresh_with is {:.1} times as quick as save, export, load", seconds[0] / seconds[2]);
    println!("a score of 8 tokens took {alone:.0?} at most alone, and {beside:.0?} beside a refresh");
    Ok(())
}
