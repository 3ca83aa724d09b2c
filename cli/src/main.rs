//! The `foreturn` command: arguments in, one JSON document or a table out. Logs and progress go to standard error.
//!
//! Exit status: 0; 2 for a usage error; 130 after Ctrl-C in a run; 1 otherwise, with one clear message.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod args;
mod bench;
mod compare;
mod dataset;
mod evaluate;
mod interrupt;
mod models;
mod output;
mod rank;
mod report;
mod reward_bench;
mod run;
mod score;
mod serve;
mod simulator;
mod sweep;
mod table;

use std::process::ExitCode;

use clap::Parser;
use foreturn::{ErrorKind, Result};

use self::args::{Cli, Command};

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            match error.kind() {
                ErrorKind::Cancelled => ExitCode::from(interrupt::STATUS),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Doctor(args) => models::doctor(&args),
        Command::Export(args) => models::export(&args),
        Command::Inspect(args) => models::inspect(&args),
        Command::Render(args) => models::render(&args),
        Command::Generate(args) => models::generate(&args),
        Command::Logprobs(args) => models::logprobs(&args),
        Command::Score(args) => score::score(&args),
        Command::Rank(args) => rank::rank(&args),
        Command::Serve(args) => serve::serve(&args),
        Command::Dataset(command) => dataset::dataset(&command),
        Command::Evaluate(args) => evaluate::evaluate(&args),
        Command::Simulator(command) => simulator::simulator(&command),
        Command::Report(args) => report::report(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Compare(args) => compare::compare(&args),
    }
}
