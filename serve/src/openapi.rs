//! The OpenAPI document. Its routes are those of the list that the router is made of, its schemas those of the types that
//! bodies are read into and answers are written from.

use axum::http::Method;
use axum::response::Response;
use foreturn::runtime::BuildInfo;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::failure::{Refusal, done};
use crate::routes::{Gives, Group, Route, all};
use crate::tei;

/// Either of two bodies, or of two answers.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "it describes what is read and written as one of the two")]
pub(crate) enum Either<A, B> {
    One(A),
    Other(B),
}

/// An OpenAPI document.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
pub(crate) struct Document(Map<String, Value>);

/// The place of schemas in a document.
const PLACE: &str = "#/components/schemas/";

/// What the server answers, for clients and for whoever generates them. It is the same for every configuration.
pub fn openapi() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = Schemas {
        taken: settings.clone().for_deserialize().into_generator(),
        given: settings.for_serialize().into_generator(),
    };
    let mut paths = Map::new();
    for route in all() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(&route, &mut schemas);
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "foreturn",
            "description": "One foreturn engine for many. docs/server.md describes the routes.",
            "version": BuildInfo::here().version,
        },
        "paths": paths,
        "components": {
            "schemas": {},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "A key of the file that the server was started with."},
            },
        },
    });
    schemas.write(&mut document);
    document
}

/// `/openapi.json`.
pub(crate) async fn answer() -> Response {
    done(&openapi())
}

/// The types of bodies and those of answers. A type may be in both, and differ: what may be left out is always written.
struct Schemas {
    taken: SchemaGenerator,
    given: SchemaGenerator,
}

impl Schemas {
    /// Puts the schemas into the document. A type that is in both has `Given` after its name in bodies.
    fn write(mut self, document: &mut Value) {
        let (taken, mut given) = (self.taken.take_definitions(true), self.given.take_definitions(true));
        let both: Vec<String> = taken.keys().filter(|name| given.contains_key(*name)).cloned().collect();
        for path in document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut()) {
            for operation in path.as_object_mut().into_iter().flat_map(|path| path.values_mut()) {
                if let Some(body) = operation.get_mut("requestBody") {
                    rename(body, &both);
                }
            }
        }
        for (name, mut schema) in taken {
            rename(&mut schema, &both);
            given.insert(if both.contains(&name) { format!("{name}Given") } else { name }, schema);
        }
        given.values_mut().for_each(plain);
        document["components"]["schemas"] = Value::Object(given);
    }
}

