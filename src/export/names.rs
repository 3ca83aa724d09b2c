//! Tensors' names as other programs write them.
//!
//! transformers renames some when it loads a checkpoint, and so does this module. If all names have a prefix,
//! transformers finds no weights and draws them at random. Such a checkpoint is refused, and the message says what
//! wrapped the model.

use std::collections::BTreeMap;
use std::path::Path;

use super::checkpoint::Tensor;
use super::config::Config;
use crate::{Error, Result};

/// A part of a name that shows what wrapped the model, and what to do about it.
struct Wrapper {
    part: &'static str,
    /// Counts the part only at the beginning.
    first: bool,
    what: &'static str,
    remedy: &'static str,
    /// The tensors inside are the model's own.
    transparent: bool,
}

const fn anywhere(part: &'static str, what: &'static str, remedy: &'static str) -> Wrapper {
    Wrapper { part, first: false, what, remedy, transparent: true }
}

const fn first(part: &'static str, what: &'static str, remedy: &'static str) -> Wrapper {
    Wrapper { part, first: true, ..anywhere(part, what, remedy) }
}

/// The adapter has weights of its own beside those of the model.
const fn adapter(wrapper: Wrapper) -> Wrapper {
    Wrapper { transparent: false, ..wrapper }
}

const PEFT: &str = "an adapter of PEFT around the model";
const MERGE: &str = "merge it with `model.merge_and_unload().save_pretrained(folder)`";
const FSDP: &str = "a wrapper of FSDP around the model";
const GATHER: &str =
    "gather the whole state dict (`state_dict_type=\"FULL_STATE_DICT\"`) and save it with save_pretrained";
const UNWRAP: &str = "save the model inside: `accelerator.unwrap_model(model).save_pretrained(folder)`";

/// The more specific ones come first, because PEFT's names begin with a prefix too.
const WRAPPERS: &[Wrapper] = &[
    adapter(anywhere("lora_A", PEFT, MERGE)),
    adapter(anywhere("lora_B", PEFT, MERGE)),
    adapter(anywhere("lora_embedding_A", PEFT, MERGE)),
    adapter(anywhere("lora_embedding_B", PEFT, MERGE)),
    adapter(anywhere("lora_magnitude_vector", PEFT, MERGE)),
    adapter(anywhere("base_layer", PEFT, MERGE)),
    adapter(anywhere("modules_to_save", PEFT, MERGE)),
    adapter(first("base_model.model", PEFT, MERGE)),
    anywhere("_fsdp_wrapped_module", FSDP, GATHER),
    anywhere("_checkpoint_wrapped_module", "activation checkpointing around its layers", GATHER),
    anywhere(
        "_orig_mod",
        "torch.compile around the model",
        "save what was compiled: `model._orig_mod.save_pretrained(folder)`",
    ),
    first(
        "module",
        "DistributedDataParallel, DataParallel or DeepSpeed around the model",
        "save the model inside: `model.module.save_pretrained(folder)`",
    ),
    first("_forward_module", "Lightning's Fabric around the model", UNWRAP),
    first(
        "pretrained_model",
        "TRL's value head around the model",
        "save the model inside: `model.pretrained_model.save_pretrained(folder)`",
    ),
];

impl Wrapper {
    fn is_around(&self, name: &str) -> bool {
        let begins = name.strip_prefix(self.part).is_some_and(|rest| rest.starts_with('.'));
        begins || (!self.first && name.split('.').any(|part| part == self.part))
    }
}

/// Brings the names of `tensors`, which were read from `folder`, into the form in which classes are saved.
///
/// # Errors
/// They are those of a wrapped model, or two get one name.
pub(super) fn put_right(
    folder: &Path,
    config: &Config,
    tensors: BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>> {
    refuse_wrapped(folder, &tensors)?;
    let adds_model = lacks_model(config, &tensors);
    let mut renamed = BTreeMap::new();
    for (name, tensor) in tensors {
        let mut name = modern(&name).unwrap_or(name);
        if adds_model && !name.starts_with(VALUE_HEAD) {
            name = format!("model.{name}");
        }
        if let Some(tensor) = renamed.insert(name.clone(), tensor) {
            let (folder, origin) = (folder.display(), tensor.origin);
            return Err(Error::invalid_model(format!(
                "{folder}: the weights have `{name}` twice, once as `{origin}`: remove one of them"
            )));
        }
    }
    Ok(renamed)
}

/// The checkpoint's name of a tensor of a live model, which may be wrapped.
///
/// # Errors
/// It belongs to an adapter, whose parts are not the model's weights yet.
pub(super) fn of_live_model(name: &str) -> Result<String> {
    let own = without_wrappers(name);
    match WRAPPERS.iter().find(|wrapper| wrapper.is_around(&own)) {
        None => Ok(modern(&own).unwrap_or(own)),
        Some(Wrapper { part, what, remedy, .. }) => Err(Error::unsupported(format!(
            "the tensor `{name}` has `{part}.` in its name: these are the weights of {what}. To use them, give the adapter's \
             configuration as well, or {remedy}"
        ))),
    }
}

/// A tensor's name in the model inside PEFT's, which may still have PEFT's words in it.
pub(super) fn inside_peft(name: &str) -> String {
    let own = without_wrappers(name);
    let own = own.strip_prefix("base_model.model.").map_or_else(|| own.clone(), without_wrappers);
    modern(&own).unwrap_or(own)
}

/// A name without the words of wrappers whose tensors are the model's own.
fn without_wrappers(name: &str) -> String {
    let mut own = name.to_owned();
    while let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.transparent && wrapper.is_around(&own)) {
        let parts = own.split('.');
        own = match wrapper.first {
            true => parts.skip(1).collect::<Vec<_>>().join("."),
            false => parts.filter(|part| *part != wrapper.part).collect::<Vec<_>>().join("."),
        };
    }
    own
}

