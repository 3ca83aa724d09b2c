//! A reply of `/v1/decisions`: the probability of each answer. Every option has to be there once, with a number.

use serde_json::Value;

use super::super::choice::bounded;
use super::super::fields::{present, shown};
use super::{CHECK, Decisions, QUESTION};

/// A probability, or a sum of them, may exceed 1 by this much, because servers round each of them.
const ROUNDING: f64 = 0.01;

/// The probability of each option, by the reply's only answer. What the mass of the answers leaves over is missing.
///
/// # Errors
/// Names the field that is wrong, and its value.
pub(in super::super) fn probabilities(
    dialect: Decisions,
    options: &[String],
    reply: &Value,
) -> Result<Vec<f64>, String> {
    let by_id = dialect == Decisions::Sglang;
    let answer = if by_id { named_answer(reply)? } else { only_answer(reply)? };
    check_type(answer)?;
    let given = if by_id { named_probabilities(answer)? } else { listed_probabilities(answer)? };
    let conditional = by_option(options, &given)?;
    let mass = match dialect {
        Decisions::None | Decisions::Openai => 1.0,
        Decisions::Vllm => mass_by_confidence(answer, &conditional)?,
        Decisions::Sglang => in_range("label_mass", answer.get("label_mass"))?,
    };
    Ok(conditional.into_iter().map(|probability| probability * mass).collect())
}

/// The only answer of a list.
fn only_answer(reply: &Value) -> Result<&Value, String> {
    let Some(Value::Array(answers)) = reply.get("answers") else {
        return Err(other_dialect("answers", reply.get("answers"), "a list"));
    };
    let [answer] = &answers[..] else {
        return Err(format!("its reply has {} answers, but one question was asked", answers.len()));
    };
    match present(answer.get("name")) {
        Some(name) if name != QUESTION => {
            Err(format!("answers[0].name is {}, but the question's name is {QUESTION:?}", shown(name)))
        }
        _ => Ok(answer),
    }
}

/// The answer to the question, of an object of answers.
fn named_answer(reply: &Value) -> Result<&Value, String> {
    let Some(Value::Object(answers)) = reply.get("answers") else {
        return Err(other_dialect("answers", reply.get("answers"), "an object"));
    };
    let Some(answer) = answers.get(QUESTION) else {
        return Err(format!("answers has no {QUESTION:?}, the question that was asked, among {}", answers.len()));
    };
    Ok(answer)
}

/// The answer has the type that was asked for.
fn check_type(answer: &Value) -> Result<(), String> {
    match present(answer.get("type")) {
        Some(kind) if kind == "choice" => Ok(()),
        Some(kind) if kind == "refusal" => Err("the model refused: the answer's type is \"refusal\"".into()),
        Some(kind) => Err(format!("the answer's type is {}, but a \"choice\" was asked for", shown(kind))),
        None => Err("the answer's type is missing, but a \"choice\" was asked for".into()),
    }
}

/// Options and their probabilities, of a list.
fn listed_probabilities(answer: &Value) -> Result<Vec<(&str, &Value)>, String> {
    let Some(Value::Array(list)) = answer.get("probabilities") else {
        return Err(other_dialect("probabilities", answer.get("probabilities"), "a list"));
    };
    let mut given = Vec::new();
    for (number, entry) in list.iter().enumerate() {
        match entry.get("value") {
            Some(Value::String(option)) => given.push((&**option, entry.get("probability").unwrap_or(&Value::Null))),
            other => {
                let found = other.map_or_else(|| "missing".to_owned(), shown);
                return Err(format!("probabilities[{number}].value is {found}, not the text of an option"));
            }
        }
    }
    Ok(given)
}

/// Options and their probabilities, of an object.
fn named_probabilities(answer: &Value) -> Result<Vec<(&str, &Value)>, String> {
    match answer.get("probabilities") {
        Some(Value::Object(given)) => Ok(given.iter().map(|(option, value)| (&**option, value)).collect()),
        other => Err(other_dialect("probabilities", other, "an object")),
    }
}

fn other_dialect(field: &str, found: Option<&Value>, wanted: &str) -> String {
    let found = found.map_or_else(|| "missing".to_owned(), shown);
    format!("its reply is not a decision: {field} is {found}, not {wanted}. {CHECK}")
}

