//! A model's rotary tables, and the choice between them for a sequence.
//!
//! Models with LongRoPE have one pair of tables for sequences up to a length and another for longer ones. Rows that
//! were computed with one are of no use to the other. Therefore each variant has a prefix tree of its own, and a
//! sequence that outgrows its variant starts over in the other one, as in transformers' `generate`.

/// A sequence's tables, and so the tree that its prefixes are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Variant {
    /// The model's only tables, or those for short sequences.
    #[default]
    Short,
    /// Those for long ones.
    Long,
}

/// The rule that gives a sequence its variant.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Variants {
    /// Length of the longest short sequence, in tokens. Without it, all sequences are short.
    pub(crate) longest_short: Option<usize>,
}

impl Variants {
    /// The variant of a sequence of `tokens` tokens, prompt and sampled ones together.
    pub(crate) fn of(self, tokens: usize) -> Variant {
        match self.longest_short {
            Some(longest) if tokens > longest => Variant::Long,
            _ => Variant::Short,
        }
    }
}
