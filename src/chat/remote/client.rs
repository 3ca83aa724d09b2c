//! One request by HTTP, and the meaning of its failures.

use std::io::Read;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Response, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Timeout};

use super::coding::decoded;
use super::endpoint::{Endpoint, Route};
use super::limits::LONGEST_RETRY_AFTER;
use crate::{Error, ErrorKind, Result, json};

/// Maximum number of bytes in a reply.
const MAX_REPLY: u64 = 16 << 20;
/// Maximum number of bytes to read of an error reply.
const MAX_COMPLAINT: u64 = 64 << 10;

/// The reason why there is no reply.
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    /// The fault and the remedy.
    pub(super) what: String,
    pub(super) retry: Retry,
}

/// Whether a retry may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    Never,
    /// After a pause of our own.
    Backoff,
    /// After the server's pause.
    After(Duration),
}

impl Failure {
    fn new(kind: ErrorKind, what: String) -> Self {
        Failure { kind, what, retry: Retry::Never }
    }

    fn or_later(self) -> Self {
        Failure { retry: Retry::Backoff, ..self }
    }
}

/// An agent with its own connections, for one worker.
pub(super) fn agent(endpoint: &Endpoint) -> Result<Agent> {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        // A redirect would send the key to wherever the server points.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("foreturn/", env!("CARGO_PKG_VERSION")))
        .timeout_global(Some(endpoint.timeout))
        .timeout_resolve(Some(endpoint.connect_timeout))
        .timeout_connect(Some(endpoint.connect_timeout));
    if endpoint.is_https() {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = roots().map_err(|what| endpoint.error(ErrorKind::InvalidConfig, &what))?;
        let tls = TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(provider);
        config = config.tls_config(tls.build());
    }
    Ok(config.build().into())
}

/// The certificates that this machine trusts, read once.
fn roots() -> Result<RootCerts, String> {
    static ROOTS: OnceLock<Result<RootCerts, String>> = OnceLock::new();
    let load = || {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(format!(
                "this machine has no root certificates for https ({}). Install its ca-certificates, or name a file of \
                 them in SSL_CERT_FILE",
                if errors.is_empty() { "none found".to_owned() } else { errors.join("; ") }
            ));
        }
        let certificates: Vec<_> = found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        Ok(RootCerts::new_with_certs(&certificates))
    };
    ROOTS.get_or_init(load).clone()
}

