//! The options of each provider, by ONNX Runtime's names.
//!
//! They are checked before ONNX Runtime sees them, because its own message for a wrong name names neither the file nor
//! the right name. The tables hold the names, values and defaults of the parsers of ONNX Runtime 1.31 (CUDA, TensorRT)
//! and of the WebGPU plug-in 0.4. A test holds them to what `tests/gpu/options.py` recorded of the real parsers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Provider;
use crate::byte_size::ByteSize;
use crate::mistaken;

/// The value of a provider's option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum OptionValue {
    /// `true` or `false`.
    Flag(bool),
    /// An integer.
    Number(i64),
    /// A text.
    Text(String),
}

impl std::fmt::Display for OptionValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OptionValue::Flag(value) => write!(f, "{value}"),
            OptionValue::Number(value) => write!(f, "{value}"),
            OptionValue::Text(value) => write!(f, "{value:?}"),
        }
    }
}

impl OptionValue {
    /// The size that it stands for.
    fn bytes(&self) -> Option<u64> {
        match self {
            OptionValue::Flag(_) => None,
            OptionValue::Number(n) => u64::try_from(*n).ok(),
            OptionValue::Text(text) => text.parse().ok().or_else(|| text.parse().ok().map(|ByteSize(n)| n)),
        }
    }
}

/// Options of the providers that have any, by ONNX Runtime's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderOptions {
    /// Options of CUDA.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cuda: BTreeMap<String, OptionValue>,
    /// Options of TensorRT.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tensorrt: BTreeMap<String, OptionValue>,
    /// Options of the WebGPU plug-in.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub webgpu: BTreeMap<String, OptionValue>,
}

