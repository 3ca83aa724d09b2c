//! A server or an engine under load.
//!
//! ```text
//! mix (the user's requests) ─▶ arrivals (when, which) ─▶ drive (clients) ─▶ target ─▶ figures ─▶ JSON, table, plot
//! ```
//!
//! The load is open: requests arrive when they arrive, as those of real users do, whether or not earlier ones were answered. A
//! latency counts from the moment of arrival, so what waits behind a slow answer is slow as well. (A load that waits for
//! answers hides this: the slower the server, the fewer requests it would get.)

mod arrivals;
mod drive;
mod figures;
mod mix;
mod plot;
mod print;
mod target;

use std::time::Duration;

use foreturn::{Error, ErrorKind, Result};
use serde::Serialize;

use self::arrivals::Arrivals;
use self::drive::Drive;
use self::figures::{Figures, Ratio};
use self::target::Target;
use super::super::args::{BenchArgs, LoadArgs};
use super::super::output;
use super::refuse_zeros;

/// Clients, unless told otherwise.
const CLIENTS: usize = 200;
/// The longest that requests may arrive: a week.
const LONGEST: f64 = 604_800.0;

pub(super) fn load(args: &BenchArgs) -> Result<()> {
    let (given, clients, rounds) = (&args.under, args.clients.unwrap_or(CLIENTS), args.repeat.unwrap_or(1));
    refuse_zeros(&[("--clients", clients), ("--repeat", rounds)])?;
    check(given)?;
    let lines = mix::read(given)?;
    let targets = target::open(given, lines.len())?;
    for target in &targets {
        target.try_out(&lines)?;
    }
    let load = Load { given, clients, rounds, lines: &lines, targets: &targets };
    let report = load.report()?;
    if let Some(path) = &given.plot {
        plot::write(path, &report)?;
    }
    if args.json { output::json(&report) } else { print::print(&report) }
}

fn check(given: &LoadArgs) -> Result<()> {
    let refuse = |why: String| Err(Error::new(ErrorKind::InvalidRequest, why));
    if let Some(rate) = given.rate.iter().find(|rate| !(rate.is_finite() && **rate > 0.0)) {
        return refuse(format!("--rate {rate}: requests in a second are a number above 0, such as 5 or 0.2"));
    }
    if !(given.seconds > 0.0 && given.seconds <= LONGEST) {
        return refuse(format!("--seconds {}: give a number above 0, at most {LONGEST}", given.seconds));
    }
    if given.deadline.is_some_and(|deadline| deadline.is_zero()) {
        return refuse("--deadline is 0: nothing is answered in no time".into());
    }
    Ok(())
}

/// What is measured.
struct Load<'a> {
    given: &'a LoadArgs,
    clients: usize,
    rounds: usize,
    lines: &'a [mix::Line],
    targets: &'a [Target],
}

/// What came out.
#[derive(Serialize)]
struct Report {
    targets: Vec<String>,
    requests: usize,
    clients: usize,
    seconds: f64,
    deadline_seconds: Option<f64>,
    seed: u64,
    rounds: usize,
    rates: Vec<Rate>,
}

/// Figures at a rate, in the order of the targets.
#[derive(Serialize)]
struct Rate {
    /// Requests in a second; null where each client asked again as soon as it was answered.
    rate: Option<f64>,
    results: Vec<Figures>,
    /// The second target's figures over the first's.
    ratio: Option<Ratio>,
}

impl Load<'_> {
    fn report(&self) -> Result<Report> {
        let rates = match self.given.rate.as_slice() {
            [] => vec![self.at(None)?],
            rates => rates.iter().map(|rate| self.at(Some(*rate))).collect::<Result<_>>()?,
        };
        Ok(Report {
            targets: self.targets.iter().map(ToString::to_string).collect(),
            requests: self.lines.len(),
            clients: self.clients,
            seconds: self.given.seconds,
            deadline_seconds: self.given.deadline.map(|deadline| deadline.as_secs_f64()),
            seed: self.given.seed,
            rounds: self.rounds,
            rates,
        })
    }

    /// All rounds at one rate. Targets take turns, and each round begins with the other one, so that a machine that becomes
    /// slower favours neither.
    fn at(&self, rate: Option<f64>) -> Result<Rate> {
        let mut asked: Vec<Vec<drive::Asked>> = self.targets.iter().map(|_| Vec::new()).collect();
        let mut rounds: Vec<Vec<Figures>> = Vec::new();
        for round in 0..self.rounds {
            let mut order: Vec<usize> = (0..self.targets.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            let mut figures: Vec<Option<Figures>> = self.targets.iter().map(|_| None).collect();
            for at in order {
                let measured = self.once(rate, round, &self.targets[at])?;
                figures[at] = Some(self.figures(rate, 1, &measured));
                asked[at].extend(measured);
            }
            rounds.push(figures.into_iter().flatten().collect());
        }
        let results: Vec<Figures> = asked.iter().map(|asked| self.figures(rate, self.rounds, asked)).collect();
        let ratio = (results.len() == 2).then(|| Ratio::of(&rounds));
        Ok(Rate { rate, results, ratio })
    }

    fn once(&self, rate: Option<f64>, round: usize, target: &Target) -> Result<Vec<drive::Asked>> {
        let pace = rate.map_or_else(|| "as fast as it answers".to_owned(), |rate| format!("{rate} requests/s"));
        output::status(&format!("{target}: {pace}, {} s", self.given.seconds));
        // Both targets get the same arrivals.
        let seed = self.given.seed.wrapping_add(round as u64);
        let drive = Drive {
            target,
            lines: self.lines,
            clients: self.clients,
            arrivals: Arrivals::new(seed, rate, Duration::from_secs_f64(self.given.seconds), self.lines.len()),
            deadline: self.given.deadline,
        };
        drive.run()
    }

    fn figures(&self, rate: Option<f64>, rounds: usize, asked: &[drive::Asked]) -> Figures {
        Figures::of(asked, rate, Duration::from_secs_f64(self.given.seconds), rounds, self.given.deadline)
    }
}
