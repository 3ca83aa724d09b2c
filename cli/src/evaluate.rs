//! `foreturn evaluate`, and the tables it prints.

use foreturn::config::Config;
use foreturn::evaluate::{self, Column, EvaluateOptions, Evaluation, Policy, PolicyResult};
use foreturn::tasks::{self, RunOptions, Tasks};
use foreturn::{Error, ErrorKind, Result, files};

use super::args::EvaluateArgs;
use super::dataset::refuse_file;
use super::run::{self, Shown};
use super::{interrupt, output, simulator, sweep, table};

pub(super) fn evaluate(args: &EvaluateArgs) -> Result<()> {
    // Cheap mistakes come first: the models load only for tasks and a configuration that make sense.
    refuse_file(&args.to)?;
    let config = Config::from_file(&args.config)?;
    let tasks = Tasks::read(&args.tasks)?;
    let policies = policies(args, &config)?;
    if let Some(kinds) = &args.sweep {
        return sweep::sweep(args, kinds, &config, tasks, policies);
    }
    let default = EvaluateOptions::default();
    let options = EvaluateOptions {
        turns: args.turns.unwrap_or(default.turns),
        samples: args.samples.unwrap_or(default.samples),
        seed: args.run.seed.or(config.seed).unwrap_or(0),
        configuration: tasks::fingerprint_without_policy(&config),
        real_users: config.rollout.real_users.clone(),
        run: RunOptions { merge: args.merge.clone(), ..run::options(&args.run, &config)? },
    };
    let of = |policy: &Policy| {
        let mut config = config.clone();
        config.roles.policy = Some(policy.model.clone());
        config
    };
    // All policies are looked at before the first one is paid for.
    for policy in &policies {
        options.run.check(&of(policy)).map_err(|e| e.context(format!("policy `{}`", policy.name)))?;
    }
    interrupt::cancels(options.run.cancel.clone())?;
    let shown = Shown::new();
    let engine = |policy: &Policy| run::engine(of(policy));
    let evaluated = evaluate::evaluate(&policies, tasks, &args.to, &options, engine, &|progress| shown.show(progress));
    shown.end();
    let (evaluation, summary) = evaluated?;
    if args.run.json {
        output::json(&evaluation)?;
    } else {
        print(&evaluation)?;
        run::print(&summary)?;
    }
    interrupt::refuse(&summary)
}

/// The policies that are named, otherwise the one of the configuration.
fn policies(args: &EvaluateArgs, config: &Config) -> Result<Vec<Policy>> {
    let wrong = |message: String| Error::new(ErrorKind::InvalidRequest, message);
    let known = || config.models.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let mut policies: Vec<Policy> = Vec::new();
    for given in &args.policy {
        let policy = match given.split_once('=') {
            Some((name, model)) if !config.models.contains_key(given) => {
                let mut policy = Policy::new(model);
                policy.name = name.to_owned();
                policy
            }
            _ => Policy::new(given),
        };
        if !config.models.contains_key(&policy.model) {
            return Err(wrong(format!("--policy {given}: there is no such model; the configuration has {}", known())));
        }
        policies.push(policy);
    }
    if policies.is_empty() {
        let only = || config.models.keys().next().filter(|_| config.models.len() == 1).cloned();
        let model = config.roles.policy.clone().or_else(only);
        policies.push(Policy::new(model.ok_or_else(|| {
            wrong(format!(
                "no policy is named: give --policy, or roles.policy in the configuration, out of {}",
                known()
            ))
        })?));
    }
    for policy in &mut policies {
        policy.configuration = tasks::fingerprint_of_model(&config.models[&policy.model]);
    }
    for (name, file) in &args.system {
        let text = files::read_text(file, files::Kind::INPUT)?;
        named(&mut policies, "--system", name)?.system = Some(text.trim_end().to_owned());
    }
    for (name, by) in &args.best_of {
        named(&mut policies, "--best-of", name)?.best_of = Some(*by);
    }
    Ok(policies)
}

fn named<'a>(policies: &'a mut [Policy], option: &str, name: &str) -> Result<&'a mut Policy> {
    policies.iter_mut().find(|policy| policy.name == name).ok_or_else(|| {
        Error::new(ErrorKind::InvalidRequest, format!("{option} {name}: there is no policy of this name"))
    })
}

fn print(evaluation: &Evaluation) -> Result<()> {
    let names = evaluation.policies.iter().map(|policy| policy.name.clone()).collect();
    let first = table::Column::texts("policy", names, 12);
    let cells = |cell: &dyn Fn(&PolicyResult) -> String| evaluation.policies.iter().map(cell).collect::<Vec<_>>();
    let mut columns: Vec<&String> = evaluation.policies.iter().flat_map(|policy| policy.columns.keys()).collect();
    columns.sort();
    columns.dedup();
    let column = |name: &&String| table::Column::new(name, cells(&|policy| mean(policy.columns.get(*name))));
    let shown: Vec<table::Column> = columns.iter().map(column).collect();
    for table in table::fit(&first, &[shown], output::width()) {
        output::line(table.to_string())?;
    }
    for policy in &evaluation.policies {
        for (role, weights) in policy.weights.iter().filter(|(_, weights)| weights.len() > 1) {
            let names: Vec<&str> = weights.iter().map(String::as_str).collect();
            output::status(&format!(
                "warning: the conversations of `{}` have different weights of the {}: {}",
                policy.name,
                role.as_str(),
                names.join(", ")
            ));
        }
    }
    for compared in &evaluation.differences {
        let difference = &compared.difference;
        let interval =
            difference.interval.map_or_else(String::new, |[low, high]| format!(", 95% [{low:.3}, {high:.3}]"));
        output::line(format!(
            "{} minus {}: {} {:+.3}{interval}, {} tasks",
            compared.policy, compared.minus, compared.column, difference.mean, compared.tasks
        ))?;
    }
    if let Some(likeness) = &evaluation.likeness {
        output::line(format!("simulated users beside real ones: {}", simulator::distance(likeness)))?;
    }
    Ok(())
}

pub(super) fn mean(column: Option<&Column>) -> String {
    match column {
        Some(Column { mean, std_error: Some(error), .. }) => format!("{mean:.3} ± {error:.3}"),
        Some(Column { mean, .. }) => format!("{mean:.3}"),
        None => "–".into(),
    }
}
