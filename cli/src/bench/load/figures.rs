//! What became of the requests, in numbers.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use super::super::Percentiles;
use super::drive::Asked;
use super::target::Fate;

/// A run is looked at in so many parts of equal length.
const PARTS: u32 = 10;
/// Most reasons that are told.
const REASONS: usize = 8;

/// A run, or several of equal length. The counts from `in_time` to `unsent` add up to `arrived`.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// Requests in a second that were asked for; null where each client asked again as soon as it was answered.
    pub(super) rate: Option<f64>,
    pub(super) arrived: usize,
    /// Answered in full, within the deadline if there is one.
    pub(super) in_time: usize,
    /// Answered in full, too late.
    pub(super) late: usize,
    /// Rankings of what was finished at the deadline.
    pub(super) partial: usize,
    /// Turned away, because there was no place.
    pub(super) refused: usize,
    /// Told that the deadline had passed.
    pub(super) expired: usize,
    /// Answered with another error.
    pub(super) failed: usize,
    /// Not answered.
    pub(super) lost: usize,
    /// Not sent: no client was free before the deadline.
    pub(super) unsent: usize,
    /// Answers whose numbers are not those of the first answer to the same request.
    pub(super) different: usize,
    /// Answers with a number that another answer had; null where answers have no numbers.
    pub(super) twice: Option<usize>,
    /// Full answers that came while requests arrived, for each second.
    pub(super) answered_per_second: f64,
    /// Full answers that came in time and while requests arrived, for each second.
    pub(super) goodput_per_second: f64,
    /// From arrival to full or partial answer.
    pub(super) latency_seconds: Percentiles,
    /// From arrival to refusal.
    pub(super) refusal_seconds: Percentiles,
    /// The run by the time of arrival.
    pub(super) parts: Vec<Part>,
    /// Why requests failed or were lost, and how often.
    pub(super) reasons: BTreeMap<String, usize>,
}

/// A part of a run.
#[derive(Debug, Serialize)]
pub(super) struct Part {
    pub(super) from_second: f64,
    pub(super) arrived: usize,
    pub(super) goodput_per_second: f64,
    pub(super) latency_seconds: Percentiles,
}

impl Figures {
    /// Of all that was asked in `rounds` runs of `time` each.
    pub(super) fn of(
        asked: &[Asked],
        rate: Option<f64>,
        time: Duration,
        rounds: usize,
        deadline: Option<Duration>,
    ) -> Self {
        let count = |is: &dyn Fn(&Asked) -> bool| asked.iter().filter(|asked| is(asked)).count();
        let fate = |fate: &Fate| count(&|asked| asked.fate == *fate);
        let good = |asked: &Asked| asked.is_whole() && deadline.is_none_or(|deadline| asked.latency() <= deadline);
        let seconds = time.as_secs_f64() * rounds as f64;
        let in_time = count(&good);
        let part = |number: u32| {
            let (from, to) = (time * number / PARTS, time * (number + 1) / PARTS);
            let within = || asked.iter().filter(move |asked| (from..to).contains(&asked.due));
            Part {
                from_second: from.as_secs_f64(),
                arrived: within().count(),
                goodput_per_second: within().filter(|asked| good(asked)).count() as f64 * f64::from(PARTS) / seconds,
                latency_seconds: latencies(within().filter(|asked| asked.is_answered())),
            }
        };
        Figures {
            rate,
            arrived: asked.len(),
            in_time,
            late: count(&Asked::is_whole) - in_time,
            partial: fate(&Fate::Partial),
            refused: fate(&Fate::Refused),
            expired: fate(&Fate::Expired),
            failed: count(&|asked| matches!(asked.fate, Fate::Failed(_))),
            lost: count(&|asked| matches!(asked.fate, Fate::Lost(_))),
            unsent: fate(&Fate::Unsent),
            different: fate(&Fate::Whole { differs: true }),
            twice: twice(asked),
            answered_per_second: count(&|asked| asked.is_whole() && asked.ended <= time) as f64 / seconds,
            goodput_per_second: count(&|asked| good(asked) && asked.ended <= time) as f64 / seconds,
            latency_seconds: latencies(asked.iter().filter(|asked| asked.is_answered())),
            refusal_seconds: latencies(asked.iter().filter(|asked| asked.fate == Fate::Refused)),
            parts: (0..PARTS).map(part).collect(),
            reasons: reasons(asked),
        }
    }
}

impl Asked {
    fn is_whole(&self) -> bool {
        matches!(self.fate, Fate::Whole { .. })
    }

    fn is_answered(&self) -> bool {
        self.is_whole() || self.fate == Fate::Partial
    }

    fn latency(&self) -> Duration {
        self.ended.saturating_sub(self.due)
    }
}

fn latencies<'a>(asked: impl Iterator<Item = &'a Asked>) -> Percentiles {
    Percentiles::of(asked.map(|asked| asked.latency().as_secs_f64()).collect())
}

fn twice(asked: &[Asked]) -> Option<usize> {
    let numbers: Vec<&String> = asked.iter().filter_map(|asked| asked.number.as_ref()).collect();
    let different: HashSet<&&String> = numbers.iter().collect();
    (!numbers.is_empty()).then(|| numbers.len() - different.len())
}