/// The probabilities in the order of the options.
fn by_option(options: &[String], given: &[(&str, &Value)]) -> Result<Vec<f64>, String> {
    let mut found = vec![None; options.len()];
    for (name, value) in given {
        let Some(at) = options.iter().position(|option| option == name) else {
            return Err(format!("probabilities has the option {name:?}, which was not asked for"));
        };
        if found[at].is_some() {
            return Err(format!("probabilities has the option {name:?} twice"));
        }
        found[at] = Some(in_range(&format!("the probability of {name:?}"), Some(value))?);
    }
    let whole: Option<Vec<f64>> = found.iter().copied().collect();
    let Some(probabilities) = whole else {
        let missing = options.iter().zip(&found).find(|(_, found)| found.is_none()).map_or("", |(option, _)| option);
        return Err(format!("probabilities has no option {missing:?}, which was asked for"));
    };
    let sum: f64 = probabilities.iter().sum();
    match sum <= 1.0 + ROUNDING {
        true => Ok(bounded(probabilities)),
        false => Err(format!("the probabilities sum to {sum:.3}")),
    }
}

/// The mass of all answers. The confidence is the probability of the likeliest one in the whole vocabulary.
fn mass_by_confidence(answer: &Value, conditional: &[f64]) -> Result<f64, String> {
    let confidence = in_range("confidence", answer.get("confidence"))?;
    let likeliest = conditional.iter().copied().fold(0.0, f64::max);
    match confidence <= likeliest + ROUNDING {
        true if likeliest > 0.0 => Ok((confidence / likeliest).min(1.0)),
        true => Ok(0.0),
        false => Err(format!(
            "confidence is {confidence}, but the likeliest answer has a probability of {likeliest}, so the mass of the \
             answers is unknown. With decisions = \"openai\", it counts as 1"
        )),
    }
}

