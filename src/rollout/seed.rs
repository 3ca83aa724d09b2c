//! The derivation of random streams.
//!
//! Every request to a model has its own seed, derived from the ranking's seed and the request's place in it, and never
//! from the order of events. So a reply depends only on its request.
//!
//! ```text
//! ranking seed ─▶ rollout seed (sample, and candidate unless random numbers are common) ─▶ request seed (turn, role)
//! ```
//!
//! The derivation is part of the result's definition: it stays the same across versions, and a test pins its values.

use super::ModelRole;

/// 2⁶⁴ divided by the golden ratio: the increment of SplitMix64 (Steele, Lea, Flood 2014).
const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

/// Separates streams of different purposes. The numbers are never reused.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
enum Purpose {
    Candidate = 1,
    Rollout = 2,
    Policy = 3,
    User = 4,
    Judge = 5,
    Extractor = 6,
}

/// The finaliser of SplitMix64: a bijection under which every input bit reaches every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The seed at the end of `path` below `parent`. The order of the path matters.
pub fn derive(parent: u64, path: &[u64]) -> u64 {
    path.iter().fold(parent, |seed, &step| mix(seed.wrapping_add(INCREMENT) ^ mix(step.wrapping_add(INCREMENT))))
}

/// Seed for sampling candidate number `candidate` from the policy.
pub fn candidate_seed(ranking: u64, candidate: usize) -> u64 {
    derive(ranking, &[Purpose::Candidate as u64, candidate as u64])
}

/// Seed of rollout `sample` of `candidate`. With common random numbers, the candidate makes no difference.
///
/// It has 53 bits, so that every JSON reader keeps it exactly.
pub fn rollout_seed(ranking: u64, candidate: usize, sample: usize, common_random_numbers: bool) -> u64 {
    let sample_seed = derive(ranking, &[Purpose::Rollout as u64, sample as u64]);
    let seed = if common_random_numbers { sample_seed } else { derive(sample_seed, &[candidate as u64]) };
    seed >> 11
}

/// Seed of the request that `role` gets in `turn` (counted from 0) of the rollout with seed `rollout`.
pub fn turn_seed(rollout: u64, turn: usize, role: ModelRole) -> u64 {
    derive(rollout, &[turn as u64, purpose(role)])
}

/// Seed of a metric's question: `metric` is its place in the list of metrics, `question` counts its questions.
pub fn question_seed(rollout: u64, metric: usize, question: usize, role: ModelRole) -> u64 {
    derive(rollout, &[metric as u64, question as u64, purpose(role)])
}

fn purpose(role: ModelRole) -> u64 {
    let purpose = match role {
        ModelRole::Policy => Purpose::Policy,
        ModelRole::User => Purpose::User,
        // A reward model draws nothing, but it needs some stream.
        ModelRole::Judge | ModelRole::RewardModel => Purpose::Judge,
        ModelRole::Extractor => Purpose::Extractor,
    };
    purpose as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn values_are_pinned() {
        // From `splitmix64` as published: state 0, first two outputs.
        assert_eq!(mix(INCREMENT), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(INCREMENT.wrapping_mul(2)), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(derive(7, &[]), 7);
        assert_eq!(derive(7, &[1]), 0x7a00_40ad_6bd5_1c6f);
        assert_eq!(derive(7, &[1, 2]), 0x677d_12dd_5d98_25ed);
        assert_eq!(candidate_seed(7, 0), 0xbe9d_bfa7_d752_0364);
        assert_eq!(rollout_seed(7, 1, 2, true), 0x0001_78f3_0875_cace);
        assert_eq!(rollout_seed(7, 1, 2, false), 0x0007_cff2_2cd0_c5bc);
        assert_eq!(turn_seed(17, 1, ModelRole::User), 0x4e9a_6574_dc58_7ae8);
        assert_eq!(question_seed(17, 0, 1, ModelRole::Judge), 0x0201_9c17_6003_afd1);
    }

    #[test]
    fn common_random_numbers_forget_the_candidate() {
        assert_eq!(rollout_seed(7, 0, 2, true), rollout_seed(7, 5, 2, true));
        assert_ne!(rollout_seed(7, 0, 2, false), rollout_seed(7, 5, 2, false));
        assert_ne!(rollout_seed(7, 0, 1, true), rollout_seed(7, 0, 2, true));
    }

    #[test]
    fn places_do_not_collide() {
        let mut seen = HashSet::new();
        for rollout in 0..40 {
            for turn in 0..20 {
                for role in [ModelRole::Policy, ModelRole::User] {
                    assert!(seen.insert(turn_seed(rollout, turn, role)));
                }
                for question in 0..3 {
                    assert!(seen.insert(question_seed(rollout, turn, question, ModelRole::Judge)));
                }
            }
        }
        assert_ne!(derive(1, &[2, 3]), derive(1, &[3, 2]));
    }
}
