//! What is put under load: a server, or an engine in this process.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use foreturn::config::Config;
use foreturn::engine::{Limits, Pending, Request};
use foreturn::{Engine, Error, ErrorKind, RankOptions, Ranking, Result, files};
use serde::Deserialize;
use ureq::Agent;
use ureq::http::{StatusCode, header};

use super::super::super::args::LoadArgs;
use super::super::super::run;
use super::mix::Line;

/// How much longer than its deadline a request may take before it counts as lost.
const SLACK: Duration = Duration::from_secs(30);
/// How long a request without a deadline may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(600);
/// Most bytes of an answer.
const MAX_ANSWER: u64 = 256 << 20;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// All of the answer.
    Whole {
        /// True if its numbers are not those of the first answer to the same line.
        differs: bool,
    },
    /// A ranking of what was finished at the deadline.
    Partial,
    /// No place for it.
    Refused,
    /// The target says that the deadline passed.
    Expired,
    /// Another error.
    Failed(String),
    /// No answer at all.
    Lost(String),
    /// No client was free before the deadline.
    Unsent,
}

/// A server or an engine.
pub(super) struct Target {
    way: Way,
    /// The numbers of the first answer to each line.
    first: Mutex<Vec<Option<Numbers>>>,
}

enum Way {
    Server { address: String, key: Option<String> },
    Engine { name: String, engine: Box<Engine> },
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.way {
            Way::Server { address, .. } => f.write_str(address),
            Way::Engine { name, .. } => f.write_str(name),
        }
    }
}

/// The targets of the command line: one, or two.
pub(super) fn open(given: &LoadArgs, lines: usize) -> Result<Vec<Target>> {
    let ways: Vec<Way> = match (&given.server, &given.config) {
        (Some(server), _) => {
            let key = given.key.as_deref().map(key).transpose()?;
            std::iter::once(server)
                .chain(&given.against)
                .map(|address| Ok(Way::Server { address: checked(address)?, key: key.clone() }))
                .collect::<Result<_>>()?
        }
        (None, config) => config
            .iter()
            .cloned()
            .chain(given.against.as_ref().map(Into::into))
            .map(|path| {
                let engine = Box::new(run::engine(Config::from_file(&path)?)?);
                Ok(Way::Engine { name: path.display().to_string(), engine })
            })
            .collect::<Result<_>>()?,
    };
    Ok(ways.into_iter().map(|way| Target { way, first: Mutex::new(vec![None; lines]) }).collect())
}

fn checked(address: &str) -> Result<String> {
    match address.strip_prefix("http://") {
        Some(host) if !host.trim_end_matches('/').is_empty() => Ok(address.trim_end_matches('/').to_owned()),
        _ => Err(Error::new(
            ErrorKind::InvalidRequest,
            format!(
                "{address:?} is not a server to measure: write http://host:port. (TLS and Unix sockets are not measured.)"
            ),
        )),
    }
}

fn key(path: &std::path::Path) -> Result<String> {
    let text = files::read_argument(path, files::Kind::INPUT)?;
    match text.lines().next().map(str::trim) {
        Some(key) if !key.is_empty() => Ok(key.to_owned()),
        _ => Err(Error::new(ErrorKind::InvalidRequest, format!("{} has no key on its first line", path.display()))),
    }
}

/// What a target said.
pub(super) struct Said {
    pub(super) fate: Fate,
    /// When its last byte was there.
    pub(super) at: Instant,
    pub(super) number: Option<String>,
}

/// A client of a target, with a connection of its own.
pub(super) struct Client<'a> {
    target: &'a Target,
    agent: Agent,
}

