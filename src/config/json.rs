//! Values of TOML as JSON, which templates are given.
//!
//! TOML has what JSON does not have: dates, which become their text, and `nan` and `inf`, which are refused. Serde
//! alone would turn a date into a table, and such a number into null, without a message.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value as Json};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::ModelConfig;
use crate::{Error, Result};

/// The arguments of a chat template as a file has them. Their keys stay in the order given.
pub(super) struct TemplateArguments(pub(super) Map<String, Json>);

impl<'de> Deserialize<'de> for TemplateArguments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let members = members(&Table::deserialize(deserializer)?);
        members.map(TemplateArguments).map_err(|e| D::Error::custom(format!("template_arguments{e}")))
    }
}

fn members(table: &Table) -> Result<Map<String, Json>, String> {
    table.iter().map(|(key, value)| Ok((key.clone(), json(value).map_err(|e| format!(".{key}{e}"))?))).collect()
}

/// A value as JSON; an error begins with the place within it.
fn json(value: &Value) -> Result<Json, String> {
    Ok(match value {
        Value::String(text) => text.clone().into(),
        Value::Integer(number) => (*number).into(),
        Value::Boolean(yes) => (*yes).into(),
        Value::Datetime(date) => date.to_string().into(),
        Value::Float(number) => Number::from_f64(*number).map(Json::Number).ok_or_else(|| {
            let number = number.to_string().to_ascii_lowercase();
            format!(" = {number}: JSON has no such number. Give a finite one, or a text: \"{number}\"")
        })?,
        Value::Array(items) => {
            let of = |(i, item)| json(item).map_err(|e| format!("[{i}]{e}"));
            Json::Array(items.iter().enumerate().map(of).collect::<Result<_, _>>()?)
        }
        Value::Table(table) => Json::Object(members(table)?),
    })
}

/// Replaces a date with its text in `source`. A parsed date no longer says whether it had a `T` or a space.
fn spell_dates(value: &mut Json, parsed: &Spanned<DeValue<'_>>, source: &str) {
    match (value, parsed.get_ref()) {
        (Json::Object(members), DeValue::Table(parsed)) => spell_dates_of(members, parsed, source),
        (Json::Array(items), DeValue::Array(parsed)) => {
            items.iter_mut().zip(parsed.iter()).for_each(|(item, parsed)| spell_dates(item, parsed, source));
        }
        (value, DeValue::Datetime(_)) => {
            if let Some(text) = source.get(parsed.span()) {
                *value = text.into();
            }
        }
        _ => {}
    }
}

fn spell_dates_of(members: &mut Map<String, Json>, parsed: &DeTable<'_>, source: &str) {
    for (key, parsed) in parsed {
        if let Some(value) = members.get_mut(key.get_ref().as_ref()) {
            spell_dates(value, parsed, source);
        }
    }
}

/// Replaces dates with their texts in the template arguments of a configuration's models. `source` is the file's text.
pub(super) fn spell_dates_of_arguments<'a>(
    models: impl Iterator<Item = (&'a String, &'a mut ModelConfig)>,
    source: &str,
) {
    let Ok(document) = DeTable::parse(source) else { return };
    let Some(parsed) = document.get_ref().get("models") else { return };
    for (name, model) in models {
        let Some(local) = model.as_local_mut() else { continue };
        let found = parsed.get_ref().get(name.as_str()).and_then(|model| model.get_ref().get("template_arguments"));
        if let Some(DeValue::Table(parsed)) = found.map(Spanned::get_ref) {
            spell_dates_of(&mut local.template_arguments, parsed, source);
        }
    }
}

