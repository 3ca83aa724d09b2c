//! Whatever stands in a trace of rankings, the report reads it or refuses it, and can be written.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(report) = foreturn::report::Report::from_lines(data, "trace.jsonl") {
        report.to_html().expect("a report that can be written");
    }
});
