//! The kernel against a float64 reference on random block tables, and against itself: other chunks, other processors,
//! stale cache contents.

use half::bf16;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::call::{Call, Item, Packed, Rotary};
use super::layout::{Heads, MAX_ITEM_ROWS, Stored};
use crate::simd::{self, Isa, LANES};

/// What a layer does beside plain attention.
#[derive(Debug, Clone, Copy)]
struct Style {
    softcap: f32,
    window: usize,
    stored_as: Stored,
}

impl Style {
    const fn new(softcap: f32, window: usize) -> Self {
        Style { softcap, window, stored_as: Stored::Float32 }
    }

    const fn in_bfloat16(self) -> Self {
        Style { stored_as: Stored::Bfloat16, ..self }
    }

    const fn in_bytes(self) -> Self {
        Style { stored_as: Stored::Int8, ..self }
    }

    /// A head's numbers as they are stored.
    fn rounded(self, head: Vec<f64>) -> Vec<f64> {
        match self.stored_as {
            Stored::Float32 => head,
            Stored::Bfloat16 => head.into_iter().map(|x| bf16::from_f32(x as f32).to_f64()).collect(),
            Stored::Int8 => {
                let size = head.len();
                let stored = size.next_multiple_of(LANES);
                let padded = head.into_iter().chain(std::iter::repeat_n(0.0, stored - size)).collect();
                let mixed = mixed(padded);
                let scale = mixed.iter().fold(0.0, |largest: f64, x| largest.max(x.abs())) / 127.0;
                let rounded = |x: f64| (x / scale).round_ties_even() * scale;
                let mut head = self::mixed(mixed.into_iter().map(rounded).collect());
                head.truncate(size);
                head
            }
        }
    }
}

/// Numbers times Walsh's matrix, in blocks as long as the largest power of two that divides their count. Its own inverse.
fn mixed(row: Vec<f64>) -> Vec<f64> {
    let length = 1 << row.len().trailing_zeros();
    let sign = |i: usize, k: usize| if (i & k).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    let product = |block: &[f64], i: usize| block.iter().enumerate().map(|(k, x)| sign(i, k) * x).sum::<f64>();
    let mix = |block: &[f64]| (0..length).map(|i| product(block, i) / (length as f64).sqrt()).collect::<Vec<_>>();
    row.chunks(length).flat_map(mix).collect()
}

/// Plain; Gemma 2's; windows about as wide as a tile, narrower than a block, and of one token; some in bfloat16 and bytes.
const STYLES: [Style; 14] = [
    Style::new(0.0, usize::MAX),
    Style::new(5.0, usize::MAX),
    Style::new(50.0, 37),
    Style::new(0.0, 65),
    Style::new(0.0, 7),
    Style::new(0.0, 1),
    Style::new(0.0, usize::MAX).in_bfloat16(),
    Style::new(50.0, 37).in_bfloat16(),
    Style::new(0.0, 1).in_bfloat16(),
    Style::new(0.0, usize::MAX).in_bytes(),
    Style::new(5.0, usize::MAX).in_bytes(),
    Style::new(50.0, 37).in_bytes(),
    Style::new(0.0, 65).in_bytes(),
    Style::new(0.0, 1).in_bytes(),
];

/// One sequence's queries, keys and values, `[length, heads · size]` each.
#[derive(Clone)]
struct Sequence {
    heads: Heads,
    style: Style,
    length: usize,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

fn floats(rng: &mut ChaCha8Rng, n: usize, scale: f32) -> Vec<f32> {
    (0..n).map(|_| (rng.next_u32() as f32 / u32::MAX as f32 - 0.5) * scale).collect()
}

impl Sequence {
    fn random(heads: Heads, style: Style, length: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let half = heads.size / 2;
        let angles: Vec<f32> =
            (0..length * half).map(|i| (i / half) as f32 / 100f32.powf((i % half) as f32 / half as f32)).collect();
        Sequence {
            heads,
            style,
            length,
            query: floats(&mut rng, length * heads.query * heads.size, 6.0),
            key: floats(&mut rng, length * heads.kv * heads.size, 6.0),
            value: floats(&mut rng, length * heads.kv * heads.size, 2.0),
            cos: angles.iter().map(|a| a.cos()).collect(),
            sin: angles.iter().map(|a| a.sin()).collect(),
        }
    }

