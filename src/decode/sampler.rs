//! From logits to a token.

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::kernels::softmax::{exp_into, exp_row, exp_sum, largest};
use crate::{Error, ErrorKind, Result};

/// Rules for drawing the next token from the logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingOptions {
    /// Divides the logits; 0 is greedy. In [0, ∞).
    pub temperature: f32,
    /// Keeps the smallest set of likeliest tokens whose probability reaches this. In (0, 1]; 1 keeps all.
    pub top_p: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Drops tokens less likely than this share of the likeliest. In [0, 1]; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens already in the prompt or the reply (CTRL, 2019). In
    /// (0, ∞); 1 is off.
    pub repetition_penalty: f32,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        SamplingOptions { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, repetition_penalty: 1.0 }
    }
}

impl SamplingOptions {
    /// Greedy decoding: the likeliest token each time.
    pub fn greedy() -> Self {
        SamplingOptions { temperature: 0.0, ..SamplingOptions::default() }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn validate(&self) -> Result<()> {
        match self.out_of_range() {
            None => Ok(()),
            Some((field, value, range)) => {
                Err(Error::invalid_request(format!("sampling: {field} is {value}; it has to be in {range}")))
            }
        }
    }

    /// The first field that is out of its range, with its value and the range.
    pub(crate) fn out_of_range(&self) -> Option<(&'static str, f32, &'static str)> {
        let (t, p, m, r) = (self.temperature, self.top_p, self.min_p, self.repetition_penalty);
        [
            ("temperature", t, t >= 0.0 && t.is_finite(), "[0, ∞)"),
            ("top_p", p, p > 0.0 && p <= 1.0, "(0, 1]"),
            ("min_p", m, (0.0..=1.0).contains(&m), "[0, 1]"),
            ("repetition_penalty", r, r > 0.0 && r.is_finite(), "(0, ∞)"),
        ]
        .into_iter()
        .find_map(|(field, value, good, range)| (!good).then_some((field, value, range)))
    }
}

/// Draws tokens. The n-th draw depends on the seed, n and the logits alone, not on draws before it.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    stream: ChaCha8Rng,
    // Scratch, kept between draws. A row of logits becomes one of weights, the largest of which is 1.
    weights: Vec<f32>,
    order: Vec<u32>,
}

/// A token and the logarithm of its probability under the model (before temperature and truncation).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: u32,
    /// Its log-probability, at most 0.
    pub logprob: f32,
}

impl Sampler {
    /// A sampler on the random stream that `seed` names.
    ///
    /// # Errors
    /// An option is out of range.
    pub fn new(options: SamplingOptions, seed: u64) -> Result<Self> {
        options.validate()?;
        Ok(Sampler { options, stream: ChaCha8Rng::seed_from_u64(seed), weights: Vec::new(), order: Vec::new() })
    }

    /// Draws token number `draw` after `history`.
    ///
    /// # Errors
    /// The logits hold NaN, or nothing finite.
    pub fn sample(&mut self, draw: u64, history: &[u32], logits: &[f32]) -> Result<Sampled> {
        let (max, normaliser) = normaliser(logits)?;
        let token = if self.options.repetition_penalty == 1.0 {
            if self.is_greedy() {
                first(logits, max)
            } else {
                let scale = self.scale();
                let total = exp_into(logits, &mut self.weights, max, scale);
                self.draw(draw, total)
            }
        } else {
            self.weights.clear();
            self.weights.extend_from_slice(logits);
            self.penalise(history);
            self.choose(draw)?
        };
        Ok(Sampled { token: token as u32, logprob: (f64::from(logits[token]) - normaliser) as f32 })
    }

