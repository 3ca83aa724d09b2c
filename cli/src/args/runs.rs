//! The arguments of commands that hold whole conversations: data sets and evaluations.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use foreturn::Error;
use foreturn::evaluate::{BestOf, Kind};
use foreturn::tasks::{Price, Shard};

#[derive(Debug, Subcommand)]
pub(crate) enum DatasetCommand {
    /// Build conversations turn by turn, and keep the candidates of each turn with their rewards
    Build(BuildArgs),
    /// Put the shards of a build together
    Merge(MergeArgs),
    /// Write built conversations in a format of trainers
    Export(DatasetExportArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SimulatorCommand {
    /// Measure how much simulated users write like real ones
    Compare(SimulatorCompareArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SimulatorCompareArgs {
    /// Simulated conversations: a trace of rankings, conversations.jsonl of an evaluation, responses.jsonl of a sweep, or JSON
    /// Lines with "messages". If several are given, or a sweep has several simulators, the nearest comes first
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) simulated: Vec<PathBuf>,
    /// Real conversations, as JSON Lines with "messages" or "conversation"
    #[arg(long, value_name = "FILE")]
    pub(crate) real: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Configuration file (foreturn.toml)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Tasks, one per line: {"id", "prompt", "reference", "metadata"}
    #[arg(long, value_name = "FILE")]
    pub(crate) tasks: PathBuf,
    /// Folder to build in; a build that is there goes on
    #[arg(long, value_name = "FOLDER")]
    pub(crate) to: PathBuf,
    /// Number of candidates at each turn
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) candidates: usize,
    /// Maximum number of turns of the assistant in a conversation
    #[arg(long, value_name = "T", default_value_t = 4)]
    pub(crate) turns: usize,
    /// Write the rows as dataset.parquet as well
    #[arg(long)]
    pub(crate) parquet: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// The way in which a run goes about its conversations.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Random seed [default: the configuration's]
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Number of conversations to hold at the same time
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) concurrency: usize,
    /// Take only part I of N of the tasks
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub(crate) shard: Option<Shard>,
    /// Begin no conversation that would probably take the run beyond this many tokens, of all models
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_tokens: Option<u64>,
    /// Begin no conversation that would probably take the run beyond this cost
    #[arg(long, value_name = "COST", requires = "price")]
    pub(crate) max_cost: Option<f64>,
    /// Price of a million tokens of prompts and of replies, as in big=0.15/0.6; may be given several times
    #[arg(long, value_name = "MODEL=PROMPT/REPLY", value_parser = price)]
    pub(crate) price: Vec<(String, Price)>,
    /// Hold only N conversations, spread over the tasks, and estimate from them what the rest will cost
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "3")]
    pub(crate) estimate: Option<usize>,
    /// Hold conversations again that failed because of their task; those that failed otherwise are held again anyway
    #[arg(long)]
    pub(crate) retry_failed: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// Folders of the shards
    #[arg(value_name = "SHARD", required = true)]
    pub(crate) shards: Vec<PathBuf>,
    /// Tasks that the shards were built from; conversations are put into their order
    #[arg(long, value_name = "FILE")]
    pub(crate) tasks: PathBuf,
    /// Folder to write to
    #[arg(long, value_name = "FOLDER")]
    pub(crate) to: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("format").required(true).args(["sft", "dpo", "reward", "collabllm_nested", "collabllm_flat"])))]
