//! The arguments of `foreturn bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};

use super::duration;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("work").args(["job", "score"])))]
#[command(group(ArgGroup::new("clocked").args(["score", "load"])))]
pub(crate) struct BenchArgs {
    /// Model folder
    #[arg(long, value_name = "DIR", required_unless_present = "load")]
    pub(crate) model: Option<PathBuf>,
    /// Number of tokens in the prompt, which all sequences share
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) prompt_tokens: usize,
    /// Number of tokens to sample in each sequence
    #[arg(long, value_name = "M", default_value_t = 64)]
    pub(crate) new_tokens: usize,
    /// Number of sequences to decode together
    #[arg(long, value_name = "B", default_value_t = 1)]
    pub(crate) batch: usize,
    /// Measure a whole ranking job with fixed token counts, on a cold cache
    #[arg(long, conflicts_with_all = ["prompt_tokens", "new_tokens", "batch", "candidate_tokens", "clients", "repeat"])]
    pub(crate) job: bool,
    /// Measure the latency of candidates' scores, on a cold cache and with the history cached
    #[arg(long, conflicts_with_all = ["prompt_tokens", "new_tokens", "batch", "prompt_order", "samples", "window"])]
    pub(crate) score: bool,
    /// Position of the fixed text in the prompts of user and judge
    #[arg(long, value_enum, default_value_t = PromptOrder::Reference, requires = "job")]
    pub(crate) prompt_order: PromptOrder,
    /// Number of candidates in the job, or in each request for scores
    #[arg(long, value_name = "N", default_value_t = 4, requires = "work")]
    pub(crate) candidates: usize,
    /// Number of tokens before the candidates [default: 380 with --job, 1000 with --score]
    #[arg(long, value_name = "N", requires = "work")]
    pub(crate) history_tokens: Option<usize>,
    /// Number of tokens in each candidate to score
    #[arg(long, value_name = "N", default_value_t = 64, requires = "score")]
    pub(crate) candidate_tokens: usize,
    /// Number of clients that send requests at the same time [default: 1 with --score, 200 with --load]
    #[arg(long, value_name = "N", requires = "clocked")]
    pub(crate) clients: Option<usize>,
    /// Number of requests for scores to measure per client, both cold and warm [default: 30]; with --load, number of times that
    /// each rate is measured [default: 1]
    #[arg(long, value_name = "R", requires = "clocked")]
    pub(crate) repeat: Option<usize>,
    #[command(flatten)]
    pub(crate) under: LoadArgs,
    /// Number of futures for each candidate of the job
    #[arg(long, value_name = "S", default_value_t = 3, requires = "job")]
    pub(crate) samples: usize,
    /// Number of turns in each future of the job; with 0, only the judge runs
    #[arg(long, value_name = "W", default_value_t = 1, requires = "job")]
    pub(crate) window: usize,
    /// Let ONNX Runtime write the time that each node of the graph takes, to PATH with the date and .json appended. Runs
    /// become slower
    #[arg(long, value_name = "PATH")]
    pub(crate) profile: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A load, and what it is put on.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("target").args(["server", "config"])))]
pub(crate) struct LoadArgs {
    /// Measure a server or an engine while requests arrive at stated rates, whether or not earlier ones were answered
    #[arg(
        long,
        requires_all = ["target", "requests"],
        conflicts_with_all = ["model", "job", "score", "prompt_tokens", "new_tokens", "batch", "profile"]
    )]
    pub(crate) load: bool,
    /// Server to measure, as in http://127.0.0.1:8080
    #[arg(long, value_name = "URL", requires = "load")]
    pub(crate) server: Option<String>,
    /// Configuration file (foreturn.toml) of an engine to measure in this process
    #[arg(long, value_name = "FILE", requires = "load")]
    pub(crate) config: Option<PathBuf>,
    /// Server or configuration to measure in turn with the other
    #[arg(long, value_name = "URL|FILE", requires = "load")]
    pub(crate) against: Option<String>,
    /// Requests as JSON Lines: bodies of /v1/rank and /v1/score, with "kind": "rank" or "score"; - reads standard input
    #[arg(long, value_name = "FILE|-", requires = "load")]
    pub(crate) requests: Option<PathBuf>,
    /// Requests that arrive in a second; several, separated by commas, are a sweep [default: each client asks again as soon as
    /// it was answered]
    #[arg(long, value_name = "N,…", value_delimiter = ',', requires = "load")]
    pub(crate) rate: Vec<f64>,
    /// Seconds in which requests arrive, for each rate
    #[arg(long, value_name = "T", default_value_t = 30.0, requires = "load")]
    pub(crate) seconds: f64,
    /// Time from its arrival that a request may take (150ms, 2s, 1m); it is told to the server
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "load")]
    pub(crate) deadline: Option<Duration>,
    /// Random seed of the arrivals
    #[arg(long, value_name = "S", default_value_t = 0, requires = "load")]
    pub(crate) seed: u64,
    /// File whose first line is the server's key
    #[arg(long, value_name = "FILE", requires = "load", conflicts_with = "config")]
    pub(crate) key: Option<PathBuf>,
    /// Plot to write, as SVG
    #[arg(long, value_name = "FILE", requires = "load")]
    pub(crate) plot: Option<PathBuf>,
}

/// The place of the text that never changes in prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PromptOrder {
    /// Around the conversation, as in the reference implementation
    Reference,
    /// Before the conversation, so that prompts share a longer prefix
    FixedFirst,
}
