//! The keys that callers have to show.

use std::path::Path;

use axum::http::{HeaderMap, header};
use foreturn::{Error, ErrorKind};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// The keys of a file. Only their hashes are kept.
#[derive(Clone)]
pub(crate) struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// Reads a file with a key on each line. Empty lines, and those that begin with `#`, are left out.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let keys: Vec<_> =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        if keys.is_empty() {
            let message = format!("{} has no key: write one on each line", path.display());
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        if let Some(at) = keys.iter().position(|key| !key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')) {
            let message =
                format!("{}: key {} has characters that no header can carry; use ASCII", path.display(), at + 1);
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        if let Some(at) = keys.iter().position(|key| key.len() < 16) {
            let message =
                format!("{}: key {} is shorter than 16 characters, so it can be guessed", path.display(), at + 1);
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        Ok(Keys(keys.iter().map(|key| Sha256::digest(key).into()).collect()))
    }

    /// Whether a request has one of them, as `Authorization: Bearer KEY` or `X-Api-Key: KEY`. It takes as long for every key.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer.and_then(|value| value.split_once(' '));
        let shown = match bearer {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Some(key.trim()),
            _ => headers.get("x-api-key").and_then(|value| value.to_str().ok()),
        };
        let Some(shown) = shown else { return false };
        let shown: [u8; 32] = Sha256::digest(shown).into();
        self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&shown)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_the_keys_admits() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# for the trainer\nsixteen characters or more\n\nanother key, long enough\n")
            .unwrap();
        let keys = Keys::read(file.path()).unwrap();
        let shows =
            |name: &'static str, value: &str| HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        assert!(keys.admit(&shows("authorization", "Bearer another key, long enough")));
        assert!(keys.admit(&shows("x-api-key", "sixteen characters or more")));
        assert!(!keys.admit(&shows("authorization", "Bearer another key")));
        assert!(!keys.admit(&shows("authorization", "Basic another key, long enough")));
        assert!(!keys.admit(&HeaderMap::new()));
        std::fs::write(file.path(), "# none\n").unwrap();
        assert!(Keys::read(file.path()).is_err());
        std::fs::write(file.path(), "short\n").unwrap();
        assert!(Keys::read(file.path()).is_err_and(|error| error.to_string().contains("key 1 is shorter")));
    }
}
