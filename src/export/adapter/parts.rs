//! The parts of a model with an adapter, found by their names.

use std::collections::{BTreeMap, BTreeSet};

use super::config::Settings;
use super::delta::{Delta, transposed, values};
use crate::export::checkpoint::Tensor;
use crate::export::names;
use crate::finite::Refused;
use crate::{Error, Result};

/// A tensor and the memory that it lies in.
pub(in crate::export) type Piece<'a> = (Tensor, &'a [u8]);

/// The purpose of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Weight,
    /// A copy that was trained instead of the weight.
    Saved,
    /// The weight that such a copy stands for.
    Original,
    A,
    B,
    EmbeddingA,
    EmbeddingB,
}

/// The tensors of a model or of an adapter.
#[derive(Debug, Default)]
pub(in crate::export) struct Parts<'a> {
    /// Whole weights by the names of the checkpoint.
    pub(in crate::export) weights: BTreeMap<String, Piece<'a>>,
    /// Those of them that were trained as copies.
    pub(in crate::export) saved: BTreeSet<String>,
    /// By the weight's name.
    pairs: BTreeMap<String, Pair<'a>>,
}

/// The two matrices of a weight.
#[derive(Debug, Default)]
struct Pair<'a> {
    a: Option<Piece<'a>>,
    b: Option<Piece<'a>>,
    is_embedding: bool,
}

impl<'a> Parts<'a> {
    /// Sorts tensors by their purpose.
    ///
    /// # Errors
    /// One is there twice, is part of something that is not LoRA, or belongs to a second adapter.
    pub(in crate::export) fn sort(tensors: impl Iterator<Item = (String, Piece<'a>)>) -> Result<Self> {
        let (mut parts, mut adapters) = (Parts::default(), BTreeSet::new());
        for (name, piece) in tensors {
            let (role, weight, adapter) = place(&name)?;
            adapters.extend(adapter);
            let before = match role {
                Role::Original => None,
                Role::A | Role::EmbeddingA => parts.pair(weight, role == Role::EmbeddingA).a.replace(piece),
                Role::B | Role::EmbeddingB => parts.pair(weight, role == Role::EmbeddingB).b.replace(piece),
                Role::Weight => parts.weights.insert(weight, piece),
                Role::Saved => {
                    parts.saved.insert(weight.clone());
                    parts.weights.insert(weight, piece)
                }
            };
            if let Some((first, _)) = before {
                return Err(twice(&name, &first));
            }
        }
        if adapters.len() > 1 {
            let names = adapters.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ");
            return Err(Error::invalid_request(format!(
                "the tensors are those of several adapters, {names}: leave out all but the one to merge"
            )));
        }
        Ok(parts)
    }

    fn pair(&mut self, weight: String, is_embedding: bool) -> &mut Pair<'a> {
        let pair = self.pairs.entry(weight).or_default();
        pair.is_embedding = is_embedding;
        pair
    }

    /// Whether there is nothing of an adapter.
    pub(in crate::export) fn lacks_adapter(&self) -> bool {
        self.pairs.is_empty() && self.saved.is_empty()
    }

    /// Adds the parts of an adapter's file. Its whole weights were trained, and take the place of those that are there.
    pub(in crate::export) fn add(&mut self, adapter: Parts<'a>) {
        self.saved.extend(adapter.weights.keys().cloned());
        self.weights.extend(adapter.weights);
        self.pairs.extend(adapter.pairs);
    }

