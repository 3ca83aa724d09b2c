//! `foreturn evaluate` and `foreturn simulator` on scripted models behind an endpoint: kills, shards, policies and likeness.

use serde_json::{Value, json};

use super::bench::{Bench, assert_each_once, tasks};

#[test]
fn evaluations_are_the_same_whatever_kills_or_divides_them() {
    let bench = Bench::new(&tasks());
    std::fs::write(bench.path("system.txt"), "Ask before you answer.\n").unwrap();
    let evaluate = "evaluate --config foreturn.toml --tasks tasks.jsonl --turns 3 --policy policy --policy asks=other \
                    --system asks=system.txt";
    let files = |folder: &str| {
        ["evaluation.json", "evaluation.csv", "conversations.jsonl", "failed.jsonl"]
            .map(|file| bench.text(&format!("{folder}/{file}")))
    };
    let printed = bench.output(&format!("{evaluate} --to whole --concurrency 2"));
    assert!(
        printed.contains("asks minus policy: helpfulness ") && printed.contains("40 conversations, 0 set aside"),
        "{printed}"
    );
    let whole = files("whole");
    let evaluation: Value = serde_json::from_str(&whole[0]).unwrap();
    let columns: Vec<&String> = evaluation["policies"][1]["columns"].as_object().unwrap().keys().collect();
    assert_eq!(columns, ["bleu", "helpfulness", "reward", "token_amount", "tokens_k", "turns"]);
    assert_eq!(evaluation["policies"][0]["columns"]["reward"]["tasks"], 20);
    let rows = bench.rows("whole/conversations.jsonl");
    let (first, second) = rows.split_at(20);
    for (one, other) in first.iter().zip(second) {
        assert_eq!(
            (&one["id"], &one["messages"][0]),
            (&other["id"], &other["messages"][0]),
            "policies meet the same users"
        );
        assert!(one["policy"] == "policy" && other["policy"] == "asks" && other["messages"][0]["role"] == "user");
    }
    assert!(
        bench
            .server
            .asked()
            .iter()
            .any(|asked| asked.body["model"] == "other" && asked.text().starts_with("Ask before you answer."))
    );
    let cost: Value = serde_json::from_str(&bench.text("whole/cost.json")).unwrap();
    assert!(cost[0]["roles"]["policy"]["in_k"].as_f64() > Some(0.0) && cost[1]["seconds"].as_f64() > Some(0.0));

    let midway = bench.killed(&format!("{evaluate} --to killed --concurrency 2"), "killed/journal.jsonl", 41);
    assert!(midway >= 3, "only {midway} kills came in the middle of the work");
    assert_eq!(files("killed"), whole);
    assert_each_once(&bench.text("killed/journal.jsonl"), 40);

    for shard in 1..=2 {
        bench.output(&format!("{evaluate} --to shard{shard} --shard {shard}/2"));
    }
    let asked = bench.server.asked().len();
    bench.output(&format!("{evaluate} --to merged --merge shard2 --merge shard1"));
    assert_eq!((files("merged"), bench.server.asked().len()), (whole, asked));
    // Another policy joins, with a model of its own, and the others are not held again.
    let url = bench.server.base_url();
    let config = bench.text("foreturn.toml");
    let more = format!("{config}[models.fresh]\nbase_url = \"{url}\"\nmodel = \"other\"\n");
    std::fs::write(bench.path("foreturn.toml"), more.replace("[models.user]", "[models.user]\ntimeout_s = 50"))
        .unwrap();
    let three: Value =
        serde_json::from_str(&bench.output(&format!("{evaluate} --policy third=fresh --to merged --json"))).unwrap();
    assert_eq!(
        (three["policies"].as_array().unwrap().len(), three["policies"][0] == evaluation["policies"][0]),
        (3, true)
    );
    assert!(
        bench
            .failure("evaluate --config foreturn.toml --tasks tasks.jsonl --to x --policy none")
            .contains("there is no such model")
    );
}

