//! `adapter_config.json`: the settings of a LoRA adapter, as PEFT writes them.

use serde_json::Value;

use crate::export::config::Config;
use crate::{Error, Result};

/// Settings that change nothing about how weights are merged: notes, training, and what the tensors themselves show.
const WITHOUT_EFFECT: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    // PEFT ignores it for linear layers, and no class that is exported has others.
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
    "task_type",
];

/// Settings that are read here.
const READ: &[&str] =
    &["alpha_pattern", "init_lora_weights", "lora_alpha", "peft_type", "r", "rank_pattern", "use_rslora"];

/// The ways to begin that leave the base as it is. Others subtract the adapter's first values from it.
const PLAIN_BEGINNINGS: &[&str] = &["gaussian", "eva", "orthogonal"];

const REMEDY: &str = "merge it with PEFT: `model.merge_and_unload().save_pretrained(folder)`, and use that folder";

/// The scales of an adapter's modules.
#[derive(Debug)]
pub(super) struct Settings {
    alpha: f64,
    /// Names of modules, or their ends, with an alpha of their own.
    alphas: Vec<(String, f64)>,
    /// Divides by the root of the rank.
    by_root: bool,
    /// The rank where no pattern says another.
    rank: Option<u64>,
    ranks: Vec<(String, u64)>,
    /// Where the settings come from.
    file: String,
}

impl Settings {
    /// Reads the settings. `whole_base` says that the base is the checkpoint that training began from, and not the tensors of
    /// the model that was trained.
    ///
    /// # Errors
    /// One is not known or not supported. The message names it.
    pub(super) fn read(config: &Config, whole_base: bool) -> Result<Self> {
        if config.get("peft_type").and_then(Value::as_str) != Some("LORA") {
            return Err(config.unsupported("peft_type", &format!("only LORA adapters are merged here: {REMEDY}")));
        }
        let idle = |value: &Value| match value {
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            value => matches!(value, Value::Null | Value::Bool(false)),
        };
        let known = |field: &&str| WITHOUT_EFFECT.contains(field) || READ.contains(field);
        let active = config.fields().find(|(field, value)| !known(&&***field) && !idle(value));
        if let Some((field, _)) = active {
            let complaint =
                format!("it may change how the adapter is merged, and this version does not know how: {REMEDY}");
            return Err(config.unsupported(field, &complaint));
        }
        if whole_base {
            check_beginning(config)?;
        }
        let alphas = config.get("alpha_pattern").and_then(Value::as_object).into_iter().flatten();
        let ranks = config.get("rank_pattern").and_then(Value::as_object).into_iter().flatten();
        let ranks: Vec<(String, u64)> =
            ranks.filter_map(|(pattern, rank)| Some((named(pattern), rank.as_u64()?))).collect();
        Ok(Settings {
            alpha: number(config, "lora_alpha", config.get("lora_alpha"))?,
            alphas: alphas.map(|(pattern, alpha)| module_alpha(config, pattern, alpha)).collect::<Result<_>>()?,
            by_root: config.flag_or("use_rslora", false)?,
            // Where a pattern is a regular expression, nobody knows here which modules it is for.
            rank: config.get("r").and_then(Value::as_u64).filter(|_| ranks.iter().all(|(name, _)| is_plain(name))),
            ranks,
            file: config.file().to_owned(),
        })
    }

    /// Refuses matrices of another rank than the settings say, as PEFT does: alpha is then not the one of these matrices.
    pub(super) fn check_rank(&self, module: &str, rank: usize) -> Result<()> {
        let own = self.ranks.iter().find(|(name, _)| is_module(name, module)).map(|(_, rank)| *rank);
        match own.or(self.rank).filter(|_| self.rank.is_some()) {
            Some(stated) if stated != rank as u64 => Err(Error::invalid_model(format!(
                "{}: the rank of `{module}` is {stated} (`r`, `rank_pattern`), but the adapter's matrices have rank {rank}: \
                 they are not those of this configuration",
                self.file
            ))),
            _ => Ok(()),
        }
    }

    /// The factor of a module's product.
    pub(super) fn scale(&self, module: &str, rank: usize) -> f32 {
        let own = self.alphas.iter().find(|(name, _)| is_module(name, module));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = rank as f64;
        (alpha / if self.by_root { rank.sqrt() } else { rank }) as f32
    }
}

fn check_beginning(config: &Config) -> Result<()> {
    let plain = match config.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => true,
        Some(Value::String(name)) => PLAIN_BEGINNINGS.contains(&name.as_str()),
        Some(_) => false,
    };
    if plain {
        return Ok(());
    }
    let complaint =
        format!("training then began by changing the base, so the checkpoint is not the adapter's: {REMEDY}");
    Err(config.unsupported("init_lora_weights", &complaint))
}

fn number(config: &Config, field: &str, value: Option<&Value>) -> Result<f64> {
    let found = value.and_then(Value::as_f64).filter(|number| number.is_finite());
    found.ok_or_else(|| config.bad_value(field, "expected a number"))
}

/// An entry of `alpha_pattern`. PEFT takes the key for a regular expression that a module's name ends with.
fn module_alpha(config: &Config, pattern: &str, alpha: &Value) -> Result<(String, f64)> {
    let name = named(pattern);
    if !is_plain(&name) {
        return Err(Error::unsupported(format!(
            "{}: `alpha_pattern` has {pattern:?}, a regular expression: this version reads names of modules, such as \
             \"q_proj\" or \"layers.3.mlp.up_proj\". Or {REMEDY}",
            config.file()
        )));
    }
    Ok((name, number(config, "alpha_pattern", Some(alpha))?))
}

/// A pattern whose dots are dots.
fn named(pattern: &str) -> String {
    pattern.replace("\\.", ".")
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.strip_prefix('^').unwrap_or(name).chars().all(plain)
}

/// Whether `module` is called `name`, or ends with it. `^` holds it to the beginning.
fn is_module(name: &str, module: &str) -> bool {
    match name.strip_prefix('^') {
        Some(whole) => whole == module,
        None => module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.')),
    }
}
