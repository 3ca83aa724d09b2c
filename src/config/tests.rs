use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::ErrorKind;
use crate::rank::ModelRole;
use crate::runtime::RuntimeOptions;

const MODELS: &str = "\n[models.one]\npath = \"m\"\ntemperature = 0.5\nmax_tokens = 64\n[models.two]\npath = \"/n\"\n";

fn parse(text: &str) -> Result<Config> {
    Config::from_toml(text, Path::new("/base"))
}

fn plan(text: &str) -> crate::rank::RankPlan {
    parse(text).unwrap().plan(Arc::new(|text: &str| text.len())).unwrap()
}

#[test]
fn file_goes_before_preset_before_default() {
    let empty = plan("");
    assert_eq!((empty.window, empty.samples, empty.seed, empty.metrics.len()), (2, 3, 0, 0));
    assert!(empty.rollout.common_random_numbers);

    let text = format!(
        "preset = \"paper\"\ntask = \"math\"\nseed = 9\n[roles]\npolicy = \"one\"\nuser = \"two\"\njudge = \"two\"\n\
         [rollout]\nwindow = 1\nmax_user_tokens = 8\ncommon_random_numbers = false\n{MODELS}"
    );
    let math = plan(&text);
    assert_eq!((math.window, math.samples, math.seed), (1, 3, 9));
    assert!(!math.rollout.common_random_numbers);
    assert_eq!((math.rollout.policy.max_tokens, math.rollout.user.max_tokens), (64, 8));
    assert_eq!((math.rollout.policy.sampling.temperature, math.rollout.user.sampling.temperature), (0.5, 1.0));
    let names: Vec<&str> = math.metrics.iter().map(|weighted| weighted.name.as_str()).collect();
    assert_eq!(names, ["accuracy", "token_amount", "interactivity"]);
    assert!(math.metrics.iter().all(|weighted| weighted.weight == 1.0));
    assert_eq!(math.roles.resolve(ModelRole::Extractor), Some((ModelRole::Judge, "two")));
}

#[test]
fn listed_metrics_replace_the_list_and_keep_the_presets_settings() {
    let preset = Preset::Paper.values(Some(Task::Document)).unwrap();
    assert_eq!(preset.settings("token_amount")["lambda"].as_float(), Some(1e-4));
    let text = "preset = \"paper\"\ntask = \"document\"\n[[metrics]]\nkind = \"token_amount\"\nname = \"cost\"\nweight = 2\n\
                [[metrics]]\nkind = \"token_amount\"\nlambda = 0.5\n";
    let listed = plan(text);
    let names: Vec<(&str, f64)> =
        listed.metrics.iter().map(|weighted| (weighted.name.as_str(), weighted.weight)).collect();
    assert_eq!(names, [("cost", 2.0), ("token_amount", 1.0)]);
    let values: Vec<f64> = listed.metrics.iter().map(|weighted| value_of_100_tokens(&*weighted.metric)).collect();
    assert_eq!(values, [-0.01, -1.0]);
}

#[test]
fn presets_of_implementations_are_for_listed_metrics_too() {
    use crate::reward::Combination;
    for (preset, weight, combination) in
        [("collabllm", -0.5, Combination::SumThenMean), ("verl", -1e-4, Combination::ClampedMeans)]
    {
        let listed = "[[metrics]]\nkind = \"interactivity\"\n[[metrics]]\nkind = \"accuracy\"\nextract = \"answer\"\nweight = 2\n";
        let plan = plan(&format!("preset = \"{preset}\"\n{listed}"));
        assert_eq!((plan.window, plan.samples, plan.combination), (2, 3, combination));
        assert!(plan.simulator.schema().is_some());
        assert_eq!(plan.rollout.user.max_tokens, 1024);
        let weights: Vec<f64> = plan.metrics.iter().map(|weighted| weighted.weight).collect();
        assert_eq!(weights, [1.0, 2.0]);
        let values = Preset::values(parse(&format!("preset = \"{preset}\"\n{listed}")).unwrap().preset.unwrap(), None);
        assert_eq!(values.unwrap().weight("token_amount"), weight);
    }
    let text = plan(
        "preset = \"collabllm\"\n[rollout]\nrole_style = \"text\"\n[[metrics]]\nkind = \"accuracy\"\njudging = \"soft\"",
    );
    assert!(text.simulator.schema().is_none());
    assert_eq!(text.rollout.user.max_tokens, 128);
}

