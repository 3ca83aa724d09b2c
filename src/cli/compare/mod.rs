//! How far models are from a reference, as quantised exports are from float32.

mod order;
mod words;

use std::path::Path;

use comfy_table::{Table, presets};
use foreturn::model::ModelFolder;
use foreturn::{Error, ErrorKind, Result};
use serde::Serialize;

use self::order::Order;
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
    /// The reference's rankings against its own with other seeds: what chance does to an order.
    #[serde(skip_serializing_if = "Option::is_none")]
    chance: Option<Order>,
}

/// What a model costs.
#[derive(Serialize)]
struct Cost {
    model: String,
    /// Of all files in the folder.
    bytes: u64,
    /// Whether its results are the same to the last bit in any batch.
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
    /// Its rankings against the reference's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ranking: Option<Order>,
}

pub(super) fn compare(args: &CompareArgs) -> Result<()> {
    let texts = words::read(&args.texts)?;
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

    let reference_engine = engine(&args.reference)?;
    let reference = Reference::of(&reference_engine, &texts, args.new_tokens)?;
    let cost = cost(&args.reference, &reference_engine)?;
    // One model at a time is in memory.
    drop(reference_engine);
    let rankings = |model: &Path, other_seed| match &args.config {
        None => Ok(None),
        Some(config) => order::rewards(config, &args.request, model, other_seed).map(Some),
    };
    let wanted = rankings(&args.reference, false)?;
    let chance = rankings(&args.reference, true)?;
    let against = |found: Option<Vec<order::Rewards>>| Some(Order::of(wanted.as_ref()?, &found?));
    let chance = against(chance);

    let mut models = Vec::new();
    for path in &args.model {
        let engine = engine(path)?;
        let words = reference.compare(&engine)?;
        let cost = self::cost(path, &engine)?;
        drop(engine);
        models.push(Model { cost, words, ranking: against(rankings(path, false)?) });
    }
    let comparison = Comparison { reference: cost, models, chance };
    if args.json { output::json(&comparison) } else { print(&comparison) }
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
    for (name, words) in
        [("given text", (|m| &m.words.texts) as fn(&Model) -> &words::Change), ("own words", |m| &m.words.own)]
    {
        compared(&format!("{name}: tokens"), &|m| words(m).tokens.to_string());
        compared("  loss, nats/token", &|m| format!("{:+.4}", words(m).loss));
        compared("  mean |change|", &|m| format!("{:.4}", words(m).mean_change));
        compared("  99% of |changes| below", &|m| format!("{:.3}", words(m).p99_change));
    }
    compared("greedy tokens", &|m| m.words.greedy.tokens.to_string());
    compared("  agreement", &|m| format!("{:.1}%", 100.0 * m.words.greedy.agreement));
    if let Some(chance) = &comparison.chance {
        let with = |cell: fn(&Order) -> String| move |m: &Model| m.ranking.as_ref().map_or("–".to_owned(), cell);
        compared("rankings: Kendall's tau", &with(|order| order.tau.map_or("–".to_owned(), |tau| format!("{tau:.2}"))));
        compared("  same best", &with(|order| format!("{} of {}", order.same_best, order.requests)));
        compared("  mean |change of reward|", &with(|order| format!("{:.3}", order.mean_change)));
        output::line(table.to_string())?;
        let tau = chance.tau.map_or("–".to_owned(), |tau| format!("{tau:.2}"));
        return output::line(format!(
            "The reference against itself with another seed: tau {tau}, same best {} of {}, mean |change of reward| {:.3}",
            chance.same_best, chance.requests, chance.mean_change
        ));
    }
    output::line(table.to_string())
}
