//! The comparison works from end to end. No figure is asserted but that there is one.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::Value;

/// A row of each kind, and how many sides have figures of it.
const ROWS: [(&str, usize); 11] = [
    ("tcp1", 3),
    ("ping", 3),
    ("ping-bulk", 3),
    ("udp64", 3),
    ("udp-flood", 3),
    ("http", 3),
    ("loss-1", 3),
    // On the cable by itself there is nothing that the relay could reorder.
    ("reorder", 2),
    ("idle", 1),
    ("outage", 1),
    ("footprint", 1),
];

#[test]
fn a_smoke_run_measures_every_kind_of_row_and_prints_tables_that_say_so() {
    if std::env::var("WEAVED_NETNS").is_ok_and(|set| set == "skip") {
        eprintln!("skipped because WEAVED_NETNS=skip is set");
        return;
    }
    let results = tempfile::tempdir().unwrap();
    let mut bench = Command::new(env!("CARGO_BIN_EXE_weaved-bench"));
    let rows = ROWS.map(|(row, _)| row).join(",");
    bench.args(["--smoke", "--sides", "veth,vxlan,weaved", "--rows", &rows, "--results"]).arg(results.path());
    let output = bench.output().unwrap();
    let [tables, progress] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{progress}");
    for expected in ["Smoke run: these figures mean nothing.", "| figure | veth | vxlan | weaved |", "Divided by vxlan"]
    {
        assert!(tables.contains(expected), "{expected}\n{tables}");
    }

    let mut files = fs::read_dir(results.path()).unwrap();
    let path = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "one run is one file");
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["machine"]["kernel"].is_string(), "{text}");
    for (row, side_count) in ROWS {
        let of_row = lines.iter().filter(|line| line["row"] == row && line["value"].is_f64());
        let sides: BTreeSet<&str> = of_row.filter_map(|line| line["side"].as_str()).collect();
        assert_eq!(sides.len(), side_count, "{row}: {sides:?}\n{text}\n{progress}");
    }

    let report = Command::new(env!("CARGO_BIN_EXE_weaved-bench")).arg("report").arg(&path).output().unwrap();
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert_eq!(report.lines().last(), tables.lines().last(), "a report of one run is what the run has printed");
}

#[test]
fn what_cannot_be_measured_is_refused_in_one_line() {
    for (arguments, words) in [
        (["--sides", "carrier-pigeon"], "there are veth, vxlan"),
        (["--sides", "weaved:warp=on"], "its switches are"),
        (["--rows", "sctp"], "there is no row `sctp`"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_weaved-bench")).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.lines().count() == 1 && error.contains(words), "{error}");
    }
}
