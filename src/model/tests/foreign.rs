//! Folders made by others: places of external data, and unexpected contents of files.

use crate::runtime::{Provider, ProviderReport};
use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::runtime::session::{Graph, Session};
use crate::testing::runtime;

const BYTES: usize = VOCABULARY * VOCABULARY * 4;

/// The tiny decoder with its table at `location`, and a second table at `other`.
fn stored(location: &str, other: &str) -> ModelProto {
    let mut model = decoder();
    let dims = [VOCABULARY, VOCABULARY];
    *tensor(&mut model, "bigrams") = external_tensor("bigrams", DataType::Float, &dims, location, 0, BYTES as u64);
    initializers(&mut model).push(external_tensor("other", DataType::Float, &[1], other, 0, 4));
    model
}

/// Opens the folder and lets ONNX Runtime load its graph.
fn load(folder: &Path) {
    let opened = ModelFolder::open(folder).expect("the model opens");
    let file = opened.file();
    let bytes = file.encode();
    let graph = Graph {
        bytes: &bytes,
        folder: &file.data_folder,
        memory: None,
        loops: false,
        name: "m",
        report: &ProviderReport::only(Provider::Cpu),
    };
    Session::open_plain(&graph, &runtime(1)).expect("ONNX Runtime loads it");
}

fn write(path: &Path) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, vec![0; BYTES]).expect("written");
}

#[test]
fn data_lies_anywhere_within_the_folder() {
    for (location, other) in [
        ("weights/data", "weights/data"),
        ("./data", "data"),
        ("weights/data", "data"),
        ("a/b/../data", "./a/./other"),
        ("a/data", "b/data"),
    ] {
        let folder = folder(&stored(location, other));
        fs::create_dir_all(folder.path().join("a/b")).expect("made");
        [location, other].iter().for_each(|name| write(&folder.path().join(name)));
        load(folder.path());
    }
}

#[test]
fn links_into_a_cache_of_blobs_are_followed() {
    // Hugging Face's layout: files are links to blobs, and the graph and its data are in a subfolder.
    for (graph, location, other) in [
        ("model.onnx", "data", "more/data"),
        ("onnx/model.onnx", "data", "data"),
        ("onnx/model.onnx", "data", "x/data"),
    ] {
        let made = folder(&stored(location, other));
        let cache = tempfile::tempdir().expect("a folder");
        let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/abc"));
        fs::create_dir_all(&blobs).expect("made");
        let put = |name: &str, blob: &str| {
            let path = snapshot.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            if !path.exists() {
                symlink(blobs.join(blob), path).expect("a link");
            }
        };
        for entry in fs::read_dir(made.path()).expect("files") {
            let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
            fs::copy(made.path().join(&name), blobs.join(format!("blob-{name}"))).expect("copied");
            put(if name == "model.onnx" { graph } else { &name }, &format!("blob-{name}"));
        }
        write(&blobs.join("0123"));
        let beside = Path::new(graph).parent().expect("a folder");
        [location, other].iter().for_each(|name| put(&beside.join(name).display().to_string(), "0123"));
        load(&snapshot);
    }
}

#[test]
fn what_leaves_the_folder_is_refused_in_words_that_are_true() {
    let elsewhere = tempfile::tempdir().expect("a folder");
    write(&elsewhere.path().join("data"));
    let absolute = elsewhere.path().join("data").display().to_string();
    for (location, expected) in [
        ("../data", "leaves the model's folder"),
        ("a/../../data", "leaves the model's folder"),
        (absolute.as_str(), "only paths relative to the model's folder"),
        ("linked/data", "outside the model's folder"),
        (".", "is not an ordinary file"),
        ("pipe", "is not an ordinary file"),
        ("zero", "outside the model's folder"),
    ] {
        let prepare = |folder: &Path| {
            write(&folder.join("other"));
            symlink(elsewhere.path(), folder.join("linked")).expect("a link");
            symlink("/dev/zero", folder.join("zero")).expect("a link");
            pipe(&folder.join("pipe"));
        };
        let error = refused_folder(|model| *model = stored(location, "other"), prepare);
        says(&error, ErrorKind::InvalidModel, &[&format!("external data at `{location}`"), expected]);
    }
}

#[test]
fn a_pointer_of_git_lfs_instead_of_the_data_is_called_so() {
    let prepare = |folder: &Path| {
        fs::write(folder.join("data"), "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
            .expect("written");
    };
    let error = refused_folder(|model| *model = stored("data", "data"), prepare);
    says(&error, ErrorKind::InvalidModel, &["data is a pointer of git-lfs", "git lfs pull"]);
}

fn pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

type Make = fn(&Path);

/// Reading must not wait for a pipe's writer, or read a device for ever.
#[test]
fn no_file_of_a_folder_is_read_but_an_ordinary_one() {
    for name in [
        "model.onnx",
        "config.json",
        "genai_config.json",
        "foreturn.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
    ] {
        let kinds: [(&str, Make); 4] = [
            ("is not an ordinary file", pipe),
            ("is not an ordinary file", |path| symlink("/dev/zero", path).expect("a link")),
            ("is not an ordinary file", |path| fs::create_dir(path).expect("made")),
            ("git lfs pull", |path| {
                fs::write(path, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
                    .expect("written");
            }),
        ];
        for (expected, make) in kinds {
            let folder = folder(&decoder());
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            let _ = fs::remove_file(&path);
            if name.starts_with("additional") {
                fs::write(folder.path().join("chat_template.jinja"), "x").expect("written");
            }
            make(&path);
            let Err(error) = ModelFolder::open(folder.path()) else { panic!("{name}: not refused") };
            says(&error, ErrorKind::InvalidModel, &[expected, &path.display().to_string()]);
        }
    }
}

/// As Python and PowerShell write it.
#[test]
fn constants_of_python_and_byte_order_marks_are_read() {
    let folder = folder(&decoder());
    fs::write(folder.path().join("generation_config.json"), "{}").expect("written");
    fs::write(folder.path().join("special_tokens_map.json"), "{}").expect("written");
    for name in
        ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"]
    {
        let path = folder.path().join(name);
        let text = fs::read_to_string(&path).expect("a file");
        let (_, rest) = text.split_once('{').expect("an object");
        // The tokenizers crate refuses unknown fields.
        let unread = match (name, rest.trim()) {
            ("tokenizer.json", _) => "",
            (_, "}") => "\"x\": [NaN, Infinity, -Infinity]",
            _ => "\"x\": [NaN, Infinity, -Infinity],",
        };
        fs::write(&path, format!("\u{feff}{{{unread}{rest}")).expect("written");
    }
    ModelFolder::open(folder.path()).expect("the model opens");
}
