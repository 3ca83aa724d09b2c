//! Macro averages over decisions to ask for clarification: the two numbers of CollabLLM's test on Abg-CoQA.

/// Counts of responses that asked for clarification, by whether the user was ambiguous.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Clarified {
    /// Asked, and the user was ambiguous.
    asked_ambiguous: usize,
    /// Did not ask, though the user was ambiguous.
    missed_ambiguous: usize,
    /// Asked, though the user was clear.
    asked_clear: usize,
    /// Did not ask, and the user was clear.
    answered_clear: usize,
}

impl Clarified {
    /// Counts one response.
    fn add(&mut self, asked: bool, ambiguous: bool) {
        match (asked, ambiguous) {
            (true, true) => self.asked_ambiguous += 1,
            (false, true) => self.missed_ambiguous += 1,
            (true, false) => self.asked_clear += 1,
            (false, false) => self.answered_clear += 1,
        }
    }

    /// The share of right decisions among ambiguous users and among clear ones, and the mean of the two (scikit-learn's
    /// `balanced_accuracy_score`), in [0, 1]. If only one kind of user occurs, it is that kind's share; `None` without
    /// any.
    pub(super) fn macro_accuracy(&self) -> Option<f64> {
        let share = |right: usize, wrong: usize| (right + wrong > 0).then(|| right as f64 / (right + wrong) as f64);
        mean([share(self.asked_ambiguous, self.missed_ambiguous), share(self.answered_clear, self.asked_clear)])
    }

    /// The mean of the F1 of asking and of not asking (scikit-learn's `f1_score(average="macro")`), in [0, 1]. A class
    /// that was neither right nor chosen in any response is left out; `None` without any.
    pub(super) fn macro_f1(&self) -> Option<f64> {
        let wrong = self.asked_clear + self.missed_ambiguous;
        let f1 = |right: usize| (right + wrong > 0).then(|| 2.0 * right as f64 / (2 * right + wrong) as f64);
        mean([f1(self.asked_ambiguous), f1(self.answered_clear)])
    }
}

fn mean(classes: [Option<f64>; 2]) -> Option<f64> {
    let known: Vec<f64> = classes.into_iter().flatten().collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

/// Of pairs: whether it asked, and whether the user was ambiguous.
impl FromIterator<(bool, bool)> for Clarified {
    fn from_iter<I: IntoIterator<Item = (bool, bool)>>(pairs: I) -> Self {
        let mut counts = Clarified::default();
        pairs.into_iter().for_each(|(asked, ambiguous)| counts.add(asked, ambiguous));
        counts
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn one_of_two_ambiguous_users_was_asked() {
        // (it asked, the user was ambiguous)
        let counts: Clarified = [(true, true), (false, true), (false, false), (false, false)].into_iter().collect();
        assert_eq!(counts.macro_accuracy(), Some(0.75));
    }

    #[test]
    fn averages_are_those_of_scikit_learn() {
        #[derive(Deserialize)]
        struct Case {
            asked: Vec<bool>,
            ambiguous: Vec<bool>,
            macro_accuracy: f64,
            macro_f1: f64,
        }
        let fixture = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/clarification.json"));
        let cases: Vec<Case> = serde_json::from_str(fixture).unwrap();
        assert_eq!(cases.len(), 20);
        for Case { asked, ambiguous, macro_accuracy, macro_f1 } in cases {
            let counts: Clarified = asked.into_iter().zip(ambiguous).collect();
            assert!((counts.macro_accuracy().unwrap() - macro_accuracy).abs() < 1e-12, "{counts:?}");
            assert!((counts.macro_f1().unwrap() - macro_f1).abs() < 1e-12, "{counts:?}");
        }
        let empty = Clarified::default();
        assert_eq!((empty.macro_accuracy(), empty.macro_f1()), (None, None));
    }
}
