//! Rotary position embedding: the frequencies of each scaling scheme, and the tables of cosines and sines.
//!
//! transformers computes frequencies and angles in float32. At position 8,000 its rounding moves an angle by up to
//! 5e-4, so the same roundings are made here, in the same order; only the powers, cosines and sines themselves are
//! computed in float64.

mod long;

use std::f32::consts::PI;
use std::io::{self, Write};

use super::checkpoint::Checkpoint;
use super::config::Config;
use crate::{Error, Result};

/// A rotary embedding. Most models have one; some have another for layers with a window.
#[derive(Debug)]
pub(super) struct Rope {
    /// The suffix that tells its tables from those of the model's other embeddings; empty if there is only one.
    name: &'static str,
    /// Radians per position, one for each pair of a head's elements.
    frequencies: Vec<f32>,
    /// Other frequencies for long sequences.
    long: Option<Long>,
    /// The factor of cosines and sines.
    magnitude: f32,
}

/// Frequencies that replace the others if a sequence has more than `after` tokens.
#[derive(Debug)]
struct Long {
    after: usize,
    frequencies: Vec<f32>,
}

/// Cosines and sines of every angle, both [positions, half the rotated elements of a head].
pub(super) struct Table<'a> {
    /// Names of the initialisers.
    pub(super) cos: String,
    pub(super) sin: String,
    pub(super) positions: usize,
    frequencies: &'a [f32],
    magnitude: f32,
}

impl Rope {
    /// Reads `rope_theta` and `rope_scaling` (or `rope_parameters`, as newer transformers call them together).
    ///
    /// Heads of `size` elements are rotated whole.
    pub(super) fn read(checkpoint: &Checkpoint, size: usize, default_theta: f64) -> Result<Self> {
        let config = &checkpoint.config;
        let theta = config.positive_or("rope_theta", default_theta)?;
        refuse_partial(config)?;
        let mut rope = match (config.object("rope_parameters")?, config.object("rope_scaling")?) {
            (Some(parameters), _) => Rope::of(&parameters, size, theta)?,
            (None, Some(scaling)) => Rope::scaled(size, theta, &scaling)?,
            (None, None) => Rope::unscaled(size, theta),
        };
        if let Some(factors) = &checkpoint.rope_factors {
            divide(&mut rope.frequencies, factors, config)?;
        }
        Ok(rope)
    }

    /// The embedding that one object describes completely: `rope_theta`, `rope_type`, and the settings of that type.
    pub(super) fn of(parameters: &Config, size: usize, default_theta: f64) -> Result<Self> {
        refuse_partial(parameters)?;
        Rope::scaled(size, parameters.positive_or("rope_theta", default_theta)?, parameters)
    }

    /// The embedding as it was first published, for heads of `size` elements.
    pub(super) fn unscaled(size: usize, theta: f64) -> Self {
        Rope { name: "", frequencies: base_frequencies(theta, size), long: None, magnitude: 1.0 }
    }

    fn scaled(size: usize, theta: f64, scaling: &Config) -> Result<Self> {
        let mut rope = Rope::unscaled(size, theta);
        scale(&mut rope.frequencies, scaling)?;
        Ok(rope)
    }

    /// The same with a name of its own, for models that have several.
    pub(super) fn named(self, name: &'static str) -> Self {
        Rope { name, ..self }
    }

    /// The names of the tables that attention takes, cosines first.
    pub(super) fn names(&self) -> (String, String) {
        self.names_of("")
    }

    /// The length above which the second of two [`Rope::tables`] holds.
    pub(super) fn switch(&self) -> Option<usize> {
        self.long.as_ref().map(|long| long.after)
    }

    /// The tables for sequences of up to `positions` tokens. Where there are two, [`Rope::names`] are still to be given
    /// to the one that a sequence's length asks for.
    pub(super) fn tables(&self, positions: usize) -> Vec<Table<'_>> {
        let table = |kind, positions, frequencies| {
            let (cos, sin) = self.names_of(kind);
            Table { cos, sin, positions, frequencies, magnitude: self.magnitude }
        };
        match &self.long {
            None => vec![table("", positions, &self.frequencies)],
            Some(long) => {
                vec![table("small", long.after, &self.frequencies), table("large", positions, &long.frequencies)]
            }
        }
    }

    fn names_of(&self, kind: &str) -> (String, String) {
        let suffix: String =
            [self.name, kind].iter().filter(|part| !part.is_empty()).flat_map(|part| ["_", part]).collect();
        (format!("cos_cache{suffix}"), format!("sin_cache{suffix}"))
    }
}

impl Table<'_> {
    /// Columns.
    pub(super) fn width(&self) -> usize {
        self.frequencies.len()
    }

    /// Writes the rows of `function` (cosine or sine) of each angle, as little-endian float32.
    pub(super) fn write(&self, function: fn(f64) -> f64, sink: &mut (impl Write + ?Sized)) -> io::Result<()> {
        for position in 0..self.positions {
            let angles = self.frequencies.iter().map(|frequency| f64::from(position as f32 * frequency));
            let row = angles.map(|angle| function(angle) as f32 * self.magnitude);
            let bytes: Vec<u8> = row.flat_map(f32::to_le_bytes).collect();
            sink.write_all(&bytes)?;
        }
        Ok(())
    }
}

fn refuse_partial(config: &Config) -> Result<()> {
    match config.positive_or("partial_rotary_factor", 1.0)? {
        1.0 => Ok(()),
        _ => Err(config.unsupported("partial_rotary_factor", "transformers rotates this architecture's heads whole")),
    }
}

