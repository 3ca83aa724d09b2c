//! Commands on the runtime and on single models.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use foreturn::chat::{JsonSchema, Message, parse_messages};
use foreturn::config::{Config, LocalConfig, RuntimeConfig};
use foreturn::decode::{GenerateOptions, SamplingOptions};
use foreturn::engine::Prompt;
use foreturn::export::{self, ExportOptions, Quantize, TensorType};
use foreturn::model::head::HeadKind;
use foreturn::model::tokenizer::RenderOptions;
use foreturn::model::{ModelFolder, OpenOptions};
use foreturn::runtime::{self, OnUnavailable, Places, ProviderState, RuntimeOptions, Telemetry};
use foreturn::{Engine, Result};
use serde_json::json;

use super::args::{
    DoctorArgs, DtypeArg, ExportArgs, GenerateArgs, InspectArgs, LogprobsArgs, PromptArgs, QuantizeArg, RenderArgs,
    TemplateArgs,
};
use super::output;

/// The name that an engine of one model gives it.
pub(super) const MODEL: &str = "model";

/// The places where the command looks for ONNX Runtime.
pub(super) fn places() -> Places {
    Places { python_package: true, ..Places::default() }
}

/// An engine with one model and the default settings.
pub(super) fn engine(path: &Path) -> Result<Engine> {
    Engine::with_model(path, RuntimeConfig::default(), places())
}

/// An engine with one model, whose chat template is used as `template` says.
fn engine_with(path: &Path, template: &TemplateArgs) -> Result<Engine> {
    let mut config = Config::default();
    config.models.insert(MODEL.into(), local(path, template).into());
    Engine::builder(config).places(places()).build()
}

/// The settings of the model in `path`, whose chat template is used as `template` says.
pub(super) fn local(path: &Path, template: &TemplateArgs) -> LocalConfig {
    LocalConfig {
        template: template.template.clone(),
        template_arguments: template.arguments.iter().cloned().collect(),
        date: template.date.clone(),
        ..LocalConfig::new(path)
    }
}

/// Says on standard error where a model runs on another provider than the one preferred.
pub(super) fn report_providers(engine: &Engine) -> Result<()> {
    // Remote models run elsewhere.
    for (name, status) in engine.statistics()?.models {
        let provider = status.provider;
        for (wanted, reason) in &provider.unavailable {
            let (used, wanted) = (provider.used.as_str(), wanted.as_str());
            output::warning(&format!("model `{name}` runs on {used} instead of {wanted}: {reason}"));
        }
    }
    Ok(())
}

pub(super) fn doctor(args: &DoctorArgs) -> Result<()> {
    let options = RuntimeOptions { places: places(), ..RuntimeOptions::default() };
    let info = runtime::load(&options)?;
    let devices = runtime::providers::states(&options)?;
    if let Some(warning) = info.telemetry.warning() {
        output::warning(&warning);
    }
    let sandbox = sandbox();
    if args.json {
        let mut report = serde_json::to_value(&info).unwrap_or_default();
        report["devices"] = serde_json::to_value(&devices).unwrap_or_default();
        report["sandbox"] = sandbox.map_or(serde_json::Value::Null, |(report, _)| report);
        return output::json(&report);
    }
    output::line(format!("ONNX Runtime  {}", info.version))?;
    output::line(format!("library       {} ({:?})", info.library.display(), info.source))?;
    output::line(format!("providers     {}", info.providers.join(", ")))?;
    for ProviderState { provider, reason, .. } in &devices {
        let state = reason.as_ref().map_or("can be used".into(), |reason| format!("can't be used: {reason}"));
        output::line(format!("  {:<12}{state}", provider.as_str()))?;
    }
    output::line(format!("threads       {}", info.threads))?;
    output::line(format!("telemetry     {}", describe(info.telemetry)))?;
    sandbox.map_or(Ok(()), |(_, text)| output::line(format!("sandbox       {text}")))
}

fn describe(telemetry: Telemetry) -> &'static str {
    match telemetry {
        Telemetry::None => "none: this library sends nothing to its maker",
        Telemetry::Off => "off: this library can report to its maker, but is kept from doing so",
        Telemetry::Wanted => "on: this library may report to its maker, because ORT_DISABLE_TELEMETRY allows it",
        Telemetry::On => "on: this library may report to its maker",
    }
}

/// The way in which foreign code is held to its memory here, for programs and for people.
#[cfg(target_os = "linux")]
fn sandbox() -> Option<(serde_json::Value, String)> {
    let limit = foreturn::reward::MemoryLimit::here();
    Some((serde_json::to_value(&limit).unwrap_or_default(), limit.to_string()))
}

/// There is no sandbox.
#[cfg(not(target_os = "linux"))]
fn sandbox() -> Option<(serde_json::Value, String)> {
    None
}

