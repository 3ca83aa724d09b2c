//! DeBERTa's attention: a query scores a key by content (c2c), the key's place by the query's content (c2p), and its
//! own place by the key's content (p2c).
//!
//! He et al., "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", equation 4. transformers scores every
//! embedded distance and then gathers, with an index for each pair of tokens. Here the 2n distances that a text of n
//! tokens has are scored in their order. Shifting row r by r places brings each score to its pair, as in
//! Transformer-XL. This needs no index, and far fewer products for short texts.

use serde_json::Value;

use super::blocks::{Blocks, Heads, path};
use crate::Result;
use crate::export::config::Config;
use crate::export::graph::{Linear, Size};
use crate::onnx::nodes::{int, int64_tensor};

/// The attention of all layers.
pub(super) struct Attention {
    heads: Heads,
    relative: Option<Relative>,
    /// The factor of scores.
    scale: f32,
}

/// The inputs that layers need to score relative positions.
struct Relative {
    /// The embeddings of distances: [1, 2 · span, hidden].
    embeddings: String,
    /// Sends them through the layer's own query and key projections.
    shared: bool,
    /// The embedding's row for each distance from n - 1 down to -n, and whether contents of queries score it.
    c2p: Option<String>,
    /// The embedding's row for each distance from 1 - n up to n, and whether contents of keys score it.
    p2c: Option<String>,
    /// A shape: two axes as they are, rows of n tokens, the rest.
    rows: String,
    /// n - 1: [1].
    last: String,
}

impl Attention {
    pub(super) fn read(blocks: &mut Blocks<'_>, config: &Config, prefix: &str, heads: Heads) -> Result<Self> {
        let kinds = position_kinds(config)?;
        // transformers counts them for the scale even where it scores no positions.
        let scale = ((heads.size * (1 + kinds.len())) as f32).sqrt().recip();
        let relative = match config.flag_or("relative_attention", false)? {
            true => Some(Relative::read(blocks, config, prefix, &kinds)?),
            false => None,
        };
        Ok(Attention { heads, relative, scale })
    }

    /// The output of the layer's attention `module` for hidden states: [batch, sequence, hidden].
    pub(super) fn write(&self, blocks: &mut Blocks<'_>, module: &str, states: &str) -> Result<String> {
        let mut project = |name: &str| -> Result<String> {
            let module = format!("{module}.{name}");
            let projected = blocks.square(&module, states)?;
            Ok(blocks.split(&path(&module), &projected, self.heads))
        };
        let (query, key, value) = (project("query_proj")?, project("key_proj")?, project("value_proj")?);
        let name = path(module);
        let mut scores = blocks.products(&format!("{name}/c2c"), &query, &key);
        if let Some(relative) = &self.relative {
            if let Some(distances) = &relative.c2p {
                let name = format!("{name}/c2p");
                let places = relative.places(blocks, module, "key", &name, distances, self.heads)?;
                let scored = relative.score(blocks, &name, &query, &places);
                scores = blocks.add(&name, &scores, &scored);
            }
            if let Some(distances) = &relative.p2c {
                let name = format!("{name}/p2c");
                let places = relative.places(blocks, module, "query", &name, distances, self.heads)?;
                let scored = relative.score(blocks, &name, &key, &places);
                let scored = blocks.transpose(&format!("{name}/swap"), &scored, &[0, 1, 3, 2]);
                scores = blocks.add(&name, &scores, &scored);
            }
        }
        let padding = blocks.padding.clone();
        Ok(blocks.attend(&name, &scores, self.scale, &padding, &value))
    }
}

impl Relative {
    fn read(blocks: &mut Blocks<'_>, config: &Config, prefix: &str, kinds: &[Kind]) -> Result<Self> {
        let buckets = Buckets::read(config)?;
        let rows = Size::new(2 * buckets.span, &["position_buckets or max_relative_positions"]);
        let module = format!("{prefix}encoder");
        let weight = format!("{module}.rel_embeddings.weight");
        let mut embeddings = blocks.builder.weight(&weight, &[rows, blocks.hidden])?;
        if norms_embeddings(config)? {
            embeddings = blocks.norm(&format!("{module}.LayerNorm"), &embeddings, true)?;
        }
        // As the states of one text, so that they go through the same projections.
        let first = blocks.builder.integers(&[0]);
        embeddings = blocks.op("Unsqueeze", "/distances/embeddings/Unsqueeze", &[&embeddings, &first], vec![]);

        let one = blocks.builder.integers(&[1]);
        let length = blocks.length.clone();
        let last = blocks.op("Sub", "/distances/last/Sub", &[&length, &one], vec![]);
        let (keep, rest) = (blocks.builder.integers(&[0, 0]), blocks.builder.integers(&[-1]));
        let shape = [keep.as_str(), &length, &rest];
        let rows = blocks.op("Concat", "/distances/rows/Concat", &shape, vec![int("axis", 0)]);
        let table = buckets.table();
        blocks.builder.proto.initializer.push(int64_tensor(TABLE, &[table.len()], &table));
        let mut distances = |kind| kinds.contains(&kind).then(|| self::distances(blocks, kind, buckets.reach));
        let (c2p, p2c) = (distances(Kind::ContentToPosition), distances(Kind::PositionToContent));
        Ok(Relative { embeddings, shared: config.flag_or("share_att_key", false)?, c2p, p2c, rows, last })
    }