/// Parses a template argument that is given as text, for example on a command line. It is TOML, otherwise the text
/// itself. A text that is TOML only up to a comment or the end of a line stays a text.
///
/// ```
/// use foreturn::config::template_argument;
///
/// assert_eq!(template_argument("false")?, serde_json::Value::from(false));
/// assert_eq!(template_argument("26 Jul 2024")?, serde_json::Value::from("26 Jul 2024"));
/// # Ok::<(), foreturn::Error>(())
/// ```
///
/// # Errors
/// [`crate::ErrorKind::InvalidConfig`] for `nan` and `inf`, which JSON does not have.
pub fn template_argument(text: &str) -> Result<Json> {
    let source = text.trim();
    let parsed = DeValue::parse(source).ok().filter(|parsed| parsed.span() == (0..source.len()));
    let Some((parsed, value)) = parsed.and_then(|parsed| Some((parsed, source.parse::<Value>().ok()?))) else {
        return Ok(text.into());
    };
    let mut value = json(&value).map_err(|e| Error::invalid_config(format!("the value{e}")))?;
    spell_dates(&mut value, &parsed, source);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::Config;

    fn arguments(toml: &str) -> Result<Map<String, Json>> {
        let text = format!("[models.m]\npath = \"m\"\n{toml}\n");
        let config = Config::from_toml(&text, Path::new("/"))?;
        Ok(config.models["m"].as_local().unwrap().template_arguments.clone())
    }

    #[test]
    fn dates_are_their_text() {
        for date in [
            "2024-07-26",
            "07:32:00",
            "00:32:00.999999",
            "1979-05-27T07:32:00Z",
            "1979-05-27t07:32:00z",
            "1979-05-27 07:32:00",
            "1979-05-27T00:32:00.500-07:00",
        ] {
            for (toml, pointer) in [
                (format!("template_arguments = {{ d = {date} }}"), "/d"),
                (format!("template_arguments.a.b = [1, {{ \"c d\" = [{date}] }}] # {date}"), "/a/b/1/c d/0"),
                (format!("[models.m.template_arguments]\ne = \"{date}\"\nd = {date}"), "/d"),
                (format!("[[models.m.template_arguments.a]]\n[[models.m.template_arguments.a]]\nd={date}"), "/a/1/d"),
            ] {
                let found = Json::Object(arguments(&toml).unwrap());
                assert_eq!(found.pointer(pointer), Some(&json!(date)), "{toml}");
            }
        }
        let config = Config::from_toml("[models.m]\npath = \"m\"\ndate = 2024-07-26", Path::new("/")).unwrap();
        assert_eq!(config.models["m"].as_local().unwrap().date.as_deref(), Some("2024-07-26"));
        // Read without the source, a date has no text except TOML's own.
        let model: ModelConfig = toml::from_str("path = 'm'\ntemplate_arguments.d = 1979-05-27 07:32:00").unwrap();
        assert_eq!(model.as_local().unwrap().template_arguments["d"], "1979-05-27T07:32:00");
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused_with_their_key() {
        for (number, shown) in [("nan", "nan"), ("-nan", "nan"), ("inf", "inf"), ("+inf", "inf"), ("-inf", "-inf")] {
            let text = format!("template_arguments = {{ x = 1, a = [0.0, {{ b = [{number}] }}] }}");
            let message = arguments(&text).unwrap_err().to_string();
            assert!(message.contains("line 3") && message.contains("\ntemplate_arguments.a[1].b[0] = "), "{message}");
            assert!(message.contains(&format!("= {shown}: JSON has no such number")), "{message}");
        }
    }

    /// JSON that TOML can spell too, with any keys in any order.
    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Json::from),
            any::<bool>().prop_map(Json::from),
            any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Json::from),
            "\\PC{0,12}".prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
                prop::collection::vec(("\\PC{0,4}", inner), 0..6)
                    .prop_map(|pairs| Json::Object(pairs.into_iter().collect())),
            ]
        })
    }

    /// The value as TOML spells it. It is written here, so that the test does not rest on what it tests.
    fn toml_of(value: &Json) -> String {
        match value {
            Json::String(text) => toml_text(text),
            Json::Array(items) => format!("[{}]", items.iter().map(toml_of).collect::<Vec<_>>().join(", ")),
            Json::Object(table) => {
                let pairs = table.iter().map(|(key, value)| format!("{} = {}", toml_text(key), toml_of(value)));
                format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
            }
            // The form with an exponent has a point only if there are further digits. TOML takes both.
            Json::Number(number) if number.is_f64() => format!("{:e}", number.as_f64().unwrap()),
            other => other.to_string(),
        }
    }

    fn toml_text(text: &str) -> String {
        let escaped: String = text.chars().map(|c| format!("\\U{:08X}", u32::from(c))).collect();
        format!("\"{escaped}\"")
    }

    proptest! {
        #[test]
        fn values_stay_what_they_were_and_keys_in_their_order(value in any_json()) {
            let text = toml_of(&value);
            let found = arguments(&format!("template_arguments = {{ x = {text} }}")).unwrap();
            // They are compared as texts, because texts have an order.
            prop_assert_eq!(found["x"].to_string(), value.to_string());
            prop_assert_eq!(template_argument(&text).unwrap().to_string(), value.to_string());
        }
    }

    #[test]
    fn what_is_not_toml_from_end_to_end_is_text() {
        for (text, value) in [
            ("3", json!(3)),
            (" 3 ", json!(3)),
            ("2024-07-26", json!("2024-07-26")),
            ("2024-07-26 13:45:00", json!("2024-07-26 13:45:00")),
            ("[2024-07-26]", json!(["2024-07-26"])),
            ("\"3\"", json!("3")),
            ("26 Jul 2024", json!("26 Jul 2024")),
            ("3 # of them", json!("3 # of them")),
            ("1\nother = 2", json!("1\nother = 2")),
            ("[1, 2", json!("[1, 2")),
            ("2024-13-40", json!("2024-13-40")),
            ("", json!("")),
            (" text ", json!(" text ")),
        ] {
            assert_eq!(template_argument(text).unwrap(), value, "{text:?}");
        }
        let message = template_argument("[1, nan]").unwrap_err().to_string();
        assert!(message.starts_with("the value[1] = nan: JSON has no such number"), "{message}");
    }
}
