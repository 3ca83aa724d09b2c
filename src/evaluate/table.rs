//! An evaluation as CSV.

use super::summary::Evaluation;

/// A line for each column of each policy, and for each difference. In lines of means, `minus` is empty. The likeness of the
/// simulated users belongs to no policy.
pub(super) fn csv(evaluation: &Evaluation) -> Vec<String> {
    let mut lines = vec!["policy,minus,column,mean,std_error,low,high,tasks".to_owned()];
    for policy in &evaluation.policies {
        for (name, column) in &policy.columns {
            let numbers = (column.mean, column.std_error, column.interval, column.tasks);
            lines.push(line([&policy.name, "", name], numbers));
        }
    }
    for compared in &evaluation.differences {
        let difference = &compared.difference;
        let numbers = (difference.mean, difference.std_error, difference.interval, compared.tasks);
        lines.push(line([&compared.policy, &compared.minus, &compared.column], numbers));
    }
    if let Some(likeness) = &evaluation.likeness {
        let tasks = likeness.simulated_tasks;
        lines.push(line(["", "", "likeness_distance"], (likeness.distance, None, None, tasks)));
        let auc = likeness.separability.map(|found| (found.auc, None, Some(found.interval), tasks));
        lines.extend(auc.map(|numbers| line(["", "", "likeness_auc"], numbers)));
    }
    lines
}

/// A line of three names and numbers.
pub(super) fn line(
    names: [&str; 3],
    (mean, error, interval, tasks): (f64, Option<f64>, Option<[f64; 2]>, usize),
) -> String {
    let [low, high] = interval.map_or([None, None], |bounds| bounds.map(Some));
    let numbers =
        [Some(mean), error, low, high].map(|number| number.map_or_else(String::new, |number| number.to_string()));
    let cells = names.map(quoted).into_iter().chain(numbers).chain([tasks.to_string()]);
    cells.collect::<Vec<String>>().join(",")
}

/// A text as RFC 4180 wants it.
fn quoted(text: &str) -> String {
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything() {
        let numbers = (0.5, None, Some([0.25, 1e-7]), 3);
        assert_eq!(line(["a,\"b\"", "", "x"], numbers), "\"a,\"\"b\"\"\",,x,0.5,,0.25,0.0000001,3");
    }
}
