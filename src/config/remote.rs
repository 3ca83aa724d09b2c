//! Models behind an address.

use std::collections::BTreeMap;
#[cfg(feature = "remote")]
use std::env::VarError;
#[cfg(feature = "remote")]
use std::sync::Arc;
#[cfg(feature = "remote")]
use std::time::Duration;

use serde::Serialize;

use super::keys::keys;
use crate::chat::remote::{Decisions, JsonMode, MaxTokensField, OnEchoedKey};
#[cfg(feature = "remote")]
use crate::chat::remote::{Endpoint, Extensions, Secret};
use crate::{Error, Result};

/// The longest timeout, in seconds.
const MAX_SECONDS: u64 = 86_400;

/// The settings of a model behind an endpoint that speaks OpenAI's protocol; see `docs/remote-models.md`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RemoteConfig {
    /// The endpoint's address, without `/chat/completions`: `https://host/v1`.
    pub base_url: String,
    /// The model's name at the endpoint.
    pub model: String,
    /// The environment variable that holds the endpoint's key. It is read when the engine is built. No key is sent if
    /// absent.
    pub api_key_env: Option<String>,
    /// Seconds that one request may take, from connecting to the last byte. 1 to 86400; 120 if absent.
    pub timeout_s: Option<u64>,
    /// Seconds for the host's name, the connection and TLS. 1 to 86400; 10 if absent.
    pub connect_timeout_s: Option<u64>,
    /// The number of times that a request is sent again after a failure that may pass. At most 20; 3 if absent.
    pub max_retries: Option<u32>,
    /// Requests that are under way at the same time. 1 to 256; 8 if absent.
    pub max_concurrent: Option<usize>,
    /// Requests in a minute, evenly spaced. Repeated requests count. At least 1; no limit if absent.
    pub requests_per_minute: Option<u32>,
    /// The endpoint's name for the limit on new tokens: "max_tokens" if absent, or "max_completion_tokens".
    pub max_tokens_field: Option<MaxTokensField>,
    /// Says whether requests carry a seed; yes if absent.
    pub send_seed: Option<bool>,
    /// Says whether a judge's answers are read from log-probabilities; yes if absent. Otherwise they are read from the
    /// text.
    pub logprobs: Option<bool>,
    /// Says whether a judge's answers come from the endpoint's `/v1/decisions`, and in which dialect: "none" if absent,
    /// "openai", "vllm" or "sglang".
    pub decisions: Option<Decisions>,
    /// The way in which the endpoint is asked for JSON: "json_schema" if absent, "json_object" or "none".
    pub json_mode: Option<JsonMode>,
    /// The consequence of a reply that holds the endpoint's key, if the key has at least 16 characters. "note", which
    /// applies if absent, keeps the reply and says so in the ranking's notes. "fail" fails the request.
    pub on_echoed_key: Option<OnEchoedKey>,
    /// Further HTTP headers.
    pub headers: BTreeMap<String, String>,
}

keys!(RemoteConfig []
    base_url, model, api_key_env, timeout_s, connect_timeout_s, max_retries, max_concurrent, requests_per_minute,
    max_tokens_field, send_seed, logprobs, decisions, json_mode, on_echoed_key, headers,
);

impl RemoteConfig {
    /// The model that an endpoint at `base_url` calls `model`, with the default settings.
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        RemoteConfig {
            base_url: base_url.into(),
            model: model.into(),
            api_key_env: None,
            timeout_s: None,
            connect_timeout_s: None,
            max_retries: None,
            max_concurrent: None,
            requests_per_minute: None,
            max_tokens_field: None,
            send_seed: None,
            logprobs: None,
            decisions: None,
            json_mode: None,
            on_echoed_key: None,
            headers: BTreeMap::new(),
        }
    }

    /// Refuses values that are out of range, and what is not an address or a header.
    pub(super) fn validate(&self) -> Result<()> {
        validate_url(&self.base_url)?;
        if self.model.trim().is_empty() {
            return Err(Error::invalid_config("model is missing: give the name that the endpoint has for the model"));
        }
        if self.api_key_env.as_ref().is_some_and(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(Error::invalid_config(
                "api_key_env is not the name of an environment variable: name the variable that holds the key, not the key",
            ));
        }
        in_range("timeout_s", self.timeout_s, 1, MAX_SECONDS)?;
        in_range("connect_timeout_s", self.connect_timeout_s, 1, MAX_SECONDS)?;
        in_range("max_retries", self.max_retries.map(u64::from), 0, 20)?;
        in_range("max_concurrent", self.max_concurrent.map(|n| n as u64), 1, 256)?;
        in_range("requests_per_minute", self.requests_per_minute.map(u64::from), 1, u64::from(u32::MAX))?;
        self.headers.iter().try_for_each(|(name, value)| validate_header(name, value))
    }
}

