//! `foreturn dataset`, and what it shares with `foreturn evaluate`, on scripted models behind an endpoint: kills, shards,
//! limits, bad tasks and formats. What a model says depends on its prompt and its seed alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bench::{Bench, assert_each_once, tasks};

const BUILD: &str = "dataset build --config foreturn.toml --tasks tasks.jsonl --candidates 3 --turns 3";

#[test]
fn builds_are_the_same_whatever_kills_divides_or_speeds_them_up() {
    let bench = Bench::new(&tasks());
    let printed = bench.output(&format!("{BUILD} --to whole --concurrency 4 --json"));
    let summary: Value = serde_json::from_str(&printed).expect("a summary");
    assert_eq!((&summary["finished"], &summary["stopped"]), (&json!(20), &json!("complete")));
    let whole = bench.text("whole/dataset.jsonl");
    let rows = bench.rows("whole/dataset.jsonl");
    assert_eq!(
        rows.iter().map(|row| row["id"].as_str().unwrap()).collect::<Vec<_>>().join(" "),
        (0..20).map(|n| format!("t{n}")).collect::<Vec<_>>().join(" ")
    );
    let endings: BTreeSet<&str> = rows.iter().map(|row| row["ended"].as_str().unwrap()).collect();
    assert_eq!(endings, BTreeSet::from(["stop_signal", "turns"]));
    for row in &rows {
        assert!(
            row["seed"].is_u64()
                && row["program"].as_str().unwrap().starts_with("foreturn ")
                && row["models"]["user"]["name"] == "user"
        );
        for (at, turn) in row["turns"].as_array().unwrap().iter().enumerate() {
            assert_eq!(turn["prompt"].as_array().unwrap().len(), 2 * at + 1, "the conversation goes on from the best");
            let scores: Vec<f64> =
                turn["responses"].as_array().unwrap().iter().map(|r| r["score"].as_f64().unwrap()).collect();
            let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert_eq!(scores[turn["chosen"].as_u64().unwrap() as usize], best);
            assert!(turn["responses"][0]["std_error"].is_number() && turn["probability"].is_number());
            if let Some(next) = row["turns"].get(at + 1) {
                assert_eq!(
                    next["prompt"][2 * at + 1]["content"],
                    turn["responses"][turn["chosen"].as_u64().unwrap() as usize]["completion"]
                );
            }
        }
    }

    let midway = bench.killed(&format!("{BUILD} --to killed --concurrency 4"), "killed/journal.jsonl", 21);
    assert!(midway >= 3, "only {midway} kills came in the middle of the work");
    assert_eq!(bench.text("killed/dataset.jsonl"), whole);
    assert_each_once(&bench.text("killed/journal.jsonl"), 20);

    bench.output(&format!("{BUILD} --to second --concurrency 7 --shard 2/2"));
    bench.output(&format!("{BUILD} --to first --concurrency 1 --shard 1/2"));
    let shards = ["first", "second"].map(|shard| bench.rows(&format!("{shard}/dataset.jsonl")).len());
    assert!(shards[0] + shards[1] == 20 && shards.iter().all(|rows| *rows >= 5), "{shards:?}");
    bench.output("dataset merge --tasks tasks.jsonl --to merged second first");
    assert_eq!(bench.text("merged/dataset.jsonl"), whole);
    // What is merged is a build: there is nothing left to do.
    let asked = bench.server.asked().len();
    bench.output(&format!("{BUILD} --to merged"));
    assert_eq!((bench.text("merged/dataset.jsonl"), bench.server.asked().len()), (whole, asked));

    let message = bench.failure(&format!("{BUILD} --to merged --seed 8"));
    assert!(message.contains("begun with other settings: seed was 7 and is 8"), "{message}");
}