/// Puts `Given` behind these names wherever a schema refers to them.
fn rename(schema: &mut Value, names: &[String]) {
    match schema {
        Value::Object(fields) => {
            for (field, value) in fields {
                match value {
                    Value::String(target) if field == "$ref" => {
                        if target.strip_prefix(PLACE).is_some_and(|name| names.iter().any(|known| known == name)) {
                            target.push_str("Given");
                        }
                    }
                    value => rename(value, names),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        _ => {}
    }
}

/// Makes plain texts of descriptions, which are documentation of Rust: no examples in Rust, no links to its items.
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            for (field, value) in fields {
                match value {
                    Value::String(text) if field == "description" => {
                        let prose = text.split("```").next().unwrap_or_default().trim_end();
                        let unlinked = prose.replace("[`", "`").replace("`](crate::reward::Combination)", "`");
                        *text = unlinked.replace("`]", "`").replace('\n', " ");
                    }
                    value => plain(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let mut operation = json!({
        "operationId": name(route),
        "summary": route.about,
        "parameters": parameters(route),
        "responses": responses(route, &mut schemas.given),
    });
    if let Some(takes) = route.takes {
        let schema = takes(&mut schemas.taken);
        let mut content = json!({"schema": schema});
        if let Some(example) = &route.example {
            content["example"] = example.clone();
        }
        operation["requestBody"] = json!({"required": true, "content": {"application/json": content}});
    }
    // A server on its own machine may have no keys.
    operation["security"] = if route.group == Group::Watch { json!([]) } else { json!([{"key": []}, {}]) };
    operation
}

/// Such as `post_v1_rank`.
fn name(route: &Route) -> String {
    let path = route.path.replace(['/', '.'], "_").replace(['{', '}'], "");
    format!("{}{path}", route.method.as_str().to_ascii_lowercase())
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut all = Vec::new();
    if route.path.contains("{pin}") {
        let about = "The number of a prefix.";
        all.push(
            json!({"name": "pin", "in": "path", "required": true, "description": about, "schema": {"type": "string"}}),
        );
    }
    if route.group == Group::Tei {
        let about = "The model's name. It may be left out where only one can do what is asked.";
        all.push(json!({"name": "model", "in": "query", "description": about, "schema": {"type": "string"}}));
    }
    if route.method == Method::POST {
        let about = "The seconds that the request may take.";
        let schema = json!({"type": "number", "exclusiveMinimum": 0});
        all.push(json!({"name": "X-Timeout", "in": "header", "description": about, "schema": schema}));
        let about = "Higher goes first; 0 if absent.";
        let schema = json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX});
        all.push(json!({"name": "X-Priority", "in": "header", "description": about, "schema": schema}));
    }
    all
}

fn responses(route: &Route, given: &mut SchemaGenerator) -> Value {
    let mut content = match &route.gives {
        Gives::Json(describe) => json!({"application/json": {"schema": describe(given)}}),
        Gives::Text(kind) => json!({*kind: {"schema": {"type": "string"}}}),
    };
    if route.streams {
        let text = json!({"type": "string"});
        let event = json!({"type": "object", "properties": {"event": text, "data": text}, "required": ["data"]});
        content["text/event-stream"] = json!({"schema": event});
    }
    let headers = json!({"X-Request-Id": {"description": "Its number in the log.", "schema": {"type": "string"}}});
    let mut all = json!({"200": {"description": "Done.", "headers": headers, "content": content}});
    let error: Schema = match route.group {
        Group::Tei => given.subschema_for::<tei::Problem>(),
        _ => given.subschema_for::<Refusal>(),
    };
    for (status, about) in failures(route) {
        all[status] = json!({"description": about, "content": {"application/json": {"schema": error}}});
    }
    all
}

/// The statuses of failures, and what they mean.
fn failures(route: &Route) -> Vec<(&'static str, &'static str)> {
    let mut all = vec![("405", "The path does not answer this method.")];
    let ending = ("503", "The server is ending, or new weights ended the request.");
    if route.group == Group::Watch {
        all.extend((route.path == "/ready").then_some(ending));
        return all;
    }
    all.extend([
        ("401", "A key is needed."),
        ("403", "A page in a browser asked a server without keys."),
        ("408", "The body did not arrive in time."),
        ending,
    ]);
    match route.group {
        Group::Tei => all.extend([
            ("404", "No such model."),
            ("413", "The body, or a text, is too long."),
            ("422", "The request makes no sense."),
            ("424", "The model can't do this, or it failed."),
        ]),
        _ => all.extend([
            ("400", "The request makes no sense, does not fit, or asks for what is not supported."),
            ("404", "No such model or prefix."),
            ("413", "The body is too large."),
            ("500", "A model or a metric gave nothing usable, or a file could not be read."),
        ]),
    }
    if route.takes.is_some() {
        all.extend([
            ("429", "The queue is full."),
            ("502", "An endpoint that plays a role is overloaded."),
            ("504", "The deadline passed."),
        ]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` of a document.
    fn targets(document: &Value, found: &mut Vec<String>) {
        match document {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| targets(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| targets(item, found)),
            _ => {}
        }
    }

    #[test]
    fn references_lead_somewhere_and_names_are_unique() {
        let document = openapi();
        let mut found = Vec::new();
        targets(&document, &mut found);
        assert!(found.len() > 50, "{} references", found.len());
        for target in found {
            assert!(document.pointer(&target[1..]).is_some(), "{target}");
        }
        let mut names: Vec<_> = all().iter().map(name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(document.pointer("/components/schemas/RankingGiven").is_some(), "it is both taken and given");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let numbered: Vec<_> = schemas.keys().filter(|name| name.ends_with(|c: char| c.is_ascii_digit())).collect();
        assert!(numbered.is_empty(), "two types have one name: {numbered:?}");
        let text = document.to_string();
        assert!(
            !text.contains("```") && !text.contains("[`") && !text.contains("crate::"),
            "descriptions are for readers of HTTP"
        );
    }

    #[test]
    fn every_route_is_in_the_document() {
        let document = openapi();
        let documented: usize =
            document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(documented, all().len());
        for route in all() {
            let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
            assert_eq!(operation["summary"], route.about);
            assert_eq!(operation.get("requestBody").is_some(), route.method == Method::POST, "{}", route.path);
        }
    }
}