/// Sends a body and returns the bytes of the reply.
pub(super) fn send(agent: &Agent, endpoint: &Endpoint, route: Route, body: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut request = agent
        .post(endpoint.url(route))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        // Without it, a server may use any coding for the body (RFC 9110, 12.5.3).
        .header(header::ACCEPT_ENCODING, "identity");
    for (name, value) in &endpoint.headers {
        request = request.header(name, value.reveal());
    }
    if let Some(key) = &endpoint.key {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", key.reveal()));
    }
    let mut response = request.send(body).map_err(|e| transport(endpoint, &e))?;
    if !response.status().is_success() {
        return Err(status(endpoint, route, response));
    }
    let content_type = header(&response, "content-type");
    let is_json = content_type.as_ref().is_none_or(|given| is_json(given));
    let coding = header(&response, "content-encoding");
    let read = response.body_mut().with_config().limit(MAX_REPLY).read_to_vec();
    let bytes = read.map_err(|e| transport(endpoint, &e))?;
    let bytes = decoded(bytes, coding.as_deref(), MAX_REPLY)
        .map_err(|what| Failure::new(ErrorKind::ModelOutput, endpoint.quote(&what)))?;
    if !is_json {
        let (given, shown) = (content_type.unwrap_or_default(), endpoint.quote(&String::from_utf8_lossy(&bytes)));
        return Err(Failure::new(
            ErrorKind::ModelOutput,
            format!(
                "it answered in {}, not in JSON: {shown:?}. Check base_url, which ends in /v1 on most servers",
                endpoint.quote(&given)
            ),
        ));
    }
    Ok(bytes)
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(&*essence, "application/json" | "text/json")
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// The meaning of a status other than success.
fn status(endpoint: &Endpoint, route: Route, mut response: Response<Body>) -> Failure {
    let status = response.status();
    if status.is_redirection() {
        let target = header(&response, "location").unwrap_or_default();
        let target = target.split_once("://").and_then(|(_, rest)| rest.split(['/', '?']).next()).unwrap_or_default();
        let host = endpoint.quote(target.rsplit('@').next().unwrap_or_default());
        return Failure::new(
            ErrorKind::InvalidConfig,
            format!(
                "status {status}: it redirects to {host:?}, and the key is not sent there. Put the final address into \
                 base_url"
            ),
        );
    }
    let asked = header(&response, "retry-after").and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
    let mut body = Vec::new();
    // An unreadable body is not needed, because the status says enough.
    drop(response.body_mut().as_reader().take(MAX_COMPLAINT).read_to_end(&mut body));
    let body = decoded(body, header(&response, "content-encoding").as_deref(), MAX_COMPLAINT).unwrap_or_default();
    let complaint = Complaint::read(&body);
    let said = match endpoint.quote(&complaint.message) {
        words if words.is_empty() => String::new(),
        words => format!(": {words}"),
    };
    let (kind, remedy, retry) = meaning(status.as_u16(), route, &complaint);
    let mut failure = Failure { kind, what: format!("status {status}{said}. {remedy}"), retry };
    if let (Retry::Backoff, Some(asked)) = (failure.retry, asked) {
        failure.retry = Retry::After(asked);
        if asked > LONGEST_RETRY_AFTER {
            failure.retry = Retry::Never;
            let (asked, longest) = (asked.as_secs(), LONGEST_RETRY_AFTER.as_secs());
            failure.what.push_str(&format!(" (it asks to wait {asked} s, more than the maximum of {longest} s)"));
        }
    }
    failure
}

/// The kind of error that a status is, what to do about it, and whether a retry may help.
fn meaning(status: u16, route: Route, complaint: &Complaint) -> (ErrorKind, &'static str, Retry) {
    let for_good = |kind, remedy| (kind, remedy, Retry::Never);
    let for_now = |kind, remedy| (kind, remedy, Retry::Backoff);
    match (status, route) {
        _ if complaint.is_context() => {
            for_good(ErrorKind::ContextLength, "The prompt is longer than the model's context")
        }
        (401 | 403, _) => for_good(
            ErrorKind::InvalidConfig,
            "Check api_key_env: the key in it is missing, wrong or not allowed this model",
        ),
        (404 | 405 | 501, Route::Decisions) => for_good(
            ErrorKind::InvalidConfig,
            "The endpoint has no /v1/decisions, or not for this model: leave decisions out under [models]. If it has, \
             check base_url and model",
        ),
        (404 | 405, Route::ChatCompletions) => {
            for_good(ErrorKind::InvalidConfig, "Check base_url, which ends in /v1 on most servers, and model")
        }
        (429, _) if complaint.code == "insufficient_quota" => {
            for_good(ErrorKind::Overloaded, "The account has no credit left")
        }
        (429, _) => for_now(ErrorKind::Overloaded, "Lower max_concurrent, or set requests_per_minute"),
        (408 | 409 | 500.., _) => for_now(ErrorKind::Io, "The server failed; look at its log, or try later"),
        (_, Route::Decisions) => for_good(
            ErrorKind::InvalidConfig,
            "The server refuses the question: check decisions and model under [models], or leave decisions out",
        ),
        (_, Route::ChatCompletions) => for_good(
            ErrorKind::InvalidConfig,
            "The server refuses the request: see send_seed, max_tokens_field, logprobs and json_mode",
        ),
    }
}

/// The server's error message, in one of the forms that servers use.
#[derive(Default)]
pub(super) struct Complaint {
    pub(super) message: String,
    code: String,
}

impl Complaint {
    pub(super) fn read(body: &[u8]) -> Self {
        match json::parse::<Value>(body) {
            Ok(value) => Complaint::of(value.get("error").unwrap_or(&value)),
            Err(_) => Complaint { message: String::from_utf8_lossy(body).into_owned(), code: String::new() },
        }
    }

    /// The message in the value of the field `error`.
    pub(super) fn of(error: &Value) -> Self {
        let text = |key: &str| error.get(key).and_then(Value::as_str);
        let message = text("message").or_else(|| text("detail")).or_else(|| error.as_str());
        let code = text("code").or_else(|| text("type")).unwrap_or_default();
        Complaint { message: message.map_or_else(|| error.to_string(), str::to_owned), code: code.to_owned() }
    }

    /// Whether the prompt is too long, by OpenAI's code, llama.cpp's type, or the words of vLLM and SGLang.
    fn is_context(&self) -> bool {
        matches!(&*self.code, "context_length_exceeded" | "exceed_context_size_error")
            || self.message.contains("maximum context length")
            || self.message.contains("does not fit the context length")
    }
}

/// The meaning of a transport failure.
fn transport(endpoint: &Endpoint, error: &ureq::Error) -> Failure {
    let seconds = |duration: Duration| duration.as_secs();
    let io = |what: String| Failure::new(ErrorKind::Io, what);
    if let Some(tls) = tls_error(error) {
        return io(format!(
            "no TLS connection ({}). If the server speaks plain HTTP, write http:// in base_url; if its certificate is \
             your own authority's, name that in SSL_CERT_FILE",
            endpoint.quote(&tls)
        ));
    }
    match error {
        ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            let limit = seconds(endpoint.connect_timeout);
            io(format!("no connection within {limit} s. Check base_url and the network, or raise connect_timeout_s"))
                .or_later()
        }
        ureq::Error::Timeout(_) => io(format!(
            "no complete reply within {} s. Raise timeout_s, or lower max_concurrent so that the server has less to \
             do at once",
            seconds(endpoint.timeout)
        )),
        ureq::Error::HostNotFound => io("there is no such host. Check base_url".into()).or_later(),
        ureq::Error::BodyExceedsLimit(_) => Failure::new(
            ErrorKind::ModelOutput,
            format!("its reply is longer than {} MiB. This is not a model's reply; check base_url", MAX_REPLY >> 20),
        ),
        ureq::Error::Io(e) => {
            let what = endpoint.quote(&e.to_string());
            io(format!("the connection failed ({what}). Check that the server runs and that base_url is right"))
                .or_later()
        }
        other => {
            io(format!("it doesn't speak HTTP as it should ({}). Check base_url", endpoint.quote(&other.to_string())))
        }
    }
}

