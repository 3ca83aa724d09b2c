//! The arguments of the command.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use foreturn::config;

/// Multiturn-aware rewards: scores a response by where it leads the conversation.
#[derive(Debug, Parser)]
#[command(name = "foreturn", version, about, propagate_version = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say which ONNX Runtime is found, with its providers and threads
    Doctor(DoctorArgs),
    /// Turn a checkpoint into a model folder
    Export(ExportArgs),
    /// Say what a model folder holds and how it will run
    Inspect(InspectArgs),
    /// Print the prompt that a conversation becomes
    Render(RenderArgs),
    /// Sample a reply
    Generate(GenerateArgs),
    /// Score tokens, each given the ones before it
    Logprobs(LogprobsArgs),
    /// Score conversations with a reward model
    Score(ScoreArgs),
    /// Rank candidate responses by the conversations they lead to
    Rank(RankArgs),
    /// Turn a trace of rankings into one HTML page
    Report(ReportArgs),
    /// Measure prefill and decoding, a whole ranking job, or the wait for scores
    Bench(BenchArgs),
    /// Measure how far models are from a reference, as quantised exports are from float32
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
    /// Hugging Face folder, or .gguf file
    #[arg(long, value_name = "DIR|FILE")]
    pub(super) from: PathBuf,
    /// Model folder to make
    #[arg(long, value_name = "DIR")]
    pub(super) to: PathBuf,
    /// How to store the weights
    #[arg(long, value_enum, default_value_t = QuantizeArg::None)]
    pub(super) quantize: QuantizeArg,
    /// Weights that share a scale in int8 and int4: 32, 64, 128 or 256
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(super) block: usize,
    /// Share float32 weights with the checkpoint instead of copying them: saving the checkpoint again changes the export
    #[arg(long)]
    pub(super) hard_link: bool,
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

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Model folder
    pub(super) model: PathBuf,
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
    /// End after the last message, without the header of a reply
    #[arg(long)]
    pub(super) no_generation_prompt: bool,
    #[command(flatten)]
    pub(super) template: TemplateArgs,
}

/// The way from messages to a prompt.
#[derive(Debug, Args)]
pub(super) struct TemplateArgs {
    /// Which of the model's named chat templates
    #[arg(long, value_name = "NAME")]
    pub(super) template: Option<String>,
    /// An argument of the chat template, as enable_thinking=false; the value is TOML, else text
    #[arg(long = "template-argument", value_name = "KEY=VALUE", value_parser = named_argument)]
    pub(super) arguments: Vec<(String, serde_json::Value)>,
    /// The date that the chat template prints, as 2024-07-26; today's if absent
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
    /// Most tokens to sample
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(super) max_new_tokens: usize,
    /// Go on past end-of-sequence tokens
    #[arg(long)]
    pub(super) ignore_eos: bool,
    /// JSON schema that the reply has to follow
    #[arg(long, value_name = "FILE", conflicts_with = "ignore_eos")]
    pub(super) schema: Option<PathBuf>,
    /// Divides the logits; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub(super) temperature: f32,
    /// Keep the likeliest tokens that reach this probability together
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub(super) top_p: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(super) top_k: usize,
    /// Names the random stream
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
    /// Print JSON (the only form there is)
    #[arg(long, required = true)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ScoreArgs {
    /// Folder of a reward model or classifier; with --reference, of the policy
    #[arg(long, value_name = "DIR")]
    pub(super) model: PathBuf,
    /// JSON list of {"role", "content"}, or a list of such lists; - reads standard input
    #[arg(long, value_name = "FILE|-")]
    pub(super) messages: PathBuf,
    /// What the file holds
    #[arg(long, value_enum, default_value_t = ScoreFormat::Chat)]
    pub(super) format: ScoreFormat,
    /// Which tokens a conversation has around what the chat template renders
    #[arg(long, value_enum, default_value_t = BosArg::Once, conflicts_with = "reference")]
    pub(super) bos: BosArg,
    /// Reward each step of the last message; steps are what stands between blank lines, or between SEPARATORs
    #[arg(
        long,
        value_name = "SEPARATOR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "\n\n",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub(super) steps: Option<String>,
    /// The token after each step at which the model judges
    #[arg(long, value_name = "TOKEN", default_value = "<extra_0>", requires = "steps")]
    pub(super) marker: String,
    /// The label whose probability is a step's reward, by name or place; the second of two if absent
    #[arg(long, value_name = "LABEL", requires = "steps")]
    pub(super) positive: Option<String>,
    /// Folder of a reference model: gives the implicit reward of the last message
    #[arg(long, value_name = "DIR", conflicts_with = "steps")]
    pub(super) reference: Option<PathBuf>,
    /// Strength of the pull to the reference
    #[arg(long, value_name = "B", default_value_t = 0.1, requires = "reference")]
    pub(super) beta: f64,
    /// Take means over tokens instead of sums
    #[arg(long, requires = "reference")]
    pub(super) length_normalized: bool,
    /// The label to compare by, where there are several, by name or place
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
    /// Records {"prompt", "chosen": […], "rejected": […]}, as a list or one a line
    #[value(name = "reward-bench-2")]
    RewardBench2,
}

