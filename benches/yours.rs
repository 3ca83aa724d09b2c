//! Your own model and your own requests.
//!
//! ```text
//! FORETURN_MODEL=foreturn.toml FORETURN_REQUESTS=requests.jsonl cargo bench --bench yours
//! ```
//!
//! `FORETURN_MODEL` is a configuration or, where all requests are for scores, the folder of a model, which they call `model`.
//! `FORETURN_REQUESTS` has a request on each line, as `foreturn bench --load` reads it. docs/benchmarking.md
//! says what to make of the results.

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use foreturn::config::ModelConfig;
use foreturn::engine::{Pending, Request, Scored};
use foreturn::runtime::Places;
use foreturn::{Config, Engine, RankOptions, Ranking, Result};

/// Lines that are measured alone. All are measured together.
const ALONE: usize = 16;
/// The name of the model of a folder.
const MODEL: &str = "model";

/// A request under way.
enum Waiting {
    Ranking(Pending<Ranking>),
    Scores(Pending<Vec<Scored>>),
}

fn submit(engine: &Engine, request: &Request) -> Result<Waiting> {
    match request {
        Request::Rank(request) => engine.submit_rank(request.clone(), RankOptions::default()).map(Waiting::Ranking),
        Request::Score(request) => {
            let model = engine.model(&request.model)?;
            model.submit_score(request.inputs()?, request.task()?).map(Waiting::Scores)
        }
    }
}

impl Waiting {
    fn wait(self) -> Result<()> {
        match self {
            Waiting::Ranking(pending) => drop(black_box(pending.wait()?)),
            Waiting::Scores(pending) => drop(black_box(pending.wait()?)),
        }
        Ok(())
    }
}

fn engine(path: &Path, requests: usize) -> Result<Engine> {
    let mut config = if path.is_dir() { Config::default() } else { Config::from_file(path)? };
    if path.is_dir() {
        config.models.insert(MODEL.into(), ModelConfig::local(path));
    }
    // All requests are submitted at once.
    config.runtime.max_queued = config.runtime.max_queued.max(requests);
    Engine::builder(config).places(Places { python_package: true, ..Places::default() }).build()
}

fn requests(path: &Path) -> Result<Vec<Request>> {
    let text = foreturn::files::read_argument(path, foreturn::files::Kind::INPUT)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let request = |(at, line): (usize, &str)| {
        line.parse().map_err(|e: foreturn::Error| e.context(format!("{}, line {}", path.display(), at + 1)))
    };
    lines.map(request).collect()
}

/// Each line alone, then all at once. After the first pass, prefixes come from the cache, as those of traffic that goes on do.
fn yours(c: &mut Criterion, engine: &Engine, requests: &[Request]) -> Result<()> {
    for (at, request) in requests.iter().enumerate() {
        submit(engine, request).and_then(Waiting::wait).map_err(|e| e.context(format!("request {}", at + 1)))?;
    }
    let mut group = c.benchmark_group("yours");
    group.sample_size(10);
    for (at, request) in requests.iter().take(ALONE).enumerate() {
        let kind = if matches!(request, Request::Rank(_)) { "ranking" } else { "scores" };
        group.bench_function(format!("request {}, {kind}", at + 1), |b| {
            b.iter(|| submit(engine, request).and_then(Waiting::wait).expect("it was answered before"));
        });
    }
    group.throughput(Throughput::Elements(requests.len() as u64));
    group.bench_function(format!("all {} at once", requests.len()), |b| {
        b.iter(|| {
            let under_way: Vec<_> = requests.iter().map(|request| submit(engine, request)).collect();
            under_way.into_iter().for_each(|waiting| {
                waiting.and_then(Waiting::wait).expect("it was answered before");
            });
        });
    });
    group.finish();
    Ok(())
}

#[allow(clippy::print_stderr, reason = "whoever runs it has to know what to set")]
fn bench(c: &mut Criterion) {
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let (Some(model), Some(file)) = (given("FORETURN_MODEL"), given("FORETURN_REQUESTS")) else {
        eprintln!(
            "yours: nothing to measure. Set FORETURN_MODEL to a foreturn.toml or the folder of a model, and FORETURN_REQUESTS to \
             a file with a request on each line (docs/benchmarking.md)"
        );
        return;
    };
    let measured = requests(&file).and_then(|requests| yours(c, &engine(&model, requests.len())?, &requests));
    if let Err(error) = measured {
        eprintln!("yours: {error}");
        std::process::exit(1);
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