    /// The differences to weights, by the weights' names.
    ///
    /// # Errors
    /// A part is missing, is not finite, or does not fit the other one. The message names it.
    pub(super) fn deltas(&self, settings: &Settings) -> Result<BTreeMap<String, Delta>> {
        let delta = |(name, pair): (&String, &Pair<'_>)| Ok((name.clone(), pair.delta(name, settings)?));
        self.pairs.iter().map(delta).collect()
    }
}

impl Pair<'_> {
    fn delta(&self, weight: &str, settings: &Settings) -> Result<Delta> {
        let lacks = |what: &str| {
            Err(Error::invalid_model(format!(
                "the adapter's weights for `{weight}` lack {what}: are these all of its tensors?"
            )))
        };
        let Some((a, a_data)) = &self.a else { return lacks("matrix A") };
        let Some((b, b_data)) = &self.b else { return lacks("matrix B") };
        for (tensor, data) in [(a, a_data), (b, b_data)] {
            tensor.check(data, Refused::NonFinite).map_err(Error::invalid_model)?;
        }
        let (&[rank, columns], &[rows, inner]) = (&a.shape[..], &b.shape[..]) else {
            return Err(misfit(a, b));
        };
        if rank != inner || rank == 0 {
            return Err(misfit(a, b));
        }
        let module = weight.strip_suffix(".weight").unwrap_or(weight);
        settings.check_rank(module, rank)?;
        let scale = settings.scale(module, rank);
        let (a, b) = (values(a, a_data), values(b, b_data));
        let delta = match self.is_embedding {
            false => Delta::new(b, a, rank, scale),
            // An embedding has a row for each token, and the product has a column.
            true => Delta::new(transposed(&a, columns), transposed(&b, rank), rank, scale),
        };
        debug_assert_eq!(delta.shape(), if self.is_embedding { [columns, rows] } else { [rows, columns] });
        // A sum with a finite number is then finite, and can be packed.
        if delta.bound().is_nan() || delta.bound() >= 1e30 {
            return Err(Error::invalid_model(format!(
                "the adapter's numbers for `{weight}` are too large to be merged"
            )));
        }
        Ok(delta)
    }
}

fn misfit(a: &Tensor, b: &Tensor) -> Error {
    Error::invalid_model(format!(
        "the adapter's tensors `{}` of shape {:?} and `{}` of shape {:?} don't belong together",
        a.origin, a.shape, b.origin, b.shape
    ))
}

/// The error of a tensor that is there twice.
pub(in crate::export) fn twice(name: &str, first: &Tensor) -> Error {
    Error::invalid_request(format!("tensor `{name}` is there twice, once as `{}`", first.origin))
}

/// A tensor's purpose, the name of the weight that it belongs to, and that of its adapter if there is one in its name.
fn place(name: &str) -> Result<(Role, String, Option<String>)> {
    let own = names::inside_peft(name);
    let parts: Vec<&str> = own.split('.').collect();
    let role = |part: &&str| match *part {
        "lora_A" => Some(Role::A),
        "lora_B" => Some(Role::B),
        "lora_embedding_A" => Some(Role::EmbeddingA),
        "lora_embedding_B" => Some(Role::EmbeddingB),
        "base_layer" => Some(Role::Weight),
        "modules_to_save" => Some(Role::Saved),
        "original_module" => Some(Role::Original),
        _ => None,
    };
    let Some((at, role)) = parts.iter().enumerate().find_map(|(at, part)| Some((at, role(part)?))) else {
        let foreign = parts.iter().any(|part| part.starts_with("lora_") || part.starts_with("trainable_tokens"));
        return if foreign { Err(foreign_part(name)) } else { Ok((Role::Weight, own, None)) };
    };
    let (module, rest) = (parts[..at].join("."), &parts[at + 1..]);
    let named = |adapter: &str| Some(adapter.to_owned());
    match (role, rest) {
        (Role::A | Role::B, ["weight"]) | (Role::EmbeddingA | Role::EmbeddingB, []) => {
            Ok((role, format!("{module}.weight"), None))
        }
        (Role::A | Role::B, [adapter, "weight"]) | (Role::EmbeddingA | Role::EmbeddingB, [adapter]) => {
            Ok((role, format!("{module}.weight"), named(adapter)))
        }
        (Role::Weight | Role::Original, [_, ..]) if !rest.contains(&"base_layer") => {
            Ok((role, format!("{module}.{}", rest.join(".")), None))
        }
        (Role::Saved, [adapter, more @ ..]) if !more.is_empty() => {
            Ok((role, format!("{module}.{}", more.join(".")), named(adapter)))
        }
        _ => Err(foreign_part(name)),
    }
}

fn foreign_part(name: &str) -> Error {
    Error::unsupported(format!(
        "tensor `{name}` is not one that a LoRA adapter of two matrices has: merge the adapter with PEFT \
         (`model.merge_and_unload()`), and use the model that this gives"
    ))
}