impl Target {
    pub(super) fn client(&self) -> Client<'_> {
        let config =
            Agent::config_builder().http_status_as_error(false).max_redirects(0).max_redirects_will_error(false);
        let config = config.proxy(None);
        Client { target: self, agent: config.build().into() }
    }

    /// Asks the first line of each kind, so that a mistake shows before the load does.
    pub(super) fn try_out(&self, lines: &[Line]) -> Result<()> {
        let client = self.client();
        for path in ["/v1/rank", "/v1/score"] {
            let Some((at, line)) = lines.iter().enumerate().find(|(_, line)| line.path == path) else { continue };
            let (what, why) = match client.ask(at, line, None).fate {
                Fate::Failed(why) => ("fails", why),
                Fate::Lost(why) => ("has no answer", why),
                _ => continue,
            };
            return Err(Error::new(ErrorKind::InvalidRequest, format!("{}: {what} at {self}: {why}", line.name)));
        }
        Ok(())
    }

    /// The fate of a whole answer to a line.
    fn whole(&self, line: usize, numbers: Numbers) -> Fate {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let differs = match &first[line] {
            Some(first) => !first.agrees(&numbers),
            None => {
                first[line] = Some(numbers);
                false
            }
        };
        Fate::Whole { differs }
    }

    /// The fate of a ranking.
    fn ranked(&self, line: usize, ranking: &Ranking) -> Fate {
        match ranking.complete {
            true => self.whole(line, Numbers::of(ranking)),
            false if ranking.came_to_nothing() => Fate::Expired,
            false => Fate::Partial,
        }
    }
}

/// The numbers of an answer.
#[derive(Debug, Clone)]
struct Numbers {
    values: Vec<Option<f64>>,
    /// How far those of another answer may be off.
    within: Within,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Within {
    /// Not a bit.
    Nothing,
    /// The rounding of batches: encoders run in padded ones.
    Rounding,
    /// Endpoints answer as they like.
    Anything,
}

impl Numbers {
    fn of(ranking: &Ranking) -> Self {
        let mut rewards: Vec<_> = ranking.candidates.iter().map(|each| (each.candidate, each.reward)).collect();
        rewards.sort_by_key(|(candidate, _)| *candidate);
        let within = if ranking.bitwise { Within::Nothing } else { Within::Anything };
        Numbers { values: rewards.into_iter().map(|(_, reward)| reward).collect(), within }
    }

    fn agrees(&self, other: &Numbers) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-3 * (1.0 + a.abs());
        let same = |pair: (&Option<f64>, &Option<f64>)| match (pair, self.within) {
            ((Some(a), Some(b)), Within::Rounding) => near(*a, *b),
            ((a, b), _) => a.map(f64::to_bits) == b.map(f64::to_bits),
        };
        self.within == Within::Anything
            || other.within == Within::Anything
            || (self.values.len() == other.values.len() && self.values.iter().zip(&other.values).all(same))
    }
}

/// The part of `/v1/score`'s answer that is read.
#[derive(Deserialize)]
struct Scores {
    scores: Vec<Values>,
}

#[derive(Deserialize)]
struct Values {
    values: Vec<Option<f64>>,
}

