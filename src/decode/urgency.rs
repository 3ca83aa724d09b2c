//! The order in which requests are served: the one of higher priority, then the one with the earlier deadline, then the
//! older one.

use std::cmp::Ordering;
use std::time::Instant;

/// The importance of a request. The least is the most urgent.
#[derive(Debug, Clone, Copy, Default, Eq)]
pub(crate) struct Urgency {
    /// The higher goes first.
    pub(crate) priority: i32,
    /// Among equal priorities, the earlier goes first. A request without a deadline goes last.
    pub(crate) deadline: Option<Instant>,
    /// How many steps its request takes after it, at most, one after the other. It sizes steps and orders nothing: those of
    /// a ranking that began first are to end first.
    pub(crate) further: usize,
}

impl PartialEq for Urgency {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Ord for Urgency {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_priority = other.priority.cmp(&self.priority);
        let by_presence = self.deadline.is_none().cmp(&other.deadline.is_none());
        by_priority.then(by_presence).then(self.deadline.cmp(&other.deadline))
    }
}

impl PartialOrd for Urgency {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A request's place among others: the least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    pub(crate) urgency: Urgency,
    /// Counts arrivals, so no two requests have the same turn.
    pub(crate) arrival: u64,
}

impl Turn {
    pub(crate) fn new(priority: i32, deadline: Option<Instant>, arrival: u64) -> Self {
        Turn { urgency: Urgency { priority, deadline, further: 0 }, arrival }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn priority_goes_before_deadline_before_arrival() {
        let now = Instant::now();
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        let mut turns = [
            Turn::new(0, None, 0),
            Turn::new(0, at(9), 1),
            Turn::new(-1, at(1), 2),
            Turn::new(5, None, 3),
            Turn::new(0, at(2), 4),
            Turn::new(0, None, 5),
        ];
        turns.sort();
        assert_eq!(turns.map(|turn| turn.arrival), [3, 4, 1, 0, 5, 2]);
    }
}
