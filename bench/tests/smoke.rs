//! The comparison with kernel VXLAN works from end to end. No figure is asserted but that there is one for each row.

use std::{fs, process::Command};

use serde_json::Value;

const ROWS: [(&str, &[&str]); 7] = [
    ("tcp, 1 stream", &["vxlan", "weaved"]),
    ("ping, median", &["vxlan", "weaved"]),
    ("outage, data plane killed", &["weaved"]),
    ("memory, no peers", &["weaved"]),
    ("memory, many peers", &["weaved"]),
    ("threads, no peers", &["weaved"]),
    ("threads, many peers", &["weaved"]),
];

#[test]
fn a_smoke_run_measures_every_row_and_prints_a_table_that_says_so() {
    if std::env::var("WEAVED_NETNS").is_ok_and(|set| set == "skip") {
        eprintln!("skipped because WEAVED_NETNS=skip is set");
        return;
    }
    let results = tempfile::tempdir().unwrap();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_weaved-bench"));
    let output = bench.arg("--smoke").arg("--results").arg(results.path()).output().unwrap();
    let [table, progress] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{progress}");
    assert!(table.contains("Smoke run: these figures mean nothing."), "{table}");

    let mut files = fs::read_dir(results.path()).unwrap();
    let text = fs::read_to_string(files.next().unwrap().unwrap().path()).unwrap();
    assert!(files.next().is_none(), "one run is one file");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["machine"]["kernel"].is_string(), "{text}");
    for (row, sides) in ROWS {
        assert!(table.contains(&format!("| {row} |")), "{row}\n{table}");
        for side in sides {
            let line = lines.iter().find(|line| line["row"] == row && line["side"] == *side);
            let value = line.and_then(|line| line["value"].as_f64());
            assert!(value.is_some_and(|value| value > 0.0), "{row}, {side}: {value:?}\n{text}");
        }
    }
}
