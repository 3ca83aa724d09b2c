//! `include/foreturn.h` is what the sources say. `make header` writes it anew.

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn the_committed_header_is_the_generated_one() {
    let krate = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(krate.join("cbindgen.toml")).expect("cbindgen.toml");
    let bindings = cbindgen::Builder::new().with_crate(krate).with_config(config).generate().expect("a header");
    let mut header = Vec::new();
    bindings.write(&mut header);
    let path = krate.join("../include/foreturn.h");
    if std::env::var_os("FORETURN_WRITE_HEADER").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("include/");
        std::fs::write(&path, &header).expect("the header is written");
        return;
    }
    let committed = std::fs::read(&path).expect("include/foreturn.h");
    assert!(committed == header, "include/foreturn.h is not what the sources say: run `make header` and commit it");
}

#[test]
fn every_function_says_who_may_call_it_and_how_it_fails() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/foreturn.h");
    let header = std::fs::read_to_string(path).expect("include/foreturn.h");
    let mut functions = 0;
    let (mut comment, mut previous) = (String::new(), "");
    for line in header.lines() {
        match line.strip_prefix("//") {
            Some(text) if previous.starts_with("//") => comment += text,
            Some(text) => comment = text.to_owned(),
            None if line.contains(" foreturn_") && line.contains('(') && !line.starts_with([' ', 't', '#', '/']) => {
                functions += 1;
                assert!(comment.contains("thread") || comment.contains("In the"), "{line}\n{comment}");
                // Those that return a status say which.
                let fails = line.starts_with("foreturn_status ");
                assert!(!fails || comment.contains("Errors:"), "{line}\n{comment}");
            }
            None => {}
        }
        previous = line;
    }
    assert!(functions > 50, "only {functions} functions were found");
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The code of a C or C++ header, without comments.
fn code(path: &str) -> String {
    let text = read(path);
    let (mut code, mut rest) = (String::new(), text.as_str());
    while let Some(at) = rest.find("/*") {
        code += &rest[..at];
        rest = rest[at..].find("*/").map_or("", |end| &rest[at + end + 2..]);
    }
    code += rest;
    code.lines().map(|line| line.split("//").next().unwrap_or("").to_owned() + "\n").collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Functions that the header declares.
fn functions(header: &str) -> BTreeSet<&str> {
    let called =
        header.split('(').filter_map(|before| words(before).last().filter(|_| !before.ends_with([' ', '*', ')'])));
    called.filter(|word| word.starts_with("foreturn_")).collect()
}

/// Structs of the header, each with its fields: type and name.
fn structs(header: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
    let blocks = header.split("typedef struct {").skip(1);
    let parsed = blocks.filter_map(|block| {
        let (fields, rest) = block.split_once('}')?;
        let fields = fields.split(';').filter_map(|field| {
            let mut words = words(field).filter(|word| *word != "const");
            Some((words.next()?, words.last()?))
        });
        Some((words(rest).next()?, fields.collect()))
    });
    parsed.collect()
}

#[test]
fn the_cpp_wrapper_has_what_the_header_has() {
    let (header, wrapper) = (code("include/foreturn.h"), code("include/foreturn.hpp"));
    let known: BTreeSet<&str> = words(&wrapper).collect();
    let functions = functions(&header);
    assert!(functions.len() > 50, "{functions:?}");
    // C++ has constructors.
    let missing: Vec<_> = functions.iter().filter(|name| !name.ends_with("_init") && !known.contains(*name)).collect();
    assert!(missing.is_empty(), "foreturn.hpp calls none of {missing:?}");
    let structs = structs(&header);
    assert!(structs.len() > 20, "{structs:?}");
    for (name, fields) in structs {
        assert!(known.contains(name), "foreturn.hpp lacks {name}");
        // What is given as a list of values is checked by the compiler.
        if wrapper.contains(&format!("sizeof({name})")) {
            continue;
        }
        let given = functions.contains(format!("{name}_init").as_str());
        for (kind, field) in fields {
            let wanted = (given && field != "size") || kind == "foreturn_str";
            assert!(!wanted || known.contains(field), "foreturn.hpp lacks {name}.{field}");
        }
    }
}

/// What stands between quotes in a Rust source, line by line; comments have none.
fn literals(source: &str) -> impl Iterator<Item = &str> {
    let lines = source.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    lines.flat_map(|line| line.split('"').skip(1).step_by(2))
}

#[test]
fn errors_name_functions_that_exist() {
    let header = code("include/foreturn.h");
    let known: BTreeSet<&str> = words(&header).collect();
    let mut named = 0;
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"));
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap_or_default();
            // The library's own sources have names of other things, too: metrics of OpenMetrics.
            let ours = path.starts_with(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
            for text in literals(&source) {
                for (at, name) in text.match_indices("foreturn_") {
                    let name = words(&text[at..]).next().unwrap_or(name);
                    if ours || text[at + name.len()..].starts_with("()") {
                        named += 1;
                        assert!(known.contains(name), "{}: {name} in {text:?} does not exist", path.display());
                    }
                }
            }
        }
    }
    assert!(named > 10, "only {named} names were found");
    assert!(!read("ffi/src/argument.rs").contains("{}_init"), "names that are put together can't be looked for");
}
