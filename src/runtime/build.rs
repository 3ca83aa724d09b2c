//! What this build of the library is, and what it runs on here.

use serde::Serialize;

use super::{RuntimeInfo, environment};
use crate::kernels::dot;
use crate::kernels::simd::Isa;

/// What this build of the library is, and what it runs on here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BuildInfo {
    /// The library's version.
    pub version: &'static str,
    /// The features that it was built with.
    pub features: Vec<&'static str>,
    /// The kernels that run on this processor.
    pub kernels: Kernels,
    /// ONNX Runtime, if this process has loaded it.
    pub runtime: Option<RuntimeInfo>,
}

/// The instruction set of each kind of arithmetic: `avx512`, `avx2` or `scalar`. All of them give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Kernels {
    /// Of floats.
    pub float32: &'static str,
    /// Of bytes, in quantised models. `avx512` has products of bytes.
    pub int8: &'static str,
    /// Of pairs of bfloat16, by the processor's own products of them. Where it is `scalar`, products with weights in bfloat16
    /// are computed by the lanes of float32.
    pub bfloat16: &'static str,
}

impl BuildInfo {
    /// This build, in this process.
    pub fn here() -> Self {
        let kernels = Kernels {
            float32: Isa::detect().name(),
            int8: dot::best_isa().name(),
            bfloat16: Isa::detect_bfloat16().name(),
        };
        BuildInfo { version: env!("CARGO_PKG_VERSION"), features: features(), kernels, runtime: environment::loaded() }
    }
}

fn features() -> Vec<&'static str> {
    let all = [
        ("constraints", cfg!(feature = "constraints")),
        ("download-ort", cfg!(feature = "download-ort")),
        ("load-dynamic", cfg!(feature = "load-dynamic")),
        ("parquet", cfg!(feature = "parquet")),
        ("remote", cfg!(feature = "remote")),
        ("report", cfg!(feature = "report")),
        ("sandbox", cfg!(feature = "sandbox")),
        ("schema", cfg!(feature = "schema")),
        ("tiktoken", cfg!(feature = "tiktoken")),
    ];
    all.into_iter().filter_map(|(name, on)| on.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_that_users_choose_is_listed() {
        let manifest: toml::Table = include_str!("../../Cargo.toml").parse().expect("TOML");
        let known = manifest["features"].as_table().expect("features");
        // The one without a promise, and what is on by default.
        let chosen = known.keys().filter(|name| !["default", "internals"].contains(&name.as_str()));
        let source = include_str!("build.rs");
        for name in chosen {
            assert!(source.contains(&format!("(\"{name}\", cfg!(feature = \"{name}\"))")), "{name} is not listed");
        }
        assert!(BuildInfo::here().features.contains(&"load-dynamic"));
    }
}
