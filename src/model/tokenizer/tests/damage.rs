//! Model folders that are damaged or hostile: refused with the file and the reason, without a panic.

use super::*;

fn load_error(folder: &Path, vocab_size: usize) -> Error {
    let error = Tokenizer::load(folder, vocab_size).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
    error
}

#[test]
fn damaged_files_are_named() {
    let folder = folder("bytes", &json!({}));
    let path = folder.path().join("tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    let size = serde_json::from_str::<Value>(&text).unwrap()["added_tokens"].as_array().unwrap().len() + 420 - 3;

    Tokenizer::load(folder.path(), size).unwrap();
    let error = load_error(folder.path(), 300).to_string();
    assert!(error.contains("does not fit the model's vocabulary") && error.contains("300"), "{error}");
    assert!(error.contains("tokenizer.json"), "{error}");
    // A token without a row in the model: refused where something needs it, else left out.
    let last = Tokenizer::load(folder.path(), size - 1).unwrap();
    assert!(!last.is_control_token(size as u32 - 1));
    assert!(last.encode("\n\n<tool_response>").unwrap().iter().all(|id| (*id as usize) < size - 1));

    for (contents, expected) in [
        (&text[..text.len() / 2], "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ("{}", "is not a tokenizer"),
        (r#"{"version":"1.0","added_tokens":[],"model":{"type":"Nonsense"}}"#, "is not a tokenizer"),
    ] {
        fs::write(&path, contents).unwrap();
        let error = load_error(folder.path(), 1000).to_string();
        assert!(error.contains(expected) && error.contains("tokenizer.json"), "{error}");
    }
    fs::remove_file(&path).unwrap();
    assert!(load_error(folder.path(), 1000).to_string().contains("tokenizer.json is missing"));
    fs::write(&path, &text).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), r#"{"chat_template": 7}"#).unwrap();
    assert!(load_error(folder.path(), 1000).to_string().contains("chat_template"));
}

/// Paths of the first few values in each container.
fn paths(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(entries) => {
            for (key, item) in entries.iter().take(12) {
                paths(item, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate().take(3) {
                paths(item, format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
    found.push(at);
}

#[test]
fn no_damage_to_a_tokenizer_panics() {
    for kind in ["bytes", "pieces"] {
        let folder = folder(kind, &json!({"eos_token": "<|im_end|>"}));
        let path = folder.path().join("tokenizer.json");
        let whole: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let mut found = Vec::new();
        paths(&whole, String::new(), &mut found);
        for at in found {
            for damage in
                [json!(null), json!(-1), json!(4_000_000_000_u32), json!(""), json!("("), json!([]), json!({})]
            {
                let mut damaged = whole.clone();
                *damaged.pointer_mut(&at).unwrap() = damage;
                fs::write(&path, damaged.to_string()).unwrap();
                if let Ok(tokenizer) = Tokenizer::load(folder.path(), 1000) {
                    let _ = tokenizer.encode_text("The sea <|im_end|> 1 世").map(|ids| tokenizer.decode(&ids, true));
                }
            }
        }
    }
}

#[test]
fn templates_come_from_several_places() {
    let folder = folder(
        "bytes",
        &json!({"chat_template": [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]}),
    );
    let render = |template: Option<&str>| {
        let tokenizer = Tokenizer::load(folder.path(), 1000).unwrap();
        tokenizer.render(&user("x"), &RenderOptions { template: template.map(str::to_owned), ..safe() })
    };
    assert_eq!(render(None).unwrap(), "one");
    assert_eq!(render(Some("tool_use")).unwrap(), "two");
    let error = render(Some("rag")).unwrap_err().to_string();
    assert!(error.contains("`rag`") && error.contains("default, tool_use"), "{error}");
    fs::write(folder.path().join("chat_template.jinja"), "three\n").unwrap();
    assert_eq!(render(None).unwrap(), "three");

    let none = super::folder("bytes", &json!({}));
    let tokenizer = Tokenizer::load(none.path(), 1000).unwrap();
    let error = tokenizer.encode_chat(&user("x"), &safe()).unwrap_err();
    assert!(error.to_string().contains("no chat template"), "{error}");
}

#[test]
fn bad_templates_fail_when_they_are_used() {
    for (template, kind, expected) in [
        ("{% for x in %}", ErrorKind::InvalidModel, "cannot be read"),
        ("{{ messages.nothing.at.all }}", ErrorKind::InvalidModel, "failed"),
        ("{{ raise_exception('No, ' + messages[0].role) }}", ErrorKind::InvalidRequest, "No, user"),
        (
            "{% macro m() %}{{ raise_exception('deep') }}{% endmacro %}{{ m() }}",
            ErrorKind::InvalidRequest,
            "conversation: deep",
        ),
        (
            "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}",
            ErrorKind::InvalidModel,
            "was stopped",
        ),
        ("{% for a in range(10000) %}{{ 'x' * 10000 }}{% endfor %}", ErrorKind::InvalidModel, "was stopped"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", ErrorKind::InvalidModel, "failed"),
        ("{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns ~ ns }}", ErrorKind::InvalidModel, "namespace"),
        (
            "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = {'a': ns.x} %}{% endfor %}",
            ErrorKind::InvalidModel,
            "nested",
        ),
        (
            "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            ErrorKind::InvalidModel,
            "was stopped",
        ),
    ] {
        let error = with_template(template).encode_chat(&user("x"), &safe()).unwrap_err();
        assert_eq!(error.kind(), kind, "{template}: {error}");
        assert!(error.to_string().contains(expected), "{template}: {error}");
    }
    let options = RenderOptions { arguments: Map::from_iter([("messages".to_owned(), json!([]))]), ..safe() };
    let error = with_template("x").render(&user("x"), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}
