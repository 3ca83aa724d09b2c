//! `foreturn rank`, and the table it prints.

use comfy_table::{Table, presets};
use foreturn::config::Config;
use foreturn::engine::{Engine, Limits};
use foreturn::rank::{RankedCandidate, Ranking};
use foreturn::trace::TraceWriter;
use foreturn::{RankOptions, RankRequest, Result};

use super::args::RankArgs;
use super::models::{places, report_providers};
use super::output;

pub(super) fn rank(args: &RankArgs) -> Result<()> {
    // Cheap mistakes first: the models load only for a request and a configuration that make sense.
    let config = Config::from_file(&args.config)?;
    let (text, origin) = output::read(&args.request)?;
    let request = RankRequest::from_json(&text, &origin)?;

    let trace = args.trace.as_deref().map(TraceWriter::append).transpose()?;
    let engine = Engine::builder(config).places(places()).build()?;
    report_providers(&engine)?;
    let bar = output::progress(0, "rollouts {bar:30} {pos}/{len} [{elapsed}]");
    let shown = bar.clone();
    let options = RankOptions {
        limits: Limits {
            timeout: args.deadline,
            ..Limits::default()
        },
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
    if args.json {
        output::json(&ranking)
    } else {
        print(&ranking)
    }
}

fn print(ranking: &Ranking) -> Result<()> {
    let metrics: Vec<String> = ranking
        .candidates
        .first()
        .map(|c| c.metrics.keys().cloned().collect())
        .unwrap_or_default();
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    let mut header = ["candidate", "reward", "95% interval", "P(best)"]
        .map(str::to_owned)
        .to_vec();
    header.extend(metrics.iter().cloned());
    header.extend(["rollouts", "generated", "reused", "response"].map(String::from));
    table.set_header(header);
    for candidate in &ranking.candidates {
        table.add_row(row(candidate, &metrics));
    }
    output::line(table.to_string())?;
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
    for candidate in ranking
        .candidates
        .iter()
        .filter(|candidate| candidate.given_up && candidate.note.is_some())
    {
        output::line(format!(
            "candidate {}: {}",
            candidate.candidate,
            candidate.note.as_deref().unwrap_or_default()
        ))?;
    }
    let confused: usize = ranking.candidates.iter().map(|candidate| candidate.confused).sum();
    if confused > 0 {
        output::line(format!(
            "in {confused} of the rollouts the simulated user talks like the assistant"
        ))?;
    }
    ranking
        .notes
        .iter()
        .try_for_each(|note| output::line(format!("note: {note}")))?;
    let total = ranking.cost.roles.total();
    output::line(format!(
        "{:.1} s; {} prompt tokens, {} of them reused, {} generated{}{}",
        ranking.cost.seconds,
        total.prompt_tokens,
        total.reused_tokens,
        total.generated_tokens,
        if ranking.bitwise {
            "; reproducible to the last bit"
        } else {
            ""
        },
        if ranking.complete {
            ""
        } else {
            "; INCOMPLETE: stopped before all rollouts had ended"
        },
    ))
}

fn row(candidate: &RankedCandidate, metrics: &[String]) -> Vec<String> {
    let number = |x: Option<f64>| x.map_or_else(|| "–".to_owned(), |x| format!("{x:.3}"));
    let with_error = |mean: Option<f64>, error: Option<f64>| match error {
        Some(error) => format!("{} ± {error:.3}", number(mean)),
        None => number(mean),
    };
    let mut row = vec![
        candidate.candidate.to_string(),
        with_error(candidate.reward, candidate.std_error),
        candidate
            .interval
            .map_or_else(|| "–".to_owned(), |[low, high]| format!("[{low:.3}, {high:.3}]")),
        candidate
            .probability_best
            .map_or_else(|| "–".to_owned(), |best| format!("{best:.2}")),
    ];
    row.extend(metrics.iter().map(|name| match candidate.metrics.get(name) {
        Some(metric) => with_error(metric.mean, metric.std_error),
        None => "–".to_owned(),
    }));
    let total = candidate.cost.total();
    let counted = candidate.rollouts.iter().filter(|rollout| rollout.counted).count();
    row.push(format!("{counted} of {}", candidate.rollouts.len()));
    row.push(total.generated_tokens.to_string());
    row.push(total.reused_tokens.to_string());
    row.push(shorten(candidate.response.as_deref().unwrap_or("–")));
    row
}

/// The beginning of a response, on one line, without control characters.
fn shorten(text: &str) -> String {
    const WIDTH: usize = 32;
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= WIDTH {
        line
    } else {
        line.chars().take(WIDTH - 1).chain(['…']).collect()
    }
}
