//! The reader takes or refuses each line of a trace, and writes what it took as it was. The report reads the trace or refuses
//! it, and can be written.

#![no_main]

use foreturn::report::Report;
use foreturn::trace::TraceReader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for record in TraceReader::new(data, "trace.jsonl").flatten() {
        let line = serde_json::to_string(&record).expect("a record that can be written");
        let again = TraceReader::new(line.as_bytes(), "again").next().expect("a line").expect("a record");
        let written = serde_json::to_string(&again).expect("a record that can be written");
        assert_eq!(line, written);
    }
    if let Ok(report) = Report::from_lines(data, "trace.jsonl") {
        report.to_html().expect("a report that can be written");
    }
});