    /// As [`Sampler::sample`], from the tokens whose bits are set in `allowed` (32 to a word). Others have no part in
    /// temperature and truncation; the log-probability stays that under the model.
    ///
    /// # Errors
    /// As [`Sampler::sample`], or no token that is allowed has a finite logit.
    pub(crate) fn sample_among(
        &mut self,
        allowed: &[u32],
        draw: u64,
        history: &[u32],
        logits: &[f32],
    ) -> Result<Sampled> {
        let (_, normaliser) = normaliser(logits)?;
        self.weights.clear();
        self.weights.resize(logits.len(), f32::NEG_INFINITY);
        for (word, (weights, logits)) in allowed.iter().zip(self.weights.chunks_mut(32).zip(logits.chunks(32))) {
            let mut left = *word;
            while left != 0 {
                let bit = left.trailing_zeros() as usize;
                left &= left - 1;
                if let (Some(weight), Some(logit)) = (weights.get_mut(bit), logits.get(bit)) {
                    *weight = *logit;
                }
            }
        }
        if !self.weights.iter().any(|logit| logit.is_finite()) {
            return Err(Error::new(
                ErrorKind::ModelOutput,
                "the model rules out every token that can come next in the reply's JSON schema: their logits are -inf",
            ));
        }
        if self.options.repetition_penalty != 1.0 {
            self.penalise(history);
        }
        let token = self.choose(draw)?;
        Ok(Sampled { token: token as u32, logprob: (f64::from(logits[token]) - normaliser) as f32 })
    }

    fn is_greedy(&self) -> bool {
        self.options.temperature == 0.0
    }

    /// The factor for logits. A temperature next to 0 has no finite inverse, so it is bounded.
    fn scale(&self) -> f32 {
        (1.0 / self.options.temperature).min(f32::MAX)
    }

    /// Chooses by the logits in the scratch row.
    fn choose(&mut self, draw: u64) -> Result<usize> {
        let max = usable_maximum(&self.weights)?;
        if self.is_greedy() {
            return Ok(first(&self.weights, max));
        }
        let scale = self.scale();
        let total = exp_row(&mut self.weights, max, scale);
        Ok(self.draw(draw, total))
    }

