//! Which of a model's rotary tables a sequence is computed with.
//!
//! Models with LongRoPE have one pair of tables for sequences up to a length and another for longer ones. What was
//! computed with one is of no use to the other: each variant has a prefix tree of its own, and a sequence that outgrows
//! its variant starts over in the other one, as transformers' `generate` does.

/// A sequence's tables, and so the tree that its prefixes are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Variant {
    /// The model's only tables, or those for short sequences.
    #[default]
    Short,
    /// Those for long ones.
    Long,
}

/// When a sequence has which variant.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Variants {
    /// Longest short sequence, in tokens; without it all are short.
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