pub(super) fn export(args: &ExportArgs) -> Result<()> {
    let quantize = match args.quantize {
        QuantizeArg::None => Quantize::None,
        QuantizeArg::Int8 => Quantize::Int8,
        QuantizeArg::Int4 => Quantize::Int4,
    };
    let dtype = match args.dtype {
        DtypeArg::Float32 => TensorType::Float32,
        DtypeArg::Bfloat16 => TensorType::Bfloat16,
        DtypeArg::Float16 => TensorType::Float16,
    };
    let (block, hard_link) = (args.block, args.hard_link);
    let adapter = args.adapter.clone();
    let options =
        ExportOptions { quantize, dtype, block, hard_link, adapter, ..ExportOptions::new(&args.from, &args.to) };
    let bar = output::progress(0, "writing weights {bar:30} {bytes}/{total_bytes}");
    let report = export::export(&options, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    let report = report?;
    output::line(format!(
        "{}: {} with {} layers, {:.1}M parameters, {:.1} MiB",
        args.to.display(),
        report.architecture,
        report.layers,
        report.parameters as f64 / 1e6,
        report.bytes as f64 / f64::from(1 << 20)
    ))?;
    let Some(head) = report.head else { return Ok(()) };
    let what = match head.kind {
        HeadKind::SequenceClassification => "scores for a text",
        HeadKind::TokenClassification => "scores for each token",
        HeadKind::Embedding => "embeddings of a text",
        _ => "numbers",
    };
    let labels = if head.labels.is_empty() { String::new() } else { format!(": {}", head.labels.join(", ")) };
    output::line(format!("gives {what}, {} {}{labels}", head.size, if head.size == 1 { "number" } else { "numbers" }))
}

pub(super) fn inspect(args: &InspectArgs) -> Result<()> {
    let on_unavailable = if args.provider.len() > 1 { OnUnavailable::Fallback } else { OnUnavailable::Error };
    let providers = args.provider.clone();
    let runtime = RuntimeOptions { places: places(), providers, on_unavailable, ..RuntimeOptions::default() };
    let inspection = ModelFolder::open_on(&args.model, OpenOptions::default(), &runtime)?.inspect();
    if args.json {
        return output::json(&inspection);
    }
    let value = serde_json::to_value(&inspection).unwrap_or_default();
    for (field, value) in value.as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        output::line(format!("{field:20}{text}"))?;
    }
    Ok(())
}

pub(super) fn render(args: &RenderArgs) -> Result<()> {
    let folder = ModelFolder::open(&args.model)?;
    let messages = messages(&args.messages)?;
    let options = RenderOptions {
        add_generation_prompt: !args.no_generation_prompt,
        ..local(&args.model, &args.template).render_options()?
    };
    // Exactly the prompt: no line end of ours.
    output::write(&folder.tokenizer().render(&messages, &options)?)
}

/// The conversation in a file.
fn messages(path: &Path) -> Result<Vec<Message>> {
    let (text, origin) = output::read(path)?;
    parse_messages(&text).map_err(|e| e.context(origin))
}

fn prompt(args: &PromptArgs) -> Result<Prompt> {
    match (&args.messages, &args.tokens) {
        (Some(path), _) => Ok(messages(path)?.into()),
        (None, tokens) => Ok(Prompt::Tokens(tokens.clone().unwrap_or_default())),
    }
}

pub(super) fn generate(args: &GenerateArgs) -> Result<()> {
    let engine = engine_with(&args.model, &args.prompt.template)?;
    let prompt = prompt(&args.prompt)?;
    let sampling = SamplingOptions {
        temperature: args.temperature,
        top_p: args.top_p,
        top_k: args.top_k,
        ..SamplingOptions::default()
    };
    let stream: Option<foreturn::decode::OnText> = match args.json {
        true => None,
        // A failure to write shows when the line is ended below.
        false => Some(Box::new(|text| drop(output::write(text)))),
    };
    let schema = args.schema.as_deref().map(output::parse::<JsonSchema>).transpose()?.map(Arc::new);
    let options = GenerateOptions {
        max_tokens: args.max_new_tokens,
        sampling,
        seed: args.seed,
        ignore_eos: args.ignore_eos,
        schema,
        on_text: stream,
        ..GenerateOptions::default()
    };
    let start = Instant::now();
    let reply = engine.model(MODEL)?.generate(prompt, options)?;
    if !args.json {
        return output::line("");
    }
    output::json(&json!({
        "prompt_tokens": reply.prompt_tokens,
        "tokens": reply.tokens,
        "text": reply.text,
        "finish": reply.finish,
        "logprobs": reply.logprobs,
        "seconds": start.elapsed().as_secs_f64(),
    }))
}

pub(super) fn logprobs(args: &LogprobsArgs) -> Result<()> {
    let engine = engine_with(&args.model, &args.prompt.template)?;
    // Messages are scored as a finished conversation, without the header of a reply.
    let prompt = match prompt(&args.prompt)? {
        Prompt::Messages { messages, .. } => Prompt::as_is(messages),
        tokens => tokens,
    };
    let scored = engine.model(MODEL)?.logprobs(prompt)?;
    output::json(&json!({"tokens": scored.tokens, "logprobs": scored.logprobs}))
}