#[test]
fn windows_are_compared_by_what_they_choose() {
    let bench = Bench::new(&tasks()[..12]);
    // The judge is a coin: it is shown, and does not choose.
    let config = bench.text("foreturn.toml").replace("judging = \"soft\"", "judging = \"soft\"\nweight = 0.0");
    std::fs::write(bench.path("foreturn.toml"), config).unwrap();
    let evaluate = "evaluate --config foreturn.toml --tasks tasks.jsonl --turns 3 --policy policy --policy w0=policy \
                    --policy w1=policy --policy one=policy --best-of w0=4/0/1 --best-of w1=4/1/2";
    let printed = bench.output(&format!("{evaluate} --to run --json"));
    let evaluation: Value = serde_json::from_str(&printed).expect("an evaluation");
    let column =
        |policy: usize, name: &str| evaluation["policies"][policy]["columns"][name]["mean"].as_f64().expect("a mean");
    // At w = 0 the response with the best words of four wins, whatever the judge would say of it.
    assert!(column(1, "reward") > column(0, "reward") + 0.05, "{printed}");
    assert_eq!(column(3, "reward"), column(0, "reward"), "another name of the same policy");
    let rows = bench.rows("run/conversations.jsonl");
    for row in rows.iter().filter(|row| row["policy"] == "w1") {
        let messages = row["messages"].as_array().unwrap();
        let assistant = messages.iter().filter(|message| message["role"] == "assistant").count();
        assert_eq!(json!(assistant), row["turns"]);
        assert!(messages.windows(2).all(|pair| pair[0]["role"] != pair[1]["role"]) && messages[0]["role"] == "user");
        let full = row["ended"] == "window";
        assert!(full == (assistant == 3 && messages.len() == 6) || row["ended"] == "stop_signal", "{row}");
        assert_eq!(row["metrics"].as_object().unwrap().len(), 3);
    }
    assert!(rows.iter().any(|row| row["policy"] == "w1" && row["ended"] == "stop_signal"));
    // A deeper window costs more, and the cost says by how much.
    let cost: Value = serde_json::from_str(&bench.text("run/cost.json")).unwrap();
    let policy = |at: usize| cost[at]["roles"]["policy"]["in_k"].as_f64().unwrap();
    assert!(policy(0) < policy(1) && policy(1) < policy(2), "{cost}");
    for (wrong, part) in [
        ("--best-of w0=1/0/1", "fewer than 2"),
        ("--best-of w0=4/33/1", "window is 33"),
        ("--best-of w0=4/1/0", "samples is 0"),
        ("--best-of w0=1025/1/1", "1025 entries"),
        ("--best-of none=2/0/1", "no policy"),
        ("--best-of w0=4", "as in 4/2/3"),
    ] {
        let output = bench
            .run(&format!("evaluate --config foreturn.toml --tasks tasks.jsonl --policy w0=policy --to x {wrong}"));
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(part), "{wrong}: {message}");
    }
}

#[test]
fn simulated_users_are_compared_with_real_ones() {
    let bench = Bench::new(&tasks());
    bench.output("evaluate --config foreturn.toml --tasks tasks.jsonl --to run --turns 3");
    let compare = |real: &str| -> Value {
        let text = bench.output(&format!("simulator compare --simulated run/conversations.jsonl --real {real} --json"));
        serde_json::from_str(&text).expect("a comparison")
    };
    let same = compare("run/conversations.jsonl");
    assert_eq!(
        (&same["simulated"], &same["distance"], &same["separability"]["auc"]),
        (&json!(20), &json!(0.0), &json!(0.5))
    );
    let real: Vec<String> = (0..15)
        .map(|n| json!({"messages": [{"role": "user", "content": format!("u dont get it. {n}")}]}).to_string())
        .collect();
    std::fs::write(bench.path("real.jsonl"), real.join("\n")).unwrap();
    let other = compare("real.jsonl");
    assert!(other["separability"]["auc"].as_f64() > Some(0.9) && other["distance"].as_f64() > Some(0.3), "{other}");
    let printed = bench.output("simulator compare --simulated run/conversations.jsonl --real real.jsonl");
    assert!(
        printed.contains("slips") && printed.contains("20 simulated and 15 real conversations, about 20 and 15 tasks"),
        "{printed}"
    );
    assert!(
        bench
            .failure("simulator compare --simulated tasks.jsonl --real real.jsonl")
            .contains("no line has a message of the user")
    );
}