/// The TLS failure in an error, which may be wrapped in an I/O error.
fn tls_error(error: &ureq::Error) -> Option<String> {
    match error {
        ureq::Error::Rustls(e) => Some(e.to_string()),
        ureq::Error::Tls(what) => Some((*what).to_owned()),
        ureq::Error::Io(e) => e.get_ref()?.downcast_ref::<rustls::Error>().map(ToString::to_string),
        _ => None,
    }
}

/// The error for a failure after `attempts` requests.
pub(super) fn failed(endpoint: &Endpoint, failure: &Failure, attempts: u32) -> Error {
    let what = match attempts {
        1 => failure.what.clone(),
        _ => format!("{} ({attempts} attempts)", failure.what),
    };
    endpoint.error(failure.kind, &what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_known_by_its_type() {
        for (given, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/html", false),
            ("text/json; charset=utf-8", true),
            ("text/event-stream", false),
            ("", false),
        ] {
            assert_eq!(is_json(given), json, "{given}");
        }
    }

    #[test]
    fn complaints_are_read_in_their_many_forms() {
        for (body, message) in [
            (r#"{"error": {"message": "too hot", "code": 3}}"#, "too hot"),
            (r#"{"error": "too hot"}"#, "too hot"),
            (r#"{"detail": "too hot"}"#, "too hot"),
            (r#"{"message": "too hot"}"#, "too hot"),
            ("too hot", "too hot"),
            (r#"{"detail": [{"loc": 1}]}"#, r#"{"detail":[{"loc":1}]}"#),
        ] {
            assert_eq!(Complaint::read(body.as_bytes()).message, message, "{body}");
        }
        for (body, context) in [
            (r#"{"error": {"message": "x", "code": "context_length_exceeded"}}"#, true),
            (r#"{"error": {"message": "x", "type": "exceed_context_size_error"}}"#, true),
            (r#"{"message": "This model's maximum context length is 8 tokens."}"#, true),
            (r#"{"message": "the prompt has 9 tokens, which does not fit the context length of 8 tokens"}"#, true),
            (r#"{"error": {"message": "x", "code": "other"}}"#, false),
        ] {
            assert_eq!(Complaint::read(body.as_bytes()).is_context(), context, "{body}");
        }
    }
}
