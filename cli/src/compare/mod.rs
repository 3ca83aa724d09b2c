//! The distance of models from a reference, such as that of quantised exports from float32.

mod order;
mod rankings;
mod requests;
mod words;

use std::path::Path;

use comfy_table::{Table, presets};
use foreturn::model::ModelFolder;
use foreturn::{Error, ErrorKind, Result};
use serde::Serialize;

use self::order::Order;
use self::rankings::{Rankings, Task};
use self::words::{Reference, Words};
use super::args::CompareArgs;
use super::bench::{self, Speed};
use super::models::engine;
use super::output;

/// The whole comparison.
#[derive(Serialize)]
struct Comparison {
    reference: Cost,
    models: Vec<Model>,
    /// The reference's rankings against its own with other seeds. They show what chance does to an order.
    #[serde(skip_serializing_if = "Option::is_none")]
    chance: Option<Order>,
}

/// The cost of a model.
#[derive(Serialize)]
struct Cost {
    model: String,
    /// The bytes of all files in the folder.
    bytes: u64,
    /// True if its results are the same to the last bit in any batch.
    bitwise: bool,
    #[serde(flatten)]
    speed: Speed,
}

/// A model against the reference.
#[derive(Serialize)]
struct Model {
    #[serde(flatten)]
    cost: Cost,
    #[serde(flatten)]
    words: Words,
    /// Its scores of the reference's own futures against the reference's.
    #[serde(skip_serializing_if = "Option::is_none")]
    fixed: Option<Order>,
    /// Its rankings, with futures of its own, against the reference's.
    #[serde(skip_serializing_if = "Option::is_none")]
    free: Option<Order>,
}

pub(super) fn compare(args: &CompareArgs) -> Result<()> {
    let texts = words::read(&args.texts)?;
    let task = args.config.as_ref().map(|config| Task::read(config, &args.request)).transpose()?;
    check_vocabularies(args)?;

    let reference_engine = engine(&args.reference)?;
    let reference = Reference::of(&reference_engine, &texts, args.new_tokens)?;
    let cost = cost(&args.reference, &reference_engine)?;
    // One model at a time is in memory.
    drop(reference_engine);
    let ranked = task.map(|task| Ranked::of(task, &args.reference)).transpose()?;

    let mut models = Vec::new();
    for path in &args.model {
        let engine = engine(path)?;
        let words = reference.compare(&engine)?;
        let cost = self::cost(path, &engine)?;
        drop(engine);
        let orders = ranked.as_ref().map(|ranked| ranked.compare(path, args.free_rankings)).transpose()?;
        let (fixed, free) = orders.map_or((None, None), |(fixed, free)| (Some(fixed), free));
        models.push(Model { cost, words, fixed, free });
    }
    let comparison = Comparison { reference: cost, models, chance: ranked.map(|ranked| ranked.chance) };
    if args.json { output::json(&comparison) } else { print(&comparison) }
}

fn check_vocabularies(args: &CompareArgs) -> Result<()> {
    let vocabulary = |path: &Path| ModelFolder::open(path).map(|folder| folder.inspect().vocab_size);
    let expected = vocabulary(&args.reference)?;
    for model in &args.model {
        let found = vocabulary(model)?;
        if found != expected {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                format!(
                    "{} has {found} tokens and {} has {expected}: only models with the same tokens can be compared",
                    model.display(),
                    args.reference.display()
                ),
            ));
        }
    }
    Ok(())
}

/// The reference's rankings of the requests.
struct Ranked {
    task: Task,
    rankings: Rankings,
    chance: Order,
}

impl Ranked {
    fn of(task: Task, reference: &Path) -> Result<Self> {
        let engine = task.engine(reference)?;
        let rankings = task.rank(&engine)?;
        let chance = Order::of(&rankings, &task.rank_by_chance(&engine)?);
        Ok(Ranked { task, rankings, chance })
    }

    /// Compares how a model scores the reference's futures, and with `free` those of its own.
    fn compare(&self, model: &Path, free: bool) -> Result<(Order, Option<Order>)> {
        let engine = self.task.engine(model)?;
        let fixed = Order::of(&self.rankings, &self.task.rescore(&engine, &self.rankings)?);
        let free = free.then(|| self.task.rank(&engine)).transpose()?;
        Ok((fixed, free.map(|free| Order::of(&self.rankings, &free))))
    }
}

