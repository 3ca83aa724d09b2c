//! `foreturn evaluate --sweep`, and the tables it prints.

use foreturn::config::Config;
use foreturn::evaluate::{self, Column, Kind, KindResult, Policy, Simulated, Sweep, SweepOptions};
use foreturn::tasks::{self, RunOptions, Tasks};
use foreturn::{Error, ErrorKind, Result};

use super::args::EvaluateArgs;
use super::evaluate::mean;
use super::run::{self, Shown};
use super::{interrupt, output, table};

pub(super) fn sweep(
    args: &EvaluateArgs,
    kinds: &[Kind],
    config: &Config,
    tasks: Tasks,
    policies: Vec<Policy>,
) -> Result<()> {
    let [policy] = &policies[..] else {
        let message =
            format!("--sweep compares ways to choose among responses of one policy, and {} are given", policies.len());
        return Err(Error::new(ErrorKind::InvalidRequest, message));
    };
    let default = SweepOptions::default();
    let options = SweepOptions {
        candidates: args.candidates.unwrap_or(default.candidates),
        samples: args.samples.unwrap_or(default.samples),
        turns: args.turns.unwrap_or(default.turns),
        seed: args.run.seed.or(config.seed).unwrap_or(0),
        configuration: tasks::fingerprint_without_policy(config),
        run: RunOptions { merge: args.merge.clone(), ..run::options(&args.run, config)? },
    };
    let kinds = if kinds.is_empty() { Kind::defaults(options.turns) } else { kinds.to_vec() };
    // All simulators are looked at before the first one is paid for.
    for kind in &kinds {
        let checked = played(config, policy, &kind.simulated).and_then(|config| options.run.check(&config));
        checked.map_err(|e| e.context(format!("kind `{}`", kind.name)))?;
    }
    interrupt::cancels(options.run.cancel.clone())?;
    let shown = Shown::new();
    let engine = |policy: &Policy, simulated: &Simulated| run::engine(played(config, policy, simulated)?);
    let swept = evaluate::sweep(policy, &kinds, tasks, &args.to, &options, engine, &|progress| shown.show(progress));
    shown.end();
    let (sweep, summary) = swept?;
    if args.run.json {
        output::json(&sweep)?;
    } else {
        print(&sweep)?;
        run::print(&summary)?;
    }
    interrupt::refuse(&summary)
}

/// The configuration in which the policy and the simulator play their roles.
fn played(config: &Config, policy: &Policy, simulated: &Simulated) -> Result<Config> {
    let mut config = config.clone();
    config.roles.policy = Some(policy.model.clone());
    if let Some(user) = &simulated.user {
        if !config.models.contains_key(user) {
            let names: Vec<&str> = config.models.keys().map(String::as_str).collect();
            let message = format!("there is no model `{user}`; the configuration has {}", names.join(", "));
            return Err(Error::new(ErrorKind::InvalidRequest, message));
        }
        config.roles.user = Some(user.clone());
    }
    if let Some(style) = &simulated.style {
        config.rollout.style = Some(style.clone());
    }
    config.validate()?;
    Ok(config)
}

fn print(sweep: &Sweep) -> Result<()> {
    let cells = |cell: &dyn Fn(&KindResult) -> String| sweep.kinds.iter().map(cell).collect::<Vec<_>>();
    let number = |of: fn(&KindResult) -> Option<Column>| cells(&move |kind| mean(of(kind).as_ref()));
    let columns = vec![
        table::Column::new("reward", number(|kind| kind.reward)),
        table::Column::new("chosen", number(|kind| kind.chosen)),
        table::Column::new("repeat", number(|kind| kind.repeat)),
        table::Column::new("tokens_k", number(|kind| kind.tokens_k)),
        table::Column::new("noise_at_1k", number(|kind| kind.noise_at_1k)),
        table::Column::new(
            "reliability_at_1k",
            cells(&|kind| kind.reliability_at_1k.map_or_else(|| "–".into(), |share| format!("{share:.3}"))),
        ),
    ];
    let names = table::Column::texts("kind", sweep.kinds.iter().map(|kind| kind.name.clone()).collect(), 12);
    for table in table::fit(&names, &[columns], output::width()) {
        output::line(table.to_string())?;
    }
    output::line(format!("a response that nobody chose: {}", mean(sweep.unchosen.as_ref())))?;
    for compared in &sweep.differences {
        let difference = &compared.difference;
        output::line(format!(
            "{} minus {}: chosen {:+.3}{}, {} tasks",
            compared.kind,
            compared.minus,
            difference.mean,
            interval(difference.interval),
            compared.tasks
        ))?;
    }
    for agreement in &sweep.agreement {
        let tau = |column: Option<Column>| {
            column.map_or_else(|| "–".into(), |column| format!("{:+.3}{}", column.mean, interval(column.interval)))
        };
        output::line(format!(
            "{} with {}: agreement {}; on other conversations {}",
            agreement.kind,
            agreement.with,
            tau(agreement.same),
            tau(agreement.apart)
        ))?;
    }
    Ok(())
}

fn interval(interval: Option<[f64; 2]>) -> String {
    interval.map_or_else(String::new, |[low, high]| format!(", 95% [{low:.3}, {high:.3}]"))
}
