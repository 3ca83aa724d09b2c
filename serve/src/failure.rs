//! Errors as answers.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use foreturn::{Error, ErrorKind};
use schemars::JsonSchema;
use serde::Serialize;

/// An answer that says what went wrong.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

/// An error in the shape that OpenAI's clients read.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Refusal {
    error: Reason,
}

#[derive(Serialize, JsonSchema)]
struct Reason {
    message: String,
    /// The kind of error in the library.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status.
    code: u16,
}

pub(crate) type Answer<T = Response> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Failure { status, kind, message: message.into() }
    }

    /// A request that makes no sense.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Failure::new(StatusCode::BAD_REQUEST, ErrorKind::InvalidRequest.as_str(), message)
    }

    /// A name that nothing has.
    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Failure::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// Something that the model can't do.
    pub(crate) fn unable(message: impl Into<String>) -> Self {
        Failure::new(StatusCode::BAD_REQUEST, ErrorKind::Unsupported.as_str(), message)
    }

    /// The same failure. Where a text is too long and the caller wanted it cut, it says that nothing is cut here.
    pub(crate) fn uncut(mut self, is_wanted: Option<bool>) -> Self {
        if is_wanted == Some(true) && self.kind == ErrorKind::ContextLength.as_str() {
            self.message += "; this server cuts no text, because its score would be that of another one";
        }
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The failure of a request that had a place. An endpoint that is overloaded is no reason to ask for all of it again.
    pub(crate) fn of_result(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Overloaded => Failure { status: StatusCode::BAD_GATEWAY, ..error.into() },
            _ => error.into(),
        }
    }

    /// A failure with a folder that the caller named: a folder that can't be used is the caller's mistake.
    pub(crate) fn of_folder(self) -> Self {
        let is_folder = self.kind == ErrorKind::InvalidModel.as_str() || self.kind == ErrorKind::Io.as_str();
        if is_folder { Failure { status: StatusCode::BAD_REQUEST, ..self } } else { self }
    }

    /// True if there was no place for the request.
    pub(crate) fn is_refusal(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
    }

    /// The document that says it, also for streams that have begun.
    pub(crate) fn document(&self) -> Refusal {
        let error = Reason { message: self.message.clone(), kind: self.kind, code: self.status.as_u16() };
        Refusal { error }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::InvalidRequest | ErrorKind::ContextLength | ErrorKind::MemoryBudget | ErrorKind::Unsupported => {
                StatusCode::BAD_REQUEST
            }
            ErrorKind::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            ErrorKind::Closed | ErrorKind::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failure::new(status, error.kind().as_str(), causes(&error))
    }
}

/// The message with those of its causes.
fn causes(error: &Error) -> String {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = cause.source();
    }
    message
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.document());
        if self.status == StatusCode::TOO_MANY_REQUESTS || self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // Other protocols give it another shape.
        response.extensions_mut().insert(self);
        response
    }
}

/// An answer in JSON.
pub(crate) fn json_response(status: StatusCode, document: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        // Documents are maps with texts as keys, so this is a defect.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The answer to a request that succeeded.
pub(crate) fn done(document: &impl serde::Serialize) -> Response {
    json_response(StatusCode::OK, document)
}