fn value_of_100_tokens(metric: &dyn crate::reward::Metric) -> f64 {
    let response = crate::chat::Message::new(crate::chat::Role::Assistant, "x".repeat(100));
    let goal = crate::rollout::Goal::default();
    let input = crate::reward::MetricInput::new(&response, &goal, &|text| text.len());
    metric.score(&[crate::reward::Answered { input, answers: &[] }]).pop().unwrap().unwrap().value
}

#[test]
fn a_single_model_plays_every_role_but_the_extractor() {
    let roles = plan("[models.only]\npath = \"m\"").roles;
    assert_eq!(roles.models.len(), 3);
    assert_eq!(roles.resolve(ModelRole::User), Some((ModelRole::User, "only")));
    assert_eq!(plan(MODELS).roles.models.len(), 0, "which of two is for the user to say");
}

#[test]
fn paths_are_relative_to_the_file() {
    let config =
        parse(&format!("[runtime]\nlibrary = \"lib/ort.so\"\nprofile = \"times\"\nkv_cache = \"1.5MiB\"{MODELS}"))
            .unwrap();
    let path = |name: &str| config.models[name].as_local().map(|local| local.path.as_path());
    assert_eq!(path("one"), Some(Path::new("/base/m")));
    assert_eq!(path("two"), Some(Path::new("/n")));
    assert_eq!(config.runtime.library.as_deref(), Some(Path::new("/base/lib/ort.so")));
    assert_eq!(config.runtime.profile.as_deref(), Some(Path::new("/base/times")));
    assert_eq!(config.runtime.kv_cache, Some(ByteSize(1_572_864)));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("foreturn.toml");
    let missing = Config::from_file(&path).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Io);
    std::fs::write(&path, "[roles]\nuser = \"nobody\"").unwrap();
    // The host may have a model of that name, so the engine says that there is none.
    let message = crate::Engine::new(Config::from_file(&path).unwrap()).err().unwrap().to_string();
    assert_eq!(
        message,
        format!("{}: roles.user = \"nobody\": there is no [models.nobody]. Models: none", path.display())
    );
}

