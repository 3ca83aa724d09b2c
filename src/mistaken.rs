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

#[cfg(test)]
mod tests {
    use super::*;

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
        ] {
            assert!(recognise(bytes).expect("known").contains(expected), "{expected}");
        }
        for other in [&b""[..], b"{}", b"\x08\x0a", b"hello"] {
            assert_eq!(recognise(other), None);
        }
    }
}
