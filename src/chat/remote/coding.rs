//! Bodies with a content coding. Requests ask for plain ones, but some proxies compress everything.

use std::io::Read;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// Decodes a body with the codings that `Content-Encoding` names, up to `most` bytes.
///
/// # Errors
/// Names a coding that isn't supported, or says that the body doesn't have the named coding.
pub(super) fn decoded(body: Vec<u8>, codings: Option<&str>, most: u64) -> Result<Vec<u8>, String> {
    let codings = codings.unwrap_or_default().to_ascii_lowercase();
    // The last one was applied last.
    codings.split(',').rev().map(str::trim).try_fold(body, |body, coding| match coding {
        "" | "identity" => Ok(body),
        // The reply has no body.
        _ if body.is_empty() => Ok(body),
        "gzip" | "x-gzip" => inflate(MultiGzDecoder::new(&*body), coding, most),
        "deflate" if has_zlib_header(&body) => inflate(ZlibDecoder::new(&*body), coding, most),
        // Some servers leave out the header that the coding has.
        "deflate" => inflate(DeflateDecoder::new(&*body), coding, most),
        _ => Err(format!(
            "its reply is coded (content-encoding: {codings}), although a plain one was requested. Turn compression \
             off at the server, or at the proxy in front of it"
        )),
    })
}

/// Whether zlib's two bytes come first: the method, and a multiple of 31.
fn has_zlib_header(body: &[u8]) -> bool {
    matches!(*body, [method, flags, ..] if method & 15 == 8 && u16::from_be_bytes([method, flags]) % 31 == 0)
}

fn inflate(coded: impl Read, coding: &str, most: u64) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    match coded.take(most + 1).read_to_end(&mut plain) {
        Ok(_) if plain.len() as u64 <= most => Ok(plain),
        Ok(_) => Err(format!("its reply is longer than {} MiB after {coding} is decoded", most >> 20)),
        Err(e) => Err(format!("its reply claims a coding that it doesn't have (content-encoding: {coding}): {e}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

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
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::fast());
        raw.write_all(b"{}").unwrap();
        let raw = raw.finish().unwrap();
        for (body, coding) in [
            (b"{}".to_vec(), None),
            (b"{}".to_vec(), Some("Identity")),
            (gzip(b"{}"), Some("gzip")),
            (gzip(b"{}"), Some(" X-GZIP")),
            ([gzip(b"{"), gzip(b"}")].concat(), Some("gzip")),
            (gzip(&zlib), Some("deflate, gzip")),
            (zlib, Some("deflate")),
            (raw, Some("deflate")),
            (gzip(b"{}"), Some("gzip, identity")),
        ] {
            assert_eq!(decoded(body, coding, 64), Ok(b"{}".to_vec()), "{coding:?}");
        }
        assert_eq!(decoded(Vec::new(), Some("br"), 2), Ok(Vec::new()));
        for (body, coding, part) in [
            (b"{}".to_vec(), "br", "content-encoding: br), although"),
            (b"{}".to_vec(), "gzip, br", "content-encoding: gzip, br"),
            (b"{}".to_vec(), "deflate", "claims a coding that it doesn't have (content-encoding: deflate)"),
            (b"{}".to_vec(), "gzip", "claims a coding that it doesn't have (content-encoding: gzip)"),
            (gzip(b"{}")[..12].to_vec(), "gzip", "that it doesn't have"),
            (gzip(&vec![b' '; 9 << 20]), "gzip", "longer than 8 MiB after gzip is decoded"),
        ] {
            let error = decoded(body, Some(coding), 8 << 20).unwrap_err();
            assert!(error.contains(part), "{coding}: {error}");
        }
    }
}