    fn rotary(&self) -> Rotary<'_> {
        Rotary { cos: &self.cos, sin: &self.sin, half: self.heads.size / 2, interleaved: false }
    }

    fn rotated(&self, x: &[f32], position: usize) -> Vec<f64> {
        let half = self.heads.size / 2;
        let mut out: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        for i in 0..half {
            let (cos, sin) = (f64::from(self.cos[position * half + i]), f64::from(self.sin[position * half + i]));
            let (a, b) = (out[i], out[i + half]);
            (out[i], out[i + half]) = (a * cos - b * sin, b * cos + a * sin);
        }
        out
    }

    /// Attention in float64, `[length, query heads · size]`.
    fn reference(&self) -> Vec<f64> {
        let Heads { query, kv, size } = self.heads;
        let group = query / kv;
        let mut out = Vec::new();
        // Every key, rotated for its position.
        let keys: Vec<Vec<f64>> =
            self.key.chunks_exact(size).enumerate().map(|(row, key)| self.rotated(key, row / kv)).collect();
        let keys: Vec<Vec<f64>> = keys.into_iter().map(|key| self.style.rounded(key)).collect();
        let values = self.value.chunks_exact(size);
        let values = values.map(|head| self.style.rounded(head.iter().map(|x| f64::from(*x)).collect()));
        let values: Vec<Vec<f64>> = values.collect();
        for position in 0..self.length {
            for head in 0..query {
                let scale = f64::from(1.0 / (size as f32).sqrt());
                let q = self.rotated(&self.query[(position * query + head) * size..][..size], position);
                let q = self.style.rounded(q.into_iter().map(|x| x * scale).collect());
                let at = |p: usize| p * kv + head / group;
                let first = (position + 1).saturating_sub(self.style.window);
                let cap = f64::from(self.style.softcap);
                let scores: Vec<f64> = (first..=position)
                    .map(|p| {
                        let score = q.iter().zip(&keys[at(p)]).map(|(a, b)| a * b).sum::<f64>();
                        if cap == 0.0 { score } else { cap * (score / cap).tanh() }
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                out.extend((0..size).map(|d| {
                    let weighted = weights.iter().zip(first..).map(|(w, p)| w * values[at(p)][d]);
                    weighted.sum::<f64>() / total
                }));
            }
        }
        out
    }
}

/// NaN, as a float32 and as a pair of bfloat16.
const RUBBISH: f32 = f32::from_bits(u32::MAX);

/// A cache with its block table in random order and rubbish in every slot.
struct Cache {
    key: Vec<f32>,
    value: Vec<f32>,
    table: Vec<i32>,
}

impl Cache {
    fn new(heads: Heads, length: usize, seed: u64) -> Self {
        let blocks = length.div_ceil(LANES);
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xb10c);
        let mut table: Vec<i32> = (0..(blocks as i32) + 3).collect();
        for i in (1..table.len()).rev() {
            table.swap(i, rng.next_u32() as usize % (i + 1));
        }
        let floats = table.len() * Stored::Float32.block_bytes(heads) / size_of::<f32>();
        table.truncate(blocks);
        Cache { key: vec![RUBBISH; floats], value: vec![RUBBISH; floats], table }
    }

    /// Runs tokens `from..to` of `sequence` and returns their output rows.
    fn run(&mut self, sequence: &Sequence, from: usize, to: usize, isa: Isa) -> Vec<f32> {
        let Heads { query, kv, size } = sequence.heads;
        let stored = sequence.heads.stored();
        let tokens = to - from;
        let mut queries = vec![0.0_f32; tokens * query * stored];
        let mut output = vec![0.0; tokens * query * stored];
        let part =
            |data: &'_ [f32], heads: usize| -> Vec<f32> { data[from * heads * size..to * heads * size].to_vec() };
        let (q, k, v) = (part(&sequence.query, query), part(&sequence.key, kv), part(&sequence.value, kv));
        let call = Call {
            heads: sequence.heads,
            scale: 1.0 / (size as f32).sqrt(),
            softcap: sequence.style.softcap,
            window: sequence.style.window,
            rotary: Some(sequence.rotary()),
            query: Packed { data: &q, offset: 0, stride: query * size },
            key: Packed { data: &k, offset: 0, stride: kv * size },
            value: Packed { data: &v, offset: 0, stride: kv * size },
            stored_as: sequence.style.stored_as,
            key_cache: self.key.as_mut_ptr().cast(),
            value_cache: self.value.as_mut_ptr().cast(),
            block_table: &self.table,
            table_width: self.table.len(),
            past: &[from as i32],
            queries: queries.as_mut_ptr().cast(),
            output: output.as_mut_ptr(),
        };
        let step = sequence.heads.tokens_per_item();
        for token in 0..tokens {
            let position = from + token;
            let slot = self.table[position / LANES] as usize * LANES + position % LANES;
            // SAFETY: buffers have the sizes that the call's fields document; one thread.
            unsafe { call.prepare(token, position, Some(slot), isa) };
        }
        for token in (0..tokens).step_by(step) {
            let (count, position) = (step.min(tokens - token), from + token);
            let item = Item { token, count, position, sequence: 0, apart: false, head: 0, heads: 0 };
            for heads in sequence.heads.shares() {
                // SAFETY: as above.
                unsafe { call.attend(item.of(heads), isa) };
            }
        }
        output.chunks_exact(stored).flat_map(|row| row[..size].to_vec()).collect()
    }
}

/// Sequences that have their first tokens in common, as copies with other ends, in one cache.
struct Fork {
    key: Vec<f32>,
    value: Vec<f32>,
    sequences: Vec<Sequence>,
    /// All of one width.
    tables: Vec<Vec<i32>>,
}

impl Fork {
    /// A sequence for each of `shared`, which says how many of its blocks are the first one's, and of `lengths`.
    fn new(heads: Heads, style: Style, shared: &[usize], lengths: &[usize], seed: u64) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let width = longest.div_ceil(LANES);
        let trunk = Sequence::random(heads, style, longest, seed);
        let (mut sequences, mut tables, mut next) = (Vec::new(), Vec::<Vec<i32>>::new(), 0);
        for (index, (&shared, &length)) in shared.iter().zip(lengths).enumerate() {
            let shared = if index == 0 { 0 } else { shared.min(length / LANES) };
            let own = next..next + (width - shared) as i32;
            next = own.end;
            let common = tables.first().map_or(&[][..], |first| &first[..shared]);
            tables.push(common.iter().copied().chain(own.rev()).collect());
            let mut sequence = Sequence::random(heads, style, longest, seed + 1 + index as u64);
            for (to, from, row) in [
                (&mut sequence.key, &trunk.key, heads.kv * heads.size),
                (&mut sequence.value, &trunk.value, heads.kv * heads.size),
            ] {
                let rows = if index == 0 { longest } else { shared * LANES };
                to[..rows * row].copy_from_slice(&from[..rows * row]);
            }
            sequences.push(Sequence { length, ..sequence });
        }
        let floats = next as usize * Stored::Float32.block_bytes(heads) / size_of::<f32>();
        Fork { key: vec![RUBBISH; floats], value: vec![RUBBISH; floats], sequences, tables }
    }

