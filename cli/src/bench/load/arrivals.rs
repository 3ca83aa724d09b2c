//! When requests arrive, and which.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A request that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    /// From the start of the run.
    pub(super) due: Duration,
    /// Its place in the file.
    pub(super) line: usize,
}

/// Arrivals at random moments (a Poisson process), or as soon as somebody is free. The lines come in random order: each once,
/// then each once again.
#[derive(Debug, Clone)]
pub(super) struct Arrivals {
    times: ChaCha8Rng,
    order: ChaCha8Rng,
    rate: Option<f64>,
    seconds: f64,
    at: f64,
    lines: usize,
    left: Vec<usize>,
}

impl Arrivals {
    /// `rate` is in requests a second. Without it, a request arrives whenever one is asked for.
    pub(super) fn new(seed: u64, rate: Option<f64>, time: Duration, lines: usize) -> Self {
        let stream = |number| {
            let mut stream = ChaCha8Rng::seed_from_u64(seed);
            stream.set_stream(number);
            stream
        };
        let seconds = time.as_secs_f64();
        Arrivals { times: stream(0), order: stream(1), rate, seconds, at: 0.0, lines, left: Vec::new() }
    }

    /// The next one; none once the time is over. `now` counts from the start of the run.
    pub(super) fn next(&mut self, now: Duration) -> Option<Arrival> {
        self.at = match self.rate {
            // The time to the next arrival is exponential. The number is below 1, so its logarithm is finite.
            Some(rate) => self.at - (1.0 - uniform(&mut self.times)).ln() / rate,
            None => now.as_secs_f64(),
        };
        (self.at < self.seconds).then(|| Arrival { due: Duration::from_secs_f64(self.at), line: self.line() })
    }

    fn line(&mut self) -> usize {
        if self.left.is_empty() {
            self.left = (0..self.lines).collect();
        }
        let place = (uniform(&mut self.order) * self.left.len() as f64) as usize;
        self.left.swap_remove(place)
    }
}

/// A number in [0, 1).
fn uniform(stream: &mut ChaCha8Rng) -> f64 {
    (stream.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(seed: u64, rate: f64, seconds: u64) -> Vec<Arrival> {
        let mut arrivals = Arrivals::new(seed, Some(rate), Duration::from_secs(seconds), 3);
        std::iter::from_fn(|| arrivals.next(Duration::ZERO)).collect()
    }

    #[test]
    fn arrivals_are_a_poisson_process() {
        let (rate, seconds) = (50.0, 400);
        let arrivals = all(7, rate, seconds);
        let counts = (0..seconds).map(|second| {
            let within = |arrival: &&Arrival| arrival.due.as_secs() == second;
            arrivals.iter().filter(within).count() as f64
        });
        let counts: Vec<f64> = counts.collect();
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / (counts.len() - 1) as f64;
        // Five standard errors: of the mean √(50 / 400), of the variance 50 √(2 / 399).
        assert!((mean - rate).abs() < 1.8, "{mean}");
        assert!((variance - rate).abs() < 18.0, "{variance}");
        assert!(arrivals.windows(2).all(|pair| pair[0].due <= pair[1].due));
    }

    #[test]
    fn a_seed_decides_them() {
        assert_eq!(all(1, 5.0, 60), all(1, 5.0, 60));
        assert_ne!(all(1, 5.0, 60), all(2, 5.0, 60));
        let lines = |rate| all(1, rate, 60).into_iter().map(|arrival| arrival.line).take(100).collect::<Vec<_>>();
        assert_eq!(lines(5.0), lines(20.0), "the order of lines does not depend on the rate");
    }

    #[test]
    fn each_line_comes_once_before_one_comes_again() {
        for pass in all(3, 10.0, 30).chunks_exact(3) {
            let mut lines: Vec<usize> = pass.iter().map(|arrival| arrival.line).collect();
            lines.sort_unstable();
            assert_eq!(lines, [0, 1, 2]);
        }
    }

    #[test]
    fn without_a_rate_they_come_when_asked_for() {
        let mut arrivals = Arrivals::new(0, None, Duration::from_secs(2), 1);
        assert_eq!(arrivals.next(Duration::from_secs(1)), Some(Arrival { due: Duration::from_secs(1), line: 0 }));
        assert_eq!(arrivals.next(Duration::from_secs(2)), None);
    }
}
