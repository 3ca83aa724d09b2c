//! What data sets and evaluations share: options, progress, and the summary at the end.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use foreturn::config::Config;
use foreturn::tasks::{Progress, RunOptions, Stopped, Summary};
use foreturn::{Engine, Error, ErrorKind, Result};
use indicatif::ProgressBar;

use super::args::RunArgs;
use super::models::{places, report_providers};
use super::output;

/// The time between two lines of progress, where there is no terminal for a bar.
const PAUSE: Duration = Duration::from_secs(10);

pub(super) fn options(args: &RunArgs, config: &Config) -> Result<RunOptions> {
    if let Some((unknown, _)) = args.price.iter().find(|(name, _)| !config.models.contains_key(name)) {
        let names: Vec<&str> = config.models.keys().map(String::as_str).collect();
        return Err(Error::new(
            ErrorKind::InvalidRequest,
            format!("--price {unknown}: there is no such model; the configuration has {}", names.join(", ")),
        ));
    }
    Ok(RunOptions {
        concurrency: args.concurrency,
        shard: args.shard,
        max_tokens: args.max_tokens,
        max_cost: args.max_cost,
        prices: args.price.iter().cloned().collect(),
        probe: args.estimate,
        retry_failed: args.retry_failed,
        ..RunOptions::default()
    })
}

pub(super) fn engine(config: Config) -> Result<Engine> {
    let engine = Engine::builder(config).places(places()).build()?;
    report_providers(&engine)?;
    Ok(engine)
}

/// Shows progress on standard error: as a bar on a terminal, otherwise as a line from time to time.
pub(super) struct Shown {
    bar: ProgressBar,
    last: Mutex<Option<Instant>>,
}

impl Shown {
    pub(super) fn new() -> Self {
        Shown { bar: output::progress(0, "conversations {bar:30} {pos}/{len} {msg}"), last: Mutex::new(None) }
    }

    pub(super) fn show(&self, progress: &Progress) {
        let (ended, total) = (progress.finished + progress.failed, progress.total);
        self.bar.set_length(total as u64);
        self.bar.set_position(ended as u64);
        self.bar.set_message(rate(progress));
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= PAUSE) || ended == total;
        if self.bar.is_hidden() && due {
            *last = Some(Instant::now());
            output::status(&format!("conversations {ended}/{total} {}", rate(progress)));
        }
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn rate(progress: &Progress) -> String {
    let elapsed = progress.elapsed.as_secs_f64().max(1e-3);
    let failed = if progress.failed > 0 { format!("{} failed, ", progress.failed) } else { String::new() };
    let left = progress.left.map_or_else(String::new, |left| format!(", {} left", duration(left)));
    format!("{failed}{:.0} tokens/s, {}{left}", progress.tokens as f64 / elapsed, duration(progress.elapsed))
}

fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// Says what has come of a run.
pub(super) fn print(summary: &Summary) -> Result<()> {
    let money = |cost: Option<f64>| cost.map_or_else(String::new, |cost| format!(", cost {cost:.4}"));
    let spent = &summary.spent;
    output::line(format!(
        "{} conversations, {} set aside, {} left; {} tokens{}, {} of them from the cache",
        summary.finished,
        summary.set_aside,
        summary.left,
        spent.total(),
        money(summary.cost),
        spent.reused
    ))?;
    if summary.retried > 0 {
        output::line(format!(
            "{} of those set aside failed for reasons that are not the task's: run the same command to hold them again",
            summary.retried
        ))?;
    }
    if summary.stopped == Stopped::Budget {
        output::line("stopped at the limit; raise it and run the same command to go on")?;
    }
    let Some(estimate) = summary.estimate.as_ref().filter(|estimate| estimate.left > 0) else { return Ok(()) };
    let interval = |bounds: Option<[f64; 2]>, digits: usize| {
        bounds.map_or_else(String::new, |[low, high]| format!(" (95%: {low:.digits$} to {high:.digits$})"))
    };
    output::line(format!(
        "estimate for the {} left, from {}: {:.0} tokens{}{}{}, {}",
        estimate.left,
        estimate.measured,
        estimate.tokens,
        interval(estimate.tokens_interval, 0),
        money(estimate.cost),
        interval(estimate.cost_interval, 4),
        duration(Duration::try_from_secs_f64(estimate.seconds).unwrap_or_default())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (seconds, text) in [(0, "0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90_061, "25 h 1 min")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }
}
