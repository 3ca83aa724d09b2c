//! The arguments of the command.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use foreturn::config::{self, ByteSize, Provider};
use foreturn_serve::Address;

mod bench;
mod runs;

pub(super) use bench::{BenchArgs, LoadArgs, PromptOrder};
pub(super) use runs::{
    BuildArgs, DatasetCommand, DatasetExportArgs, EvaluateArgs, MergeArgs, RunArgs, SimulatorCommand,
    SimulatorCompareArgs,
};

/// Multiturn-aware rewards: scores a response by where it leads the conversation.
#[derive(Debug, Parser)]
#[command(name = "foreturn", version, propagate_version = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show which ONNX Runtime is found, with its providers and threads, and which devices can be used
    Doctor(DoctorArgs),
    /// Convert a checkpoint into a model folder
    Export(ExportArgs),
    /// Show what a model folder holds and how it will run
    Inspect(InspectArgs),
    /// Print a conversation as a prompt
    Render(RenderArgs),
    /// Sample a reply
    Generate(GenerateArgs),
    /// Print the log-probability of each token, given the tokens before it
    Logprobs(LogprobsArgs),
    /// Score conversations with a reward model
    Score(ScoreArgs),
    /// Rank candidate responses by the conversations they lead to
    Rank(RankArgs),
    /// Serve the models of a configuration over HTTP, until SIGTERM
    Serve(ServeArgs),
    /// Build data sets of preferences from tasks
    #[command(subcommand)]
    Dataset(DatasetCommand),
    /// Hold conversations between policies and a simulated user, and compare the policies
    Evaluate(EvaluateArgs),
    /// Find out how real simulated users are
    #[command(subcommand)]
    Simulator(SimulatorCommand),
    /// Convert a trace of rankings, or an evaluation, into an HTML page
    Report(ReportArgs),
    /// Measure prefill and decoding, a whole ranking job, the latency of scores, or a server under load
    Bench(Box<BenchArgs>),
    /// Compare models with a reference, such as quantised exports with the float32 export
    Compare(CompareArgs),
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Hugging Face folder or .gguf file
    #[arg(long, value_name = "DIR|FILE")]
    pub(super) from: PathBuf,
    /// Model folder to create
    #[arg(long, value_name = "DIR")]
    pub(super) to: PathBuf,
    /// Format of the stored weights
    #[arg(long, value_enum, default_value_t = QuantizeArg::None)]
    pub(super) quantize: QuantizeArg,
    /// Type of the matrices that are not quantised
    #[arg(long, value_enum, default_value_t = DtypeArg::Float32)]
    pub(super) dtype: DtypeArg,
    /// Number of weights that share a scale in int8 and int4: 32, 64, 128 or 256
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(super) block: usize,
    /// Hard-link float32 weights instead of copying them. Overwriting the checkpoint then changes the export
    #[arg(long)]
    pub(super) hard_link: bool,
    /// Folder of a LoRA adapter to merge into the weights, as PEFT saves it
    #[arg(long, value_name = "DIR")]
    pub(super) adapter: Option<PathBuf>,
}

/// See [`foreturn::export::Quantize`].
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum QuantizeArg {
    /// Float32
    None,
    /// Matrices in 8 bits
    Int8,
    /// Matrices in 4 bits; embedding and head in 8
    Int4,
}