impl ProviderOptions {
    /// These options, and those of `base` that are not set here.
    #[must_use]
    pub(crate) fn over(&self, base: &ProviderOptions) -> ProviderOptions {
        let merge = |own: &BTreeMap<String, OptionValue>, base: &BTreeMap<String, OptionValue>| {
            base.iter().chain(own).map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        ProviderOptions {
            cuda: merge(&self.cuda, &base.cuda),
            tensorrt: merge(&self.tensorrt, &base.tensorrt),
            webgpu: merge(&self.webgpu, &base.webgpu),
        }
    }

    /// Refuses unknown names and wrong values.
    ///
    /// # Errors
    /// The text says which option is wrong, and what it may be.
    pub(crate) fn check(&self) -> Result<(), String> {
        [Provider::Cuda, Provider::TensorRt, Provider::WebGpu].into_iter().try_for_each(|p| self.of(p).map(drop))
    }

    /// These options for a model that TensorRT and CUDA run together: the device that is set for one of them is the other's
    /// too.
    ///
    /// # Errors
    /// They are set to different devices.
    pub(super) fn on_one_device(&self) -> Result<ProviderOptions, String> {
        let mut both = self.clone();
        let (cuda, tensorrt) = (self.cuda.get(DEVICE_ID), self.tensorrt.get(DEVICE_ID));
        if let (Some(cuda), Some(tensorrt)) = (cuda, tensorrt)
            && DEVICE.read(cuda) != DEVICE.read(tensorrt)
        {
            return Err(format!(
                "provider_options.tensorrt: {DEVICE_ID} = {tensorrt}, but provider_options.cuda has {cuda}. CUDA runs what \
                 TensorRT leaves, so name one device for both"
            ));
        }
        if let Some(id) = tensorrt.or(cuda) {
            both.cuda.insert(DEVICE_ID.into(), id.clone());
            both.tensorrt.insert(DEVICE_ID.into(), id.clone());
        }
        Ok(both)
    }

    /// The options of `provider` as ONNX Runtime takes them, with our defaults.
    pub(crate) fn of(&self, provider: Provider) -> Result<Vec<(String, String)>, String> {
        let given = match provider {
            Provider::Cpu => return Ok(Vec::new()),
            Provider::Cuda => Cow::Borrowed(&self.cuda),
            Provider::TensorRt => Cow::Owned(self.on_one_device()?.tensorrt),
            Provider::WebGpu => Cow::Borrowed(&self.webgpu),
        };
        let table = table(provider);
        let mut options = Vec::new();
        for (name, value) in given.iter() {
            let known = table.iter().find(|known| known.name == name).ok_or_else(|| unknown(provider, name))?;
            let text = known
                .kind
                .read(value)
                .map_err(|why| format!("provider_options.{}: {name} = {value}: {why}", provider.as_str()))?;
            options.push((name.clone(), text));
        }
        let ours = table.iter().filter_map(|known| Some((known.name, known.ours?)));
        let missing: Vec<_> = ours.filter(|(name, _)| !given.contains_key(*name)).collect();
        options.extend(missing.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        Ok(options)
    }
}

fn unknown(provider: Provider, name: &str) -> String {
    let names = || table(provider).iter().map(|known| known.name);
    let known = match mistaken::nearest(name, names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known are {}", names().collect::<Vec<_>>().join(", ")),
    };
    format!("provider_options.{}: unknown option `{name}`; {known}", provider.as_str())
}

/// The values that an option takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Flag,
    /// An integer in a range.
    Number(i64, i64),
    /// A number of bytes, at least this, or a size such as "8GiB".
    Size(u64),
    Choice(&'static [&'static str]),
    Text,
    /// Shapes of inputs, as `name:1x16,other:1x16`.
    Shapes,
    /// Known, but not for users, and why.
    Refused(&'static str),
}

impl Kind {
    /// The value as ONNX Runtime takes it.
    fn read(self, value: &OptionValue) -> Result<String, String> {
        match (self, value) {
            (Kind::Refused(why), _) => Err(why.to_owned()),
            (Kind::Flag, OptionValue::Flag(on)) => Ok(u8::from(*on).to_string()),
            (Kind::Flag, OptionValue::Number(n @ (0 | 1))) => Ok(n.to_string()),
            (Kind::Flag, OptionValue::Text(text)) => match text.as_str() {
                "0" | "false" | "False" => Ok("0".into()),
                "1" | "true" | "True" => Ok("1".into()),
                _ => Err("use true or false".into()),
            },
            (Kind::Number(least, most), OptionValue::Number(n)) if (least..=most).contains(n) => Ok(n.to_string()),
            (Kind::Number(least, most), OptionValue::Text(text)) => match text.parse::<i64>() {
                Ok(n) if (least..=most).contains(&n) => Ok(n.to_string()),
                _ => Err(range(least, most)),
            },
            (Kind::Number(least, most), _) => Err(range(least, most)),
            (Kind::Size(least), value) => match value.bytes() {
                Some(n) if n >= least => Ok(n.to_string()),
                _ if least == 0 => Err("use a size such as \"8GiB\", or 0".into()),
                _ => Err("use a size above 0, such as \"8GiB\"".into()),
            },
            (Kind::Choice(choices), OptionValue::Text(text)) if choices.contains(&text.as_str()) => Ok(text.clone()),
            (Kind::Choice(choices), _) => Err(format!("use one of \"{}\"", choices.join("\", \""))),
            (Kind::Text, OptionValue::Text(text)) if !text.contains('\0') => Ok(text.clone()),
            (Kind::Shapes, OptionValue::Text(text)) if text.split(',').all(is_shape) => Ok(text.clone()),
            (Kind::Shapes, _) => Err("use shapes as \"input_ids:1x16,attention_mask:1x16\"".into()),
            (Kind::Flag, _) => Err("use true or false".into()),
            (Kind::Text, _) => Err("use a text".into()),
        }
    }
}

fn range(least: i64, most: i64) -> String {
    if most == i64::MAX {
        format!("use an integer of at least {least}")
    } else {
        format!("use an integer from {least} to {most}")
    }
}

/// Whether this is `name:1x16`.
fn is_shape(text: &str) -> bool {
    let Some((name, dims)) = text.rsplit_once(':') else { return false };
    !name.is_empty() && dims.split('x').all(|dim| dim.parse::<u32>().is_ok_and(|n| n > 0))
}

/// One option.
pub(super) struct Known {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// ONNX Runtime's default, as it prints it; `None` if it is not printed.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test holds it to what ONNX Runtime prints"))]
    pub(super) default: Option<&'static str>,
    /// The value that is passed if none is given.
    ours: Option<&'static str>,
}

const fn known(name: &'static str, kind: Kind, default: &'static str) -> Known {
    Known { name, kind, default: Some(default), ours: None }
}

const fn ours(name: &'static str, kind: Kind, default: &'static str, value: &'static str) -> Known {
    Known { name, kind, default: Some(default), ours: Some(value) }
}

/// An option that ONNX Runtime takes and does not print.
const fn unprinted(name: &'static str, kind: Kind) -> Known {
    Known { name, kind, default: None, ours: None }
}

/// The options of `provider`.
pub(super) fn table(provider: Provider) -> &'static [Known] {
    match provider {
        Provider::Cpu => &[],
        Provider::Cuda => CUDA,
        Provider::TensorRt => TENSORRT,
        Provider::WebGpu => WEBGPU,
    }
}

