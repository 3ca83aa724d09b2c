//! The headers of `.safetensors` files.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use safetensors::{Dtype, SafeTensors};
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::export::checkpoint::{RowOrder, Tensor, is_sound_name};
use crate::export::format::{self, Format};
use crate::{Error, Result, mistaken};

/// Reads the header of the safetensors file `label`, whose bytes are `data`. Nothing in the header is trusted: the
/// ranges returned lie inside `data` and fit their shapes.
pub(in crate::export) fn read_header(label: &str, data: &[u8], file: usize) -> Result<BTreeMap<String, Tensor>> {
    let (header, metadata) = SafeTensors::read_metadata(data).map_err(|error| {
        let what = match data.get(8..).is_some_and(|header| header.starts_with(b"\xef\xbb\xbf")) {
            true => Some("has a byte order mark before its header, which the format has no place for: save it again"),
            false => mistaken::recognise(data),
        };
        let complaint = || format!("is not a complete safetensors file ({error}): download or save it again");
        Error::invalid_model(format!("{label} {}", what.map_or_else(complaint, str::to_owned))).with_source(error)
    })?;
    let start = header + size_of::<u64>();
    refuse_duplicates(label, &data[size_of::<u64>()..start])?;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        if !is_sound_name(&name) {
            let shown: String = name.chars().take(80).collect();
            return Err(Error::invalid_model(format!("{label}: tensor {shown:?}: no model has such a name")));
        }
        let (begin, end) = info.data_offsets;
        let Some(format) = format_of(info.dtype) else {
            if name.ends_with(".weight") || name.ends_with(".bias") {
                return Err(Error::unsupported(format!(
                    "{label}: tensor `{name}` is stored as {:?}; this version reads F32, F16 and BF16",
                    info.dtype
                )));
            }
            // Old checkpoints keep masks and counters as tensors.
            continue;
        };
        tensors.insert(
            name.clone(),
            Tensor {
                format,
                shape: info.shape.clone(),
                file,
                offset: start + begin,
                bytes: end - begin,
                origin: name,
                rows: RowOrder::Standard,
                delta: None,
            },
        );
    }
    Ok(tensors)
}

/// Refuses a header that describes a tensor twice, because readers would differ in which of the two they take.
fn refuse_duplicates(label: &str, header: &[u8]) -> Result<()> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = ();

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
            let mut seen = HashSet::new();
            while let Some((name, IgnoredAny)) = map.next_entry::<String, _>()? {
                if let Some(name) = seen.replace(name) {
                    return Err(A::Error::custom(format!("{name:?} is described twice")));
                }
            }
            Ok(())
        }
    }
    // Trailing spaces are padding.
    serde_json::Deserializer::from_slice(header).deserialize_map(Names).map_err(|error| {
        Error::invalid_model(format!("{label} is not a sound safetensors file: {error}: save it again"))
            .with_source(error)
    })
}

fn format_of(dtype: Dtype) -> Option<&'static Format> {
    match dtype {
        Dtype::F32 => Some(&format::F32),
        Dtype::F16 => Some(&format::F16),
        Dtype::BF16 => Some(&format::BF16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn safetensors(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data, 0);
        file
    }

    const HEADER: &str = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"c":{"dtype":"I64","shape":[1],"data_offsets":[22,30]}}"#;

    #[test]
    fn ranges_count_from_the_start_of_the_file() {
        let tensors = read_header("x", &safetensors(HEADER, 30), 3).unwrap();
        assert_eq!(tensors.len(), 2, "the integer tensor is no weight");
        let b = &tensors["b"];
        assert_eq!((b.offset, b.bytes, b.file, b.format.name), (8 + HEADER.len() + 16, 6, 3, "BF16"));
    }

    #[test]
    fn damaged_headers_are_refused_by_name() {
        let whole = safetensors(HEADER, 30);
        let overlapping = HEADER.replace("[16,22]", "[15,21]");
        let duplicate = HEADER.replace("\"b\":", "\"a\":").replace("[22,30]", "[16,24]");
        let twice = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
        let gap = HEADER.replace("[16,22]", "[17,23]").replace("[22,30]", "[23,31]");
        let beyond = HEADER.replace("[22,30]", "[22,4294967326]");
        let shape = HEADER.replace("\"shape\":[3]", "\"shape\":[4611686018427387904,4]");
        let name = HEADER.replace("\"b\"", "\"\\u001b[2J\"");
        for (damaged, data) in [
            (&*duplicate, 30),
            (twice, 16),
            (&*gap, 31),
            (&*beyond, 30),
            (&*shape, 30),
            (&*name, 30),
            ("[]", 0),
            ("", 0),
        ] {
            let error = read_header("shard.safetensors", &safetensors(damaged, data), 0).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidModel, "{damaged}: {error}");
            assert!(error.to_string().starts_with("shard.safetensors"), "{error}");
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
        let absurd = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
        for damaged in [&whole[..whole.len() - 1], &whole[..50], &safetensors(&overlapping, 30), &absurd] {
            let error = read_header("shard.safetensors", damaged, 0).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidModel);
            assert!(error.to_string().starts_with("shard.safetensors is not a complete safetensors file"), "{error}");
        }
        let error = read_header("shard.safetensors", &[], 0).unwrap_err();
        assert!(error.to_string().starts_with("shard.safetensors is empty, so it was not written"), "{error}");
    }

    proptest! {
        #[test]
        fn mutated_headers_never_panic(changes in prop::collection::vec((0usize..200, any::<u8>()), 1..6)) {
            let mut bytes = safetensors(HEADER, 30);
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            if let Ok(tensors) = read_header("x", &bytes, 0) {
                for tensor in tensors.values() {
                    prop_assert!(tensor.offset + tensor.bytes <= bytes.len());
                    tensor.write_float32(&bytes, &mut std::io::sink()).unwrap();
                }
            }
        }
    }
}