fn in_range(key: &str, value: Option<u64>, least: u64, most: u64) -> Result<()> {
    match value.filter(|value| !(least..=most).contains(value)) {
        None => Ok(()),
        Some(value) => Err(Error::invalid_config(format!("{key} = {value} is not in {least} to {most}"))),
    }
}

/// Messages do not repeat the address, because it may hold a password.
fn validate_url(url: &str) -> Result<()> {
    let wrong =
        |what: &str| Err(Error::invalid_config(format!("base_url {what}, as in \"https://api.example.com/v1\"")));
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else {
        return wrong("has to begin with https:// or http://");
    };
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return wrong(
            "holds a name or password: put the key into the environment and name it in api_key_env; give the bare address",
        );
    }
    if authority.is_empty() || authority.starts_with(':') {
        return wrong("names no host: give one");
    }
    if url.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#')) {
        return wrong("holds a query, a fragment or a space: give host and path alone");
    }
    let end = ["/chat/completions", "/decisions"].into_iter().find(|end| rest.trim_end_matches('/').ends_with(end));
    end.map_or(Ok(()), |end| wrong(&format!("goes too far: leave out {end}")))
}

/// Messages do not repeat a header's value, because it may be a key.
fn validate_header(name: &str, value: &str) -> Result<()> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        return Err(Error::invalid_config(format!("headers: {name:?} is not the name of a header")));
    }
    let own = [
        "authorization",
        "content-type",
        "content-length",
        "host",
        "transfer-encoding",
        "connection",
        "accept",
        "accept-encoding",
    ];
    if own.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(Error::invalid_config(format!(
            "headers.{name} is written by foreturn: leave it out; a key belongs in the variable that api_key_env names"
        )));
    }
    if value.chars().any(|c| !(' '..='~').contains(&c)) {
        return Err(Error::invalid_config(format!("headers.{name} holds characters that no header may have")));
    }
    Ok(())
}

#[cfg(feature = "remote")]
impl RemoteConfig {
    /// The endpoint, with its key. `name` is the model's name in the configuration, and `extensions` are the settings
    /// beyond the protocol that were given.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidConfig`] where the settings make no sense, or the key is not in the environment.
    pub(crate) fn endpoint(&self, name: &str, extensions: Extensions) -> Result<Endpoint> {
        self.validate()?;
        let seconds = |value: Option<u64>, default| Duration::from_secs(value.unwrap_or(default));
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), Secret::new(value.clone())));
        Ok(Endpoint {
            name: Arc::from(name),
            base_url: self.base_url.trim_end_matches('/').to_owned(),
            model: self.model.clone(),
            key: self.api_key_env.as_deref().map(|name| key(name, std::env::var(name))).transpose()?,
            headers: headers.collect(),
            timeout: seconds(self.timeout_s, 120),
            connect_timeout: seconds(self.connect_timeout_s, 10),
            max_retries: self.max_retries.unwrap_or(3),
            max_concurrent: self.max_concurrent.unwrap_or(8),
            requests_per_minute: self.requests_per_minute,
            max_tokens_field: self.max_tokens_field.unwrap_or_default(),
            send_seed: self.send_seed.unwrap_or(true),
            logprobs: self.logprobs.unwrap_or(true),
            decisions: self.decisions.unwrap_or_default(),
            json_mode: self.json_mode.unwrap_or_default(),
            on_echoed_key: self.on_echoed_key.unwrap_or_default(),
            extensions,
        })
    }
}