const STREAM: Kind =
    Kind::Refused("it is the address of a stream, and foreturn's sessions have their own; leave it out");
const ADDRESS: Kind = Kind::Refused("it is an address in memory, which a file cannot know; leave it out");
const CAPTURE: Kind = Kind::Refused("the shapes of a step change, and a captured graph needs fixed ones; leave it out");
const DEVICE_ID: &str = "device_id";
const DEVICE: Kind = Kind::Number(0, 1024);
const COUNT: Kind = Kind::Number(0, i32::MAX as i64);

const CUDA: &[Known] = &[
    // Without it, a driver that has no device is found out only when the session is made.
    ours("device_id", DEVICE, "0", "0"),
    known("has_user_compute_stream", STREAM, "0"),
    known("user_compute_stream", STREAM, "0"),
    known("gpu_mem_limit", Kind::Size(1), "18446744073709551615"),
    known("arena_extend_strategy", Kind::Choice(&["kNextPowerOfTwo", "kSameAsRequested"]), "kNextPowerOfTwo"),
    known("cudnn_conv_algo_search", Kind::Choice(&["EXHAUSTIVE", "HEURISTIC", "DEFAULT"]), "EXHAUSTIVE"),
    known("cudnn_conv_use_max_workspace", Kind::Flag, "1"),
    known("cudnn_conv1d_pad_to_nc1d", Kind::Flag, "0"),
    known("do_copy_in_default_stream", Kind::Flag, "1"),
    known("enable_cudnn", Kind::Flag, "1"),
    // float32 products would have ten bits of precision.
    ours("use_tf32", Kind::Flag, "1", "0"),
    // Flash and memory-efficient attention. At 0, ONNX Runtime may choose cuDNN, which makes a plan for each shape.
    ours("sdpa_kernel", COUNT, "0", "3"),
    known("prefer_nhwc", Kind::Flag, "0"),
    known("fuse_conv_bias", Kind::Flag, "0"),
    known("use_ep_level_unified_stream", Kind::Flag, "0"),
    known("tunable_op_enable", Kind::Flag, "0"),
    known("tunable_op_tuning_enable", Kind::Flag, "0"),
    known("tunable_op_max_tuning_duration_ms", COUNT, "0"),
    known("external_data_loader_reading_threads", Kind::Number(1, 1024), "4"),
    unprinted("enable_cuda_graph", CAPTURE),
    unprinted("enable_skip_layer_norm_strict_mode", Kind::Flag),
    unprinted("gpu_external_alloc", ADDRESS),
    unprinted("gpu_external_free", ADDRESS),
    unprinted("gpu_external_empty_cache", ADDRESS),
];

