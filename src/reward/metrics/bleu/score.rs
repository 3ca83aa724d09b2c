//! BLEU from matching n-grams (Papineni et al. 2002), as in sacrebleu and in NLTK.

use std::collections::HashMap;
use std::hash::Hash;

/// The treatment of orders without a match (Chen and Cherry 2014, W14-3346).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Smoothing {
    /// The k-th order without a match counts 1 / 2^k matches.
    Exp,
    /// An order without a match counts this many matches.
    Floor(f64),
    /// All orders except the first count this many more matches and n-grams.
    AddK(f64),
    /// No smoothing: one order without a match makes the score 0.
    None,
}

/// The number of n-grams in a text, and of those that the reference has too, for each order from 1.
#[derive(Debug)]
pub(super) struct Counts {
    matching: Vec<usize>,
    total: Vec<usize>,
    text_length: usize,
    reference_length: usize,
}

/// What the texts are compared with: how often each n-gram is in it, for each order from 1.
pub(super) struct Reference<'a, T> {
    grams: Vec<HashMap<&'a [T], usize>>,
    length: usize,
}

impl<'a, T: Eq + Hash> Reference<'a, T> {
    pub(super) fn new(reference: &'a [T], max_order: usize) -> Self {
        let grams = (1..=max_order).map(|order| occurrences(reference, order)).collect();
        Reference { grams, length: reference.len() }
    }
}

fn occurrences<T: Eq + Hash>(tokens: &[T], order: usize) -> HashMap<&[T], usize> {
    let mut grams: HashMap<&[T], usize> = HashMap::new();
    for gram in tokens.windows(order) {
        *grams.entry(gram).or_default() += 1;
    }
    grams
}

impl Counts {
    pub(super) fn new<T: Eq + Hash>(text: &[T], reference: &Reference<'_, T>) -> Self {
        let (mut matching, mut total) = (Vec::new(), Vec::new());
        for (order, there) in (1..).zip(&reference.grams) {
            let in_both = |(gram, count): (&[T], usize)| count.min(there.get(gram).copied().unwrap_or(0));
            matching.push(occurrences(text, order).into_iter().map(in_both).sum());
            total.push((text.len() + 1).saturating_sub(order));
        }
        Counts { matching, total, text_length: text.len(), reference_length: reference.length }
    }

    /// The factor for a text shorter than its reference, so that leaving out doubtful parts doesn't pay.
    fn brevity_penalty(&self) -> f64 {
        match self.text_length {
            0 => 0.0,
            length if length < self.reference_length => (1.0 - self.reference_length as f64 / length as f64).exp(),
            _ => 1.0,
        }
    }
}

/// `BLEU.compute_bleu` of sacrebleu 2.5, on [0, 1].
pub(super) fn sacrebleu(counts: &Counts, smoothing: Smoothing, effective_order: bool) -> f64 {
    if counts.matching.iter().all(|&matches| matches == 0) {
        return 0.0;
    }
    let max_order = counts.total.len();
    let mut precisions = vec![0.0; max_order];
    let (mut effective, mut missed) = (max_order, 1.0);
    for (at, precision) in precisions.iter_mut().enumerate() {
        let added = match smoothing {
            Smoothing::AddK(k) if at > 0 => k,
            _ => 0.0,
        };
        let (matches, total) = (counts.matching[at] as f64 + added, counts.total[at] as f64 + added);
        if total == 0.0 {
            break;
        }
        if effective_order {
            effective = at + 1;
        }
        *precision = match smoothing {
            _ if matches > 0.0 => matches / total,
            Smoothing::Exp => {
                missed *= 2.0;
                1.0 / (missed * total)
            }
            Smoothing::Floor(value) => value / total,
            Smoothing::AddK(_) | Smoothing::None => 0.0,
        };
    }
    // The logarithm of no match at all is minus infinity, and the score 0.
    let mean = precisions[..effective].iter().map(|precision| precision.ln()).sum::<f64>() / effective as f64;
    (counts.brevity_penalty() * mean.exp()).min(1.0)
}

/// `nltk.translate.bleu_score.sentence_bleu` of NLTK 3.9 with its defaults: uniform weights, and for orders without a
/// match the smallest normal number (its `method0`), unless no order has any.
pub(super) fn nltk(counts: &Counts) -> f64 {
    if counts.matching[0] == 0 {
        return 0.0;
    }
    let precision = |(&matches, &total): (&usize, &usize)| match matches {
        0 => f64::MIN_POSITIVE,
        _ => matches as f64 / total as f64,
    };
    let orders = counts.matching.len() as f64;
    let mean = counts.matching.iter().zip(&counts.total).map(precision).map(f64::ln).sum::<f64>() / orders;
    (counts.brevity_penalty() * mean.exp()).min(1.0)
}
