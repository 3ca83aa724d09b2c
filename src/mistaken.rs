//! Files that are not what their names say: messages with their real kind and a remedy.
//!
//! Each answer follows the file's name in a sentence.

/// The answer for a file that is only a pointer to another one.
pub(crate) fn pointer(bytes: &[u8]) -> Option<&'static str> {
    let is_pointer = bytes.len() < 1024 && bytes.starts_with(b"version https://git-lfs.github.com/spec/");
    is_pointer.then_some(
        "is a pointer of git-lfs, not the file itself: run `git lfs install` and `git lfs pull` in the repository that it \
         comes from, or fetch it with `hf download`",
    )
}

/// The answer for bytes that a parser refused, if they are of a well-known kind.
pub(crate) fn recognise(bytes: &[u8]) -> Option<&'static str> {
    let begins = |with: &[u8]| bytes.starts_with(with);
    let text = bytes[..bytes.len().min(64)].trim_ascii_start().to_ascii_lowercase();
    if let Some(pointer) = pointer(bytes) {
        return Some(pointer);
    }
    if text.is_empty() && bytes.trim_ascii().is_empty() {
        return Some("is empty, so it was not written or fetched whole: get it again");
    }
    if bytes.iter().take(4096).all(|byte| *byte == 0) {
        return Some("begins with nothing but zeros, so it was not written or fetched whole: get it again");
    }
    if begins(b"\xff\xfe") || begins(b"\xfe\xff") {
        return Some(
            "is UTF-16 (or UTF-32), as PowerShell writes it, and not UTF-8: save it again with the encoding UTF-8",
        );
    }
    if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") {
        return Some("is a web page, not the file itself: the download was refused, or led to a page about the file");
    }
    if begins(b"PK\x03\x04") || begins(b"\x80\x02") {
        return Some(
            "is what torch.save writes, or another ZIP archive or pickle: load it with transformers and call \
             save_pretrained, which writes safetensors",
        );
    }
    if begins(b"\x1f\x8b") {
        return Some("is compressed with gzip: unpack it first");
    }
    if begins(b"GGUF") {
        return Some("is a GGUF file: name it as it is, with the ending .gguf, instead of a folder");
    }
    None
}

/// The end of a message about an unknown key: the known one that was probably meant. Empty where none is near, and for
/// other messages. `message` is serde's.
pub(crate) fn suggestion(message: &str) -> String {
    let split = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once("`, expected "));
    let Some((unknown, list)) = split else { return String::new() };
    let known = list.lines().next().unwrap_or_default().split('`').skip(1).step_by(2);
    nearest(unknown, known).map_or(String::new(), |known| format!("\nDid you mean `{known}`?"))
}

/// The known name that was probably meant by an unknown one, if one is near.
pub(crate) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let nearest = known.map(|known| (distance(unknown, known), known)).min();
    // Beyond a third of its letters, a word is another word.
    nearest.filter(|(distance, known)| distance * 3 <= known.chars().count()).map(|(_, known)| known)
}

/// The number of characters that have to be inserted, deleted or replaced to turn one text into the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_suggested_if_it_is_near() {
        for (from, to, expected) in [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("seed", "sed", 1)] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
            assert_eq!(distance(to, from), expected, "{to} {from}");
        }
        let list = "expected one of `path`, `temperature`, `top_p`, `top_k`";
        for (unknown, expected) in [("temprature", Some("temperature")), ("paths", Some("path")), ("batch", None)] {
            let found = suggestion(&format!("unknown field `{unknown}`, {list}"));
            assert_eq!(found, expected.map_or(String::new(), |known| format!("\nDid you mean `{known}`?")));
        }
        assert_eq!(suggestion("unknown variant `gpu`, expected `cpu`"), "");
        assert_eq!(suggestion("unknown field `a`, there are no fields"), "");
    }

    #[test]
    fn what_is_well_known_has_its_name() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 123\n";
        for (bytes, expected) in [
            (&pointer[..], "git lfs pull"),
            (b"\xff\xfe{\0}\0", "UTF-16"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"PK\x03\x04archive", "save_pretrained"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"", "is empty"),
            (b"\r\n", "is empty"),
            (&[0; 4096], "nothing but zeros"),
        ] {
            assert!(recognise(bytes).expect("known").contains(expected), "{expected}");
        }
        for other in [&b"{}"[..], b"\x08\x0a", b"hello"] {
            assert_eq!(recognise(other), None);
        }
    }
}