    /// The embeddings of `distances` as the layer's keys or queries: [heads, size, distances].
    fn places(
        &self,
        blocks: &mut Blocks<'_>,
        module: &str,
        role: &str,
        name: &str,
        distances: &str,
        heads: Heads,
    ) -> Result<String> {
        let own = if self.shared { "" } else { "pos_" };
        let module = format!("{module}.{own}{role}_proj");
        let (out, inner) = (blocks.hidden, blocks.hidden);
        let linear = Linear { module: &module, path: &format!("{name}/proj"), out, inner, bias: true };
        let projected = blocks.builder.linear(&linear, &self.embeddings)?;
        let name = format!("{name}/places");
        let places = blocks.op("Gather", &format!("{name}/Gather"), &[&projected, distances], vec![int("axis", 1)]);
        let split = blocks.reshape(&name, &places, &[-1, heads.count as i64, heads.size as i64]);
        Ok(blocks.transpose(&name, &split, &[1, 2, 0]))
    }

    /// The products of `contents` [batch, heads, n, size] with the 2n `places`, brought to their pairs: row r begins
    /// n - 1 - r places in. [batch, heads, n, n].
    fn score(&self, blocks: &mut Blocks<'_>, name: &str, contents: &str, places: &str) -> String {
        let products = blocks.op("MatMul", &format!("{name}/MatMul"), &[contents, places], vec![]);
        let flat = blocks.reshape(&format!("{name}/flat"), &products, &[0, 0, -1]);
        let end = blocks.builder.integers(&[-1]);
        // Without its first n - 1 elements and its last, the flat array is n rows of 2n - 1: each begins one further
        // in.
        let cut = blocks.slice(&format!("{name}/cut"), &flat, &self.last, &end, 2);
        let shifted = blocks.op("Reshape", &format!("{name}/shift/Reshape"), &[&cut, &self.rows], vec![]);
        let (start, end) = (blocks.builder.integers(&[0]), blocks.length.clone());
        blocks.slice(&format!("{name}/shift"), &shifted, &start, &end, 3)
    }
}

/// The initialiser that maps distances to embeddings.
const TABLE: &str = "/distances/table";

/// The embeddings' rows for the 2n distances (the query's place minus the key's) that scores of `kind` are made for.
fn distances(blocks: &mut Blocks<'_>, kind: Kind, reach: usize) -> String {
    // A query's row runs over keys: from n - 1 down to -n. A key's row runs over queries: from 1 - n up to n.
    let (name, step) = match kind {
        Kind::ContentToPosition => ("/distances/c2p", -1),
        Kind::PositionToContent => ("/distances/p2c", 1),
    };
    let step = blocks.builder.integer(step);
    let length = blocks.length.clone();
    let length = blocks.op("Squeeze", &format!("{name}/Squeeze"), &[&length], vec![]);
    let signed = blocks.op("Mul", &format!("{name}/Mul"), &[&length, &step], vec![]);
    let start = blocks.op("Sub", &format!("{name}/start/Sub"), &[&step, &signed], vec![]);
    let end = blocks.op("Add", &format!("{name}/end/Add"), &[&step, &signed], vec![]);
    let range = blocks.op("Range", &format!("{name}/Range"), &[&start, &end, &step], vec![]);
    let (low, high) = (blocks.builder.integer(-(reach as i64)), blocks.builder.integer(reach as i64));
    let clipped = blocks.op("Clip", &format!("{name}/Clip"), &[&range, &low, &high], vec![]);
    let index = blocks.op("Add", &format!("{name}/index/Add"), &[&clipped, &high], vec![]);
    blocks.op("Gather", &format!("{name}/Gather"), &[TABLE, &index], vec![])
}

/// A kind of score with a position in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ContentToPosition,
    PositionToContent,
}

