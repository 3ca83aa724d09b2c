//! The schema of a reply.

use crate::{Error, Result, json};

/// The form of a reply in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonSchema {
    /// A short name of letters, digits, `_` and `-`, which endpoints ask for.
    pub name: String,
    /// The schema.
    pub schema: serde_json::Value,
}

impl JsonSchema {
    /// A schema from the text of a file. `origin` names it in messages; the schema is named `reply`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest) where it isn't JSON.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let schema = json::parse_strictly(text)
            .map_err(|e| Error::invalid_request(format!("{origin}: not a JSON schema: {e}")).with_source(e))?;
        Ok(JsonSchema { name: "reply".into(), schema })
    }
}