    /// Sequence `index` computed from its beginning, alone; its last token's row.
    fn alone(&mut self, index: usize, isa: Isa) -> Vec<f32> {
        let sequence = &self.sequences[index];
        let table = self.tables[index].clone();
        let mut cache = Cache { key: std::mem::take(&mut self.key), value: std::mem::take(&mut self.value), table };
        let rows = cache.run(sequence, 0, sequence.length, isa);
        (self.key, self.value) = (cache.key, cache.value);
        rows[(sequence.length - 1) * sequence.heads.query * sequence.heads.size..].to_vec()
    }

    /// The last tokens of all sequences in one item a head; what is before them is in the cache.
    fn together(&mut self, isa: Isa) -> Vec<f32> {
        let first = &self.sequences[0];
        let (heads, stored) = (first.heads, first.heads.stored());
        let last = |data: fn(&Sequence) -> &Vec<f32>, count: usize| -> Vec<f32> {
            let row = |s: &Sequence| data(s)[(s.length - 1) * count * heads.size..][..count * heads.size].to_vec();
            self.sequences.iter().flat_map(row).collect()
        };
        let (q, k, v) = (last(|s| &s.query, heads.query), last(|s| &s.key, heads.kv), last(|s| &s.value, heads.kv));
        let past: Vec<i32> = self.sequences.iter().map(|s| s.length as i32 - 1).collect();
        let count = past.len();
        let mut queries = vec![0.0_f32; count * heads.query * stored];
        let mut output = vec![0.0; count * heads.query * stored];
        let call = Call {
            heads,
            scale: 1.0 / (heads.size as f32).sqrt(),
            softcap: first.style.softcap,
            window: first.style.window,
            rotary: Some(first.rotary()),
            query: Packed { data: &q, offset: 0, stride: heads.query * heads.size },
            key: Packed { data: &k, offset: 0, stride: heads.kv * heads.size },
            value: Packed { data: &v, offset: 0, stride: heads.kv * heads.size },
            stored_as: first.style.stored_as,
            key_cache: self.key.as_mut_ptr().cast(),
            value_cache: self.value.as_mut_ptr().cast(),
            block_table: &self.tables.concat(),
            table_width: self.tables[0].len(),
            past: &past,
            queries: queries.as_mut_ptr().cast(),
            output: output.as_mut_ptr(),
        };
        for (token, past) in past.iter().enumerate() {
            // SAFETY: as in `Cache::run`. Rows of the cache stay as they are.
            unsafe { call.prepare(token, *past as usize, None, isa) };
        }
        // As many sequences an item as the operator takes.
        for first in (0..count).step_by(heads.sequences_per_item()) {
            let taken = heads.sequences_per_item().min(count - first);
            let position = past[first] as usize;
            let item = Item { token: first, count: taken, position, sequence: first, apart: true, head: 0, heads: 0 };
            for heads in heads.shares() {
                // SAFETY: as in `Cache::run`.
                unsafe { call.attend(item.of(heads), isa) };
            }
        }
        output.chunks_exact(stored).flat_map(|row| row[..heads.size].to_vec()).collect()
    }
}

