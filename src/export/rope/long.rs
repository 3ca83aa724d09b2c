//! LongRoPE: other frequencies for sequences that are longer than those of the first training. The model is then, in
//! effect, another one.

use super::{Long, Rope, base_powers};
use crate::Result;
use crate::export::config::Config;

impl Rope {
    /// Reads Phi-3's fields: `rope_scaling` is absent or LongRoPE, and `partial_rotary_factor` may leave the ends of
    /// heads of `head_size` elements unrotated.
    pub(in crate::export) fn read_long(config: &Config, head_size: usize, context_length: usize) -> Result<Self> {
        let parameters = match config.object("rope_parameters")? {
            Some(parameters) => Some(parameters),
            None => config.object("rope_scaling")?,
        };
        let within = |field: &str| parameters.as_ref().filter(|inner| inner.get(field).is_some()).unwrap_or(config);
        let theta = within("rope_theta").positive_or("rope_theta", 1e4)?;
        let size = rotated(within("partial_rotary_factor"), head_size)?;
        let Some(scaling) = parameters.as_ref().filter(|inner| kind(inner) != Some("default")) else {
            return Ok(Rope::unscaled(size, theta));
        };
        check_kind(scaling)?;
        let field = "original_max_position_embeddings";
        let original = within(field).size_or(field, 4096)?;
        // The divisor is the logarithm of the positions, and that of one position is zero.
        if original == 1 {
            return Err(within(field).bad_value(field, "expected at least two positions"));
        }
        let frequencies = |field| factors(scaling, field, size).map(|factors| divided(theta, &factors));
        let (short, long) = (frequencies("short_factor")?, frequencies("long_factor")?);
        Ok(Rope {
            name: "",
            frequencies: short,
            long: (context_length > original).then_some(Long { after: original, frequencies: long }),
            magnitude: magnitude(scaling, context_length, original)?,
        })
    }
}

/// Elements of a head that are rotated.
fn rotated(config: &Config, head_size: usize) -> Result<usize> {
    let field = "partial_rotary_factor";
    let size = (head_size as f64 * config.positive_or(field, 1.0)?) as usize;
    // ONNX Runtime's attention wants tables of a multiple of 8 columns.
    if size == 0 || size > head_size || !size.is_multiple_of(16) {
        let complaint = format!(
            "rotates {size} of a head's {head_size} elements: ONNX Runtime's GroupQueryAttention takes multiples of 16"
        );
        return Err(config.unsupported(field, &complaint));
    }
    Ok(size)
}

/// The kind of scaling; older files say `type`.
fn kind(scaling: &Config) -> Option<&str> {
    scaling.get("rope_type").or(scaling.get("type")).and_then(|kind| kind.as_str())
}

fn check_kind(scaling: &Config) -> Result<()> {
    let field = if scaling.get("rope_type").is_some() { "rope_type" } else { "type" };
    // transformers takes the two older names as the same.
    if !matches!(kind(scaling), Some("longrope" | "su" | "yarn")) {
        return Err(scaling.unsupported(field, "this version exports `longrope` for this architecture"));
    }
    for field in ["short_mscale", "long_mscale"] {
        if scaling.get(field).is_some() {
            return Err(scaling.unsupported(field, "transformers knows no such field for this architecture"));
        }
    }
    Ok(())
}

/// One positive number for each pair of rotated elements.
fn factors(scaling: &Config, field: &str, size: usize) -> Result<Vec<f32>> {
    let values = scaling.get(field).and_then(|value| value.as_array()).filter(|values| values.len() == size / 2);
    let positive = |number: f64| number > 0.0 && number.is_finite();
    let factors: Option<Vec<f32>> = values.and_then(|values| {
        values
            .iter()
            .map(|value| value.as_f64().filter(|&number| positive(number)).map(|number| number as f32))
            .collect()
    });
    factors.ok_or_else(|| {
        let complaint =
            format!("expected {} positive numbers, one for each pair of a head's rotated elements", size / 2);
        scaling.bad_value(field, &complaint)
    })
}

fn divided(theta: f64, factors: &[f32]) -> Vec<f32> {
    // The product is rounded before it is inverted, as in transformers.
    let base = base_powers(theta, 2 * factors.len());
    factors.iter().zip(base).map(|(factor, power)| 1.0 / (factor * power)).collect()
}

