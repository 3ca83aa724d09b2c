//! Sizes in bytes, as people write them.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result};

/// A number of bytes: a whole number, or text with a unit ("512MiB", "1.5 GB").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl std::str::FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return Err(not_a_size(text)),
        };
        let bytes = number.parse::<f64>().map_err(|_| not_a_size(text))? * factor as f64;
        // Beyond 2⁵³ the product is no longer exact, and no machine has that much.
        if bytes.is_finite() && bytes < (1_u64 << 53) as f64 {
            Ok(ByteSize(bytes as u64))
        } else {
            Err(not_a_size(text))
        }
    }
}

fn not_a_size(text: &str) -> Error {
    Error::invalid_config(format!(
        "{text:?} is not a size in bytes: write a number with B, kB, MB, GB, KiB, MiB or GiB, as in \"512MiB\""
    ))
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Integer(bytes) => {
                u64::try_from(bytes).map(ByteSize).map_err(|_| D::Error::custom(not_a_size(&bytes.to_string())))
            }
            toml::Value::String(text) => text.parse().map_err(D::Error::custom),
            other => Err(D::Error::custom(not_a_size(&other.to_string()))),
        }
    }
}