const TENSORRT: &[Known] = &[
    ours("device_id", DEVICE, "0", "0"),
    known("has_user_compute_stream", STREAM, "0"),
    known("user_compute_stream", STREAM, "0"),
    known("trt_max_partition_iterations", COUNT, "1000"),
    known("trt_min_subgraph_size", COUNT, "1"),
    // At 0, TensorRT takes what it wants.
    known("trt_max_workspace_size", Kind::Size(0), "0"),
    known("trt_fp16_enable", Kind::Flag, "0"),
    known("trt_bf16_enable", Kind::Flag, "0"),
    known("trt_int8_enable", Kind::Flag, "0"),
    known("trt_int8_calibration_table_name", Kind::Text, ""),
    known("trt_int8_use_native_calibration_table", Kind::Flag, "0"),
    known("trt_dla_enable", Kind::Flag, "0"),
    known("trt_dla_core", COUNT, "0"),
    known("trt_dump_subgraphs", Kind::Flag, "0"),
    known("trt_engine_cache_enable", Kind::Flag, "0"),
    known("trt_engine_cache_path", Kind::Text, ""),
    known("trt_engine_cache_prefix", Kind::Text, ""),
    known("trt_weight_stripped_engine_enable", Kind::Flag, "0"),
    known("trt_onnx_model_folder_path", Kind::Text, ""),
    known("trt_onnx_bytestream", ADDRESS, "0"),
    known("trt_onnx_bytestream_size", ADDRESS, "0"),
    known("trt_external_data_bytestream", ADDRESS, "0"),
    known("trt_external_data_bytestream_size", ADDRESS, "0"),
    known("trt_engine_decryption_enable", Kind::Flag, "0"),
    known("trt_engine_decryption_lib_path", Kind::Text, ""),
    known("trt_force_sequential_engine_build", Kind::Flag, "0"),
    known("trt_context_memory_sharing_enable", Kind::Flag, "0"),
    known("trt_layer_norm_fp32_fallback", Kind::Flag, "0"),
    known("trt_timing_cache_enable", Kind::Flag, "0"),
    known("trt_timing_cache_path", Kind::Text, ""),
    known("trt_force_timing_cache", Kind::Flag, "0"),
    known("trt_detailed_build_log", Kind::Flag, "0"),
    known("trt_build_heuristics_enable", Kind::Flag, "0"),
    known("trt_sparsity_enable", Kind::Flag, "0"),
    known("trt_builder_optimization_level", Kind::Number(0, 5), "3"),
    known("trt_auxiliary_streams", Kind::Number(-1, 1024), "-1"),
    known("trt_tactic_sources", Kind::Text, ""),
    known("trt_extra_plugin_lib_paths", Kind::Text, ""),
    known("trt_profile_min_shapes", Kind::Shapes, ""),
    known("trt_profile_max_shapes", Kind::Shapes, ""),
    known("trt_profile_opt_shapes", Kind::Shapes, ""),
    known("trt_cuda_graph_enable", CAPTURE, "0"),
    known("trt_dump_ep_context_model", Kind::Flag, "0"),
    known("trt_ep_context_file_path", Kind::Text, ""),
    known("trt_ep_context_embed_mode", Kind::Flag, "0"),
    known("trt_engine_hw_compatible", Kind::Flag, "0"),
    known("trt_op_types_to_exclude", Kind::Text, ""),
    known("trt_load_user_initializer", Kind::Flag, "0"),
    unprinted("trt_preview_features", Kind::Text),
];

const CACHE_MODE: Kind = Kind::Choice(&["disabled", "lazyRelease", "simple", "bucket"]);

