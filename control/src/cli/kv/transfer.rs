//! `weaved kv export` and `import`: the JSON of `consul kv export`.
//!
//! ```text
//! [{"key":"backend/current","flags":0,"value":"Ymx1ZQ=="}, …]
//! ```

use std::{
    fs::File,
    io::{self, Read},
};

use serde::{Deserialize, Serialize};

use crate::{
    cli::output,
    failure::Failure,
    kv::{Change, Key, Request, Rule, Value},
    paths::Paths,
    serve::client,
    switch::OWN_PREFIX,
};

/// More than all that the store may hold, in base64.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// One entry of the file. Consul's newer versions add fields that do not matter here.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exported {
    pub(crate) key: String,
    #[serde(default)]
    flags: u64,
    #[serde(default)]
    value: Value,
}

pub(super) fn export(paths: &Paths, prefix: &str) -> Result<(), Failure> {
    let rows = super::all(paths, prefix)?;
    let exported: Vec<_> =
        rows.into_iter().map(|row| Exported { key: row.key.to_string(), flags: row.flags, value: row.value }).collect();
    output::say_json(&exported)
}

pub(super) fn import(paths: &Paths, file: &str) -> Result<(), Failure> {
    let mut entries = parse(&read(file)?)?;
    // What is weaved's own says what was true of another cluster, or at another time.
    entries.retain(|entry| !entry.key.starts_with(OWN_PREFIX));
    for (place, entry) in entries.iter().enumerate() {
        let change = Change::Put { value: entry.value.clone(), flags: entry.flags, rule: Rule::Always };
        client::kv(paths, Request::Write { key: entry.key.clone(), change }).map_err(|failure| {
            Failure::refused(format!("{failure}; {place} of {} keys were imported, import again", entries.len()))
        })?;
    }
    output::say(format!("imported {} keys", entries.len()));
    Ok(())
}

fn read(file: &str) -> Result<Vec<u8>, Failure> {
    let cannot = |error: io::Error| Failure::refused(format!("cannot read {file}: {error}"));
    let mut bytes = Vec::new();
    match file {
        "-" => io::stdin().lock().take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(cannot)?,
        _ => File::open(file).map_err(cannot)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(cannot)?,
    };
    Ok(bytes)
}

/// All or nothing: a file with one bad key changes nothing.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Exported>, Failure> {
    let entries: Vec<Exported> = serde_json::from_slice(bytes).map_err(|error| {
        Failure::refused(format!("this is no export of keys and values ({error}); nothing was changed"))
    })?;
    for entry in &entries {
        Key::new(&entry.key).map_err(|error| {
            Failure::refused(format!(
                "key {:?}: {error}; nothing was changed",
                entry.key.chars().take(64).collect::<String>()
            ))
        })?;
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consuls_export_is_read_and_bad_keys_change_nothing() {
        let entries = parse(br#"[{"key":"a/b","flags":42,"value":"Ymx1ZQ==","partition":"x"},{"key":"c"}]"#).unwrap();
        assert_eq!((entries[0].flags, entries[0].value.as_bytes()), (42, &b"blue"[..]));
        assert!(entries[1].value.as_bytes().is_empty());
        for bad in [&br#"{"key":"a"}"#[..], br#"[{"key":""}]"#, br#"[{"key":"a","value":"%"}]"#, b""] {
            assert!(parse(bad).err().unwrap().to_string().contains("nothing was changed"));
        }
    }
}