fn reasons(asked: &[Asked]) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for asked in asked {
        let (Fate::Failed(why) | Fate::Lost(why)) = &asked.fate else { continue };
        if reasons.contains_key(why) || reasons.len() < REASONS {
            *reasons.entry(why.clone()).or_default() += 1;
        } else {
            *reasons.entry("other reasons".to_owned()).or_default() += 1;
        }
    }
    reasons
}

/// Figures of the second target divided by those of the first, round by round.
#[derive(Debug, Serialize)]
pub(super) struct Ratio {
    p50: Option<Spread>,
    p95: Option<Spread>,
    p99: Option<Spread>,
    goodput: Option<Spread>,
}

/// The median over rounds, and the range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Ratio {
    /// Of rounds with two targets each. A round in which a figure is unknown or 0 has no part in its ratio.
    pub(super) fn of(rounds: &[Vec<Figures>]) -> Self {
        let spread = |figure: &dyn Fn(&Figures) -> Option<f64>| {
            let ratio = |round: &Vec<Figures>| match round.as_slice() {
                [first, second] => {
                    Some(figure(second)? / figure(first)?).filter(|ratio| ratio.is_finite() && *ratio > 0.0)
                }
                _ => None,
            };
            Spread::of(rounds.iter().filter_map(ratio).collect())
        };
        Ratio {
            p50: spread(&|figures| figures.latency_seconds.p50),
            p95: spread(&|figures| figures.latency_seconds.p95),
            p99: spread(&|figures| figures.latency_seconds.p99),
            goodput: spread(&|figures| Some(figures.goodput_per_second)),
        }
    }

    /// The ratios with their names.
    pub(super) fn named(&self) -> [(&'static str, Option<Spread>); 4] {
        [("p50", self.p50), ("p95", self.p95), ("p99", self.p99), ("goodput", self.goodput)]
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Spread { median, least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Fate = Fate::Whole { differs: false };

    fn asked(due: u64, took: u64, fate: Fate, number: &str) -> Asked {
        let due = Duration::from_millis(due);
        let number = (!number.is_empty()).then(|| number.to_owned());
        Asked { due, ended: due + Duration::from_millis(took), fate, number }
    }

    fn one_of_each() -> Vec<Asked> {
        vec![
            asked(0, 100, WHOLE, "1"),
            asked(500, 300, WHOLE, "2"),
            asked(1000, 200, Fate::Whole { differs: true }, "2"),
            asked(1500, 150, Fate::Partial, "3"),
            asked(2000, 1, Fate::Refused, "4"),
            asked(3000, 210, Fate::Expired, "5"),
            asked(4000, 9, Fate::Failed("no".into()), "6"),
            asked(4000, 9, Fate::Lost("gone".into()), ""),
            asked(9900, 200, Fate::Unsent, ""),
            asked(9950, 190, WHOLE, "7"),
        ]
    }

    fn figures(deadline: Option<u64>) -> Figures {
        Figures::of(&one_of_each(), Some(1.0), Duration::from_secs(10), 1, deadline.map(Duration::from_millis))
    }

    #[test]
    fn every_request_is_counted_once() {
        let all = figures(Some(200));
        let counts = [all.in_time, all.late, all.partial, all.refused, all.expired, all.failed, all.lost, all.unsent];
        assert_eq!(counts, [3, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(counts.iter().sum::<usize>(), all.arrived);
        assert_eq!((all.different, all.twice), (1, Some(1)));
        assert_eq!(
            all.reasons.iter().map(|(why, count)| (why.as_str(), *count)).collect::<Vec<_>>(),
            [("gone", 1), ("no", 1)]
        );
        // The last answer was in time for its deadline, and came after the ten seconds.
        assert_eq!((all.answered_per_second, all.goodput_per_second), (0.3, 0.2));
        let Percentiles { p50, p95, p99 } = all.latency_seconds;
        assert_eq!([p50, p95, p99], [Some(0.19), Some(0.3), Some(0.3)], "refusals and failures are not among them");
        assert_eq!(all.refusal_seconds.p99, Some(0.001));
    }

    #[test]
    fn without_a_deadline_every_full_answer_is_in_time() {
        let all = figures(None);
        assert_eq!((all.in_time, all.late), (4, 0));
    }

    #[test]
    fn parts_divide_a_run_by_the_time_of_arrival() {
        let all = figures(Some(200));
        assert_eq!(all.parts.iter().map(|part| part.arrived).collect::<Vec<_>>(), [2, 2, 1, 1, 2, 0, 0, 0, 0, 2]);
        assert_eq!((all.parts[0].goodput_per_second, all.parts[9].from_second), (1.0, 9.0));
        assert_eq!(all.parts[5].latency_seconds.p50, None);
    }

    #[test]
    fn ratios_are_those_of_rounds() {
        let round = |first: u64, second: u64| {
            let of = |took| Figures::of(&[asked(0, took, WHOLE, "")], None, Duration::from_secs(1), 1, None);
            vec![of(first), of(second)]
        };
        let ratio = Ratio::of(&[round(500, 1000), round(500, 250), round(500, 2000)]);
        assert_eq!(ratio.p50, Some(Spread { median: 2.0, least: 0.5, most: 4.0 }));
        assert_eq!(ratio.goodput, Some(Spread { median: 1.0, least: 1.0, most: 1.0 }));
        let nothing = Figures::of(&[], None, Duration::from_secs(1), 1, None);
        let nothing = Ratio::of(&[vec![nothing, round(1, 1).remove(0)]]);
        assert!(nothing.named().iter().all(|(_, spread)| spread.is_none()));
    }
}