/// The key that an environment variable holds. No message shows any of it.
#[cfg(feature = "remote")]
fn key(variable: &str, value: Result<String, VarError>) -> Result<Secret> {
    let wrong = |what: &str| Error::invalid_config(format!("api_key_env = {variable:?}: {what}"));
    let value = match value {
        Ok(value) => value.trim().to_owned(),
        Err(VarError::NotPresent) => {
            return Err(wrong(
                "there is no such environment variable; set it to the endpoint's key before the engine is built",
            ));
        }
        Err(VarError::NotUnicode(_)) => return Err(wrong("its value is not UTF-8, so it is not a key")),
    };
    if value.is_empty() {
        return Err(wrong("the variable is empty; set it to the endpoint's key, or leave api_key_env out"));
    }
    if value.chars().any(|c| !c.is_ascii_graphic()) {
        return Err(wrong("its value holds spaces or characters that no header may have, so it is not a key"));
    }
    Ok(Secret::new(value))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[cfg(feature = "remote")]
    use super::Extensions;
    use crate::Config;

    const REMOTE: &str = "[models.m]\nbase_url = \"http://localhost:8000/v1\"\nmodel = \"big\"\n";

    fn refused(text: &str) -> String {
        Config::from_toml(text, Path::new("/base")).unwrap_err().to_string()
    }

    #[test]
    fn a_remote_model_needs_an_address_and_a_name_and_nothing_local() {
        Config::from_toml(REMOTE, Path::new("/base")).unwrap();
        for (more, part) in [
            ("path = \"m\"", "path and base_url are both set"),
            ("batching = \"padded\"", "batching is for models with a path"),
            ("cache_type = \"float32\"", "cache_type is for models with a path"),
            ("dtype = \"bfloat16\"", "dtype is for models with a path"),
            ("template = \"t\"", "template is for models with a path"),
            ("date = \"2024-07-26\"", "date is for models with a path"),
            ("bos = \"double\"", "bos is for models with a path"),
            ("compat = \"transformers\"", "compat is for models with a path"),
            ("template_arguments = { a = 1 }", "template_arguments is for models with a path"),
            ("timeout_s = 0", "timeout_s = 0 is not in 1 to 86400"),
            ("max_retries = 21", "max_retries = 21 is not in 0 to 20"),
            ("max_concurrent = 0", "max_concurrent = 0 is not in 1 to 256"),
            ("requests_per_minute = 0", "requests_per_minute = 0"),
            ("max_tokens_field = \"tokens\"", "unknown variant `tokens`"),
            ("json_mode = \"yaml\"", "unknown variant `yaml`"),
            ("decisions = \"systemone\"", "unknown variant `systemone`"),
            ("on_echoed_key = \"hide\"", "unknown variant `hide`"),
            ("headers = { Accept-Encoding = \"br\" }", "headers.Accept-Encoding is written by foreturn"),
            ("headers = { \"a b\" = \"c\" }", "is not the name of a header"),
            ("headers = { Authorization = \"Bearer x\" }", "headers.Authorization is written by foreturn"),
            ("api_key_env = \"\"", "api_key_env is not the name"),
            ("temperature = -1.0", "temperature = -1 is not in"),
        ] {
            let message = refused(&format!("{REMOTE}{more}"));
            assert!(message.contains(part), "{more}: {message}");
        }
        for (text, part) in [
            ("path = \"m\"\nmodel = \"x\"", "model is for models with a base_url"),
            ("path = \"m\"\non_echoed_key = \"fail\"", "on_echoed_key is for models with a base_url"),
            ("path = \"m\"\ndecisions = \"openai\"", "decisions is for models with a base_url"),
            ("path = \"m\"\nmax_retries = 1", "max_retries is for models with a base_url"),
            ("path = \"m\"\nheaders = { a = \"b\" }", "headers is for models with a base_url"),
            ("base_url = \"http://x\"", "model is missing"),
            ("base_url = \"ftp://x\"\nmodel = \"y\"", "has to begin with https://"),
            ("base_url = \"https://\"\nmodel = \"y\"", "names no host"),
            ("base_url = \"https://x/v1?key=secret\"\nmodel = \"y\"", "holds a query"),
            ("base_url = \"https://x/v1/chat/completions\"\nmodel = \"y\"", "leave out /chat/completions"),
            ("base_url = \"https://x/v1/decisions/\"\nmodel = \"y\"", "leave out /decisions"),
            ("base_url = \"https://me:secret@x/v1\"\nmodel = \"y\"", "holds a name or password"),
        ] {
            let message = refused(&format!("[models.m]\n{text}"));
            assert!(message.contains(part), "{text}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    #[cfg(feature = "remote")]
    fn the_key_comes_from_the_environment_and_shows_nowhere() {
        let text = format!("{REMOTE}api_key_env = \"FORETURN_TEST_NO_SUCH_KEY\"\n");
        let config = Config::from_toml(&text, Path::new("/base")).unwrap();
        let message =
            config.models["m"].as_remote().unwrap().endpoint("m", Extensions::default()).unwrap_err().to_string();
        assert!(message.contains("api_key_env = \"FORETURN_TEST_NO_SUCH_KEY\": there is no such"), "{message}");

        for (value, part) in [
            ("", "the variable is empty"),
            (" \n", "the variable is empty"),
            ("sk two", "holds spaces"),
            ("sk\ntwo", "holds spaces"),
            ("sk-\u{e9}", "holds spaces or characters"),
        ] {
            let message = super::key("KEY", Ok(value.into())).unwrap_err().to_string();
            assert!(message.starts_with("api_key_env = \"KEY\": ") && message.contains(part), "{message}");
            assert!(!message.contains("sk"), "{message}");
        }
        let key = super::key("KEY", Ok("sk-0123456789\n".into())).unwrap();
        assert_eq!((key.reveal(), format!("{key:?}").as_str()), ("sk-0123456789", "[secret]"));
    }
}