/// Real users for the comparison.
fn real_users(bench: &Bench) {
    let real =
        (0..15).map(|n| json!({"messages": [{"role": "user", "content": format!("u dont get it. {n}")}]}).to_string());
    std::fs::write(bench.path("real.jsonl"), real.collect::<Vec<_>>().join("\n")).unwrap();
    let config = bench.text("foreturn.toml").replace("[rollout]", "[rollout]\nreal_users = \"real.jsonl\"");
    std::fs::write(bench.path("foreturn.toml"), config).unwrap();
}

#[test]
fn runs_record_how_real_their_users_are() {
    let bench = Bench::new(&tasks()[..12]);
    let evaluate = "evaluate --config foreturn.toml --tasks tasks.jsonl --to run --turns 3 --samples 2";
    bench.output(evaluate);
    let asked = bench.server.asked().len();
    assert!(!bench.text("run/evaluation.json").contains("likeness"));
    real_users(&bench);
    let printed = bench.output(evaluate);
    assert!(printed.contains("simulated users beside real ones: distance "), "{printed}");
    assert_eq!(bench.server.asked().len(), asked, "whom users are compared with does not change them");
    let evaluation: Value = serde_json::from_str(&bench.text("run/evaluation.json")).unwrap();
    let likeness = &evaluation["likeness"];
    assert_eq!(
        (&likeness["simulated"], &likeness["simulated_tasks"], &likeness["real"]),
        (&json!(24), &json!(12), &json!(15))
    );
    let compared = bench.output("simulator compare --simulated run/conversations.jsonl --real real.jsonl --json");
    assert_eq!(&serde_json::from_str::<Value>(&compared).unwrap(), likeness);
    assert!(bench.text("run/evaluation.csv").contains("\n,,likeness_distance,"));
    bench.output("report run -o page.html");
    assert!(bench.text("page.html").contains("Simulated users beside real ones"));

    bench.output("dataset build --config foreturn.toml --tasks tasks.jsonl --candidates 2 --turns 2 --to built");
    let compared = bench.output("simulator compare --simulated built/dataset.jsonl --real real.jsonl --json");
    let recorded: Value = serde_json::from_str(&bench.text("built/likeness.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&compared).unwrap(), recorded);
    std::fs::write(bench.path("real.jsonl"), "{}").unwrap();
    let message = bench.failure(&evaluate.replace("--to run", "--to other"));
    assert!(message.contains("real.jsonl: no line has a message of the user"), "{message}");
}

#[test]
fn simulators_are_ordered_by_their_distance() {
    let bench = Bench::new(&tasks()[..12]);
    real_users(&bench);
    bench.output("evaluate --config foreturn.toml --tasks tasks.jsonl --to run --turns 2");
    let sweep = "evaluate --config foreturn.toml --tasks tasks.jsonl --to swept --turns 2 --samples 2 --candidates 2";
    bench.output(&format!("{sweep} --sweep w=1 w=1,user=other w=1,style=short+typos"));
    let files = "--simulated run/conversations.jsonl --simulated real.jsonl --simulated swept/responses.jsonl";
    let printed = bench.output(&format!("simulator compare {files} --real real.jsonl --json"));
    let all: Value = serde_json::from_str(&printed).unwrap();
    let all = all.as_array().unwrap();
    let names: Vec<&str> = all.iter().map(|of| of["name"].as_str().unwrap()).collect();
    assert_eq!((names[0], all[0]["distance"].as_f64(), all.len()), ("real.jsonl", Some(0.0), 5));
    for name in ["as configured", "user=other", "style=[\"short\",\"typos\"]"] {
        assert!(names.contains(&&*format!("swept/responses.jsonl: {name}")), "{names:?}");
    }
    assert!(all.windows(2).all(|pair| pair[0]["distance"].as_f64() <= pair[1]["distance"].as_f64()), "{printed}");
    let table = bench.output(&format!("simulator compare {files} --real real.jsonl"));
    assert!(table.contains("AUC") && table.contains("user=other"), "{table}");
}