fn cost(path: &Path, engine: &foreturn::Engine) -> Result<Cost> {
    const PROMPT: usize = 512;
    const NEW: usize = 64;
    let folder = ModelFolder::open(path)?;
    Ok(Cost {
        model: path.display().to_string(),
        bytes: size_of_folder(path)?,
        bitwise: folder.inspect().bitwise,
        speed: bench::speed(engine, PROMPT.min(folder.context_length() / 2), NEW.min(folder.context_length() / 4), 1)?,
    })
}

fn size_of_folder(folder: &Path) -> Result<u64> {
    let failed = |error| Error::io("read", folder, error);
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        bytes += entry.and_then(|entry| std::fs::metadata(entry.path())).map_err(failed)?.len();
    }
    Ok(bytes)
}

fn print(comparison: &Comparison) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    let models = comparison.models.iter();
    let costs: Vec<&Cost> = std::iter::once(&comparison.reference).chain(models.clone().map(|m| &m.cost)).collect();
    let mut row = |name: &str, cells: Vec<String>| {
        table.add_row(std::iter::once(name.to_owned()).chain(cells));
    };
    let name = |cost: &Cost| Path::new(&cost.model).file_name().map_or(cost.model.clone(), |n| n.display().to_string());
    row("", costs.iter().map(|cost| name(cost)).collect());
    row("MiB", costs.iter().map(|cost| format!("{:.1}", cost.bytes as f64 / f64::from(1 << 20))).collect());
    row("same bits in any batch", costs.iter().map(|cost| if cost.bitwise { "yes" } else { "no" }.into()).collect());
    row("prefill, tokens/s", costs.iter().map(|cost| format!("{:.0}", cost.speed.prefill)).collect());
    row("decoding, tokens/s", costs.iter().map(|cost| format!("{:.1}", cost.speed.decode)).collect());
    let mut compared = |name: &str, cell: &dyn Fn(&Model) -> String| {
        row(name, std::iter::once("–".to_owned()).chain(models.clone().map(cell)).collect());
    };
    for (name, words) in [
        ("given texts", (|m| &m.words.texts) as fn(&Model) -> &words::Change),
        ("the reference's replies", |m| &m.words.own),
    ] {
        compared(&format!("{name}: tokens"), &|m| words(m).tokens.to_string());
        compared("  loss, nats/token", &|m| format!("{:+.4}", words(m).loss));
        compared("  mean |change|", &|m| format!("{:.4}", words(m).mean_change));
        compared("  99% of |changes| below", &|m| format!("{:.3}", words(m).p99_change));
    }
    compared("greedy tokens", &|m| m.words.greedy.tokens.to_string());
    compared("  agreement", &|m| format!("{:.1}%", 100.0 * m.words.greedy.agreement));
    for (name, order) in [
        ("the reference's futures", (|m| m.fixed.as_ref()) as fn(&Model) -> Option<&Order>),
        ("the model's own futures", |m| m.free.as_ref()),
    ] {
        if !models.clone().any(|m| order(m).is_some()) {
            continue;
        }
        let cell = |cell: fn(&Order) -> String| move |m: &Model| order(m).map_or("–".to_owned(), cell);
        compared(&format!("{name}: Kendall's tau"), &cell(tau));
        compared("  same best", &cell(same_best));
        compared("  mean |change of reward|", &cell(mean_change));
    }
    output::line(table.to_string())?;
    match &comparison.chance {
        None => Ok(()),
        Some(chance) => output::line(format!(
            "The reference against itself with another seed: tau {}, same best {}, mean |change of reward| {}",
            tau(chance),
            same_best(chance),
            mean_change(chance)
        )),
    }
}

fn tau(order: &Order) -> String {
    match (order.tau, order.tau_std_error) {
        (Some(tau), Some(error)) => format!("{tau:.2} ± {error:.2}"),
        (Some(tau), None) => format!("{tau:.2}"),
        (None, _) => "–".into(),
    }
}

fn same_best(order: &Order) -> String {
    format!("{} of {}", order.same_best, order.requests)
}

fn mean_change(order: &Order) -> String {
    order.mean_change.map_or("–".into(), |change| format!("{change:.3}"))
}
