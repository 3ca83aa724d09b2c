//! Rules for when to send and retry, and a way to stop waiting.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Maximum length of the first pause before a retry. Each further maximum is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Maximum length of our own pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Maximum pause that a server's Retry-After may ask for.
pub(super) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The pause before retry `number`, from 0. It is random up to a bound that doubles, so that clients that failed
/// together don't come back together ("full jitter").
pub(super) fn pause(number: u32) -> Duration {
    bound(number).mul_f64(random())
}

fn bound(number: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << number.min(16)).min(LONGEST_PAUSE)
}

/// A random number in [0, 1). It doesn't come from a seed, because it changes the time of a reply but not its content.
fn random() -> f64 {
    (RandomState::new().build_hasher().finish() >> 11) as f64 / (1_u64 << 53) as f64
}

/// The time at which the next request may be sent.
pub(super) struct Pace {
    interval: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(requests_per_minute: Option<u32>) -> Self {
        let interval = requests_per_minute.map_or(Duration::ZERO, |n| Duration::from_secs(60) / n.max(1));
        Pace { interval, next: Mutex::new(Instant::now()) }
    }

    /// Takes the next free time.
    pub(super) fn slot(&self) -> Instant {
        let mut next = lock(&self.next);
        let slot = (*next).max(Instant::now());
        *next = slot + self.interval;
        slot
    }

    /// Stops all sending for a while, because the server asked for it.
    pub(super) fn hold(&self, pause: Duration) {
        let mut next = lock(&self.next);
        *next = (*next).max(Instant::now() + pause);
    }
}

/// A way for one thread to end another's wait.
#[derive(Default)]
pub(super) struct Interrupt {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    interrupted: bool,
    /// The agents whose connections have to be closed.
    agent: Option<ureq::Agent>,
}

impl Interrupt {
    /// Sleeps until then. `false` if it was interrupted.
    pub(super) fn sleep_until(&self, then: Instant) -> bool {
        let mut state = lock(&self.state);
        while !state.interrupted {
            let Some(left) = then.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return true;
            };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// Does work on the agent's connections, which are closed to interrupt it. `None` if that happened.
    pub(super) fn guard<T>(&self, agent: &ureq::Agent, work: impl FnOnce() -> T) -> Option<T> {
        {
            let mut state = lock(&self.state);
            if state.interrupted {
                return None;
            }
            state.agent = Some(agent.clone());
        }
        let result = work();
        let mut state = lock(&self.state);
        state.agent = None;
        (!state.interrupted).then_some(result)
    }

    /// Interrupts now and for ever.
    pub(super) fn interrupt(&self) {
        let agent = {
            let mut state = lock(&self.state);
            state.interrupted = true;
            state.agent.take()
        };
        self.changed.notify_all();
        if let Some(agent) = agent {
            agent.shutdown();
        }
    }
}

/// The data is still valid after a panic, because every change under these locks is a single assignment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_differ() {
        assert_eq!([0, 1, 2].map(bound), [500, 1000, 2000].map(Duration::from_millis));
        assert_eq!(bound(40), LONGEST_PAUSE);
        let pauses: Vec<Duration> = (0..200).map(|_| pause(1)).collect();
        assert!(pauses.iter().all(|pause| *pause < bound(1)));
        let mean = pauses.iter().sum::<Duration>() / 200;
        // Uniform on [0, 1 s): six standard errors of the mean of 200.
        assert!(mean.abs_diff(Duration::from_millis(500)) < Duration::from_millis(123), "{mean:?}");
    }

    #[test]
    fn requests_are_spaced_and_a_hold_holds_all() {
        let pace = Pace::new(Some(600));
        let slots: Vec<Instant> = (0..5).map(|_| pace.slot()).collect();
        assert!(slots.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(100)));
        let before = Instant::now();
        pace.hold(Duration::from_secs(9));
        assert!(pace.slot() >= before + Duration::from_secs(9));
        let free = Pace::new(None);
        assert!((0..100).map(|_| free.slot()).all(|slot| slot <= Instant::now()));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test may panic where the system refuses a thread")]
    fn an_interrupt_ends_sleep() {
        let interrupt = Interrupt::default();
        assert!(interrupt.sleep_until(Instant::now()));
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(!interrupt.sleep_until(start + Duration::from_secs(60))));
            interrupt.interrupt();
        });
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(interrupt.guard(&ureq::agent(), || ()).is_none(), "for ever");
    }
}