#[test]
fn limits_and_estimates_hold_some_and_the_rest_later() {
    let bench = Bench::new(&tasks());
    let json = |arguments: &str| -> Value { serde_json::from_str(&bench.output(arguments)).expect("a summary") };
    let price = "--price policy=1/10 --price user=1/10";
    let probed = json(&format!("{BUILD} --to built {price} --estimate 4 --json"));
    assert_eq!((&probed["finished"], &probed["left"], &probed["stopped"]), (&json!(4), &json!(16), &json!("probe")));
    // The server counts 40 tokens of prompt and 7 of reply for each request.
    let requests = bench.server.asked().len() as f64;
    let total: f64 =
        probed["spent"]["roles"].as_object().unwrap().values().map(|role| role["prompt"].as_f64().unwrap()).sum();
    assert_eq!(total, 40.0 * requests);
    assert!((probed["estimate"]["tokens"].as_f64().unwrap() - 4.0 * 47.0 * requests).abs() < 1e-6);
    let judged = bench.server.asked().iter().filter(|asked| asked.is_choice()).count() as f64;
    assert!((probed["cost"].as_f64().unwrap() - (requests - judged) * 110.0 / 1e6).abs() < 1e-12);

    let again = json(&format!("{BUILD} --to built --estimate 4 --json"));
    assert_eq!(
        (&again["finished"], bench.server.asked().len() as f64),
        (&json!(4), requests),
        "what is there is enough"
    );

    let limit = (6.0 * 47.0 * requests / 4.0) as u64;
    let limited = json(&format!("{BUILD} --to built --max-tokens {limit} --json"));
    assert_eq!(limited["stopped"], "budget");
    let finished = limited["finished"].as_u64().unwrap();
    assert!((5..=7).contains(&finished), "{finished} conversations for the tokens of 6");
    let text = bench.output(&format!("{BUILD} --to built {price} --price judge=0/0 --max-cost 1000"));
    assert!(text.contains("20 conversations, 0 set aside, 0 left") && text.contains("cost "), "{text}");
    bench.output(&format!("{BUILD} --to whole"));
    assert_eq!(bench.text("built/dataset.jsonl"), bench.text("whole/dataset.jsonl"));

    for (wrong, part) in [
        ("--price nobody=1/2", "there is no such model"),
        ("--price policy=1", "is not a price"),
        ("--max-cost 3", "--price"),
        ("--max-cost 3 --price policy=1/2", "model `user` has no price"),
        ("--shard 3/2", "is not a shard"),
        ("--concurrency 0", "concurrency is 0"),
        ("--concurrency 257", "concurrency is 257"),
        ("--candidates 1", "candidates is 1"),
        ("--turns 0", "turns is 0"),
    ] {
        let base = if wrong.contains("candidates") || wrong.contains("turns") {
            "dataset build --config foreturn.toml --tasks tasks.jsonl"
        } else {
            BUILD
        };
        let output = bench.run(&format!("{base} --to x {wrong}"));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(part), "{wrong}: {message}");
    }
    for to in ["built.jsonl", "built.parquet"] {
        assert!(bench.failure(&format!("{BUILD} --to {to}")).contains("give a folder"));
    }
}

