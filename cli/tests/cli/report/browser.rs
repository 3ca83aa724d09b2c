//! Chromium without a window, driven over WebDriver (<https://www.w3.org/TR/webdriver2/>): JSON over plain HTTP to
//! chromedriver, which listens on this machine only.
#![allow(clippy::disallowed_methods, reason = "a test may panic where the system refuses a thread")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The key under which the protocol has an element's reference.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
const ENTER: &str = "\u{e007}";

/// A browser with an empty profile; both end with it.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    profile: TempDir,
}

impl Browser {
    /// Starts one; `None`, with a word about it, where there is none. CI may not do without.
    pub(crate) fn start() -> Option<Self> {
        let driver = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut driver = match driver {
            Ok(driver) => driver,
            Err(error) => return skip(&format!("no chromedriver ({error})")),
        };
        let mut said = BufReader::new(driver.stdout.take().expect("standard output")).lines();
        let port = said.find_map(|line| {
            line.expect("a line").split_once("started successfully on port ")?.1.trim_end_matches('.').parse().ok()
        });
        // What else it says is read, so that it never waits for a reader.
        std::thread::spawn(move || said.for_each(drop));
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut browser =
            Browser { driver, port: port.expect("chromedriver listens"), session: String::new(), profile };
        let (status, answer) = request(browser.port, "POST", "/session", &browser.wanted()).expect("an answer");
        let failure = answer["value"]["message"].as_str().unwrap_or_default();
        if failure.contains("cannot find Chrome binary") {
            return skip("chromedriver finds no Chromium");
        }
        assert_eq!(status, 200, "{answer}");
        browser.session = answer["value"]["sessionId"].as_str().expect("a session").to_owned();
        Some(browser)
    }

    /// What a session is to be like.
    fn wanted(&self) -> Value {
        // Root, as CI is, gets no sandbox; the pages are our own.
        let arguments = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run \
            --disable-background-networking --disable-component-update --disable-sync --window-size=1280,900";
        let mut arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        arguments.push(format!("--user-data-dir={}", self.profile.path().display()));
        json!({"capabilities": {"alwaysMatch": {
            // What a click draws may come a moment later.
            "timeouts": {"implicit": 20_000},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "goog:chromeOptions": {"args": arguments},
        }}})
    }

    /// Opens a page and waits until its script has run.
    pub(crate) fn open(&self, page: &Path) {
        self.command("POST", "/url", &json!({"url": address(page)}));
        let ready = self.wait(|| self.run("return document.documentElement.dataset.ready ?? null").as_str().map(drop));
        assert!(ready.is_some(), "the page's script did not get through: {:?}", self.console());
    }

    /// Runs a script and returns what it returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// What an element shows.
    pub(crate) fn text(&self, selector: &str) -> String {
        let text = self.command("GET", &format!("/element/{}/text", self.element(selector)), &Value::Null);
        text.as_str().expect("a text").to_owned()
    }

    pub(crate) fn count(&self, selector: &str) -> u64 {
        self.run(&format!("return document.querySelectorAll({selector:?}).length")).as_u64().expect("a number")
    }

    pub(crate) fn click(&self, selector: &str) {
        self.command("POST", &format!("/element/{}/click", self.element(selector)), &json!({}));
    }

    /// Types into an element, after what is there.
    pub(crate) fn write(&self, selector: &str, text: &str) {
        self.command("POST", &format!("/element/{}/value", self.element(selector)), &json!({"text": text}));
    }

    pub(crate) fn press_enter(&self, selector: &str) {
        self.write(selector, ENTER);
    }

    /// Chooses the option of a menu whose text begins so.
    pub(crate) fn choose(&self, menu: &str, option: &str) {
        let find = format!(
            "return [...document.querySelectorAll('{menu} option')].findIndex((o) => o.text.startsWith({option:?}))"
        );
        let at = self.run(&find).as_i64().expect("a number");
        assert!(at >= 0, "no option {option} in {menu}");
        self.click(&format!("{menu} option:nth-child({})", at + 1));
    }