    /// Applies the repetition penalty to the logits in the scratch row.
    fn penalise(&mut self, history: &[u32]) {
        let penalty = self.options.repetition_penalty;
        let seen: HashSet<u32> = history.iter().copied().collect();
        for token in seen {
            if let Some(logit) = self.weights.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Truncation in the field's usual order (top-k, top-p, min-p) of the weights, which sum to `total`, then one uniform
    /// number.
    fn draw(&mut self, draw: u64, total: f32) -> usize {
        let weights = &self.weights;
        let uniform = uniform(&mut self.stream, draw);
        let options = &self.options;
        if options.top_k == 0 && options.top_p >= 1.0 && options.min_p <= 0.0 {
            return pick_from_row(weights, uniform);
        }
        // Likeliest first; equal weights by token id, so that the order is defined.
        let likelier = |a: &u32, b: &u32| weights[*b as usize].total_cmp(&weights[*a as usize]).then(a.cmp(b));
        // Below this no token is kept, so it need not be sorted: all tokens below it together have less than 1 − top_p of
        // the weight. After top-k, top-p shares out another weight. The largest weight, 1, is never below.
        let nucleus = (1.0 - options.top_p) * total / weights.len() as f32;
        let floor = if options.top_k > 0 { 0.0 } else { options.min_p.max(nucleus) };
        self.order.clear();
        self.order.extend((0..).zip(weights).filter(|(_, weight)| **weight >= floor).map(|(token, _)| token));
        let mut total = f64::from(total);
        if options.top_k > 0 && options.top_k < self.order.len() {
            self.order.select_nth_unstable_by(options.top_k - 1, likelier);
            self.order.truncate(options.top_k);
            total = self.order.iter().map(|&token| f64::from(weights[token as usize])).sum();
        }
        self.order.sort_unstable_by(likelier);
        if options.top_p < 1.0 {
            truncate_top_p(&mut self.order, weights, f64::from(options.top_p) * total);
        }
        let keep = self.order.iter().take_while(|&&token| weights[token as usize] >= options.min_p).count();
        self.order.truncate(keep.max(1));
        pick(weights, self.order.iter().map(|&token| token as usize), uniform)
    }
}

/// The n-th number of a stream, uniform in [0, 1).
fn uniform(stream: &mut ChaCha8Rng, n: u64) -> f64 {
    stream.set_stream(n);
    stream.set_word_pos(0);
    (stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Keeps the shortest beginning of `order` whose weight reaches `goal`; all of it where none does.
fn truncate_top_p(order: &mut Vec<u32>, weights: &[f32], goal: f64) {
    let mut sum = 0.0;
    let reached = order.iter().position(|&token| {
        sum += f64::from(weights[token as usize]);
        sum >= goal
    });
    if let Some(last) = reached {
        order.truncate(last + 1);
    }
}

/// The candidate on which `uniform` falls when all weights are laid end to end.
fn pick(weights: &[f32], candidates: impl Iterator<Item = usize> + Clone, uniform: f64) -> usize {
    let total: f64 = candidates.clone().map(|token| f64::from(weights[token])).sum();
    let goal = uniform * total;
    let (mut sum, mut last) = (0.0, 0);
    for token in candidates {
        let weight = f64::from(weights[token]);
        if weight > 0.0 {
            last = token;
        }
        sum += weight;
        if sum > goal {
            return token;
        }
    }
    last // rounding left the goal a hair beyond the sum
}

/// [`pick`] from a whole row: first the chunk on which `uniform` falls, then the token in it.
fn pick_from_row(weights: &[f32], uniform: f64) -> usize {
    const CHUNK: usize = 256;
    // Eight running sums, so that the compiler can vectorise them; their order is fixed.
    let sum = |chunk: &[f32]| {
        let (parts, rest) = chunk.as_chunks::<8>();
        let mut sums = [0.0f32; 8];
        for part in parts {
            sums = std::array::from_fn(|lane| sums[lane] + part[lane]);
        }
        for (lane, weight) in rest.iter().enumerate() {
            sums[lane] += weight;
        }
        sums.iter().map(|&x| f64::from(x)).sum::<f64>()
    };
    let total: f64 = weights.chunks(CHUNK).map(sum).sum();
    let goal = uniform * total;
    let (mut before, mut last) = (0.0, 0..0);
    for (index, chunk) in weights.chunks(CHUNK).enumerate() {
        let here = sum(chunk);
        if here > 0.0 {
            last = index * CHUNK..index * CHUNK + chunk.len();
            if before + here > goal {
                return pick(weights, last, (goal - before) / here);
            }
        }
        before += here;
    }
    pick(weights, last, 1.0) // rounding left the goal a hair beyond the sum
}

/// Where the row's maximum is first.
fn first(row: &[f32], max: f32) -> usize {
    // In pieces, so that the compiler compares several elements at once.
    const PIECE: usize = 64;
    let holds = |piece: &[f32]| piece.iter().fold(false, |found, x| found | (*x == max));
    let piece = row.chunks(PIECE).position(holds).unwrap_or(0) * PIECE;
    piece + row[piece..].iter().position(|x| *x == max).unwrap_or(0)
}

/// ln Σ eˣ over a row of logits.
///
/// # Errors
/// A logit is NaN or +∞, or none is finite.
pub(crate) fn log_sum_exp(logits: &[f32]) -> Result<f64> {
    normaliser(logits).map(|(_, normaliser)| normaliser)
}

/// The largest logit and [`log_sum_exp`].
fn normaliser(logits: &[f32]) -> Result<(f32, f64)> {
    let max = usable_maximum(logits)?;
    Ok((max, f64::from(max) + f64::from(exp_sum(logits, max, 1.0)).ln()))
}

/// The largest of a row of logits, all of which can be used.
fn usable_maximum(logits: &[f32]) -> Result<f32> {
    if let Some(max) = largest(logits) {
        return Ok(max);
    }
    let bad = |x: &f32| x.is_nan() || *x == f32::INFINITY;
    let (index, value) =
        logits.iter().enumerate().find(|(_, x)| bad(x)).map_or((0, f32::NEG_INFINITY), |(i, x)| (i, *x));
    Err(Error::new(
        ErrorKind::ModelOutput,
        format!(
            "the model's logits can't be used: the logit of token {index} is {value}. The weights may be damaged, or overflow in their precision"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampler(options: SamplingOptions) -> Sampler {
        Sampler::new(options, 7).expect("valid options")
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        let sampled = sampler(SamplingOptions::greedy()).sample(0, &[], &[1.0, 3.0, 3.0]).expect("finite");
        assert_eq!(sampled.token, 1);
        assert!((sampled.logprob - (3.0 - (1f32.exp() + 2.0 * 3f32.exp()).ln())).abs() < 1e-6);
    }

    #[test]
    fn a_temperature_next_to_zero_is_greedy() {
        let options = SamplingOptions { temperature: 1e-40, ..SamplingOptions::default() };
        let sampled = sampler(options).sample(0, &[], &[1.0, 3.0, 2.0, f32::NEG_INFINITY]).expect("finite");
        assert_eq!(sampled.token, 1);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0, -1.0];
        let options = SamplingOptions { temperature: 0.7, ..SamplingOptions::default() };
        let mut sampler = sampler(options);
        let mut counts = [0.0; 4];
        let n = 40_000;
        for draw in 0..n {
            counts[sampler.sample(draw, &[], &logits).expect("finite").token as usize] += 1.0;
        }
        let total: f64 = logits.iter().map(|x: &f32| f64::from(x / 0.7).exp()).sum();
        for (token, count) in counts.iter().enumerate() {
            let p = f64::from(logits[token] / 0.7).exp() / total;
            let sigma = (p * (1.0 - p) / n as f64).sqrt();
            assert!((count / n as f64 - p).abs() < 4.5 * sigma, "token {token}: {count} of {n}, expected {p}");
        }
    }

    #[test]
    fn truncation_keeps_the_likeliest() {
        let logits = [2.0f32.ln(), 5.0f32.ln(), 2.0f32.ln(), 1.0f32.ln()]; // 0.2, 0.5, 0.2, 0.1
        let kept = |options: SamplingOptions| {
            let mut sampler = sampler(options);
            let mut tokens: Vec<_> =
                (0..2000).map(|draw| sampler.sample(draw, &[], &logits).expect("finite").token).collect();
            tokens.sort_unstable();
            tokens.dedup();
            tokens
        };
        let base = SamplingOptions::default;
        assert_eq!(kept(SamplingOptions { top_k: 2, ..base() }), [0, 1], "of equals, the first");
        assert_eq!(kept(SamplingOptions { top_p: 0.6, ..base() }), [0, 1]);
        assert_eq!(kept(SamplingOptions { top_p: 0.45, ..base() }), [1]);
        assert_eq!(kept(SamplingOptions { min_p: 0.3, ..base() }), [0, 1, 2]);
        assert_eq!(kept(base()), [0, 1, 2, 3]);
    }

    #[test]
    fn repetition_penalty_lowers_seen_tokens_of_either_sign() {
        let options = SamplingOptions { repetition_penalty: 2.0, ..SamplingOptions::greedy() };
        assert_eq!(sampler(options.clone()).sample(0, &[0], &[3.0, 2.0]).expect("finite").token, 1);
        assert_eq!(sampler(options).sample(0, &[0], &[-1.0, -1.5]).expect("finite").token, 1);
    }

    #[test]
    fn unusable_logits_are_an_error_that_names_the_token() {
        for bad in [f32::NAN, f32::INFINITY] {
            let error = sampler(SamplingOptions::greedy()).sample(0, &[], &[0.0, bad]).expect_err("unusable");
            assert_eq!(error.kind(), ErrorKind::ModelOutput);
            assert!(error.to_string().contains("token 1"), "{error}");
        }
        assert!(sampler(SamplingOptions::greedy()).sample(0, &[], &[f32::NEG_INFINITY; 3]).is_err());
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let base = SamplingOptions::default;
        for (options, field) in [
            (SamplingOptions { temperature: -1.0, ..base() }, "temperature"),
            (SamplingOptions { top_p: 0.0, ..base() }, "top_p"),
            (SamplingOptions { min_p: f32::NAN, ..base() }, "min_p"),
            (SamplingOptions { repetition_penalty: 0.0, ..base() }, "repetition_penalty"),
        ] {
            assert!(Sampler::new(options, 0).expect_err("out of range").to_string().contains(field));
        }
    }

    proptest! {
        /// Sorting only a part changes nothing: the token is the same as by the definition.
        #[test]
        fn truncation_is_by_its_definition(logits in prop::collection::vec(-8f32..8.0, 1..80), seed: u64, top_k in 0usize..5, top_p in 0.1f32..=1.0, min_p in 0f32..0.3) {
            let options = SamplingOptions { top_k, top_p, min_p, ..SamplingOptions::default() };
            let sampled = Sampler::new(options, seed).expect("valid").sample(0, &[], &logits).expect("finite");
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut kept: Vec<(usize, f64)> = logits.iter().map(|x| f64::from(x - max).exp()).enumerate().collect();
            kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            kept.truncate(if top_k == 0 { kept.len() } else { top_k });
            let goal = kept.iter().map(|(_, w)| w).sum::<f64>() * f64::from(top_p);
            let before = |kept: &[(usize, f64)], i: usize| kept[..i].iter().map(|(_, w)| w).sum::<f64>();
            // A hair more than the definition keeps, for weights are rounded.
            let allowed = (0..kept.len())
                .filter(|&i| top_p == 1.0 || before(&kept, i) < goal * (1.0 + 1e-5))
                .filter(|&i| i == 0 || kept[i].1 >= f64::from(min_p) * (1.0 - 1e-5));
            prop_assert!(allowed.map(|i| kept[i].0).any(|token| token == sampled.token as usize));
        }

        /// Tokens that aren't allowed might as well be impossible, except for the log-probability.
        #[test]
        fn among_some_is_as_if_there_were_no_others(logits in prop::collection::vec(-8f32..8.0, 1..80), bits in prop::collection::vec(any::<u32>(), 1..4), seed: u64, draw in 0u64..5, temperature in 0f32..2.0, top_k in 0usize..5, top_p in 0.1f32..=1.0, penalty in 0.8f32..1.2) {
            let options = SamplingOptions { temperature, top_k, top_p, repetition_penalty: penalty, ..SamplingOptions::default() };
            let allowed = |token: usize| bits.get(token / 32).is_some_and(|word| word >> (token % 32) & 1 == 1);
            let masked: Vec<f32> = (0..).zip(&logits).map(|(token, x)| if allowed(token) { *x } else { f32::NEG_INFINITY }).collect();
            let mut sampler = Sampler::new(options, seed).expect("valid");
            match sampler.sample(draw, &[0, 1], &masked) {
                Ok(expected) => {
                    let sampled = sampler.sample_among(&bits, draw, &[0, 1], &logits).expect("finite");
                    prop_assert_eq!(sampled.token, expected.token);
                    prop_assert!(allowed(sampled.token as usize));
                    let logprob = f64::from(logits[sampled.token as usize]) - log_sum_exp(&logits).expect("finite");
                    prop_assert!((f64::from(sampled.logprob) - logprob).abs() < 1e-6);
                }
                Err(_) => {
                    let error = sampler.sample_among(&bits, draw, &[0, 1], &logits).expect_err("nothing is allowed");
                    prop_assert_eq!(error.kind(), ErrorKind::ModelOutput);
                }
            }
        }

        /// A draw depends on its number, not on the draws before it.
        #[test]
        fn draws_are_counter_based(logits in prop::collection::vec(-5f32..5.0, 1..50), n in 0u64..20, seed: u64, top_k in 0usize..5, top_p in 0.1f32..1.0) {
            let options = SamplingOptions { top_k, top_p, ..SamplingOptions::default() };
            let mut one = Sampler::new(options.clone(), seed).expect("valid");
            for draw in 0..n {
                one.sample(draw, &[], &logits).expect("finite");
            }
            let mut other = Sampler::new(options, seed).expect("valid");
            prop_assert_eq!(one.sample(n, &[], &logits).expect("finite"), other.sample(n, &[], &logits).expect("finite"));
        }
    }
}
