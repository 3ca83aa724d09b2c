//! `foreturn dataset`.

use std::path::Path;

use foreturn::config::Config;
use foreturn::dataset::{self, BuildOptions, ExportOptions, Format};
use foreturn::tasks::{self, Tasks};
use foreturn::{Error, ErrorKind, Result};

use super::args::{BuildArgs, DatasetCommand, DatasetExportArgs, MergeArgs};
use super::run::{self, Shown};
use super::{interrupt, output};

pub(super) fn dataset(command: &DatasetCommand) -> Result<()> {
    match command {
        DatasetCommand::Build(args) => build(args),
        DatasetCommand::Merge(args) => merge(args),
        DatasetCommand::Export(args) => export(args),
    }
}

fn build(args: &BuildArgs) -> Result<()> {
    // Cheap mistakes come first: the models load only for tasks and a configuration that make sense.
    refuse_file(&args.to)?;
    let config = Config::from_file(&args.config)?;
    let tasks = Tasks::read(&args.tasks)?;
    let options = BuildOptions {
        candidates: args.candidates,
        turns: args.turns,
        seed: args.run.seed,
        configuration: tasks::fingerprint(&config),
        parquet: args.parquet,
        run: run::options(&args.run, &config)?,
    };
    options.validate()?;
    options.run.check(&config)?;
    let engine = run::engine(config)?;
    interrupt::cancels(options.run.cancel.clone())?;
    let shown = Shown::new();
    let built = dataset::build(&engine, tasks, &args.to, &options, &|progress| shown.show(progress));
    shown.end();
    let summary = built?;
    if args.run.json {
        output::json(&summary)?
    } else {
        run::print(&summary)?
    }
    interrupt::refuse(&summary)
}

fn merge(args: &MergeArgs) -> Result<()> {
    refuse_file(&args.to)?;
    let summary = dataset::merge(Tasks::read(&args.tasks)?, &args.shards, &args.to)?;
    if args.json { output::json(&summary) } else { run::print(&summary) }
}

fn export(args: &DatasetExportArgs) -> Result<()> {
    let format = match args {
        DatasetExportArgs { sft: true, .. } => Format::Sft,
        DatasetExportArgs { dpo: true, .. } => Format::Dpo,
        DatasetExportArgs { reward: true, .. } => Format::Reward,
        DatasetExportArgs { collabllm_nested: true, .. } => Format::CollabllmNested,
        _ => Format::CollabllmFlat,
    };
    let options = ExportOptions { minimum_gap: args.minimum_gap, minimum_probability: args.minimum_probability };
    let exported = dataset::export(&args.from, format, &options, &args.to)?;
    if args.json {
        return output::json(&exported);
    }
    let left_out =
        if exported.left_out > 0 { format!(", {} turns without a pair", exported.left_out) } else { String::new() };
    output::line(format!(
        "{}: {} rows from {} conversations{left_out}",
        args.to.display(),
        exported.rows,
        exported.conversations
    ))
}

/// Refuses a name that is meant to be a file: a run needs several.
pub(super) fn refuse_file(to: &Path) -> Result<()> {
    let is_file = ["jsonl", "json", "parquet"].iter().any(|file| to.extension().is_some_and(|end| end == *file));
    match is_file || to.is_file() {
        true => Err(Error::new(
            ErrorKind::InvalidRequest,
            format!(
                "--to {} is a file: give a folder, in which JSON Lines are written (and dataset.parquet with --parquet)",
                to.display()
            ),
        )),
        false => Ok(()),
    }
}
