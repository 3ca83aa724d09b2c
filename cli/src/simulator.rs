//! `foreturn simulator`.

use foreturn::Result;
use foreturn::likeness::{self, ComparedFeature, Corpus, Likeness};

use super::args::{SimulatorCommand, SimulatorCompareArgs};
use super::output;
use super::table::{self, Column};

pub(super) fn simulator(command: &SimulatorCommand) -> Result<()> {
    match command {
        SimulatorCommand::Compare(args) => compare(args),
    }
}

fn compare(args: &SimulatorCompareArgs) -> Result<()> {
    let likeness = likeness::compare(&Corpus::read(&args.simulated)?, &Corpus::read(&args.real)?);
    if args.json { output::json(&likeness) } else { print(&likeness) }
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
    let told_apart = match likeness.separability {
        Some(found) => {
            format!("a classifier's AUC is {:.3} [{:.3}, {:.3}]", found.auc, found.interval[0], found.interval[1])
        }
        None => "too few conversations for a classifier, which needs ten of each".into(),
    };
    output::line(format!("distance {:.3} deviations; {told_apart}", likeness.distance))?;
    output::line(format!("{} simulated and {} real conversations", likeness.simulated, likeness.real))?;
    if likeness.passed_over > 0 {
        output::line(format!("{} lines have no message of the user", likeness.passed_over))?;
    }
    Ok(())
}
