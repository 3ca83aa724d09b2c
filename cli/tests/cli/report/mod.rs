//! `foreturn report`: the page in a real browser (Chromium, without a window), and what the command says when it can't.
//!
//! The browser is driven by clicks and keys over WebDriver, which is JSON over HTTP. In the end its console has to be
//! empty and the page itself the only thing that it asked for. Where there is no Chromium, tests say so and pass; in CI
//! they fail.

mod browser;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use self::browser::Browser;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Opens every node of the tree that is drawn, and those that are drawn by that.
const OPEN_ALL: &str = "for (let i = 0; i < 9; i++)
    document.querySelectorAll('#tree details:not([open])').forEach((d) => { d.draw?.(); d.open = true; });";

struct Run {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

fn report(arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foreturn"));
    let output = command.arg("report").args(arguments).stdin(Stdio::null()).output().expect("the command runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Run { status: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures/report").join(name)
}

/// The page of a trace, in a folder of its own.
fn page_of(trace: &Path) -> (TempDir, PathBuf) {
    let folder = scratch();
    let page = folder.path().join("page.html");
    let run = report(&[&trace.display().to_string(), "-o", &page.display().to_string()]);
    assert_eq!(run.status, Some(0), "{}", run.stderr);
    (folder, page)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a trace");
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

// ---- the page ----

#[test]
fn the_page_shows_what_the_trace_has() {
    let Some(browser) = Browser::start() else { return };
    let (_folder, page) = page_of(&fixture("poem_and_maths.jsonl"));
    browser.open(&page);

    assert_eq!(browser.text("#about"), "Can you write me a poem?");
    assert_eq!(browser.text("#unreadable summary"), "1 line of the trace could not be read");
    // As the trace's result has them, best first; the sum of the futures' values, by hand: (1.779 + 1.816 + 0.848 + 1.632) / 4.
    let rows = browser.run(
        "return [...document.querySelectorAll('#candidates tbody tr')].map((r) =>
        [r.querySelector('button').textContent, r.children[1].firstChild.textContent])",
    );
    assert_eq!(
        rows,
        json!([["Candidate 0", "1.519 ± 0.227"], ["Candidate 1", "0.741 ± 0.138"], ["Candidate 2", "0.507 ± 0.179"]])
    );
    let label = browser.run("return document.querySelector('#candidates .plot').getAttribute('aria-label')");
    assert_eq!(label, "mean 1.519, 95% interval 0.796 to 2.241");
    assert!(browser.text("#candidates").contains("93%"));
    assert!(browser.text("#cost tfoot").contains("30,000"));

    // Another ranking, by its menu: seeds keep all digits.
    browser.choose("#rankings", "maths-0002");
    assert!(browser.text("#facts").contains("18446744073709551615"));
    assert!(browser.text("#conversation").contains("two of them wont sit next to each other"));
    browser.choose("#rankings", "poem-0003");
    assert!(browser.text("#notices").contains("no result for this ranking"));
    let helpfulness = browser.text("#candidates tbody tr:nth-child(1) td:nth-child(4)");
    assert_eq!(helpfulness, "0.940", "(0.93 + 0.95) / 2, of the futures so far");
    browser.write("#find", "round table");
    assert_eq!(browser.text("#rankings"), "none found", "the last message is searched, not the first");
    browser.assert_quiet(&page);
}

/// Notes quote models and servers, so they are foreign text.
#[test]
fn notes_of_a_ranking_are_shown_as_text() {
    let notes = [
        "model `far` said its API key back",
        "<img src=x onerror=\"window.pwned = 1\">\u{202e}",
        &"one long word ".replace(' ', "").repeat(60),
    ];
    let folder = scratch();
    let trace = folder.path().join("trace.jsonl");
    let mut lines = lines(&fixture("poem_and_maths.jsonl"));
    let with = |line: &mut Value| line["result"]["notes"] = json!(notes);
    lines.iter_mut().filter(|line| line["kind"] == "ranking" && line["ranking"] == "poem-0001").for_each(with);
    fs::write(&trace, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("a file");
    let (_folder, page) = page_of(&trace);
    let data = fs::read_to_string(&page).expect("a page");
    assert!(data.contains(r#""notes":["model `far` said its API key back","\u003cimg src=x"#), "the page's data");

    let Some(browser) = Browser::start() else { return };
    browser.open(&page);
    let shown = browser.run("return [...document.querySelectorAll('#notices .notice')].map((e) => e.textContent)");
    assert_eq!(shown, json!([notes[0], notes[1].replace('\u{202e}', "⟨U+202E⟩"), notes[2]]));
    assert_eq!(
        browser.run("return [document.querySelectorAll('#notices img').length, window.pwned ?? null]"),
        json!([0, null])
    );
    for width in [1280, 420] {
        browser.assert_fits(width);
    }
    // Notes go with their ranking.
    browser.choose("#rankings", "maths-0002");
    assert!(!browser.text("#notices").contains("API key"));
    browser.assert_quiet(&page);
}

#[test]
fn futures_that_begin_alike_share_a_branch() {
    let Some(browser) = Browser::start() else { return };
    let (_folder, page) = page_of(&fixture("poem_and_maths.jsonl"));
    browser.open(&page);

    // Of the best candidate's four futures, three begin with one message, two of which go on with one reply.
    let first = "#tree > .tree > li:nth-child(1) > details > .inside > .tree";
    assert_eq!(browser.count(&format!("{first} > li")), 2);
    let branch = format!("{first} > li:nth-child(1) > details");
    assert!(browser.text(&format!("{branch} > summary")).contains("3 futures"));
    assert_eq!(browser.count(&format!("{branch} .message")), 0, "nothing is drawn before it is opened");
    browser.click(&format!("{branch} > summary"));
    assert!(browser.text(&format!("{branch} > .inside > .message")).contains("mad about the sea"));
    browser.click(&format!("{branch} > .inside > .tree > li:nth-child(1) > details > summary"));

    // A leaf, by keyboard: its messages, why it ended, and what the judge answered.
    let leaf = format!("{branch} .branch > .inside > .tree > li:nth-child(1) > details");
    browser.press_enter(&format!("{leaf} > summary"));
    // It is drawn a moment later.
    let seed = "9007199254740993";
    let text = browser.wait(|| Some(browser.text(&leaf)).filter(|text| text.contains(seed)));
    let text = text.unwrap_or_else(|| browser.text(&leaf));
    for part in
        ["Sample 0", "He ran where the waves come in", "window: all turns of the window were sampled", "0.930", "0.070"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(text.contains(seed), "a seed keeps all digits: {text}");
    browser.press_enter(&format!("{leaf} > summary"));
    assert_eq!(browser.run(&format!("return document.querySelector('{leaf}').open")), false);
    browser.assert_quiet(&page);
}

#[test]
fn filters_choose_futures() {
    let Some(browser) = Browser::start() else { return };
    let (_folder, page) = page_of(&fixture("poem_and_maths.jsonl"));
    browser.open(&page);
    let matches = |expected: &str| {
        let seen = browser.wait(|| Some(browser.text("#matches")).filter(|text| text == expected));
        assert_eq!(seen.as_deref(), Some(expected), "now {}", browser.text("#matches"));
    };
    matches("12 futures");
    browser.choose("#by-candidate", "Candidate 1");
    matches("4 of 12 futures");
    browser.choose("#by-count", "lost");
    matches("1 of 12 futures");
    assert!(browser.text("#tree").contains("the simulated user spoke as the assistant would"));
    browser.click("#filters button[type=reset]");
    matches("12 futures");
    browser.choose("#by-end", "stop_signal");
    matches("4 of 12 futures");
    browser.click("#filters button[type=reset]");
    browser.choose("#by-metric", "interactivity");
    browser.write("#by-least", "0.36");
    browser.write("#by-most", "0.9");
    // 0.88, 0.90; 0.36, 0.72; what has no value is not in a range.
    matches("4 of 12 futures");
    browser.click("#filters button[type=reset]");
    browser.write("#by-text", "ROUNDED stone");
    matches("1 of 12 futures");
    assert_eq!(browser.text("#tree mark"), "rounded stone");
    browser.write("#by-text", " that nobody said");
    matches("0 of 12 futures");
    assert!(browser.text("#tree").contains("No future is like that"));
    browser.click("#filters button[type=reset]");
    browser.choose("#order", "worst first");
    browser.click("#candidates tbody tr:nth-child(3) button");
    matches("4 of 12 futures");
    let first = browser.text("#tree .candidate > .inside > .tree > li:nth-child(1) summary .value");
    assert_eq!(first, "0.224", "0.11 + 0.12 - 0.006");
    browser.assert_quiet(&page);
}

#[test]
fn hostile_text_stays_text() {
    let Some(browser) = Browser::start() else { return };
    let trace = fixture("hostile.jsonl");
    let (_folder, page) = page_of(&trace);
    browser.open(&page);
    let texts = &lines(&trace)[0]["candidates"];

    for ranking in 0..browser.count("#rankings option") {
        browser.run(&format!(
            "const s = document.querySelector('#rankings'); s.selectedIndex = {ranking};
            s.dispatchEvent(new Event('change')); {OPEN_ALL}"
        ));
        // Nothing that our own script does not make, and none of it does anything.
        let made = browser.run("return [...document.querySelectorAll('*')].filter((e) =>
            ['IMG', 'IFRAME', 'OBJECT', 'EMBED', 'BASE'].includes(e.tagName) || e.hasAttribute('style')
            || (e.tagName === 'SCRIPT' && e.type !== 'application/json' && e.nextElementSibling)
            || [...e.attributes].some((a) => a.name.startsWith('on') || /href|src|action/.test(a.name) && a.value !== '#ranking'))
            .map((e) => e.outerHTML.slice(0, 200))");
        assert_eq!(made, json!([]));
        for width in [1280, 420] {
            browser.assert_fits(width);
        }
    }
    assert_eq!(browser.run("return window.pwned ?? null"), Value::Null);
    browser.run(&format!(
        "const s = document.querySelector('#rankings'); s.selectedIndex = 0;
        s.dispatchEvent(new Event('change')); {OPEN_ALL}"
    ));
    let said = browser.run("return [...document.querySelectorAll('#conversation .text')].map((e) => e.textContent)");
    // Characters that hide or reorder are written out; the others are as they were.
    for (at, text) in texts.as_array().expect("a list").iter().enumerate() {
        match at {
            3 => assert!(said[at].as_str().expect("a text").starts_with("⟨U+202E⟩gnp.exe⟨U+202C⟩ ⟨U+2066⟩isolated")),
            4 => assert!(said[at].as_str().expect("a text").starts_with("NUL ⟨U+0000⟩, escape ⟨U+001B⟩[31m")),
            _ => assert_eq!(said[at], *text),
        }
    }
    assert!(browser.text("#tree").contains("</script><script>window.pwned = 1</script>"));
    browser.assert_quiet(&page);

    // The page's policy holds as well: no script but ours, and no connection.
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.pwned = 9' }))",
    );
    assert_eq!(browser.run("return window.pwned ?? null"), Value::Null);
    let refused =
        browser.run("try { new WebSocket('ws://127.0.0.1:9/'); return 'connected' } catch (e) { return e.name }");
    let log = browser.console().join("\n");
    assert!(
        log.contains("script-src") && (refused == "SecurityError" || log.contains("default-src")),
        "{refused} {log}"
    );
}

#[test]
fn five_thousand_futures_stay_usable() {
    let Some(browser) = Browser::start() else { return };
    let folder = scratch();
    let trace = folder.path().join("large.jsonl");
    let mut text = String::new();
    for candidate in 0..4 {
        for sample in 0..1250 {
            let line = json!({
                "kind": "rollout", "ranking": "large", "candidate": candidate, "sample": sample, "response": "What about?",
                "messages": [
                    {"role": "user", "content": format!("The {}th opening. {}", sample % 400, "And more of it. ".repeat(20))},
                    {"role": "assistant", "content": format!("Reply {sample} of {candidate}. {}", "So it goes on. ".repeat(40))},
                ],
                "ended": "window", "seed": sample, "reward": f64::from(sample % 97) / 97.0,
                "metrics": {"helpfulness": {"value": 0.5, "answers": [{"probabilities": [0.5, 0.5]}]}},
            });
            text += &format!("{line}\n");
        }
    }
    fs::write(&trace, text).expect("a file");
    let (_folder, page) = page_of(&trace);
    let started = Instant::now();
    browser.open(&page);
    let opened = started.elapsed();
    assert_eq!(browser.text("#matches"), "5,000 futures");
    assert_eq!(browser.text("#choose"), "", "there is nothing to choose");
    let drawn = browser.run("return document.querySelectorAll('*').length").as_u64().expect("a number");
    assert!(drawn < 5_000, "{drawn} elements");
    assert!(browser.text("#tree .more").starts_with("Show 100 more of 300"));
    browser.click("#tree .more");
    assert!(browser.text("#tree .more").starts_with("Show 100 more of 200"));

    let started = Instant::now();
    browser.write("#by-text", "reply 1234 of 2");
    let found = browser.wait(|| Some(browser.text("#matches")).filter(|text| text == "1 of 5,000 futures"));
    assert!(found.is_some(), "{}", browser.text("#matches"));
    let filtered = started.elapsed();
    // Both take well under a second alone; the machine may be busy.
    assert!(opened < Duration::from_secs(15) && filtered < Duration::from_secs(15), "{opened:?}, {filtered:?}");
    browser.assert_quiet(&page);
}

#[test]
fn it_is_readable_wide_and_narrow_light_and_dark() {
    let Some(browser) = Browser::start() else { return };
    let (_folder, page) = page_of(&fixture("poem_and_maths.jsonl"));
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        browser.open(&page);
        browser.run(OPEN_ALL);
        for width in [1280, 420] {
            browser.assert_fits(width);
        }
        // WCAG 2.1, 1.4.3: text has at least 4.5 times the luminance of what is behind it, or the other way round.
        let poor = browser.run(
            "
            const style = getComputedStyle(document.documentElement), back = ['page', 'card', 'user', 'assistant'];
            const luminance = (name) => {
              const hex = style.getPropertyValue(`--${name}`).trim().slice(1);
              const [r, g, b] = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
                .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
              return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
            };
            const ratio = (a, b) => Math.max(luminance(a) / luminance(b), luminance(b) / luminance(a));
            return ['text', 'soft', 'accent', 'warn', 'bad'].flatMap((a) => back.map((b) => [a, b]))
              .concat([['text', 'mark'], ['text', 'warn-back'], ['warn', 'warn-back']])
              .filter(([a, b]) => !(ratio(a, b) >= 4.5)).map(([a, b]) => [a, b, ratio(a, b)])",
        );
        assert_eq!(poor, json!([]), "{scheme}");
        // Every control has a name.
        let nameless = browser.run(
            "return [...document.querySelectorAll('input, select, button, summary')].filter((e) =>
            !(e.textContent.trim() || e.labels?.length)).length",
        );
        assert_eq!(nameless, 0);
    }
    browser.assert_quiet(&page);
}

// ---- the command ----

#[test]
fn the_command_says_what_it_wrote() {
    let folder = scratch();
    let page = folder.path().join("page.html").display().to_string();
    let run = report(&[&fixture("poem_and_maths.jsonl").display().to_string(), "-o", &page, "--ranking", "maths-0002"]);
    assert_eq!((run.status, run.stdout), (Some(0), format!("{page}: 1 ranking, 6 futures\n")));
    assert_eq!(run.stderr, "foreturn: warning: 1 line could not be read; the page says which\n");
    let text = fs::read_to_string(&page).expect("a page");
    assert!(text.contains("maths-0002") && !text.contains("poem-0001"));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
}

#[test]
fn mistakes_are_named_and_harm_nothing() {
    let folder = scratch();
    let trace = folder.path().join("trace.jsonl");
    let [trace_name, page] = [&trace, &folder.path().join("page.html")].map(|path| path.display().to_string());
    let folder_name = folder.path().display().to_string();
    for (content, arguments, message) in [
        ("", [trace_name.as_str(), "-o", &page], "there is nothing in it"),
        ("half", [&trace_name, "-o", &page], "no line can be read; line 1: expected value at line 1 column 1"),
        ("{}", [&format!("{folder_name}/none"), "-o", &page], "No such file"),
        (r#"{"kind":"rollout","ranking":"a"}"#, [&trace_name, "-o", &trace_name], "is the trace itself"),
        (r#"{"kind":"rollout","ranking":"a"}"#, [&trace_name, "-o", &folder_name], "is not a regular file"),
    ] {
        fs::write(&trace, content).expect("a file");
        let run = report(&arguments);
        assert_eq!((run.status, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
        assert!(run.stderr.starts_with("foreturn: ") && run.stderr.contains(message), "{}", run.stderr);
        assert_eq!(fs::read_to_string(&trace).expect("the trace"), content);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }
}