/// What this machine can run a style on.
fn supported(style: Style) -> Vec<Isa> {
    let mut isas = Isa::all();
    #[cfg(target_arch = "x86_64")]
    isas.retain(|isa| match isa {
        Isa::Scalar => true,
        Isa::Avx2(_) => style.stored_as != Stored::Bfloat16,
        Isa::Avx512(_) => style.stored_as == Stored::Float32,
        Isa::Avx512Vnni(_) => style.stored_as == Stored::Int8,
        Isa::Avx512Bf16(_) => style.stored_as == Stored::Bfloat16,
    });
    isas
}

fn best(style: Style) -> Isa {
    *supported(style).last().expect("at least plain Rust")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// The last one has more query heads for a key-value head than an item has rows.
const SHAPES: [Heads; 6] = [
    Heads { query: 9, kv: 3, size: 64 },
    Heads { query: 4, kv: 4, size: 8 },
    Heads { query: 8, kv: 1, size: 80 },
    Heads { query: 2, kv: 1, size: 128 },
    Heads { query: 7, kv: 1, size: 96 },
    Heads { query: 49, kv: 1, size: 8 },
];

/// How near to float64 a cache's outputs are. Weights are rounded too but for float32, and a rotated number may be rounded
/// to the other side.
fn bound(style: Style) -> f64 {
    match style.stored_as {
        Stored::Float32 => 2e-5,
        Stored::Bfloat16 | Stored::Int8 => 2e-2,
    }
}

#[test]
fn agrees_with_float64() {
    for (i, heads) in SHAPES.into_iter().enumerate() {
        for (style, length) in STYLES.into_iter().flat_map(|s| [1, 15, 16, 17, 64, 65, 150].map(|length| (s, length))) {
            let sequence = Sequence::random(heads, style, length, i as u64);
            let output = Cache::new(heads, length, 7).run(&sequence, 0, length, best(style));
            for (got, want) in output.iter().zip(sequence.reference()) {
                let error = (f64::from(*got) - want).abs();
                assert!(error < bound(style), "{heads:?}, {style:?}, length {length}: {got} is not {want}");
            }
        }
    }
}

#[test]
fn shares_of_any_group_cover_all_heads_and_fit_an_item() {
    for (query, kv) in (1..=300).flat_map(|group| [(group, 1), (3 * group, 3)]) {
        let heads = Heads { query, kv, size: 16 };
        let shares: Vec<_> = heads.shares().collect();
        assert!(shares.iter().cloned().flatten().eq(0..query), "{heads:?}: {shares:?}");
        for share in shares {
            assert_eq!(share.start / heads.group(), (share.end - 1) / heads.group(), "{heads:?}: {share:?}");
            let most = share.len() * heads.tokens_per_item().max(heads.sequences_per_item());
            assert!((1..=MAX_ITEM_ROWS).contains(&most), "{heads:?}: {share:?}");
        }
    }
}

/// Falcon has 71 query heads on one key-value head.
#[test]
fn groups_of_any_size_are_those_of_smaller_ones_side_by_side() {
    const LENGTH: usize = 66;
    let caches = [Style::new(0.0, usize::MAX), Style::new(5.0, 37)];
    let styles = caches.into_iter().flat_map(|style| [style, style.in_bfloat16(), style.in_bytes()]);
    let cases = styles.flat_map(|style| [48, 49, 64, 71, 128].map(|query| (style, query)));
    for (style, query) in cases {
        let heads = Heads { query, kv: 1, size: 16 };
        let sequence = Sequence::random(heads, style, LENGTH, query as u64);
        let run = |sequence: &Sequence, isa| Cache::new(sequence.heads, LENGTH, 5).run(sequence, 0, LENGTH, isa);
        let whole = run(&sequence, best(style));
        for (got, want) in whole.iter().zip(sequence.reference()) {
            assert!((f64::from(*got) - want).abs() < bound(style), "{heads:?}, {style:?}: {got} is not {want}");
        }
        for first in (0..query).step_by(24) {
            let part = Heads { query: 24.min(query - first), ..heads };
            let of = |rows: &[f32]| -> Vec<f32> {
                let row = |row: &[f32]| row[first * heads.size..][..part.query * heads.size].to_vec();
                rows.chunks_exact(query * heads.size).flat_map(row).collect()
            };
            let alone = Sequence { heads: part, query: of(&sequence.query), ..sequence.clone() };
            assert_eq!(bits(&run(&alone, best(style))), bits(&of(&whole)), "{heads:?}, {style:?}, from {first}");
        }
    }
}

#[test]
fn every_processor_gives_the_same_bits() {
    for (i, heads) in SHAPES.into_iter().enumerate() {
        for style in STYLES {
            let sequence = Sequence::random(heads, style, 100, i as u64);
            let run = |isa| bits(&Cache::new(heads, 100, 3).run(&sequence, 0, 100, isa));
            let outputs: Vec<_> = supported(style).into_iter().map(run).collect();
            assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]), "{heads:?}, {style:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Any way of cutting a sequence into chunks, over any block table, gives the same bits.
    #[test]
    fn chunks_and_blocks_change_nothing(
        shape in 0..SHAPES.len(),
        style in 0..STYLES.len(),
        cuts in prop::collection::vec(1usize..70, 1..8),
        seed in any::<u64>(),
    ) {
        let heads = SHAPES[shape];
        let length = cuts.iter().sum();
        let sequence = Sequence::random(heads, STYLES[style], length, seed);
        let isa = best(STYLES[style]);
        let whole = bits(&Cache::new(heads, length, seed).run(&sequence, 0, length, isa));
        let mut cache = Cache::new(heads, length, seed.wrapping_add(1));
        let (mut parts, mut from) = (Vec::new(), 0);
        for cut in cuts {
            parts.extend(cache.run(&sequence, from, from + cut, isa));
            from += cut;
        }
        prop_assert_eq!(whole, bits(&parts));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Sequences that have keys in common, computed together, have the bits of each alone.
    #[test]
    fn common_keys_are_read_once_and_change_nothing(
        shape in 0..SHAPES.len(),
        style in 0..STYLES.len(),
        sequences in prop::collection::vec((0usize..14, 1usize..300), 1..5),
        seed: u32,
    ) {
        let (shared, lengths): (Vec<_>, Vec<_>) = sequences.into_iter().unzip();
        let mut fork = Fork::new(SHAPES[shape], STYLES[style], &shared, &lengths, seed.into());
        for isa in supported(STYLES[style]) {
            let alone: Vec<_> = (0..lengths.len()).flat_map(|index| fork.alone(index, isa)).collect();
            prop_assert_eq!(bits(&alone), bits(&fork.together(isa)), "{:?}", isa);
        }
    }
}

/// Whether a query, key or value is NaN, whoever sees it gives NaN, and nobody else does: damaged weights must show.
#[test]
fn what_is_not_a_number_shows_in_every_row_that_sees_it() {
    let (heads, length, at) = (Heads { query: 2, kv: 1, size: 64 }, 100, 37);
    for (isa, style) in STYLES.into_iter().flat_map(|style| supported(style).into_iter().map(move |isa| (isa, style))) {
        for part in 0..3 {
            let mut sequence = Sequence::random(heads, style, length, 1);
            let (data, width) = match part {
                0 => (&mut sequence.query, heads.query * heads.size),
                1 => (&mut sequence.key, heads.size),
                _ => (&mut sequence.value, heads.size),
            };
            data[at * width..(at + 1) * width].fill(f32::NAN);
            let output = Cache::new(heads, length, 2).run(&sequence, 0, length, isa);
            for (position, row) in output.chunks_exact(heads.query * heads.size).enumerate() {
                let sees_it = position == at || (part > 0 && position > at && position - at < style.window);
                let right = row.iter().all(|x| x.is_nan() == sees_it);
                assert!(right, "{isa:?}, {style:?}, part {part}, position {position}");
            }
        }
    }
}

#[test]
fn exponential_is_within_two_ulp_and_exact_at_the_ends() {
    let exp = |x: f32| simd::exp(simd::Scalar, [x; LANES])[0];
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(-88.0), 0.0);
    assert!(exp(f32::NAN).is_nan());
    for i in 0..200_000 {
        let x = -(i as f32) * 87.0 / 200_000.0;
        let want = f64::from(x).exp();
        let error = (f64::from(exp(x)) - want).abs() / (want * f64::from(f32::EPSILON));
        assert!(error < 2.0, "exp({x}) is off by {error} ulp");
    }
}

#[test]
fn coarse_powers_of_two_are_as_near_as_they_say() {
    let exp2 = |x: f32| simd::coarse_exp2(simd::Scalar, [x; LANES])[0];
    assert_eq!(exp2(f32::NEG_INFINITY), exp2(-125.0));
    assert!(exp2(f32::NAN).is_nan());
    for i in 0..200_000 {
        let x = i as f32 * 251.0 / 200_000.0 - 125.0;
        let want = f64::from(x).exp2();
        assert!((f64::from(exp2(x)) - want).abs() < want / 8192.0, "2^{x} is {}", exp2(x));
    }
}

#[test]
fn hyperbolic_tangent_is_within_four_ulp() {
    let tanh = |x: f32| simd::tanh(simd::Scalar, [x; LANES])[0];
    assert_eq!((tanh(0.0), tanh(100.0), tanh(-100.0)), (0.0, 1.0, -1.0));
    assert_eq!((tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
    assert!(tanh(f32::NAN).is_nan());
    for i in 1..200_000 {
        let x = (i - 100_000) as f32 / 10_000.0;
        let want = f64::from(x).tanh();
        let error = (f64::from(tanh(x)) - want).abs() / (want.abs() * f64::from(f32::EPSILON)).max(f64::MIN_POSITIVE);
        assert!(error < 4.0, "tanh({x}) is off by {error} ulp");
    }
}