/// See [`foreturn::export::ExportOptions::dtype`].
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum DtypeArg {
    /// Four bytes a weight
    Float32,
    /// Two bytes; decoders compute products in bfloat16 on the CPU
    Bfloat16,
    /// Two bytes; products are computed in float32
    Float16,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Model folder
    pub(super) model: PathBuf,
    /// Execution provider that would run it; further ones are those to fall back to
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub(super) provider: Vec<Provider>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RenderArgs {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    pub(super) model: PathBuf,
    /// JSON list of {"role", "content"}; - reads standard input
    #[arg(long, value_name = "FILE|-")]
    pub(super) messages: PathBuf,
    /// End the prompt after the last message, without the header of a reply
    #[arg(long)]
    pub(super) no_generation_prompt: bool,
    #[command(flatten)]
    pub(super) template: TemplateArgs,
}

/// The way from messages to a prompt.
#[derive(Debug, Args)]
pub(super) struct TemplateArgs {
    /// Name of the chat template, for a model that has several
    #[arg(long, value_name = "NAME")]
    pub(super) template: Option<String>,
    /// Argument of the chat template, such as enable_thinking=false; may be given several times. A value that is not TOML
    /// is text
    #[arg(long = "template-argument", value_name = "KEY=VALUE", value_parser = named_argument)]
    pub(super) arguments: Vec<(String, serde_json::Value)>,
    /// Date that the chat template prints, such as 2024-07-26 [default: today]
    #[arg(long, value_name = "DATE")]
    pub(super) date: Option<String>,
}

/// A prompt: messages or tokens.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("prompt").required(true).args(["messages", "tokens"])))]
pub(super) struct PromptArgs {
    /// JSON list of {"role", "content"}; - reads standard input
    #[arg(long, value_name = "FILE|-")]
    pub(super) messages: Option<PathBuf>,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub(super) tokens: Option<Vec<u32>>,
    #[command(flatten)]
    pub(super) template: TemplateArgs,
}

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    pub(super) model: PathBuf,
    #[command(flatten)]
    pub(super) prompt: PromptArgs,
    /// Maximum number of tokens to sample
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(super) max_new_tokens: usize,
    /// Continue after end-of-sequence tokens
    #[arg(long)]
    pub(super) ignore_eos: bool,
    /// JSON schema that the reply must follow
    #[arg(long, value_name = "FILE", conflicts_with = "ignore_eos")]
    pub(super) schema: Option<PathBuf>,
    /// Sampling temperature; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub(super) temperature: f32,
    /// Keep the likeliest tokens whose probabilities add up to P
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub(super) top_p: f32,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(super) top_k: usize,
    /// Random seed
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(super) seed: u64,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct LogprobsArgs {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    pub(super) model: PathBuf,
    #[command(flatten)]
    pub(super) prompt: PromptArgs,
    /// Print JSON, which is the only format
    #[arg(long, required = true)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ScoreArgs {
    /// Folder of a reward model or classifier; with --reference, folder of the policy
    #[arg(long, value_name = "DIR")]
    pub(super) model: PathBuf,
    /// JSON list of {"role", "content"}, or a list of such lists; - reads standard input
    #[arg(long, value_name = "FILE|-")]
    pub(super) messages: PathBuf,
    /// Format of the file
    #[arg(long, value_enum, default_value_t = ScoreFormat::Chat)]
    pub(super) format: ScoreFormat,
    /// Tokens around the text that the chat template renders
    #[arg(long, value_enum, default_value_t = BosArg::Once, conflicts_with = "reference")]
    pub(super) bos: BosArg,
    /// Score each step of the last message. Steps are separated by blank lines, or by SEPARATOR
    #[arg(
        long,
        value_name = "SEPARATOR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "\n\n",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub(super) steps: Option<String>,
    /// Token to put after each step; the step's score is read there
    #[arg(long, value_name = "TOKEN", default_value = "<extra_0>", requires = "steps")]
    pub(super) marker: String,
    /// Label whose probability is a step's reward, by name or index [default: the second of two]
    #[arg(long, value_name = "LABEL", requires = "steps")]
    pub(super) positive: Option<String>,
    /// Folder of a reference model. Prints the implicit reward of the last message
    #[arg(long, value_name = "DIR", conflicts_with = "steps")]
    pub(super) reference: Option<PathBuf>,
    /// Factor of the implicit reward (β)
    #[arg(long, value_name = "B", default_value_t = 0.1, requires = "reference")]
    pub(super) beta: f64,
    /// Average over tokens instead of summing
    #[arg(long, requires = "reference")]
    pub(super) length_normalized: bool,
    /// Label to compare responses by, by name or index, for a model that has several
    #[arg(long, value_name = "LABEL", conflicts_with_all = ["steps", "reference"])]
    pub(super) label: Option<String>,
    #[command(flatten)]
    pub(super) template: TemplateArgs,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The content of a file to score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ScoreFormat {
    /// A conversation, or a list of them
    Chat,
    /// Records {"prompt", "chosen": […], "rejected": […]}, in a list or one per line
    #[value(name = "reward-bench-2")]
    RewardBench2,
}

/// See [`foreturn::model::tokenizer::Bos`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum BosArg {
    /// The tokenizer's own; a BOS that the template renders is removed
    Once,
    /// None: the rendered text has them all
    Template,
    /// The tokenizer's own, even if the template renders a BOS as well
    Double,
}

#[derive(Debug, Args)]
pub(super) struct RankArgs {
    /// Configuration file (foreturn.toml)
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Request to rank, as JSON; - reads standard input
    #[arg(long, value_name = "FILE|-")]
    pub(super) request: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Stop after this time (150ms, 2s, 1m) and rank what is finished
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) deadline: Option<Duration>,
    /// Append each rollout to this file when it ends, as a line of JSON
    #[arg(long, value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Configuration file (foreturn.toml)
    #[arg(long, value_name = "FILE", required_unless_present = "openapi")]
    pub(super) config: Option<PathBuf>,
    /// Print the OpenAPI document of the routes, and end
    #[arg(long)]
    pub(super) openapi: bool,
    /// Address and port, or unix:PATH
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(super) listen: Address,
    /// File with the keys that callers may show, one on each line; needed beyond this machine
    #[arg(long, value_name = "FILE")]
    pub(super) keys: Option<PathBuf>,
    /// Certificate in PEM, with those that lead to one that callers trust; the server then speaks TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(super) tls_certificate: Option<PathBuf>,
    /// Private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub(super) tls_key: Option<PathBuf>,
    /// Largest body of a request
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    pub(super) max_body: ByteSize,
    /// How long requests under way may take after SIGTERM
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub(super) grace: Duration,
    /// Write no line for each request
    #[arg(long)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Trace with one JSON document per line, or the folder of an evaluation; - reads standard input
    #[arg(value_name = "ROLLOUTS.JSONL|FOLDER")]
    pub(super) trace: PathBuf,
    /// Page to write; an existing file is replaced
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: PathBuf,
    /// Ranking to include; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    pub(super) ranking: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// Model folder to compare with
    #[arg(long, value_name = "DIR")]
    pub(super) reference: PathBuf,
    /// Model folder to compare; may be given several times
    #[arg(long, value_name = "DIR", required = true)]
    pub(super) model: Vec<PathBuf>,
    /// Plain text, or a .json list of texts and conversations; may be given several times. The reference answers
    /// conversations that end with a user message
    #[arg(long, value_name = "FILE", required = true)]
    pub(super) texts: Vec<PathBuf>,
    /// Maximum number of tokens in each reply of the reference
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(super) new_tokens: usize,
    /// Configuration file (foreturn.toml), to compare rankings too. The compared model replaces all its models. The
    /// reference samples futures, and every model scores them
    #[arg(long, value_name = "FILE", requires = "request")]
    pub(super) config: Option<PathBuf>,
    /// Request to rank, JSON list of requests, or .jsonl file with one request per line; may be given several times
    #[arg(long, value_name = "FILE", requires = "config")]
    pub(super) request: Vec<PathBuf>,
    /// Let every model sample its own futures as well
    #[arg(long, requires = "config")]
    pub(super) free_rankings: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Reads KEY=VALUE; a value that is not TOML is a text.
fn named_argument(text: &str) -> Result<(String, serde_json::Value), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.trim().is_empty()).ok_or("give it as KEY=VALUE")?;
    let value = config::template_argument(value).map_err(|e| e.to_string())?;
    Ok((key.trim().to_owned(), value))
}

/// Reads a time with its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        _ => return Err("give a number with ms, s or m, as in 150ms or 2s".into()),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{number}` is not a number"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn template_arguments_are_toml_or_text() {
        assert_eq!(named_argument("enable_thinking=false"), Ok(("enable_thinking".into(), false.into())));
        assert_eq!(named_argument("n = 3"), Ok(("n".into(), 3.into())));
        assert_eq!(named_argument("date_string=26 Jul 2024"), Ok(("date_string".into(), "26 Jul 2024".into())));
        assert!(named_argument("enable_thinking").is_err() && named_argument("=1").is_err());
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("150ms"), Ok(Duration::from_millis(150)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["2", "s", "-1s", "1h", "1e400s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