/// Powers of `theta`, by which the wavelengths of `size` elements' pairs grow.
fn base_powers(theta: f64, size: usize) -> impl Iterator<Item = f32> {
    (0..size / 2).map(move |pair| theta.powf(f64::from(2.0 * pair as f32 / size as f32)) as f32)
}

fn base_frequencies(theta: f64, size: usize) -> Vec<f32> {
    base_powers(theta, size).map(|power| 1.0 / power).collect()
}

fn scale(frequencies: &mut [f32], scaling: &Config) -> Result<()> {
    // Older files say `type`.
    let field = if scaling.get("rope_type").is_some() { "rope_type" } else { "type" };
    match scaling.get(field).and_then(|kind| kind.as_str()) {
        Some("default") => Ok(()),
        Some("linear") => {
            let factor = required(scaling, "factor")?;
            frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
            Ok(())
        }
        Some("llama3") => scale_llama3(frequencies, scaling),
        _ => Err(scaling.unsupported(field, "this version exports `default`, `linear` and `llama3`")),
    }
}

fn required(scaling: &Config, field: &str) -> Result<f32> {
    if scaling.get(field).is_none() {
        return Err(scaling.bad_value(field, "the scaling needs it"));
    }
    Ok(scaling.positive_or(field, 1.0)? as f32)
}

/// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended.
fn scale_llama3(frequencies: &mut [f32], scaling: &Config) -> Result<()> {
    let factor = required(scaling, "factor")?;
    let low = required(scaling, "low_freq_factor")?;
    let high = required(scaling, "high_freq_factor")?;
    let original = required(scaling, "original_max_position_embeddings")?;
    if high <= low {
        return Err(scaling.bad_value("high_freq_factor", &format!("must be more than low_freq_factor, {low}")));
    }
    for frequency in frequencies {
        let wavelength = 2.0 * PI / *frequency;
        if wavelength > original / low {
            *frequency /= factor;
        } else if wavelength >= original / high {
            let smooth = (original / wavelength - low) / (high - low);
            *frequency = (1.0 - smooth) * *frequency / factor + smooth * *frequency;
        }
    }
    Ok(())
}

fn divide(frequencies: &mut [f32], factors: &[f32], config: &Config) -> Result<()> {
    let sound = factors.iter().all(|factor| factor.is_finite() && *factor > 0.0);
    if !sound || factors.len() != frequencies.len() {
        return Err(Error::invalid_model(format!(
            "{}: tensor `rope_freqs.weight` must hold {} positive numbers, one for each pair of a head",
            config.file(),
            frequencies.len()
        )));
    }
    frequencies.iter_mut().zip(factors).for_each(|(frequency, factor)| *frequency /= factor);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scaled(text: &str, head_size: usize) -> Result<Vec<f32>> {
        let mut frequencies = base_frequencies(10_000.0, head_size);
        scale(&mut frequencies, &Config::from_json("config.json", text.as_bytes())?)?;
        Ok(frequencies)
    }

    #[test]
    fn frequencies_fall_from_one_by_powers_of_theta() {
        assert_eq!(base_frequencies(10_000.0, 8), [1.0, 0.1, 0.01, 0.001]);
        assert_eq!(scaled(r#"{"type": "linear", "factor": 4.0}"#, 4).unwrap(), [0.25, 0.0025]);
    }

    #[test]
    fn llama3_keeps_short_waves_and_stretches_long_ones() {
        let text = r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 8192}"#;
        let scaled = scaled(text, 128).unwrap();
        let base = base_frequencies(10_000.0, 128);
        assert_eq!(scaled[0], base[0]);
        assert_eq!(scaled[63], base[63] / 8.0);
        let between = (0..64).filter(|&pair| scaled[pair] < base[pair] && scaled[pair] > base[pair] / 8.0).count();
        assert!(between > 0);
    }

    #[test]
    fn llama3_frequencies_are_those_of_transformers() {
        // LlamaRotaryEmbedding of transformers 4.57.6.
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        let scaling = Config::from_json("config.json", scaling.to_string().as_bytes()).unwrap();
        let expected = [
            1.0,
            0.079_403_01,
            0.004_700_754,
            0.000_911_583_13,
            0.000_176_776_68,
            3.428_102_4e-5,
            6.647_869_7e-6,
            1.289_173_2e-6,
        ];
        assert_eq!(Rope::scaled(16, 500_000.0, &scaling).unwrap().frequencies, expected);
    }

    #[test]
    fn unknown_scaling_is_refused_by_name() {
        let error = scaled(r#"{"rope_type": "yarn", "factor": 8.0}"#, 4).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        assert!(error.to_string().contains("`rope_type` is \"yarn\""), "{error}");
        assert!(scaled(r#"{"rope_type": "linear"}"#, 4).unwrap_err().to_string().contains("`factor` is missing"));
    }

    #[test]
    fn tables_hold_a_row_per_position() {
        let rope = Rope { name: "", frequencies: vec![1.0, 0.5], long: None, magnitude: 1.0 };
        let tables = rope.tables(3);
        let mut bytes = Vec::new();
        tables[0].write(f64::cos, &mut bytes).unwrap();
        let values: Vec<f32> =
            bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        let expected = [1.0, 1.0, 1f64.cos() as f32, 0.5f64.cos() as f32, 2f64.cos() as f32, 1f64.cos() as f32];
        assert_eq!(values, expected);
    }
}