#[command(group(ArgGroup::new("pairs").multiple(false).args(["dpo", "reward"])))]
pub(crate) struct DatasetExportArgs {
    /// Folder of a build, or its dataset.jsonl
    #[arg(long, value_name = "FOLDER|FILE")]
    pub(crate) from: PathBuf,
    /// File to write: as Parquet if its name ends with .parquet, otherwise as JSON Lines
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// The best conversations, for TRL's SFTTrainer
    #[arg(long)]
    pub(crate) sft: bool,
    /// The best response of each turn against the worst, for TRL's DPOTrainer
    #[arg(long)]
    pub(crate) dpo: bool,
    /// As --dpo with a margin, for TRL's RewardTrainer
    #[arg(long)]
    pub(crate) reward: bool,
    /// Conversations with all responses, as collabllm's MultiturnDataset takes them
    #[arg(long)]
    pub(crate) collabllm_nested: bool,
    /// Responses, as collabllm's MultiturnDataset takes them
    #[arg(long)]
    pub(crate) collabllm_flat: bool,
    /// Leave out pairs whose rewards differ by less
    #[arg(long, value_name = "G", default_value_t = 0.0, requires = "pairs")]
    pub(crate) minimum_gap: f64,
    /// Leave out pairs whose better response is better with a smaller probability, such as 0.9
    #[arg(long, value_name = "P", requires = "pairs")]
    pub(crate) minimum_probability: Option<f64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// Configuration file (foreturn.toml)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Tasks, one per line: {"id", "prompt", "reference", "metadata"}
    #[arg(long, value_name = "FILE")]
    pub(crate) tasks: PathBuf,
    /// Folder to write to; an evaluation that is there goes on
    #[arg(long, value_name = "FOLDER")]
    pub(crate) to: PathBuf,
    /// Policy to evaluate: a model of the configuration, or NAME=MODEL; may be given several times [default: roles.policy]
    #[arg(long, value_name = "[NAME=]MODEL")]
    pub(crate) policy: Vec<String>,
    /// File with a system message for the policy NAME; may be given several times
    #[arg(long, value_name = "NAME=FILE", value_parser = named_file)]
    pub(crate) system: Vec<(String, PathBuf)>,
    /// Let the policy NAME answer with the best of CANDIDATES, by the reward over SAMPLES futures of WINDOW turns, as in
    /// careful=4/2/3; may be given several times
    #[arg(long, value_name = "NAME=CANDIDATES/WINDOW/SAMPLES", value_parser = best_of)]
    pub(crate) best_of: Vec<(String, BestOf)>,
    /// Compare kinds of reward on the same responses of one policy: w=0 to w=32, returns, preference, preference=judge, and with
    /// commas after it metrics=A+B, samples=N, user=MODEL, style=short+typos [kinds without a value: w=0 to w=3, returns,
    /// preference]
    #[arg(long, value_name = "KIND", num_args = 0.., conflicts_with = "best_of")]
    pub(crate) sweep: Option<Vec<Kind>>,
    /// Number of responses to each task in a sweep [default: 4]
    #[arg(long, value_name = "N", requires = "sweep")]
    pub(crate) candidates: Option<usize>,
    /// Maximum number of turns of the policy in a conversation [default: 5; 4 in a sweep]
    #[arg(long, value_name = "T")]
    pub(crate) turns: Option<usize>,
    /// Number of conversations about each task with each policy, or from each response of a sweep [default: 1; 4 in a sweep]
    #[arg(long, value_name = "N")]
    pub(crate) samples: Option<usize>,
    /// Take over the conversations of this folder, such as a shard's; may be given several times
    #[arg(long, value_name = "FOLDER")]
    pub(crate) merge: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

fn shard(text: &str) -> Result<Shard, Error> {
    text.parse()
}

/// Reads NAME=PROMPT/REPLY. A model's name may hold a `=`, a price does not.
fn price(text: &str) -> Result<(String, Price), String> {
    let (name, price) =
        text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or("give it as MODEL=PROMPT/REPLY")?;
    Ok((name.to_owned(), price.parse().map_err(|e: Error| e.to_string())?))
}

fn best_of(text: &str) -> Result<(String, BestOf), String> {
    let (name, by) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or("give it as NAME=4/2/3")?;
    Ok((name.to_owned(), by.parse().map_err(|e: Error| e.to_string())?))
}

fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("give it as NAME=FILE")?;
    Ok((name.to_owned(), file.into()))
}