impl Client<'_> {
    /// Asks, and waits for the answer. `left` is the time that it may take.
    pub(super) fn ask(&self, at: usize, line: &Line, left: Option<Duration>) -> Said {
        match &self.target.way {
            Way::Server { address, key } => {
                self.post(&format!("{address}{}", line.path), key.as_deref(), at, line, left)
            }
            Way::Engine { engine, .. } => {
                let fate = self.submit(engine, at, line, left);
                Said { fate, at: Instant::now(), number: None }
            }
        }
    }

    fn post(&self, url: &str, key: Option<&str>, at: usize, line: &Line, left: Option<Duration>) -> Said {
        let mut request = self.agent.post(url).header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        if let Some(left) = left {
            request = request.header("x-timeout", left.as_secs_f64().to_string());
        }
        let sent = request.config().timeout_global(Some(patience(left))).build().send(&line.body[..]);
        let read = sent.and_then(|mut response| {
            let number = response.headers().get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
            let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec()?;
            Ok((response.status(), number, body))
        });
        // The clock stops before the answer is looked at.
        let now = Instant::now();
        match read {
            Ok((status, number, body)) => Said { fate: self.answer(status, &body, at, line), at: now, number },
            Err(error) => Said { fate: Fate::Lost(error.to_string()), at: now, number: None },
        }
    }

    fn answer(&self, status: StatusCode, body: &[u8], at: usize, line: &Line) -> Fate {
        let unread = |e: serde_json::Error| Fate::Failed(format!("the answer is not what a server of ours gives: {e}"));
        match (status, &line.request) {
            (StatusCode::OK, Request::Rank(_)) => match serde_json::from_slice(body) {
                Ok(ranking) => self.target.ranked(at, &ranking),
                Err(e) => unread(e),
            },
            (StatusCode::OK, Request::Score(_)) => match serde_json::from_slice::<Scores>(body) {
                Ok(read) => {
                    let values = read.scores.into_iter().flat_map(|score| score.values).collect();
                    self.target.whole(at, Numbers { values, within: Within::Rounding })
                }
                Err(e) => unread(e),
            },
            (StatusCode::TOO_MANY_REQUESTS, _) => Fate::Refused,
            (StatusCode::GATEWAY_TIMEOUT, _) => Fate::Expired,
            (status, _) => Fate::Failed(format!("{status}: {}", complaint(body))),
        }
    }

    fn submit(&self, engine: &Engine, at: usize, line: &Line, left: Option<Duration>) -> Fate {
        let limits = Limits { timeout: left, ..Limits::default() };
        match &line.request {
            Request::Rank(request) => {
                let pending = engine.within(limits).submit_rank(request.clone(), RankOptions::default());
                waited(pending, left, |ranking| self.target.ranked(at, &ranking))
            }
            Request::Score(request) => {
                let submitted = engine
                    .model(&request.model)
                    .and_then(|model| model.within(limits).submit_score(request.inputs()?, request.task()?));
                waited(submitted, left, |scores| {
                    let values = scores.iter().flat_map(|scored| scored.output.numbers()).map(Some).collect();
                    self.target.whole(at, Numbers { values, within: Within::Rounding })
                })
            }
        }
    }
}

/// The message of an error of ours, or the beginning of whatever else it is.
fn complaint(body: &[u8]) -> String {
    let said: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = said.as_ref().and_then(|said| said["error"]["message"].as_str().map(str::to_owned));
    message.unwrap_or_else(|| String::from_utf8_lossy(body).chars().take(200).collect())
}

fn patience(left: Option<Duration>) -> Duration {
    left.map_or(PATIENCE, |left| left.saturating_add(SLACK))
}

/// The fate of a request to an engine.
fn waited<T>(submitted: Result<Pending<T>>, left: Option<Duration>, whole: impl FnOnce(T) -> Fate) -> Fate {
    let pending = match submitted {
        Ok(pending) => pending,
        Err(error) if error.kind() == ErrorKind::Overloaded => return Fate::Refused,
        Err(error) => return Fate::Failed(error.to_string()),
    };
    match pending.wait_for(patience(left)) {
        Ok(false) => Fate::Lost("it was not answered".into()),
        Ok(true) => match pending.wait() {
            Ok(answer) => whole(answer),
            Err(error) if error.kind() == ErrorKind::DeadlineExceeded => Fate::Expired,
            Err(error) => Fate::Failed(error.to_string()),
        },
        Err(error) => Fate::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(values: &[f64], within: Within) -> Numbers {
        Numbers { values: values.iter().copied().map(Some).collect(), within }
    }

    #[test]
    fn answers_to_one_line_are_compared_as_closely_as_they_can_be() {
        let differs = |a: &[f64], b: &[f64], within| !numbers(a, within).agrees(&numbers(b, within));
        for (within, nudge, rounding) in
            [(Within::Nothing, true, true), (Within::Rounding, true, false), (Within::Anything, false, false)]
        {
            assert!(!differs(&[0.5, -2.0], &[0.5, -2.0], within));
            assert_eq!(differs(&[0.5, -2.0], &[0.6, -2.0], within), nudge, "{within:?}");
            assert_eq!(differs(&[0.5], &[0.5 + 1e-6], within), rounding, "{within:?}");
            assert_eq!(differs(&[0.5], &[0.5, 0.5], within), within != Within::Anything, "{within:?}");
        }
    }

    #[test]
    fn a_server_has_an_address_of_http() {
        assert_eq!(checked("http://127.0.0.1:8080/").expect("an address"), "http://127.0.0.1:8080");
        for wrong in ["127.0.0.1:8080", "https://there", "unix:/run/x.sock", "http://"] {
            assert!(checked(wrong).is_err(), "{wrong}");
        }
    }
}
