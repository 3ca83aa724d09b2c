//! LongRoPE: other frequencies, and so another model in effect, for sequences longer than those first trained on.

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
    if size == 0 || size > head_size || size % 16 != 0 {
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
    // transformers takes the two older names for the same.
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

/// What cosines and sines are multiplied by, so that attention over longer contexts stays as sharp.
fn magnitude(scaling: &Config, context_length: usize, original: usize) -> Result<f32> {
    if scaling.get("attention_factor").is_some() {
        return Ok(scaling.positive_or("attention_factor", 1.0)? as f32);
    }
    let stretch = context_length as f64 / original as f64;
    Ok(if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() as f32 })
}