fn refuse_wrapped(folder: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let find = |wrapper: &Wrapper| tensors.keys().find(|name| wrapper.is_around(name));
    let found = WRAPPERS.iter().find_map(|wrapper| Some((wrapper, find(wrapper)?)));
    let Some((Wrapper { part, what, remedy, .. }, name)) = found else { return Ok(()) };
    Err(Error::unsupported(format!(
        "{}: the tensor `{name}` has `{part}.` in its name: these are the weights of {what}. To export the model, {remedy}",
        folder.display()
    )))
}

/// Renames a norm's `gamma` and `beta`, which come from TensorFlow (`_fix_state_dict_key_on_load`).
fn modern(name: &str) -> Option<String> {
    const OLD: [(&str, &str); 2] = [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];
    OLD.iter().find_map(|(old, new)| name.strip_suffix(old).map(|module| format!("{module}{new}")))
}

/// Returns whether a decoder was saved without its head, so that transformers adds `model.` to each name
/// (`loading_task_model_from_base_state_dict`). It does so for all classes except Gemma 3's, which has another prefix.
/// If there is a head too, it takes the checkpoint for a corrupted one.
fn lacks_model(config: &Config, tensors: &BTreeMap<String, Tensor>) -> bool {
    let classes = config.get("architectures").and_then(|value| value.as_array()).into_iter().flatten();
    let mut classes = classes.filter_map(|class| class.as_str());
    let is_decoder = classes.any(|class| class.ends_with("ForCausalLM") && !class.starts_with("Gemma3"));
    is_decoder
        && tensors.contains_key("embed_tokens.weight")
        && !tensors.keys().any(|name| name.starts_with("model") || name.starts_with("lm_head."))
}

/// The words for a tensor that is missing under `name`, where `names` have it behind something else.
pub(super) fn behind_a_prefix<'a>(name: &str, mut names: impl Iterator<Item = &'a String>) -> Option<String> {
    let (found, prefix) = names.find_map(|found| Some((found, found.strip_suffix(name)?.strip_suffix('.')?)))?;
    Some(format!(
        "the weights have `{found}` instead: names have `{prefix}.` before them, as of a model inside another one. Save the \
         inner model alone"
    ))
}

/// The embedding of a language model, and its head, whose values the embedding may share.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const HEAD: &str = "lm_head.weight";

/// TRL's value head, beside that of the language model.
pub(super) const VALUE_HEAD: &str = "v_head.";

/// Heads of pre-training and of other classes, which are left in checkpoints of encoders. transformers passes them
/// over.
const HEADS: &[&str] = &[
    "classifier.",
    "cls.",
    "decoder.",
    "discriminator_predictions.",
    "generator_lm_head.",
    "generator_predictions.",
    "head.",
    "lm_head.",
    "lm_predictions.",
    "mask_predictions.",
    "pooler.",
    "predictions.",
    "pre_classifier.",
    "qa_outputs.",
    "score.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "vocab_transform.",
];

/// Returns whether a tensor that an encoder's class does not use belongs to a head.
pub(super) fn is_head(name: &str) -> bool {
    HEADS.iter().any(|head| name.starts_with(head))
}

/// The file that shows that a folder holds an adapter.
pub(super) const ADAPTER: &str = "adapter_config.json";
/// The file with an adapter's weights.
pub(super) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// Refuses a folder with an adapter, because its model is not the trained one without the adapter.
pub(super) fn refuse_adapter(folder: &Path) -> Result<()> {
    let weights = [ADAPTER_WEIGHTS, "adapter_model.bin"];
    let is_adapter = folder.join(ADAPTER).exists()
        && (weights.iter().any(|name| folder.join(name).exists()) || !folder.join("config.json").exists());
    if !is_adapter {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{} holds {ADAPTER}: it is an adapter of PEFT, not a whole model. Name its base as the checkpoint, and this \
         folder as the adapter (`--from BASE --adapter FOLDER`). Or merge it first: \
         `AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload().save_pretrained(merged)`, and copy the \
         tokenizer files",
        folder.display()
    )))
}

#[cfg(test)]
mod tests;