#[test]
fn nonsense_is_refused_by_key() {
    for (text, part) in [
        ("sed = 1", "unknown field `sed`"),
        ("seed = -1", "seed = -1"),
        ("[rollout]\nwindows = 1", "unknown field `windows`"),
        ("[rollout]\nwindow = 99", "[rollout]: window is 99"),
        ("[rollout]\nsamples = 0", "[rollout]: samples is 0"),
        ("[rollout]\nstop_signal = \"\"", "[rollout]: stop_signal is empty"),
        ("[runtime]\nthreads = 0", "[runtime]: threads = 0"),
        ("[runtime]\nproviders = []", "[runtime]: providers is empty"),
        ("[runtime]\nproviders = [\"gpu\"]", "unknown variant `gpu`"),
        ("[runtime]\nproviders = [\"cpu\", \"cpu\"]", "[runtime]: providers: \"cpu\" is there twice"),
        ("[runtime.provider_options.cpu]\na = 1", "unknown field `cpu`"),
        (
            "[runtime.provider_options.cuda]\nuse_tf23 = true",
            "[runtime]: provider_options.cuda: unknown option `use_tf23`; did you mean `use_tf32`?",
        ),
        (
            "[models.m]\npath = \"m\"\nprovider_options = { webgpu = { validationMode = \"all\" } }",
            "[models.m]: provider_options.webgpu: validationMode = \"all\": use one of \"disabled\", ",
        ),
        ("[models.m]\npath = \"m\"\nproviders = []", "[models.m]: providers is empty"),
        ("[runtime]\nkv_cache = \"many\"", "\"many\" is not a size"),
        ("[runtime]\nkv_cache = -1", "is not a size"),
        ("[runtime]\nstep_limit_s = 0", "[runtime]: step_limit_s = 0"),
        ("[models.m]\npath = \"m\"\nbatching = \"packed\"", "unknown variant `packed`"),
        ("[models.m]\npath = \"m\"\ncache_type = \"int3\"", "unknown variant `int3`"),
        ("[models.m]\npath = \"m\"\ndtype = \"int8\"", "unknown variant `int8`"),
        ("[models.m]", "[models.m]: path is missing"),
        ("[models.m]\npath = \"m\"\ntop_p = 0.0", "[models.m]: top_p = 0 is not in (0, 1]"),
        ("[models.m]\npath = \"m\"\ntemperature = nan", "temperature = NaN is not in"),
        ("task = \"math\"", "task is set without a preset"),
        ("preset = \"paper\"", "needs task"),
        ("preset = \"verl\"", "preset = \"verl\" needs task = \"document\", \"code\" or \"math\": its metrics"),
        ("preset = \"collabllm\"", "or list [[metrics]]"),
        ("[rollout]\nrole_style = \"xml\"", "unknown variant `xml`"),
        ("preset = \"paper\"\ntask = \"code\"", "metric `pass_rate`: interpreter is missing"),
        ("[[metrics]]\nkind = \"blue\"", "metrics[0]: there is no metric `blue`"),
        (
            "[[metrics]]\nkind = \"token_amount\"\nlamda = 1.0",
            "metrics[0]: metric `token_amount`: unknown field `lamda`",
        ),
        ("[[metrics]]\nkind = \"token_amount\"\nlambda = -1.0", "lambda = -1 is not"),
        ("[models.m]\npath = \"m\"\nbos = \"twice\"", "unknown variant `twice`"),
        ("[[metrics]]\nkind = \"reward_model\"", "metrics[0]: metric `reward_model`: model is missing"),
        ("[[metrics]]\nkind = \"reward_model\"\nmodel = \"m\"\napply = \"tanh\"", "unknown variant `tanh`"),
        ("[[metrics]]\nkind = \"reward_model\"\nmodel = \"m\"\nscale = nan", "scale = NaN is not a finite number"),
        ("[[metrics]]\nkind = \"process_reward\"\nmodel = \"m\"\nseparator = \"\"", "separator is empty"),
        ("[[metrics]]\nkind = \"process_reward\"\nmodel = \"m\"\naggregate = \"max\"", "unknown variant `max`"),
        ("[[metrics]]\nkind = \"implicit_reward\"\nmodel = \"m\"", "reference is missing"),
        ("[[metrics]]\nkind = \"implicit_reward\"\nmodel = \"m\"\nreference = \"m\"\nbeta = 0.0", "beta = 0 is not"),
        ("[[metrics]]\nkind = \"accuracy\"\nmin_mass = 2.0", "min_mass = 2 is not in [0, 1]"),
        ("[[metrics]]\nkind = \"accuracy\"\njudging = \"json\"\nmin_mass = 0.2", "leave one of them out"),
        ("[[metrics]]\nkind = \"accuracy\"\nmax_tokens = 9", "the judge writes nothing unless judging = \"json\""),
        ("[[metrics]]\nkind = \"accuracy\"\njudging = \"json\"\nmax_tokens = 0", "max_tokens = 0"),
        ("[[metrics]]\nkind = \"token_amount\"\nextract = \"answer\"", "looks at the conversation alone"),
        ("[[metrics]]\nkind = \"accuracy\"\nweight = inf", "metrics[0] (`accuracy`): weight = inf"),
        (
            "[[metrics]]\nkind = \"accuracy\"\n[[metrics]]\nkind = \"accuracy\"",
            "metrics[1]: there are two metrics named `accuracy`",
        ),
    ] {
        let message = parse(text).unwrap_err().to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn a_models_providers_go_before_the_engines() {
    let config = parse(
        "[runtime]\nproviders = [\"cuda\", \"cpu\"]\nprovider_options = { cuda = { device_id = 1, use_tf32 = true } }\n\
         [models.one]\npath = \"m\"\n\
         [models.two]\npath = \"m\"\nproviders = [\"webgpu\"]\non_unavailable = \"fallback\"\n\
         provider_options = { cuda = { device_id = 2 } }",
    )
    .unwrap();
    let engine = RuntimeOptions {
        providers: config.runtime.providers.clone(),
        provider_options: config.runtime.provider_options.clone(),
        ..RuntimeOptions::default()
    };
    let of = |name: &str| config.models[name].as_local().unwrap().runtime_options(&engine);
    let (one, two) = (of("one"), of("two"));
    assert_eq!((one.providers, one.on_unavailable), (vec![Provider::Cuda, Provider::Cpu], OnUnavailable::Error));
    assert_eq!((two.providers, two.on_unavailable), (vec![Provider::WebGpu], OnUnavailable::Fallback));
    assert_eq!(one.provider_options, engine.provider_options);
    assert_eq!(two.provider_options.cuda["device_id"], OptionValue::Number(2));
    assert_eq!(two.provider_options.cuda["use_tf32"], OptionValue::Flag(true));
}

#[test]
fn models_that_are_not_there_are_named_by_the_plan() {
    let metric = "[[metrics]]\nkind = \"reward_model\"\nmodel = \"rm\"";
    for (text, hosts, message) in [
        (metric, "", "metrics[0]: metric `reward_model` asks `rm`: there is no [models.rm]. Models: none"),
        ("roles.user = \"me\"", "you", "roles.user = \"me\": there is no [models.me]. Models: you"),
    ] {
        let config = parse(text).unwrap();
        let hosts: Vec<String> = hosts.split_whitespace().map(str::to_owned).collect();
        let error = config.plan_with(Arc::new(str::len), &hosts).err().unwrap();
        assert_eq!(error.to_string(), message);
        assert!(config.plan_with(Arc::new(str::len), &["rm".into(), "me".into()]).is_ok());
    }
}

#[test]
fn a_model_is_local_or_remote() {
    let config =
        parse("[models.m]\ntop_k = 3\npath = \"m\"\n[models.n]\nbase_url = \"http://x\"\nmodel = \"y\"").unwrap();
    assert_eq!(config.models["m"], ModelConfig { top_k: Some(3), ..ModelConfig::local("/base/m") });
    assert_eq!(config.models["n"], ModelConfig::remote("http://x", "y"));
    // What is written is read again, in both formats.
    let toml: Config = toml::to_string(&config).unwrap().parse().unwrap();
    assert_eq!(toml.models, config.models);
    let json: Config = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(json.models, config.models);
    let error = serde_json::from_str::<ModelConfig>("{\"path\": \"m\", \"send_seed\": true}").unwrap_err();
    assert!(
        error.to_string().starts_with("send_seed is for models with a base_url, and this one has a path"),
        "{error}"
    );
}

#[test]
fn a_wrong_value_or_key_is_shown_in_its_line() {
    for (text, line, what) in [
        ("[models.m]\npath = \"m\"\ntemprature = 1", "3 | temprature", "Did you mean `temperature`?"),
        ("[models.m]\npath = \"m\"\ntop_k = -1", "3 | top_k = -1", "invalid value: integer `-1`, expected usize"),
        ("[models.m]\npath = 3", "2 | path = 3", "invalid type: integer `3`, expected path string"),
        ("[models]\nm = \"small\"", "2 | m = \"small\"", "expected a table with path, or with base_url and model"),
        ("sed = 1", "1 | sed = 1", "Did you mean `seed`?"),
    ] {
        let message = parse(text).unwrap_err().to_string();
        assert!(message.contains(line) && message.contains(what), "{text}: {message}");
    }
}

#[test]
fn sizes() {
    for (text, bytes) in [("512MiB", 512 << 20), ("1.5 GB", 1_500_000_000), ("7", 7), ("2kib", 2048)] {
        assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
    }
    for text in ["", "MiB", "1..2MB", "-1", "1e9", "99999999999TB", "5 apples"] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
    assert_eq!(parse("[runtime]\nkv_cache = 4096").unwrap().runtime.kv_cache, Some(ByteSize(4096)));
}
