//! `foreturn evaluate --sweep` on scripted models behind an endpoint.

use std::collections::BTreeMap;

use serde_json::Value;

use super::bench::{Bench, tasks};

const SWEEP: &str = "evaluate --config foreturn.toml --tasks tasks.jsonl --turns 3 --samples 4 --candidates 3";

fn column(sweep: &Value, kind: usize, name: &str) -> f64 {
    sweep["kinds"][kind][name]["mean"].as_f64().unwrap_or_else(|| panic!("{name} of {}", sweep["kinds"][kind]))
}

#[test]
fn kinds_of_reward_are_read_from_the_same_conversations() {
    let bench = Bench::new(&tasks()[..8]);
    let kinds =
        "--sweep w=0 w=1 w=2 w=2,samples=2 w=2,metrics=bleu returns=1 preference preference=judge w=2,user=other";
    let printed = bench.output(&format!("{SWEEP} --to whole --json {kinds}"));
    let sweep: Value = serde_json::from_str(&printed).expect("a sweep");
    assert_eq!(sweep["kinds"].as_array().unwrap().len(), 9);
    // All of R* is in returns that are not discounted.
    for name in ["reward", "chosen", "noise"] {
        assert!((column(&sweep, 2, name) - column(&sweep, 5, name)).abs() < 1e-9, "{name}");
    }
    assert!((column(&sweep, 6, "reward") - 0.5).abs() < 1e-9 && (column(&sweep, 7, "reward") - 0.5).abs() < 1e-9);
    // Looking further ahead takes more tokens, and so does scoring every turn.
    let tokens: Vec<f64> = (0..9).map(|kind| column(&sweep, kind, "tokens_k")).collect();
    assert!(tokens[0] < tokens[1] && tokens[1] < tokens[2] && tokens[2] < tokens[5], "{tokens:?}");
    assert!((tokens[3] - tokens[2] / 2.0).abs() < 1e-9, "{tokens:?}");
    assert_eq!(column(&sweep, 0, "noise"), 0.0);
    let agreement = |one: &str, other: &str| {
        let pairs = sweep["agreement"].as_array().unwrap();
        let found = pairs.iter().find(|pair| pair["kind"] == one && pair["with"] == other);
        found.and_then(|pair| pair["same"]["mean"].as_f64()).unwrap_or_else(|| panic!("{one} with {other}"))
    };
    assert_eq!(agreement("returns=1", "w=2"), 1.0);
    assert!(agreement("preference", "w=2") > agreement("w=1", "w=0"), "{printed}");

    let rows = bench.rows("whole/responses.jsonl");
    assert_eq!(rows.len(), 16, "eight tasks with two users");
    for row in &rows {
        for response in row["responses"].as_array().unwrap() {
            for future in response["futures"].as_array().unwrap() {
                let values = future["values"].as_array().unwrap();
                assert_eq!(values.len(), 2);
                // A conversation that is over keeps its metrics.
                if future["messages"].as_array().unwrap().len() <= 2 {
                    assert_eq!(values[0], values[1], "{future}");
                }
            }
        }
    }
    let [own, other] = ["user", "other"].map(|user| {
        rows.iter()
            .filter(|row| row["models"]["user"]["name"] == user)
            .map(|row| row["responses"][0]["response"].clone())
            .collect()
    });
    let (own, other): (Vec<Value>, Vec<Value>) = (own, other);
    assert_eq!(own, other, "the responses do not depend on who plays the user");
    assert!(rows.iter().filter(|row| row["simulator"] == "user=other").count() == 8);

    // Kinds are readings: others cost nothing.
    let asked = bench.server.asked().len();
    let again: Value =
        serde_json::from_str(&bench.output(&format!("{SWEEP} --to whole --json --sweep w=2 returns=0.5,samples=3")))
            .unwrap();
    assert_eq!((&again["kinds"][0], bench.server.asked().len()), (&sweep["kinds"][2], asked));
    let csv = bench.text("whole/sweep.csv");
    assert!(
        csv.starts_with("kind,other,column,mean") && csv.contains("\n\"returns=0.5,samples=3\",w=2,agreement_apart,"),
        "{csv}"
    );
    bench.output("report whole -o page.html");
    let page = bench.text("page.html");
    assert!(
        page.contains("<h1>Kinds of reward</h1>")
            && page.contains("returns=0.5,samples=3")
            && !page.contains("<script")
    );

    let files = |folder: &str| {
        ["sweep.json", "sweep.csv", "responses.jsonl"].map(|file| bench.text(&format!("{folder}/{file}")))
    };
    let fewer = "--sweep w=0 w=2 preference=judge w=1,user=other";
    bench.output(&format!("{SWEEP} --to fewer --concurrency 1 {fewer}"));
    let midway = bench.killed(&format!("{SWEEP} --to killed --concurrency 3 {fewer}"), "killed/journal.jsonl", 25);
    assert!(midway >= 3, "only {midway} kills came in the middle of the work");
    assert_eq!(files("killed"), files("fewer"));
    for shard in 1..=2 {
        bench.output(&format!("{SWEEP} --to shard{shard} --shard {shard}/2 {fewer}"));
    }
    bench.output(&format!("{SWEEP} --to merged --merge shard1 --merge shard2 {fewer}"));
    assert_eq!(files("merged"), files("fewer"));
}

#[test]
fn kinds_that_cannot_be_compared_are_refused_before_they_cost_anything() {
    let bench = Bench::new(&tasks()[..2]);
    let printed = bench.output(&format!("{SWEEP} --to run --sweep"));
    for kind in ["w=0", "w=1", "w=2", "returns", "preference", "a response that nobody chose"] {
        assert!(printed.contains(kind), "{printed}");
    }
    let asked = bench.server.asked().len();
    let wrong: BTreeMap<&str, &str> = [
        ("--sweep w=3", "raise turns"),
        ("--sweep w=1,samples=9", "raise samples"),
        ("--sweep w=1 w=1", "is given twice"),
        ("--sweep v=1", "is not a kind of reward"),
        (
            "--sweep w=1,metrics=none",
            "there is no metric `none`; the configuration has token_amount, helpfulness, bleu",
        ),
        ("--sweep w=1,user=none", "there is no model `none`"),
        ("--sweep w=1 --policy policy --policy other", "2 are given"),
        ("--sweep w=1 --policy policy --best-of policy=4/1/1", "cannot be used with"),
        ("--candidates 3", "--sweep"),
    ]
    .into();
    for (wrong, part) in wrong {
        let base = SWEEP.replace(" --candidates 3", "");
        let message =
            String::from_utf8(bench.command(&format!("{base} --to x {wrong}")).output().expect("it runs").stderr)
                .unwrap();
        assert!(message.contains(part), "{wrong}: {message}");
    }
    assert_eq!(bench.server.asked().len(), asked);
    assert!(
        bench
            .failure(&format!("{SWEEP} --to run --sweep --seed 9"))
            .contains("begun with other settings: seed was 7 and is 9")
    );
    let config = bench.text("foreturn.toml").replace("[rollout]", "[rollout]\nallocation = \"sequential_halving\"");
    std::fs::write(bench.path("foreturn.toml"), config).unwrap();
    let message = bench.failure(&format!("{SWEEP} --to other --sweep"));
    assert!(message.contains("leave out rollout.allocation"), "{message}");
}
