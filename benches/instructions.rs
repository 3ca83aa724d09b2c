//! Fixed work whose instructions `make instructions` counts: `instructions NAME` does one piece and ends, `instructions`
//! lists the names. Nothing here needs a model, or takes the time.

use std::hint::black_box;
use std::process::ExitCode;

use foreturn::decode::SamplingOptions;
use foreturn::decode::sampler::Sampler;
use foreturn::internals::{Attention, MatMul, Schedule, Tree, isa};

mod support;

type Work = Box<dyn FnMut()>;

/// A name, how many times the work is done while counting (tens of millions of instructions in all, which take
/// callgrind seconds), and what prepares it.
type Workload = (&'static str, usize, fn() -> Work);

const WORKLOADS: &[Workload] = &[
    ("attention-decode", 100, || attention(false, 512, 1)),
    ("attention-prefill", 1, || attention(false, 0, 512)),
    ("attention-int8", 1, || attention(true, 0, 512)),
    ("matmul-float32", 2, || matmul(false)),
    ("matmul-int8", 2, || matmul(true)),
    ("sampler-temperature", 50, || sampler(1.0)),
    ("sampler-top-p", 20, || sampler(0.95)),
    ("scheduler", 5, scheduler),
    ("prefix-tree", 100, prefix_tree),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo says `--bench` to all benches; of these, it has none to run.
    let name = arguments.first().filter(|_| !arguments.iter().any(|argument| argument == "--bench"));
    let Some(name) = name else {
        say(&WORKLOADS.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join("\n"));
        return ExitCode::SUCCESS;
    };
    let Some((_, times, prepare)) = WORKLOADS.iter().find(|(known, ..)| known == name) else {
        say(&format!("there is no workload {name:?}: without a name, this program lists them"));
        return ExitCode::FAILURE;
    };
    let mut work = prepare();
    // Buffers get their sizes, and processor features are looked up, once.
    work();
    foreturn_counted(&mut work, *times);
    say(&isa());
    ExitCode::SUCCESS
}

/// All that is counted. `tools/instructions.py` knows it by this name, so it has to be a function of its own.
#[unsafe(no_mangle)]
#[inline(never)]
fn foreturn_counted(work: &mut Work, times: usize) {
    for _ in 0..times {
        work();
    }
}

/// In place of the C library's, where std asks for the keys of hash maps: with random ones, as measured, the scheduler's
/// counts differ by 0.6% from run to run.
///
/// # Safety
/// `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: as above.
    unsafe { buffer.write_bytes(7, length) };
    length as isize
}

#[allow(clippy::print_stdout, reason = "a program's output")]
fn say(text: &str) {
    println!("{text}");
}

/// `tokens` new tokens after `past`: one layer of SmolLM2-135M.
fn attention(bytes: bool, past: usize, tokens: usize) -> Work {
    let mut attention = Attention::new(bytes, past, tokens);
    Box::new(move || {
        black_box(attention.run());
    })
}

/// Twelve rows, a decoding step's, and one, by 3,072 columns of 576.
fn matmul(bytes: bool) -> Work {
    let mut products = [12, 1].map(|rows| MatMul::new(bytes, rows, 576, 3072));
    Box::new(move || {
        for product in &mut products {
            black_box(product.run());
        }
    })
}

fn sampler(top_p: f32) -> Work {
    let options = SamplingOptions { temperature: 0.8, top_p, ..SamplingOptions::default() };
    let mut sampler = Sampler::new(options, 7).expect("options in range");
    let logits = support::logits();
    let mut draw = 0;
    Box::new(move || {
        draw += 1;
        black_box(sampler.sample(draw, &[], black_box(&logits)).expect("finite logits"));
    })
}

/// Twelve rollouts, with ample memory and with too little.
fn scheduler() -> Work {
    let prompts = support::rollout_prompts();
    Box::new(move || {
        for blocks in [1000, 60] {
            black_box(Schedule { blocks, step_tokens: 256, new_tokens: 64 }.run(black_box(&prompts)));
        }
    })
}

/// Each of three prompts in a tree that holds two, and the last once more, which is there.
fn prefix_tree() -> Work {
    let prompts = support::long_prompts();
    let mut tree = Tree::new(128);
    Box::new(move || {
        for at in [0, 1, 2, 2] {
            black_box(tree.pass(black_box(&prompts[at])));
        }
    })
}