/// The factor of cosines and sines that keeps attention over longer contexts as sharp.
fn magnitude(scaling: &Config, context_length: usize, original: usize) -> Result<f32> {
    if scaling.get("attention_factor").is_some() {
        return Ok(scaling.positive_or("attention_factor", 1.0)? as f32);
    }
    let stretch = context_length as f64 / original as f64;
    Ok(if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() as f32 })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(changes: Value) -> Config {
        let mut config = json!({"original_max_position_embeddings": 128, "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
            "long_factor": [1.5, 2.2, 2.9, 3.6, 4.3, 5.0, 5.7, 6.4],
        }});
        let scaling = config["rope_scaling"].as_object_mut().unwrap();
        scaling.extend(changes["rope_scaling"].as_object().cloned().unwrap_or_default());
        let outer = changes.as_object().unwrap().iter().filter(|(field, _)| *field != "rope_scaling");
        config.as_object_mut().unwrap().extend(outer.map(|(field, value)| (field.clone(), value.clone())));
        Config::from_json("config.json", config.to_string().as_bytes()).unwrap()
    }

    fn row(rope: &Rope, table: usize, row: usize, function: fn(f64) -> f64) -> Vec<f32> {
        let tables = rope.tables(512);
        let mut bytes = Vec::new();
        tables[table].write(function, &mut bytes).unwrap();
        let row = bytes.chunks_exact(4 * tables[table].width()).nth(row).unwrap();
        row.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    fn close(values: &[f32], expected: &[f32]) {
        let worst = values.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(values.len() == expected.len() && worst < 3e-7, "{values:?} is not {expected:?}");
    }

    #[test]
    fn tables_are_those_of_transformers() {
        // Phi3RotaryEmbedding of transformers 4.57.6, heads of 16, at positions 127 (of at most 128) and 500.
        let rope = Rope::read_long(&config(json!({})), 16, 512).unwrap();
        let cos =
            [0.263_470_44, 0.422_283_4, -0.454_309_08, -1.132_343_5, 0.698_477_1, 1.093_494_3, 1.130_323_3, 1.133_577];
        close(&row(&rope, 0, 127, f64::cos), &cos);
        let cos = [
            1.074_707_7,
            -1.050_169_7,
            -0.042_375_98,
            -0.357_046_9,
            0.449_905_75,
            1.077_669_5,
            1.129_533_8,
            1.133_547_3,
        ];
        close(&row(&rope, 1, 500, f64::cos), &cos);
        let sin = [
            0.361_548_7,
            0.427_618_68,
            -1.133_101_2,
            -1.076_211_7,
            1.040_816_5,
            0.352_622_27,
            0.099_336_825,
            0.028_010_32,
        ];
        close(&row(&rope, 1, 500, f64::sin), &sin);
        assert_eq!(
            (rope.switch(), rope.tables(512)[0].positions, rope.tables(512)[1].positions),
            (Some(128), 128, 512)
        );
    }

    #[test]
    fn a_context_that_was_not_extended_has_one_table() {
        let rope = Rope::read_long(&config(json!({})), 16, 128).unwrap();
        assert_eq!((rope.switch(), rope.tables(128).len(), rope.magnitude), (None, 1, 1.0));
        let plain = Rope::read_long(&config(json!({"rope_scaling": {"type": "default"}})), 16, 512).unwrap();
        assert_eq!((plain.switch(), plain.magnitude), (None, 1.0));
    }

    #[test]
    fn part_of_a_head_may_stay_unrotated() {
        let rope = Rope::read_long(&config(json!({"partial_rotary_factor": 0.5})), 32, 512).unwrap();
        assert_eq!(rope.tables(512)[0].width(), 8);
        // Phi-4 mini's heads.
        assert_eq!(rotated(&config(json!({"partial_rotary_factor": 0.75})), 128).unwrap(), 96);
    }

    #[test]
    fn older_names_and_given_factors_are_taken() {
        for name in ["su", "yarn"] {
            assert!(Rope::read_long(&config(json!({"rope_scaling": {"type": name}})), 16, 512).unwrap().long.is_some());
        }
        let given = config(json!({"rope_scaling": {"attention_factor": 1.25}}));
        assert_eq!(Rope::read_long(&given, 16, 512).unwrap().magnitude, 1.25);
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let cases = [
            (json!({"rope_scaling": {"type": "linear"}}), "`rope_scaling.type` is \"linear\""),
            (json!({"rope_scaling": {"short_factor": ([1.0; 7])}}), "expected 8 positive numbers"),
            (json!({"rope_scaling": {"long_factor": ([0.0; 8])}}), "`rope_scaling.long_factor` is"),
            (json!({"rope_scaling": {"long_mscale": 1.2}}), "`rope_scaling.long_mscale` is 1.2"),
            (json!({"partial_rotary_factor": 0.4}), "rotates 6 of a head's 16 elements"),
            (json!({"partial_rotary_factor": 2.0}), "rotates 32 of a head's 16 elements"),
            (json!({"original_max_position_embeddings": 1}), "expected at least two positions"),
        ];
        for (changes, expected) in cases {
            let error = Rope::read_long(&config(changes), 16, 512).unwrap_err();
            assert!(error.to_string().contains(expected), "{expected:?} is not in {error}");
        }
    }
}
