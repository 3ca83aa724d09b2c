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
