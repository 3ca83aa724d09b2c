//! Bodies that come coded, though the request asks for plain ones: some proxies compress whatever passes.

use std::io::Read;

use flate2::read::{MultiGzDecoder, ZlibDecoder};

/// A body without the coding that `Content-Encoding` names; at most `most` bytes.
///
/// # Errors
/// Says which coding it is, where it isn't understood, or that the body is not coded so.
pub(super) fn decoded(body: Vec<u8>, coding: Option<&str>, most: u64) -> Result<Vec<u8>, String> {
    let coding = coding.unwrap_or_default().trim().to_ascii_lowercase();
    match &*coding {
        "" | "identity" => Ok(body),
        // Nothing was said: an empty body of a reply without one.
        _ if body.is_empty() => Ok(body),
        "gzip" | "x-gzip" => inflate(MultiGzDecoder::new(&*body), &coding, most),
        "deflate" => inflate(ZlibDecoder::new(&*body), &coding, most),
        _ => Err(format!(
            "its reply is coded (content-encoding: {coding}), though it was asked for a plain one. Turn compression off at the \
             server, or at the proxy before it"
        )),
    }
}

fn inflate(coded: impl Read, coding: &str, most: u64) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    match coded.take(most + 1).read_to_end(&mut plain) {
        Ok(_) if plain.len() as u64 <= most => Ok(plain),
        Ok(_) => Err(format!("its reply is longer than {} MiB once {coding} is undone", most >> 20)),
        Err(e) => Err(format!("its reply says that it is coded (content-encoding: {coding}) and is not: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn known_codings_are_undone_and_others_are_named() {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(b"{}").unwrap();
        let zlib = zlib.finish().unwrap();
        for (body, coding) in [
            (b"{}".to_vec(), None),
            (b"{}".to_vec(), Some("Identity")),
            (gzip(b"{}"), Some("gzip")),
            (gzip(b"{}"), Some(" X-GZIP")),
            ([gzip(b"{"), gzip(b"}")].concat(), Some("gzip")),
            (zlib, Some("deflate")),
        ] {
            assert_eq!(decoded(body, coding, 2), Ok(b"{}".to_vec()), "{coding:?}");
        }
        assert_eq!(decoded(Vec::new(), Some("br"), 2), Ok(Vec::new()));
        for (body, coding, part) in [
            (b"{}".to_vec(), "br", "content-encoding: br), though"),
            (b"{}".to_vec(), "gzip, br", "content-encoding: gzip, br"),
            (b"{}".to_vec(), "gzip", "says that it is coded (content-encoding: gzip) and is not"),
            (gzip(b"{}")[..12].to_vec(), "gzip", "and is not"),
            (gzip(&vec![b' '; 9 << 20]), "gzip", "longer than 8 MiB once gzip is undone"),
        ] {
            let error = decoded(body, Some(coding), 8 << 20).unwrap_err();
            assert!(error.contains(part), "{coding}: {error}");
        }
    }
}