/// See [`foreturn::model::tokenizer::Bos`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum BosArg {
    /// Those of the tokenizer, and no BOS by the template
    Once,
    /// None
    Template,
    /// Those of the tokenizer, even if the template begins with a BOS
    Double,
}

#[derive(Debug, Args)]
pub(super) struct RankArgs {
    /// foreturn.toml
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// The request as JSON; - reads standard input
    #[arg(long, value_name = "FILE|-")]
    pub(super) request: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Rank what is finished after this time (150ms, 2s, 1m)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) deadline: Option<Duration>,
    /// Append every rollout to this file as it ends, as a line of JSON
    #[arg(long, value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Trace, one JSON document a line, or - for standard input
    #[arg(value_name = "ROLLOUTS.JSONL")]
    pub(super) trace: PathBuf,
    /// Page to write; an earlier one is replaced
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: PathBuf,
    /// Only this ranking; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(super) ranking: Vec<String>,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("work").args(["job", "score"])))]
pub(super) struct BenchArgs {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    pub(super) model: PathBuf,
    /// Tokens of the prompt that all sequences share
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(super) prompt_tokens: usize,
    /// Tokens that each sequence samples
    #[arg(long, value_name = "M", default_value_t = 64)]
    pub(super) new_tokens: usize,
    /// Sequences decoded together
    #[arg(long, value_name = "B", default_value_t = 1)]
    pub(super) batch: usize,
    /// Measure a whole ranking with fixed token counts on a cold cache
    #[arg(long, conflicts_with_all = ["prompt_tokens", "new_tokens", "batch", "candidate_tokens", "clients", "repeat"])]
    pub(super) job: bool,
    /// Measure how long candidates wait for their scores, with a cold cache and with the history in it
    #[arg(long, conflicts_with_all = ["prompt_tokens", "new_tokens", "batch", "prompt_order", "samples", "window"])]
    pub(super) score: bool,
    /// Where the prompts of user and judge have their fixed text
    #[arg(long, value_enum, default_value_t = PromptOrder::Reference, requires = "job")]
    pub(super) prompt_order: PromptOrder,
    /// Candidates of the job, or of each request for scores
    #[arg(long, value_name = "N", default_value_t = 4, requires = "work")]
    pub(super) candidates: usize,
    /// Tokens of the conversation before the candidates; 380 in a job, 1000 before scores
    #[arg(long, value_name = "N", requires = "work")]
    pub(super) history_tokens: Option<usize>,
    /// Tokens of each candidate that is scored
    #[arg(long, value_name = "N", default_value_t = 64, requires = "score")]
    pub(super) candidate_tokens: usize,
    /// Requests for scores that come at the same moment, each with a history of its own
    #[arg(long, value_name = "N", default_value_t = 1, requires = "score")]
    pub(super) clients: usize,
    /// Requests for scores that each client measures, cold and warm
    #[arg(long, value_name = "R", default_value_t = 30, requires = "score")]
    pub(super) repeat: usize,
    /// Futures for each candidate of the job
    #[arg(long, value_name = "S", default_value_t = 3, requires = "job")]
    pub(super) samples: usize,
    /// Turns of each future of the job; 0 is the judge alone
    #[arg(long, value_name = "W", default_value_t = 1, requires = "job")]
    pub(super) window: usize,
    /// Let ONNX Runtime write how long each node of the graph took: PATH, the date and .json make the file's name. Slows
    /// runs down
    #[arg(long, value_name = "PATH")]
    pub(super) profile: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// Model folder that the others are compared with
    #[arg(long, value_name = "DIR")]
    pub(super) reference: PathBuf,
    /// Model folder to compare; may be given several times
    #[arg(long, value_name = "DIR", required = true)]
    pub(super) model: Vec<PathBuf>,
    /// Plain text, or a .json list of texts and conversations, of which the reference answers those that end with the
    /// user; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    pub(super) texts: Vec<PathBuf>,
    /// Most tokens of each of the reference's replies
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(super) new_tokens: usize,
    /// Compare rankings too: foreturn.toml, all of whose models are replaced by the one compared. The reference samples
    /// futures, and every model scores these
    #[arg(long, value_name = "FILE", requires = "request")]
    pub(super) config: Option<PathBuf>,
    /// A request to rank, a JSON list of requests, or a .jsonl file with one a line; may be given several times
    #[arg(long, value_name = "FILE", requires = "config")]
    pub(super) request: Vec<PathBuf>,
    /// Let every model also sample futures of its own
    #[arg(long, requires = "config")]
    pub(super) free_rankings: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The place of the text that never changes in prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PromptOrder {
    /// Around the conversation, as the reference implementation has it
    Reference,
    /// Before the conversation, so that prompts share more
    FixedFirst,
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