#[test]
fn bad_tasks_are_named_by_line_and_the_rest_goes_on() {
    let mut lines = tasks();
    lines.truncate(4);
    lines.insert(1, r#"{"id": "broken", "prompt""#.into());
    lines.insert(2, r#"{"id": "t0", "prompt": "again", "reference": "r"}"#.into());
    lines.insert(3, r#"{"id": "bare", "prompt": "No reference."}"#.into());
    lines.insert(
        4,
        r#"{"id": "long", "conversation": [{"role": "user", "content": "FAR TOO LONG"}], "reference": "r"}"#.into(),
    );
    let grows = r#"{"id": "grows", "conversation": [{"role": "user", "content": "GROWS"}], "reference": "r"}"#;
    lines.push(grows.into());
    let bench = Bench::new(&lines);
    let printed = bench.output(&format!("{BUILD} --to built"));
    assert!(printed.contains("5 conversations, 4 set aside, 0 left"), "{printed}");
    let rows = bench.rows("built/dataset.jsonl");
    assert_eq!((rows.len(), &rows[4]["ended"], rows[4]["turns"].as_array().unwrap().len()), (5, &json!("context"), 1));
    let failed = bench.rows("built/failed.jsonl");
    let expected = [
        (2, json!(null), "it is not a task"),
        (3, json!("t0"), "its id is that of line 1"),
        (4, json!("bare"), "goal.reference"),
        (5, json!("long"), "too long"),
    ];
    assert_eq!(failed.len(), expected.len());
    for (aside, (line, id, reason)) in failed.iter().zip(expected) {
        assert_eq!((&aside["line"], &aside["id"]), (&json!(line), &id));
        assert!(aside["reason"].as_str().unwrap().contains(reason), "{aside} lacks {reason}");
    }
    // A task that was mended is held, and what is finished is not held again.
    let whole = bench.text("built/dataset.jsonl");
    lines[4] = r#"{"id": "long", "conversation": [{"role": "user", "content": "Short."}], "reference": "r"}"#.into();
    std::fs::write(bench.path("tasks.jsonl"), lines.join("\n")).unwrap();
    let before = bench.server.asked().len();
    bench.output(&format!("{BUILD} --to built"));
    let rows = bench.rows("built/dataset.jsonl");
    assert_eq!(
        rows.iter().map(|row| row["id"].as_str().unwrap()).collect::<Vec<_>>(),
        ["t0", "long", "t1", "t2", "t3", "grows"]
    );
    assert!(whole.lines().all(|line| bench.text("built/dataset.jsonl").contains(line)));
    assert!(bench.server.asked().len() - before < before, "only the mended task was held");
}

#[test]
fn what_failed_for_other_reasons_is_held_again_and_shards_agree_on_bad_tasks() {
    let mut lines = tasks();
    lines.truncate(6);
    lines.insert(1, r#"{"id": "bare", "prompt": "No reference."}"#.into());
    let down = r#"{"id": "down", "conversation": [{"role": "user", "content": "OUT OF ORDER"}], "reference": "r"}"#;
    lines.insert(3, down.into());
    let bench = Bench::new(&lines);
    let printed = bench.output(&format!("{BUILD} --to whole --concurrency 1"));
    assert!(
        printed.contains("6 conversations, 2 set aside, 0 left") && printed.contains("1 of those set aside failed"),
        "{printed}"
    );
    let reasons: Vec<String> =
        bench.rows("whole/failed.jsonl").iter().map(|row| row["reason"].as_str().unwrap().to_owned()).collect();
    assert!(reasons[0].contains("goal.reference") && reasons[1].contains("out of order"), "{reasons:?}");
    for shard in 1..=2 {
        bench.output(&format!("{BUILD} --to shard{shard} --shard {shard}/2"));
    }
    bench.output("dataset merge --tasks tasks.jsonl --to merged shard1 shard2");
    for file in ["dataset.jsonl", "failed.jsonl"] {
        assert_eq!(bench.text(&format!("merged/{file}")), bench.text(&format!("whole/{file}")));
    }
    // The endpoint is well again: what failed because of it is held, what failed because of its task is not.
    bench.well.store(true, Ordering::Release);
    let summary: Value = serde_json::from_str(&bench.output(&format!("{BUILD} --to merged --json"))).unwrap();
    assert_eq!((&summary["finished"], &summary["set_aside"], &summary["retried"]), (&json!(7), &json!(1), &json!(0)));
    assert_eq!(bench.rows("merged/failed.jsonl").len(), 1);
}

#[test]
fn an_interrupt_ends_a_run_with_its_rows_written() {
    let bench = Bench::new(&tasks());
    let child = bench.command(&format!("{BUILD} --to built --concurrency 1")).spawn().expect("it runs");
    let lines = || std::fs::read_to_string(bench.path("built/journal.jsonl")).map_or(0, |text| text.lines().count());
    let start = Instant::now();
    while lines() < 3 {
        assert!(start.elapsed() < Duration::from_secs(60), "the journal does not grow");
        std::thread::sleep(Duration::from_millis(1));
    }
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("a signal");
    let output = child.wait_with_output().expect("it ends");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(interrupted.success() && output.status.code() == Some(130), "{:?}: {message}", output.status);
    assert!(message.contains("run the same command to go on"), "{message}");
    let rows = bench.rows("built/dataset.jsonl").len();
    assert!((2..20).contains(&rows) && rows == lines() - 1, "{rows} rows of {} lines", lines());
    bench.output(&format!("{BUILD} --to built"));
    assert_eq!(bench.rows("built/dataset.jsonl").len(), 20);
}

#[test]
fn models_that_fail_again_and_again_end_the_run() {
    let lines: Vec<String> =
        (0..30).map(|n| json!({"id": n, "prompt": "NOBODY ANSWERS", "reference": "r"}).to_string()).collect();
    let bench = Bench::new(&lines);
    let message = bench.failure(&format!("{BUILD} --to built --concurrency 2"));
    assert!(
        message.contains("10 conversations in a row failed") && message.contains("no such deployment"),
        "{message}"
    );
    let asked = bench.server.asked().len();
    assert!((10..=12).contains(&asked), "{asked}");
}

fn is_parquet(path: &Path) -> bool {
    std::fs::read(path).expect("a file").starts_with(b"PAR1")
}

#[test]
fn exports_have_the_fields_that_trainers_read() {
    let bench = Bench::new(&tasks()[..6]);
    bench.output(&format!("{BUILD} --to built"));
    let turns: usize = bench.rows("built/dataset.jsonl").iter().map(|row| row["turns"].as_array().unwrap().len()).sum();
    let export = |format: &str| {
        bench.output(&format!("dataset export --from built --to out.jsonl {format}"));
        bench.rows("out.jsonl")
    };
    let sft = export("--sft");
    assert!(
        sft.len() == 6
            && sft.iter().all(|row| row["messages"].as_array().unwrap().last().unwrap()["role"] == "assistant")
    );
    let dpo = export("--dpo");
    assert_eq!(dpo.len(), turns);
    for row in &dpo {
        assert!(row["prompt"].as_array().unwrap().last().unwrap()["role"] == "user");
        assert!(row["chosen"][0]["role"] == "assistant" && row["chosen"] != row["rejected"]);
        assert!(row["score_chosen"].as_f64() >= row["score_rejected"].as_f64());
    }
    let reward = export("--reward --minimum-gap 0.3");
    assert!(!reward.is_empty() && reward.len() < turns && reward.iter().all(|row| row["margin"].as_f64() >= Some(0.3)));
    let sure = export("--dpo --minimum-probability 0.9");
    assert!(sure.len() < turns && sure.iter().all(|row| row["probability"].as_f64() >= Some(0.9)));
    assert_eq!(export("--collabllm-flat").len(), 3 * turns);
    assert_eq!(export("--collabllm-nested").len(), 6);
    for (wrong, part) in [
        ("--sft --dpo", "cannot be used with"),
        ("--sft --minimum-gap 1", "--minimum-gap"),
        ("--dpo --minimum-probability 0.2", "not between 0.5 and 1"),
        ("", "required"),
    ] {
        let output = bench.run(&format!("dataset export --from built --to out.jsonl {wrong}"));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(part), "{wrong}: {message}");
    }
    for (form, rows) in [("--dpo", turns), ("--collabllm-nested", 6)] {
        let printed = bench.output(&format!("dataset export --from built --to out.parquet {form} --json"));
        assert_eq!(serde_json::from_str::<Value>(&printed).unwrap()["rows"], rows);
        assert!(is_parquet(&bench.path("out.parquet")));
    }
    bench.output(&format!("{BUILD} --to built --parquet"));
    assert!(is_parquet(&bench.path("built/dataset.parquet")));
    let message = bench.failure("dataset export --from tasks.jsonl --to out.jsonl --sft");
    assert!(message.contains("tasks.jsonl, line 1: it is not a conversation of a data set"), "{message}");
    assert!(
        bench.failure("dataset export --from built --to built/dataset.jsonl --sft").contains("is the data set itself")
    );
}

#[test]
fn tasks_that_ask_for_the_impossible_do_not_end_the_run() {
    let mut lines: Vec<String> = (0..15)
        .map(|n| {
            json!({"id": n, "conversation": [{"role": "user", "content": "FAR TOO LONG"}], "reference": "r"})
                .to_string()
        })
        .collect();
    lines.extend(tasks().into_iter().take(2));
    let bench = Bench::new(&lines);
    assert!(
        bench.output(&format!("{BUILD} --to built --concurrency 2")).contains("2 conversations, 15 set aside, 0 left")
    );
    let printed = bench.output("evaluate --config foreturn.toml --tasks tasks.jsonl --to run --turns 2");
    assert!(printed.contains("2 conversations, 15 set aside, 0 left"), "{printed}");
    let failed = bench.rows("run/failed.jsonl");
    assert!(failed[0]["reason"].as_str().unwrap().starts_with("policy `policy`: "), "{}", failed[0]);
}

/// The examples are tasks.
#[test]
fn example_tasks_are_tasks() {
    let folder = crate::common::root().join("examples/tasks");
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).expect("examples") {
        let path = entry.expect("an entry").path();
        // Folders hold scripts, with the configurations that go with them.
        if path.is_dir() {
            continue;
        }
        let tasks = foreturn::tasks::Tasks::read(path).expect("tasks");
        assert!(tasks.set_aside.is_empty() && tasks.list.len() >= 20, "{}: {:?}", tasks.origin, tasks.set_aside);
        files += 1;
    }
    assert!(files > 0 && Path::new(&folder).is_dir());
}
