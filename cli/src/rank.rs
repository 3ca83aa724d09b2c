//! `foreturn rank`, and the table it prints.

use comfy_table::Table;
use foreturn::config::Config;
use foreturn::engine::{Engine, Limits};
use foreturn::rank::{RankedCandidate, Ranking};
use foreturn::trace::TraceWriter;
use foreturn::{RankOptions, RankRequest, Result};

use super::args::RankArgs;
use super::models::{places, report_providers};
use super::output;
use super::table::{self, Column};

pub(super) fn rank(args: &RankArgs) -> Result<()> {
    // Cheap mistakes come first: the models load only for a request and a configuration that make sense.
    let config = Config::from_file(&args.config)?;
    let request: RankRequest = output::parse(&args.request)?;

    let trace = args.trace.as_deref().map(TraceWriter::append).transpose()?;
    let limits = Limits { timeout: args.deadline, ..Limits::default() };
    let engine = Engine::builder(config).places(places()).build()?.within(limits);
    report_providers(&engine)?;
    let bar = output::progress(0, "rollouts {bar:30} {pos}/{len} [{elapsed}]");
    let shown = bar.clone();
    let options = RankOptions {
        on_progress: Some(Box::new(move |progress| {
            shown.set_length(progress.total as u64);
            shown.set_position(progress.finished as u64);
        })),
        ..RankOptions::default()
    };
    let ranking = match &trace {
        Some(trace) => trace.rank(&engine, request, options),
        None => engine.rank(request, options),
    };
    bar.finish_and_clear();
    let ranking = ranking?;
    if args.json { output::json(&ranking) } else { print(&ranking) }
}

fn print(ranking: &Ranking) -> Result<()> {
    for table in tables(ranking, output::width()) {
        output::line(table.to_string())?;
    }
    for candidate in &ranking.candidates {
        for rollout in &candidate.rollouts {
            if let Some(reason) = &rollout.reason {
                output::line(format!(
                    "left out: candidate {}, sample {}: {reason}",
                    candidate.candidate, rollout.sample
                ))?;
            }
        }
    }
    for candidate in ranking.candidates.iter().filter(|candidate| candidate.given_up && candidate.note.is_some()) {
        output::line(format!("candidate {}: {}", candidate.candidate, candidate.note.as_deref().unwrap_or_default()))?;
    }
    let confused: usize = ranking.candidates.iter().map(|candidate| candidate.confused).sum();
    if confused > 0 {
        output::line(format!("in {confused} of the rollouts, the simulated user talks like the assistant"))?;
    }
    ranking.notes.iter().try_for_each(|note| output::line(format!("note: {note}")))?;
    let total = ranking.cost.roles.total();
    output::line(format!(
        "{:.1} s; {} prompt tokens, {} of them reused, {} generated{}{}",
        ranking.cost.seconds,
        total.prompt_tokens,
        total.reused_tokens,
        total.generated_tokens,
        if ranking.bitwise { "; reproducible to the last bit" } else { "" },
        if ranking.complete { "" } else { "; INCOMPLETE: stopped before all rollouts had ended" },
    ))
}

/// The candidates, and beside them or below what each metric gave and what they cost.
fn tables(ranking: &Ranking, width: usize) -> Vec<Table> {
    const LEAST_OF_RESPONSE: usize = 24;
    let cells = |cell: &dyn Fn(&RankedCandidate) -> String| ranking.candidates.iter().map(cell).collect::<Vec<_>>();
    let rewards = vec![
        Column::new("reward", cells(&|candidate| with_error(candidate.reward, candidate.std_error))),
        Column::new("95% interval", cells(&|candidate| interval(candidate.interval))),
        Column::new("P(best)", cells(&|candidate| number(candidate.probability_best, 2))),
        Column::new("rollouts", cells(&counted)),
        Column::texts(
            "response",
            cells(&|candidate| candidate.response.clone().unwrap_or_else(|| UNKNOWN.into())),
            LEAST_OF_RESPONSE,
        ),
    ];
    let metric = |name: &String| {
        let summary = |candidate: &RankedCandidate| match candidate.metrics.get(name) {
            Some(metric) => with_error(metric.mean, metric.std_error),
            None => UNKNOWN.into(),
        };
        Column::new(name, cells(&summary))
    };
    let names = ranking.candidates.first().map(|candidate| candidate.metrics.keys()).into_iter().flatten();
    let mut details: Vec<Column> = names.map(metric).collect();
    details.extend([
        Column::new("generated", cells(&|candidate| candidate.cost.total().generated_tokens.to_string())),
        Column::new("reused", cells(&|candidate| candidate.cost.total().reused_tokens.to_string())),
    ]);
    let candidates = Column::new("candidate", cells(&|candidate| candidate.candidate.to_string()));
    table::fit(&candidates, &[rewards, details], width)
}

const UNKNOWN: &str = "–";

fn number(x: Option<f64>, digits: usize) -> String {
    match x {
        // Hundreds of digits are nothing to read.
        Some(x) if x.abs() >= 1e9 => format!("{x:.digits$e}"),
        Some(x) => format!("{x:.digits$}"),
        None => UNKNOWN.into(),
    }
}

fn with_error(mean: Option<f64>, error: Option<f64>) -> String {
    match error {
        Some(_) => format!("{} ± {}", number(mean, 3), number(error, 3)),
        None => number(mean, 3),
    }
}

fn interval(bounds: Option<[f64; 2]>) -> String {
    let written = |[low, high]: [f64; 2]| format!("[{}, {}]", number(Some(low), 3), number(Some(high), 3));
    bounds.map_or_else(|| UNKNOWN.into(), written)
}

fn counted(candidate: &RankedCandidate) -> String {
    let counted = candidate.rollouts.iter().filter(|rollout| rollout.counted).count();
    format!("{counted} of {}", candidate.rollouts.len())
}
