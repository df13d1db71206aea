//! The state machines of the cluster are told the time and given their randomness; nothing in them may fetch its own,
//! and nothing may depend on the order of a hash table. The daemon's files in the same package do need clocks, so that
//! this is a test of the sources and not a setting of clippy.

use std::{fs, path::Path};

/// What the pure modules may not name, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    ("Instant::now", "time is an argument"),
    ("SystemTime::now", "time is an argument"),
    ("rand::rng(", "randomness comes from the seed"),
    ("getrandom", "randomness comes from the seed"),
    ("HashMap", "iteration order must be the same for the same seed; use BTreeMap"),
    ("HashSet", "iteration order must be the same for the same seed; use BTreeSet"),
    ("std::env", "the daemon reads the environment"),
    ("std::fs", "the daemon reads files"),
    ("std::thread", "the daemon has the threads"),
    ("tokio", "the daemon has the runtime"),
];

/// Modules that are tests as a whole.
const TESTS: &[&str] = &["scenarios", "scenarios.rs", "testing.rs", "tests.rs"];

const PURE: &[&str] = &[
    "src/catalogue",
    "src/cluster",
    "src/go_duration.rs",
    "src/health/schedule.rs",
    "src/health/spec.rs",
    "src/hlc.rs",
    "src/ipam",
    "src/kv",
    "src/node",
    "src/node.rs",
    "src/registration/book.rs",
    "src/registration/consul_json.rs",
    "src/registration/container_checks.rs",
    "src/registration/definition.rs",
    "src/registration/facts.rs",
    "src/registration/metadata.rs",
    "src/registration/names.rs",
    "src/registration/rules.rs",
    "src/switch",
];

#[test]
fn pure_modules_fetch_no_time_randomness_or_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut file_count = 0;
    let mut found = Vec::new();
    for path in PURE {
        visit(&root.join(path), &mut |file, text| {
            file_count += 1;
            // Tests may take the real clock for their first instant.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (word, reason) in FORBIDDEN.iter().filter(|(word, _)| code.contains(word)) {
                found.push(format!("{} names {word}: {reason}", file.display()));
            }
        });
    }
    assert!(file_count > 15, "only {file_count} files were looked at");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn visit(path: &Path, look: &mut impl FnMut(&Path, &str)) {
    if TESTS.iter().any(|name| path.ends_with(name)) {
        return;
    }
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a source folder") {
            visit(&entry.expect("a source folder").path(), look);
        }
    } else {
        look(path, &fs::read_to_string(path).expect("a source file"));
    }
}
