//! `include/foreturn.h` is what the sources say. `make header` writes it anew.

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
