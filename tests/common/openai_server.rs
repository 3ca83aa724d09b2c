//! A small server that speaks OpenAI's protocols of chat completions and decisions, or lies: what it says to a request is
//! for a test's closure to decide.
//!
//! It counts what arrives, how much at the same time, and who hung up while waiting.
#![allow(clippy::disallowed_methods, reason = "a test may panic where the system refuses a thread")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// How many came before it.
    pub(crate) number: usize,
    pub(crate) at: Instant,
    pub(crate) path: String,
    /// By name in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
}

impl Asked {
    /// Whether a judge is asked, and not a speaker.
    pub(crate) fn is_choice(&self) -> bool {
        self.body["logprobs"] == true || self.is_decision()
    }

    /// Whether it came to `/v1/decisions`.
    pub(crate) fn is_decision(&self) -> bool {
        self.path == "/v1/decisions"
    }

    /// Everything that the messages say, or the input and the question.
    pub(crate) fn text(&self) -> String {
        if self.is_decision() {
            let question = &self.body["questions"][0];
            let question = question.get("instructions").or(question.get("question")).expect("a question");
            return [&self.body["input"], question].map(|part| part.as_str().expect("a text")).join("\n");
        }
        let messages = self.body["messages"].as_array().expect("messages");
        messages.iter().map(|message| message["content"].as_str().expect("a text")).collect()
    }
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A reply as HTTP wants it.
    Reply { status: u16, headers: Vec<(&'static str, String)>, body: String },
    /// As `Reply`, a while later.
    Late(Duration, Box<Answer>),
    /// These very bytes; then the connection is closed.
    Bytes(Vec<u8>),
    /// These bytes, and then again and again the others, after a pause each time, until the client has enough.
    Endless { head: Vec<u8>, piece: Vec<u8>, pause: Duration },
    /// Nothing at all until the client hangs up.
    Silence,
}

impl Answer {
    /// A reply in JSON.
    pub(crate) fn json(status: u16, body: &Value) -> Answer {
        let headers = vec![("content-type", "application/json".to_owned())];
        Answer::Reply { status, headers, body: body.to_string() }
    }

    /// An error as OpenAI words it, with a further header.
    pub(crate) fn error(status: u16, message: &str, header: Option<(&'static str, &str)>) -> Answer {
        let mut answer = Answer::json(status, &json!({"error": {"message": message, "type": "test"}}));
        if let Answer::Reply { headers, .. } = &mut answer {
            headers.extend(header.map(|(name, value)| (name, value.to_owned())));
        }
        answer
    }

    /// A completion: this text, of 7 tokens after 40, 16 of which were cached.
    pub(crate) fn says(text: &str) -> Answer {
        Answer::json(200, &completion(text))
    }

    /// A completion of one token, which had these alternatives.
    pub(crate) fn chooses(alternatives: &[(&str, f64)]) -> Answer {
        let token = |(text, p): &(&str, f64)| json!({"token": text, "logprob": p.ln(), "bytes": text.as_bytes()});
        let tops: Vec<Value> = alternatives.iter().map(token).collect();
        let mut position = tops[0].clone();
        position["top_logprobs"] = tops.into();
        let mut body = completion(alternatives[0].0);
        body["choices"][0]["logprobs"] = json!({"content": [position], "refusal": null});
        Answer::json(200, &body)
    }

    pub(crate) fn after(self, delay: Duration) -> Answer {
        Answer::Late(delay, Box::new(self))
    }
}

/// The body of a completion.
pub(crate) fn completion(text: &str) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "big",
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": text, "refusal": null},
            "logprobs": null, "finish_reason": "stop"
        }],
        "usage": {
            "prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47,
            "prompt_tokens_details": {"cached_tokens": 16}
        },
        "system_fingerprint": "fp_test"
    })
}

/// The server; it ends with its value.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    answer: Box<dyn Fn(&Asked) -> Answer + Send + Sync>,
    asked: Mutex<Vec<Asked>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    hung_up: AtomicUsize,
    ended: AtomicBool,
}

impl Server {
    /// A server on a free port of this machine.
    pub(crate) fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            asked: Mutex::default(),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            hung_up: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let server = Server { address, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, shared) = (stream.expect("a connection"), Arc::clone(&shared));
                // A client that goes away is no failure of the server.
                std::thread::spawn(move || drop(shared.serve(&stream)));
            }
        });
        server
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that was asked.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("no panic").clone()
    }

    /// Most requests that were under way at the same time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.shared.most_at_once.load(Ordering::SeqCst)
    }

    /// Waits until so many clients have hung up on an answer; `false` where they don't within ten seconds.
    pub(crate) fn was_left_by(&self, clients: usize) -> bool {
        let start = Instant::now();
        while self.shared.hung_up.load(Ordering::SeqCst) < clients {
            if start.elapsed() > Duration::from_secs(10) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    /// Answers what comes over one connection, one request after the other.
    fn serve(&self, mut stream: &TcpStream) -> io::Result<()> {
        let mut first = [0];
        // TLS begins with the type of a handshake, which no method of HTTP begins with.
        if stream.peek(&mut first)? == 1 && first == [0x16] {
            return stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
        let mut reader = BufReader::new(stream);
        while let Some(asked) = self.read(&mut reader)? {
            self.most_at_once.fetch_max(self.at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let result = self.give(stream, (self.answer)(&asked));
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            if !result? {
                break;
            }
        }
        Ok(())
    }

    fn read(&self, reader: &mut impl BufRead) -> io::Result<Option<Asked>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let mut all = self.asked.lock().expect("no panic");
        let asked = Asked { number: all.len(), at: Instant::now(), path, headers, body };
        all.push(asked.clone());
        Ok(Some(asked))
    }

    /// Answers; says whether the connection goes on.
    fn give(&self, mut stream: &TcpStream, answer: Answer) -> io::Result<bool> {
        match answer {
            Answer::Late(delay, answer) => {
                if !self.wait(stream, delay)? {
                    return Ok(false);
                }
                self.give(stream, *answer)
            }
            Answer::Reply { status, headers, body } => {
                let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let head = format!("HTTP/1.1 {status} Test\r\n{headers}content-length: {}\r\n\r\n", body.len());
                stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).map(|()| true)
            }
            Answer::Bytes(bytes) => stream.write_all(&bytes).map(|()| false),
            Answer::Endless { head, piece, pause } => {
                stream.write_all(&head)?;
                while self.wait(stream, pause)? {
                    if let Err(error) = stream.write_all(&piece) {
                        self.hung_up.fetch_add(1, Ordering::SeqCst);
                        return Err(error);
                    }
                }
                Ok(false)
            }
            Answer::Silence => self.wait(stream, Duration::from_secs(600)),
        }
    }

    /// Waits; `false` where the client hung up meanwhile, or the server ended.
    fn wait(&self, mut stream: &TcpStream, delay: Duration) -> io::Result<bool> {
        let end = Instant::now() + delay;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.ended.load(Ordering::SeqCst) {
                return Ok(false);
            }
            stream.set_read_timeout(Some(left.min(Duration::from_millis(10))))?;
            let gone = match stream.read(&mut [0]) {
                Ok(read) => read == 0,
                Err(e) => !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            };
            stream.set_read_timeout(None)?;
            if gone {
                self.hung_up.fetch_add(1, Ordering::SeqCst);
                return Ok(false);
            }
        }
        Ok(true)
    }
}
