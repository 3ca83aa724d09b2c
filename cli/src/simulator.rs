//! `foreturn simulator`.

use std::path::Path;

use foreturn::Result;
use foreturn::likeness::{self, ComparedFeature, Corpus, Likeness};
use serde::Serialize;

use super::args::{SimulatorCommand, SimulatorCompareArgs};
use super::output;
use super::table::{self, Column};

pub(super) fn simulator(command: &SimulatorCommand) -> Result<()> {
    match command {
        SimulatorCommand::Compare(args) => compare(args),
    }
}

/// One of several simulators.
#[derive(Serialize)]
struct Named {
    name: String,
    #[serde(flatten)]
    likeness: Likeness,
}

fn compare(args: &SimulatorCompareArgs) -> Result<()> {
    let real = Corpus::read(&args.real)?;
    let mut compared: Vec<Named> = Vec::new();
    for file in &args.simulated {
        let parts = Corpus::read(file)?.by_simulator();
        let several = parts.len() > 1;
        for (simulator, corpus) in parts {
            let name = name(file, several.then_some(&simulator));
            compared.push(Named { name, likeness: likeness::compare(&corpus, &real) });
        }
    }
    // The nearest first.
    compared.sort_by(|one, other| one.likeness.distance.total_cmp(&other.likeness.distance));
    match (&compared[..], args.json) {
        ([only], true) => output::json(&only.likeness),
        ([only], false) => print(&only.likeness),
        (all, true) => output::json(&all),
        (all, false) => print_all(all),
    }
}

/// The name of a simulator: its file, and who played the user if the file has several.
fn name(file: &Path, simulator: Option<&String>) -> String {
    match simulator.map(String::as_str) {
        None => file.display().to_string(),
        Some("") => format!("{}: as configured", file.display()),
        Some(simulator) => format!("{}: {simulator}", file.display()),
    }
}

fn print_all(all: &[Named]) -> Result<()> {
    let cells = |cell: &dyn Fn(&Likeness) -> String| all.iter().map(|of| cell(&of.likeness)).collect::<Vec<_>>();
    let auc = |likeness: &Likeness| match likeness.separability {
        Some(found) => format!("{:.3} [{:.3}, {:.3}]", found.auc, found.interval[0], found.interval[1]),
        None => "–".into(),
    };
    let feature = |at: usize| {
        let name = &all[0].likeness.features[at].name;
        Column::new(name, cells(&|likeness| format!("{:+.2}", likeness.features[at].standardised)))
    };
    let mut columns = vec![
        Column::new("distance", cells(&|likeness| format!("{:.3}", likeness.distance))),
        Column::new("AUC", cells(&auc)),
        Column::new("conversations", cells(&|likeness| likeness.simulated.to_string())),
    ];
    columns.extend((0..all[0].likeness.features.len()).map(feature));
    let names = Column::texts("simulator", all.iter().map(|of| of.name.clone()).collect(), 24);
    for table in table::fit(&names, &[columns], output::width()) {
        output::line(table.to_string())?;
    }
    output::line("features are differences to the real users in deviations")
}

fn print(likeness: &Likeness) -> Result<()> {
    let cells = |cell: &dyn Fn(&ComparedFeature) -> String| likeness.features.iter().map(cell).collect::<Vec<_>>();
    let mean = |mean: f64, interval: Option<[f64; 2]>| match interval {
        Some([low, high]) => format!("{mean:.2} [{low:.2}, {high:.2}]"),
        None => format!("{mean:.2}"),
    };
    let columns = vec![
        Column::new("simulated", cells(&|feature| mean(feature.simulated, feature.simulated_interval))),
        Column::new("real", cells(&|feature| mean(feature.real, feature.real_interval))),
        Column::new("difference", cells(&|feature| mean(feature.difference.mean, feature.difference.interval))),
        Column::new("in deviations", cells(&|feature| format!("{:+.2}", feature.standardised))),
    ];
    let names = Column::new("feature", cells(&|feature| feature.name.clone()));
    for table in table::fit(&names, &[columns], output::width()) {
        output::line(table.to_string())?;
    }
    output::line(distance(likeness))?;
    output::line(format!(
        "{} simulated and {} real conversations, about {} and {} tasks",
        likeness.simulated, likeness.real, likeness.simulated_tasks, likeness.real_tasks
    ))?;
    if likeness.passed_over > 0 {
        output::line(format!("{} lines have no message of the user", likeness.passed_over))?;
    }
    Ok(())
}

/// The distance, and how well a classifier tells the two apart.
pub(super) fn distance(likeness: &Likeness) -> String {
    let told_apart = match likeness.separability {
        Some(found) => {
            format!("a classifier's AUC is {:.3} [{:.3}, {:.3}]", found.auc, found.interval[0], found.interval[1])
        }
        None => "too few tasks for a classifier, which needs ten of each".into(),
    };
    format!("distance {:.3} deviations; {told_apart}", likeness.distance)
}