/// The kinds that `pos_att_type` lists, or joins by `|`.
fn position_kinds(config: &Config) -> Result<Vec<Kind>> {
    const FIELD: &str = "pos_att_type";
    let names: Vec<&str> = match config.get(FIELD) {
        None => vec![],
        Some(Value::String(joined)) => joined.split('|').map(str::trim).filter(|name| !name.is_empty()).collect(),
        Some(Value::Array(names)) => names.iter().map(|name| name.as_str().unwrap_or_default()).collect(),
        Some(_) => return Err(config.bad_value(FIELD, "expected a list of names")),
    };
    let mut kinds = Vec::new();
    for name in names {
        let kind = match name {
            "c2p" => Kind::ContentToPosition,
            "p2c" => Kind::PositionToContent,
            _ => return Err(config.unsupported(FIELD, "this version exports `c2p` and `p2c`")),
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

/// Returns whether `norm_rel_ebd` asks for a norm over the embeddings of distances.
fn norms_embeddings(config: &Config) -> Result<bool> {
    const FIELD: &str = "norm_rel_ebd";
    let Some(value) = config.get(FIELD) else { return Ok(false) };
    let names: Vec<&str> = value.as_str().unwrap_or("?").split('|').map(str::trim).collect();
    if !names.iter().all(|name| ["none", "layer_norm"].contains(name)) {
        return Err(config.unsupported(FIELD, "this version exports `none` and `layer_norm`"));
    }
    Ok(names.contains(&"layer_norm"))
}

/// The mapping of distances to embeddings.
#[derive(Debug, Clone, Copy)]
struct Buckets {
    /// There are 2 · span embeddings.
    span: usize,
    /// Buckets for distances of one sign, all of the same width up to half of them and then wider and wider, so that
    /// `reach` falls into the last; none where every distance has its own embedding.
    buckets: Option<usize>,
    /// From this distance on all have the same embedding.
    reach: usize,
}

impl Buckets {
    fn read(config: &Config) -> Result<Self> {
        const MOST: usize = 1 << 16;
        let reach = match set_size(config, "max_relative_positions") {
            true => config.size("max_relative_positions")?,
            false => config.size("max_position_embeddings")?,
        };
        if reach > MOST {
            let complaint = format!("at most {MOST} relative positions are exported");
            return Err(config.unsupported("max_relative_positions", &complaint));
        }
        if !set_size(config, "position_buckets") {
            return Ok(Buckets { span: reach, buckets: None, reach });
        }
        let buckets = config.size("position_buckets")?;
        if buckets < 4 || buckets / 2 + 1 >= reach {
            let complaint = format!("expected at least 4 and less than twice the {reach} relative positions");
            return Err(config.bad_value("position_buckets", &complaint));
        }
        Ok(Buckets { span: buckets, buckets: Some(buckets), reach })
    }

    /// The embedding's row for each distance from -reach to reach.
    fn table(&self) -> Vec<i64> {
        let (span, reach) = (self.span as i64, self.reach as i64);
        (-reach..=reach).map(|distance| (self.bucket(distance) + span).clamp(0, 2 * span - 1)).collect()
    }

    /// The bucket of a distance, computed in float32 as in transformers, because rounding can move it to the next.
    fn bucket(&self, distance: i64) -> i64 {
        let Some(buckets) = self.buckets else { return distance };
        let middle = (buckets / 2) as i64;
        if distance.abs() <= middle {
            return distance;
        }
        let widest = ((self.reach as i64 - 1) as f64 / middle as f64) as f32;
        let ratio = (distance.abs() as f32 / middle as f32).ln() / widest.ln();
        distance.signum() * ((ratio * (middle - 1) as f32).ceil() as i64 + middle)
    }
}

/// Returns whether `field` is set. Files write -1 for "not".
fn set_size(config: &Config, field: &str) -> bool {
    config.get(field).is_some_and(|value| value.as_i64().is_none_or(|size| size > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::from_json("config.json", text.as_bytes()).expect("valid JSON")
    }

    #[test]
    fn buckets_widen_with_the_distance() {
        // transformers 4.57: make_log_bucket_position(distance, 8, 64).
        let buckets = Buckets { span: 8, buckets: Some(8), reach: 64 };
        let expected = [(0, 0), (-3, -3), (4, 4), (5, 5), (11, 6), (12, 6), (26, 7), (63, 7), (-63, -7), (64, 8)];
        for (distance, bucket) in expected {
            assert_eq!(buckets.bucket(distance), bucket, "{distance}");
        }
        assert_eq!((buckets.table()[0], *buckets.table().last().unwrap()), (0, 15));
    }

    #[test]
    fn without_buckets_every_distance_has_its_embedding() {
        let buckets =
            Buckets::read(&config(r#"{"max_relative_positions": -1, "max_position_embeddings": 3}"#)).unwrap();
        assert_eq!(buckets.table(), [0, 1, 2, 3, 4, 5, 5]);
    }

    #[test]
    fn what_the_graph_would_get_wrong_is_refused_by_name() {
        for (text, expected) in [
            (r#"{"pos_att_type": ["p2p"]}"#, "`pos_att_type` is [\"p2p\"]"),
            (r#"{"pos_att_type": 3}"#, "expected a list of names"),
        ] {
            let error = position_kinds(&config(text)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        let kinds = position_kinds(&config(r#"{"pos_att_type": "c2p|p2c"}"#)).unwrap();
        assert_eq!(kinds, [Kind::ContentToPosition, Kind::PositionToContent]);
        assert!(norms_embeddings(&config(r#"{"norm_rel_ebd": "rms"}"#)).is_err());
        assert!(norms_embeddings(&config(r#"{"norm_rel_ebd": "none|layer_norm"}"#)).unwrap());
        for (buckets, positions) in [(2, 64), (128, 64), (128, 65)] {
            let text = format!(r#"{{"position_buckets": {buckets}, "max_position_embeddings": {positions}}}"#);
            let error = Buckets::read(&config(&text)).unwrap_err();
            assert!(error.to_string().contains("`position_buckets` is"), "{error}");
        }
    }
}
