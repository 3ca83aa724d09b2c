//! Rubrics: questions to a judge whose answers have values, kept as data files.
//!
//! ```toml
//! shows = ["reference"]            # fields of the goal that the judge sees, of task, prompt, reference, tests
//! [[questions]]
//! weight = 1.0                     # its share of the value; 1 if absent
//! text = "Does the final answer agree with the reference?"
//! [[questions.answers]]
//! spellings = ["Yes", "yes"]       # the first is the one the judge is told
//! value = 1.0
//! [[questions.answers]]
//! spellings = ["No", "no"]
//! value = 0.0
//! [json]                           # the same in one question, for judges that write a number (`judging = "json"`)
//! text = "1 if the final answer agrees with the reference, else 0."
//! values = [0, 1]                  # that the judge is held to; any number from 0 to 1 if absent
//! context = ["prompt"]             # fields of the goal that are shown as well, where a request has them
//! ```

use std::str::FromStr;

use serde::Deserialize;

use crate::rollout::Goal;
use crate::{Error, Result};

/// Questions to a judge; the rubric's value is the mean of theirs by their weights.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rubric {
    /// Fields of the goal that the judge sees.
    #[serde(default)]
    pub shows: Vec<GoalField>,
    /// The questions; at least one.
    pub questions: Vec<RubricQuestion>,
    /// What a judge is asked that writes its verdict as a number in JSON.
    #[serde(default)]
    pub json: Option<JsonQuestion>,
}

/// A rubric in one question, answered with a number.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonQuestion {
    /// What the number means.
    pub text: String,
    /// The numbers that the judge is held to, in [0, 1]; any number from 0 to 1 where empty.
    #[serde(default)]
    pub values: Vec<f64>,
    /// Fields of the goal that the judge sees beside the rubric's, where a request has them.
    #[serde(default)]
    pub context: Vec<GoalField>,
}

impl JsonQuestion {
    fn validate(&self) -> Result<()> {
        if self.text.trim().is_empty() {
            return Err(Error::invalid_config("text is empty: write what the number means"));
        }
        match self.values.iter().find(|value| !(0.0..=1.0).contains(*value)) {
            Some(value) => Err(Error::invalid_config(format!("values holds {value}, which is not in [0, 1]"))),
            None => Ok(()),
        }
    }
}

/// One question of a rubric.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RubricQuestion {
    /// The question.
    pub text: String,
    /// Its answers; at least two.
    pub answers: Vec<Answer>,
    /// Its weight in the mean over all questions; finite and above 0.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// An answer and what it is worth.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Ways to write it, the canonical one first.
    pub spellings: Vec<String>,
    /// Its value; finite.
    pub value: f64,
}

/// A field of the goal that a judge can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoalField {
    /// `goal.task`.
    Task,
    /// `goal.prompt`.
    Prompt,
    /// `goal.reference`.
    Reference,
    /// `goal.tests`.
    Tests,
}

impl GoalField {
    /// The field's name in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            GoalField::Task => "task",
            GoalField::Prompt => "prompt",
            GoalField::Reference => "reference",
            GoalField::Tests => "tests",
        }
    }

    /// The tag that its text stands in.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            GoalField::Prompt => "goal",
            other => other.as_str(),
        }
    }

    /// The field's text in `goal`.
    pub fn of(self, goal: &Goal) -> Option<&str> {
        match self {
            GoalField::Task => goal.task.as_deref(),
            GoalField::Prompt => goal.prompt.as_deref(),
            GoalField::Reference => goal.reference.as_deref(),
            GoalField::Tests => goal.tests.as_deref(),
        }
    }
}

/// Parses a rubric in TOML. An error is [`crate::ErrorKind::InvalidConfig`]: the text is not a rubric, a question can't
/// be asked, or its answers can't be told apart.
impl FromStr for Rubric {
    type Err = Error;

    fn from_str(toml: &str) -> Result<Self> {
        let rubric: Rubric =
            toml::from_str(toml).map_err(|e| Error::invalid_config(format!("not a rubric: {e}")).with_source(e))?;
        rubric.validate()?;
        Ok(rubric)
    }
}

impl Rubric {
    fn validate(&self) -> Result<()> {
        if self.questions.is_empty() {
            return Err(Error::invalid_config("questions is empty: a rubric asks at least one question"));
        }
        for (at, question) in self.questions.iter().enumerate() {
            question.validate().map_err(|e| e.context(format!("questions[{at}]")))?;
        }
        self.json.as_ref().map_or(Ok(()), JsonQuestion::validate).map_err(|e| e.context("json"))
    }
}

impl RubricQuestion {
    fn validate(&self) -> Result<()> {
        if self.text.trim().is_empty() {
            return Err(Error::invalid_config("text is empty: write the question"));
        }
        if !self.weight.is_finite() || self.weight <= 0.0 {
            return Err(Error::invalid_config(format!("weight = {} is not a finite number above 0", self.weight)));
        }
        if self.answers.len() < 2 {
            let found = self.answers.len();
            return Err(Error::invalid_config(format!("answers has {found} entries: a question needs at least two")));
        }
        for answer in &self.answers {
            if !answer.value.is_finite() {
                return Err(Error::invalid_config(format!("value {} is not a finite number", answer.value)));
            }
            if answer.spellings.is_empty() || answer.spellings.iter().any(|spelling| spelling.trim().is_empty()) {
                return Err(Error::invalid_config(
                    "spellings is empty or holds an empty text: write how the answer is spelled",
                ));
            }
        }
        self.validate_distinct()
    }

    /// Answers are read off the words that open a reply, so no spelling may open another answer's.
    fn validate_distinct(&self) -> Result<()> {
        for (i, one) in self.answers.iter().enumerate() {
            for (j, other) in self.answers.iter().enumerate().filter(|&(j, _)| j != i) {
                for spelling in &one.spellings {
                    if let Some(longer) = other.spellings.iter().find(|longer| longer.starts_with(spelling.as_str())) {
                        return Err(Error::invalid_config(format!(
                            "answers[{j}] is spelled {longer:?}, which begins like {spelling:?} of answers[{i}]: use spellings \
                             of which none begins another answer's"
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(answers: &str) -> Result<Rubric> {
        format!("[[questions]]\ntext = \"q\"\n{answers}").parse()
    }

    #[test]
    fn nonsense_is_refused_with_its_place() {
        let answer =
            |spelling: &str, value: &str| format!("[[questions.answers]]\nspellings = [{spelling}]\nvalue = {value}\n");
        let yes = answer("\"Yes\"", "1.0");
        assert!(parse(&format!("{yes}{}", answer("\"No\"", "0.0"))).is_ok());
        for (text, part) in [
            (yes.clone(), "answers has 1 entries"),
            (format!("{yes}{}", answer("\"Yes, sure\"", "0.0")), "begins like \"Yes\""),
            (format!("{yes}{}", answer("", "0.0")), "spellings is empty"),
            (format!("{yes}{}", answer("\"No\"", "nan")), "not a finite number"),
            (format!("{yes}wieght = 1"), "unknown field `wieght`"),
            (format!("weight = 0.0\n{yes}{}", answer("\"No\"", "0.0")), "weight = 0 is not a finite number above 0"),
            (format!("{yes}{}[json]\ntext = \" \"", answer("\"No\"", "0.0")), "json: text is empty"),
            (format!("{yes}{}[json]\ntext = \"t\"\nvalues = [0, 2]", answer("\"No\"", "0.0")), "json: values holds 2"),
        ] {
            let message = parse(&text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        assert!("questions = []".parse::<Rubric>().is_err());
    }
}
