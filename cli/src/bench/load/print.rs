//! The figures for people.

use foreturn::Result;

use super::super::super::{
    output,
    table::{self, Column},
};
use super::figures::{Figures, Spread};
use super::{Rate, Report};

/// How many requests had a fate.
type Count = fn(&Figures) -> usize;

/// Writes a table with a row for each rate and target, then what there is to say about them. Fates that no request had are
/// left out.
pub(super) fn print(report: &Report) -> Result<()> {
    let rows: Vec<(usize, &Figures)> = report.rates.iter().flat_map(|rate| rate.results.iter().enumerate()).collect();
    for table in tables(report, &rows) {
        output::line(table.to_string())?;
    }
    for rate in &report.rates {
        ratios(report, rate)?;
    }
    for (at, figures) in rows {
        for (why, count) in &figures.reasons {
            output::line(format!("{count} without an answer at {}: {why}", report.targets[at]))?;
        }
    }
    Ok(())
}

fn tables(report: &Report, rows: &[(usize, &Figures)]) -> Vec<comfy_table::Table> {
    let cells = |cell: &dyn Fn(&Figures) -> String| rows.iter().map(|(_, figures)| cell(figures)).collect::<Vec<_>>();
    let count =
        |name: &str, count: fn(&Figures) -> usize| Column::new(name, cells(&|figures| count(figures).to_string()));
    let time = |name: &str, time: fn(&Figures) -> Option<f64>| {
        Column::new(name, cells(&|figures| milliseconds(time(figures))))
    };
    let speed = vec![
        Column::new("goodput/s", cells(&|figures| format!("{:.2}", figures.goodput_per_second))),
        time("p50 ms", |figures| figures.latency_seconds.p50),
        time("p95 ms", |figures| figures.latency_seconds.p95),
        time("p99 ms", |figures| figures.latency_seconds.p99),
    ];
    let always = vec![
        count("arrived", |figures| figures.arrived),
        count("in time", |figures| figures.in_time),
        count("refused", |figures| figures.refused),
        count("lost", |figures| figures.lost),
    ];
    let rare: [(&str, Count); 7] = [
        ("late", |figures| figures.late),
        ("partial", |figures| figures.partial),
        ("expired", |figures| figures.expired),
        ("failed", |figures| figures.failed),
        ("unsent", |figures| figures.unsent),
        ("different", |figures| figures.different),
        ("twice", |figures| figures.twice.unwrap_or(0)),
    ];
    let there = rare.into_iter().filter(|(_, of)| rows.iter().any(|(_, figures)| of(figures) > 0));
    let counts: Vec<Column> = always.into_iter().chain(there.map(|(name, of)| count(name, of))).collect();
    let rates = cells(&|figures| figures.rate.map_or_else(|| "–".into(), |rate| rate.to_string()));
    let mut first = Column::new("requests/s", rates);
    if report.targets.len() > 1 {
        let named = rows.iter().map(|(at, figures)| {
            let rate = figures.rate.map_or_else(String::new, |rate| format!("{rate} "));
            format!("{rate}{}", ["(first)", "(against)"][*at])
        });
        first = Column::new("requests/s", named.collect());
    }
    table::fit(&first, &[speed, counts], output::width())
}

fn ratios(report: &Report, rate: &Rate) -> Result<()> {
    let (Some(ratio), [first, second]) = (&rate.ratio, report.targets.as_slice()) else { return Ok(()) };
    let pace = rate.rate.map_or_else(String::new, |rate| format!(" at {rate} requests/s"));
    let shown = |(name, spread): (&str, Option<Spread>)| match spread {
        Some(Spread { median, least, most }) => format!("{name} {median:.3} ({least:.3} to {most:.3})"),
        None => format!("{name} –"),
    };
    let shown: Vec<String> = ratio.named().into_iter().map(shown).collect();
    output::line(format!("{second} over {first}{pace}: {}", shown.join("   ")))
}

fn milliseconds(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "–".into(), |seconds| format!("{:.1}", seconds * 1e3))
}
