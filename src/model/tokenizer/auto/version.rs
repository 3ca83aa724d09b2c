//! Which version of transformers the files were written for.

use serde_json::{Map, Value};

/// The versions whose rules are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// 4.57, and the versions before it as far as their files look the same.
    Four,
    /// 5 and later.
    Five,
}

/// The classes that only version 5 has.
pub(super) const FIVES: [&str; 4] =
    ["TokenizersBackend", "PythonBackend", "SentencePieceBackend", "MistralCommonBackend"];

impl Version {
    /// What only version 5 writes decides first, because a tokenizer that was saved anew may stand beside an older
    /// `config.json`. Then `transformers_version`; files that don't say are taken for those of 4.57.
    pub(super) fn of(model: &Map<String, Value>, config: &Map<String, Value>, generation: &Map<String, Value>) -> Self {
        let class = config.get("tokenizer_class").and_then(Value::as_str);
        if class.is_some_and(|class| FIVES.contains(&class))
            || config.contains_key("backend")
            || config.get("extra_special_tokens").is_some_and(Value::is_array)
        {
            return Version::Five;
        }
        let stated = [config, model, generation]
            .iter()
            .find_map(|file| file.get("transformers_version")?.as_str()?.split('.').next()?.parse::<u32>().ok());
        if stated.is_some_and(|major| major >= 5) { Version::Five } else { Version::Four }
    }

    /// As `transformers_version` says it.
    pub(super) fn number(self) -> &'static str {
        match self {
            Version::Four => "4.57",
            Version::Five => "5.0",
        }
    }
}