/// A number in [0, 1], or above 1 by rounding.
fn in_range(what: &str, value: Option<&Value>) -> Result<f64, String> {
    let number = value.and_then(Value::as_f64).filter(|number| (0.0..=1.0 + ROUNDING).contains(number));
    number.map(|number| number.min(1.0)).ok_or_else(|| {
        let found = value.map_or_else(|| "missing".to_owned(), shown);
        format!("{what} is {found}, not a number in [0, 1]")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn openai() -> Value {
        json!({"answers": [{"type": "choice", "name": "answer", "choice": "No", "confidence": 0.375, "probabilities": [
            {"value": "No", "probability": 0.75}, {"value": "Yes", "probability": 0.25}
        ]}]})
    }

    fn sglang() -> Value {
        json!({"answers": {"answer": {
            "type": "choice", "choice": "No", "label_mass": 0.5, "probabilities": {"No": 0.75, "Yes": 0.25}
        }}})
    }

    fn read(dialect: Decisions, reply: &Value) -> Result<Vec<f64>, String> {
        probabilities(dialect, &["Yes".to_owned(), "No".to_owned()], reply)
    }

    /// A reply of each dialect with one field replaced, or taken out for null, and its error.
    fn refused(dialect: Decisions, pointer: &str, value: Value) -> String {
        let mut reply = if dialect == Decisions::Sglang { sglang() } else { openai() };
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match (reply.pointer_mut(parent).unwrap(), value) {
            (Value::Array(list), value) => list[key.parse::<usize>().unwrap()] = value,
            (object, Value::Null) => drop(object.as_object_mut().unwrap().remove(key)),
            (object, value) => object[key] = value,
        }
        read(dialect, &reply).unwrap_err()
    }

    #[test]
    fn probabilities_are_those_of_the_options_in_the_order_asked() {
        assert_eq!(read(Decisions::Openai, &openai()), Ok(vec![0.25, 0.75]));
        assert_eq!(read(Decisions::Sglang, &sglang()), Ok(vec![0.125, 0.375]), "half of the mass is missing");
        assert_eq!(read(Decisions::Vllm, &openai()), Ok(vec![0.125, 0.375]), "half of the mass is missing");
        let mut reply = openai();
        reply["answers"][0]["name"] = json!(null);
        assert_eq!(read(Decisions::Openai, &reply), Ok(vec![0.25, 0.75]));
        for no in [0, 1] {
            reply["answers"][0]["probabilities"][no]["probability"] = json!(0);
        }
        reply["answers"][0]["confidence"] = json!(0.0);
        assert_eq!(read(Decisions::Vllm, &reply), Ok(vec![0.0, 0.0]), "nothing has mass, and the metric says so");
    }

    #[test]
    fn sums_that_rounding_put_above_1_are_corrected_and_others_are_errors() {
        let sum_of = |no: f64| {
            let mut reply = openai();
            reply["answers"][0]["probabilities"][0]["probability"] = json!(no);
            read(Decisions::Openai, &reply)
        };
        let sum: f64 = sum_of(0.755).unwrap().iter().sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert_eq!(sum_of(0.5), Ok(vec![0.25, 0.5]), "what the endpoint doesn't give is missing");
        assert_eq!(sum_of(0.85).unwrap_err(), "the probabilities sum to 1.100");
    }

    #[test]
    fn each_lie_in_openais_dialect_is_an_error_that_names_it() {
        let answer = openai()["answers"][0].clone();
        for (pointer, value, part) in [
            ("/answers", json!(null), "answers is missing, not a list. Check decisions"),
            ("/answers", sglang()["answers"].clone(), "not a list. Check decisions"),
            ("/answers", json!([]), "has 0 answers, but one question was asked"),
            ("/answers", json!([answer, answer]), "has 2 answers"),
            ("/answers/0", json!("Yes"), "the answer's type is missing"),
            ("/answers/0/name", json!("other"), "answers[0].name is \"other\""),
            ("/answers/0/type", json!("refusal"), "the model refused"),
            ("/answers/0/type", json!("predicate"), "type is \"predicate\", but a \"choice\" was asked for"),
            ("/answers/0/type", json!(3), "type is 3"),
            ("/answers/0/probabilities", json!(null), "probabilities is missing, not a list"),
            ("/answers/0/probabilities", json!([]), "no option \"Yes\", which was asked for"),
            ("/answers/0/probabilities/1", json!(0.3), "probabilities[1].value is missing"),
            ("/answers/0/probabilities/1/value", json!(true), "probabilities[1].value is true"),
            ("/answers/0/probabilities/1/value", json!("yes"), "the option \"yes\", which was not asked for"),
            ("/answers/0/probabilities/1/value", json!("No"), "the option \"No\" twice"),
            ("/answers/0/probabilities/1/probability", json!(null), "the probability of \"Yes\" is null"),
            ("/answers/0/probabilities/1/probability", json!("0.3"), "the probability of \"Yes\" is \"0.3\""),
            ("/answers/0/probabilities/1/probability", json!(-0.1), "the probability of \"Yes\" is -0.1, not a number"),
            ("/answers/0/probabilities/1/probability", json!(1.2), "the probability of \"Yes\" is 1.2"),
        ] {
            for dialect in [Decisions::Openai, Decisions::Vllm] {
                let error = refused(dialect, pointer, value.clone());
                assert!(error.contains(part), "{pointer}: {error}");
            }
        }
        for (value, part) in [
            (json!(null), "confidence is missing, not a number in [0, 1]"),
            (json!("high"), "confidence is \"high\", not a number"),
            (json!(-0.1), "confidence is -0.1, not a number"),
            (json!(0.9), "confidence is 0.9, but the likeliest answer has a probability of 0.75"),
        ] {
            let error = refused(Decisions::Vllm, "/answers/0/confidence", value);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn each_lie_in_sglangs_dialect_is_an_error_that_names_it() {
        let answer = sglang()["answers"]["answer"].clone();
        for (pointer, value, part) in [
            ("/answers", json!([answer]), "not an object. Check decisions"),
            ("/answers", json!({"other": answer}), "answers has no \"answer\", the question that was asked, among 1"),
            ("/answers/answer/type", json!("yes_no"), "type is \"yes_no\""),
            ("/answers/answer/probabilities", json!([0.2]), "probabilities is [0.2], not an object"),
            ("/answers/answer/probabilities/Yes", json!(null), "no option \"Yes\""),
            ("/answers/answer/probabilities/Maybe", json!(0.0), "the option \"Maybe\", which was not asked for"),
            ("/answers/answer/probabilities/Yes", json!([]), "the probability of \"Yes\" is []"),
            ("/answers/answer/label_mass", json!(null), "label_mass is missing"),
            ("/answers/answer/label_mass", json!(-0.5), "label_mass is -0.5"),
            ("/answers/answer/label_mass", json!(1.5), "label_mass is 1.5"),
        ] {
            let error = refused(Decisions::Sglang, pointer, value);
            assert!(error.contains(part), "{pointer}: {error}");
        }
    }
}
