//! What several targets need: a folder in memory, into which the parts of an input are written as files.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A tokenizer for inputs that need one beside them.
const TOKENIZER: &str = include_str!("../../tests/fixtures/chat/bytes.tokenizer.json");

/// This process's folder. It is named by the process, so that several may run.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = parent.join(format!("foreturn-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("tokenizer.json"), TOKENIZER).expect("writable");
        folder
    })
}

/// The folder with these files in it. An input's parts are divided by a byte that no text has.
pub fn with(names: &[&str], data: &[u8]) -> &'static Path {
    let mut parts = data.split(|&byte| byte == 0xff);
    for name in names {
        let path = folder().join(name);
        match parts.next() {
            Some(part) => std::fs::write(path, part).expect("writable"),
            None => drop(std::fs::remove_file(path)),
        }
    }
    folder()
}

/// Takes away libFuzzer's hook, which ends the process at every panic: this target's code catches those of other libraries.
/// One that nobody catches ends it still.
pub fn let_panics_be_caught() {
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}
