//! A `foreturn.toml` is a configuration or is refused, and so is what its models are given.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    // A folder that isn't there: no path in the settings leads to a file.
    if let Ok(config) = foreturn::Config::from_toml(text, "/nowhere/at/all") {
        for model in config.models.values().filter_map(|model| model.as_local()) {
            model.render_options().expect("what was validated");
        }
    }
});
