//! The schema of a reply.

use std::str::FromStr;

use crate::{Error, Result, json};

/// What a reply in JSON has to look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonSchema {
    /// A short name of letters, digits, `_` and `-`, which endpoints ask for.
    pub name: String,
    /// The schema.
    pub schema: serde_json::Value,
}

/// Parses the text of a schema. The schema is named `reply`. An error is
/// [`ErrorKind::InvalidRequest`](crate::ErrorKind::InvalidRequest): the text is not JSON.
impl FromStr for JsonSchema {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let schema = json::parse_strictly(text)
            .map_err(|e| Error::invalid_request(format!("not a JSON schema: {e}")).with_source(e))?;
        Ok(JsonSchema { name: "reply".into(), schema })
    }
}