    /// Asks again until there is an answer, for some seconds.
    pub(crate) fn wait<T>(&self, answer: impl Fn() -> Option<T>) -> Option<T> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            match answer() {
                None if Instant::now() < end => std::thread::sleep(Duration::from_millis(30)),
                answer => return answer,
            }
        }
    }

    /// Lets pages think that their reader prefers a colour scheme.
    pub(crate) fn prefer(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// Fails where the page is wider than a window of so many pixels.
    pub(crate) fn assert_fits(&self, width: u64) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
        let seen = self.run("return [innerWidth, document.documentElement.scrollWidth]");
        assert_eq!(seen[0], width);
        assert!(seen[1].as_u64() <= Some(width), "{} pixels wide in a window of {width}", seen[1]);
    }

    /// Fails where something was written to the console, or anything but the page was asked for.
    pub(crate) fn assert_quiet(&self, page: &Path) {
        assert_eq!(self.console(), [""; 0]);
        let mut asked: Vec<String> = Vec::new();
        for entry in self.log("performance") {
            let event: Value = serde_json::from_str(&entry).expect("an event");
            let (method, request) = (&event["message"]["method"], &event["message"]["params"]);
            // The browser's own first page loads its own parts, some of them late.
            let own = |by: &str| by.starts_with("chrome://") || by.starts_with("chrome-untrusted://");
            let by_page = !request["documentURL"].as_str().is_some_and(own);
            if method == "Network.requestWillBeSent" && by_page {
                asked.push(request["request"]["url"].as_str().expect("an address").to_owned());
            }
        }
        asked.dedup();
        assert_eq!(asked, [address(page)]);
    }

    /// What was written to the console since it was last asked.
    pub(crate) fn console(&self) -> Vec<String> {
        self.log("browser")
    }

    fn log(&self, kind: &str) -> Vec<String> {
        let entries = self.command("POST", "/se/log", &json!({"type": kind}));
        let entries = entries.as_array().expect("a list").iter();
        entries.map(|entry| entry["message"].as_str().expect("a message").to_owned()).collect()
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        self.command("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": parameters}));
    }

    fn element(&self, selector: &str) -> String {
        let found = self.command("POST", "/element", &json!({"using": "css selector", "value": selector}));
        found[ELEMENT].as_str().expect("an element").to_owned()
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        self.call(method, &format!("/session/{}{path}", self.session), body)
    }

    /// One request; what is not a success fails the test.
    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, mut content) = request(self.port, method, path, body)
            .unwrap_or_else(|error| panic!("chromedriver does not answer {method} {path}: {error}"));
        assert_eq!(status, 200, "{method} {path} {body}: {content}");
        content["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser first: chromedriver alone would leave it behind. A failed test must not panic again.
        if !self.session.is_empty() {
            let _ = request(self.port, "DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

#[allow(clippy::print_stderr, reason = "a test that is skipped says so")]
fn skip(why: &str) -> Option<Browser> {
    let hint = format!("{why}: install chromium and chromium-driver");
    assert!(std::env::var_os("CI").is_none(), "{hint}");
    eprintln!("skipped: {hint}");
    None
}

/// Status and content of the answer to a request. A connection serves one.
fn request(port: u16, method: &str, path: &str, body: &Value) -> io::Result<(u16, Value)> {
    let body = if method == "POST" { body.to_string() } else { String::new() };
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len())?;
    let mut reply = BufReader::new(stream);
    let mut line = String::new();
    reply.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let mut length = 0;
    while line.trim() != "" {
        line.clear();
        reply.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut content = vec![0; length];
    reply.read_exact(&mut content)?;
    Ok((status.ok_or(io::ErrorKind::InvalidData)?, serde_json::from_slice(&content)?))
}

/// Temporary folders have plain names, so nothing needs escaping.
fn address(page: &Path) -> String {
    format!("file://{}", page.display())
}