/// The plug-in ignores names that it does not know, so this table is the only check.
const WEBGPU: &[Known] = &[
    unprinted("preferredLayout", Kind::Choice(&["NHWC", "NCHW"])),
    unprinted("enableGraphCapture", CAPTURE),
    unprinted("enableInt64", Kind::Flag),
    unprinted("enableRobustness", Kind::Flag),
    unprinted("dawnProcTable", ADDRESS),
    unprinted("dawnBackendType", Kind::Choice(&["D3D12", "Vulkan"])),
    unprinted("powerPreference", Kind::Choice(&["high-performance", "low-power"])),
    unprinted("deviceId", Kind::Refused("it names a WebGPU device of the host's; leave it out")),
    unprinted("webgpuInstance", ADDRESS),
    unprinted("webgpuDevice", ADDRESS),
    unprinted("storageBufferCacheMode", CACHE_MODE),
    unprinted("uniformBufferCacheMode", CACHE_MODE),
    unprinted("queryResolveBufferCacheMode", CACHE_MODE),
    unprinted("defaultBufferCacheMode", CACHE_MODE),
    unprinted("validationMode", Kind::Choice(&["disabled", "wgpuOnly", "basic", "full"])),
    unprinted("forceCpuNodeNames", Kind::Text),
    unprinted("enablePIXCapture", Kind::Flag),
    unprinted("preserveDevice", Kind::Flag),
    unprinted("maxStorageBufferBindingSize", Kind::Size(1)),
    unprinted("maxNumPendingDispatches", COUNT),
    unprinted("sessionBufferPoolGenerations", COUNT),
    unprinted("multiRotaryCacheConcatOffset", Kind::Refused("foreturn joins rotary tables itself; leave it out")),
    unprinted(
        "kvCacheQuantizationBits",
        Kind::Refused("the paged cache of this provider has float16 only; leave it out"),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn cuda(name: &str, value: OptionValue) -> Result<Vec<(String, String)>, String> {
        ProviderOptions { cuda: [(name.to_owned(), value)].into(), ..ProviderOptions::default() }.of(Provider::Cuda)
    }

    #[test]
    fn our_defaults_are_passed_unless_others_are_given() {
        let of = |options: &[(String, String)], name: &str| {
            options.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        let plain = ProviderOptions::default().of(Provider::Cuda).expect("defaults");
        assert_eq!([of(&plain, "device_id"), of(&plain, "use_tf32"), of(&plain, "sdpa_kernel")], [["0"], ["0"], ["3"]]);
        let given = cuda("use_tf32", OptionValue::Flag(true)).expect("known");
        assert_eq!(of(&given, "use_tf32"), ["1"]);
        assert_eq!(ProviderOptions::default().of(Provider::TensorRt).expect("defaults").len(), 1);
    }

    #[test]
    fn unknown_names_are_refused_with_the_nearest() {
        let refused = |name| cuda(name, OptionValue::Number(1)).expect_err("refused");
        assert_eq!(refused("use_tf23"), "provider_options.cuda: unknown option `use_tf23`; did you mean `use_tf32`?");
        assert!(refused("cuda_mem_limit").contains("did you mean `gpu_mem_limit`?"), "{}", refused("cuda_mem_limit"));
        assert!(refused("zzz").contains("known are device_id, "));
        let trt = ProviderOptions { tensorrt: [("fp16".into(), OptionValue::Flag(true))].into(), ..Default::default() };
        assert!(trt.check().expect_err("refused").contains("provider_options.tensorrt: unknown option `fp16`"));
    }

    #[test]
    fn values_are_held_to_their_type() {
        let text = |text: &str| OptionValue::Text(text.into());
        for (name, value, why) in [
            ("use_tf32", OptionValue::Number(2), "use true or false"),
            ("use_tf32", text("yes"), "use true or false"),
            ("use_tf32", text("TRUE"), "use true or false"),
            ("device_id", OptionValue::Number(-1), "use an integer from 0 to 1024"),
            ("device_id", OptionValue::Flag(true), "use an integer from 0 to 1024"),
            ("gpu_mem_limit", text("much"), "use a size above 0"),
            ("arena_extend_strategy", text("NextPowerOfTwo"), "\"kNextPowerOfTwo\", \"kSameAsRequested\""),
            ("user_compute_stream", OptionValue::Number(7), "the address of a stream"),
            ("enable_cuda_graph", OptionValue::Flag(true), "a captured graph needs fixed ones"),
        ] {
            let refused = cuda(name, value.clone()).expect_err("refused");
            assert!(refused.starts_with(&format!("provider_options.cuda: {name} = {value}: ")), "{refused}");
            assert!(refused.contains(why), "{refused}");
        }
        let one = |name, value| cuda(name, value).expect("fits").remove(0).1;
        assert_eq!(one("gpu_mem_limit", text("8GiB")), (8u64 << 30).to_string());
        assert_eq!(one("gpu_mem_limit", text("18446744073709551615")), u64::MAX.to_string());
        assert_eq!(one("enable_cudnn", text("False")), "0");
        for (text, fits) in
            [("input_ids:1x16,mask:8x16", true), ("input_ids:0x16", false), ("1x16", false), ("", false)]
        {
            assert_eq!(Kind::Shapes.read(&OptionValue::Text(text.into())).is_ok(), fits, "{text}");
        }
    }

    /// `tests/gpu/options.py` recorded what the parsers of ONNX Runtime's GPU build say.
    #[test]
    fn the_tables_are_those_of_the_real_parsers() {
        let recorded: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/provider_options.json")).expect("JSON");
        for provider in [Provider::Cuda, Provider::TensorRt] {
            let found = &recorded[provider.as_str()];
            let mut defaults = BTreeMap::new();
            for (name, default) in found["defaults"].as_object().expect("an object") {
                defaults.insert(name.as_str(), default.as_str());
            }
            let unprinted = found["unprinted"].as_array().expect("a list");
            defaults.extend(unprinted.iter().map(|name| (name.as_str().expect("a name"), None)));
            let ours: BTreeMap<_, _> = table(provider).iter().map(|known| (known.name, known.default)).collect();
            assert_eq!(ours, defaults, "{provider:?}");
            for name in found["unknown"].as_array().expect("a list") {
                assert!(!ours.contains_key(name.as_str().expect("a name")), "{name}");
            }
            let flag = table(provider).iter().find(|known| known.name == found["flag"]).expect("a flag");
            for (value, taken) in found["flag_values"].as_object().expect("an object") {
                let read = flag.kind.read(&OptionValue::Text(value.clone()));
                assert_eq!(Some(read.is_ok()), taken.as_bool(), "{provider:?}: {} = {value:?}", flag.name);
            }
        }
    }

    #[test]
    fn cuda_and_tensorrt_run_a_model_on_one_device() {
        let read = |text: &str| toml::from_str::<ProviderOptions>(text).expect("TOML");
        let device = |options: &ProviderOptions, provider| {
            let of = options.of(provider).expect("fits").into_iter().filter(|(name, _)| name == DEVICE_ID);
            of.map(|(_, id)| id).collect::<Vec<_>>()
        };
        let cases = [("[tensorrt]\ndevice_id = 3", "3"), ("[cuda]\ndevice_id = \"2\"", "2"), ("", "0")];
        let both = ("[cuda]\ndevice_id = \"1\"\n[tensorrt]\ndevice_id = 1", "1");
        for (text, id) in cases.into_iter().chain([both]) {
            let options = read(text).on_one_device().expect("one device");
            assert_eq!(device(&options, Provider::TensorRt), [id], "{text}");
            assert_eq!(device(&options, Provider::Cuda), [id], "{text}");
            assert_eq!(device(&read(text), Provider::TensorRt), [id], "{text}");
        }
        assert_eq!(device(&read("[tensorrt]\ndevice_id = 3"), Provider::Cuda), ["0"], "CUDA alone is not concerned");
        let refused = read("[cuda]\ndevice_id = 0\n[tensorrt]\ndevice_id = 1").check().expect_err("two devices");
        assert!(refused.contains("tensorrt: device_id = 1, but provider_options.cuda has 0"), "{refused}");
    }

    #[test]
    fn a_default_of_zero_may_be_given() {
        let size = |value| {
            let tensorrt = [("trt_max_workspace_size".into(), value)].into();
            ProviderOptions { tensorrt, ..ProviderOptions::default() }
                .of(Provider::TensorRt)
                .map(|mut of| of.remove(0).1)
        };
        for (value, bytes) in [
            (OptionValue::Number(0), "0"),
            (OptionValue::Text("0".into()), "0"),
            (OptionValue::Text("1KiB".into()), "1024"),
        ] {
            assert_eq!(size(value).as_deref(), Ok(bytes));
        }
        assert!(size(OptionValue::Number(-1)).expect_err("negative").contains("or 0"));
    }

    #[test]
    fn a_models_options_go_before_the_engines() {
        let read = |text: &str| toml::from_str::<ProviderOptions>(text).expect("TOML");
        let base = read("[cuda]\ndevice_id = 1\nuse_tf32 = true\n[webgpu]\nvalidationMode = \"full\"");
        let own = read("[cuda]\ndevice_id = 2");
        let merged = own.over(&base);
        assert_eq!(merged.cuda["device_id"], OptionValue::Number(2));
        assert_eq!(merged.cuda["use_tf32"], OptionValue::Flag(true));
        assert_eq!(merged.webgpu.len(), 1);
        assert!(toml::from_str::<ProviderOptions>("[cpu]\na = 1").is_err());
    }
}
