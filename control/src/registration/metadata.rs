//! `SERVICE_…` variables and labels of a container, as registrator (v7) reads them.
//!
//! Variables come first, then labels; later ones win. `SERVICE_<port>_X` beats `SERVICE_X` for that port, wherever
//! either stands. Keys are lower-cased. What remains after the keys with a meaning is the instance's metadata.

use std::collections::BTreeMap;

use super::{
    Note,
    facts::ContainerFacts,
    limits::{MAX_ENTRIES, MAX_ENTRY_BYTES, MAX_QUOTE_BYTES},
};

const PREFIX: &str = "SERVICE_";

/// All that a container says of its services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Key behind `SERVICE_`, lower-cased, and value; in the order in which they count.
    pairs: Vec<(String, String)>,
}

/// What holds for one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    values: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    text: String,
    is_of_port: bool,
}

impl Entries {
    /// Reads a container's variables and labels. What is too long or too much is noted.
    pub fn of(container: &ContainerFacts, notes: &mut Vec<Note>) -> Self {
        let env = container.env.iter().filter_map(|entry| entry.split_once('='));
        let labels = container.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let mut pairs = Vec::new();
        let mut surplus_count = 0;
        for (key, value) in env.chain(labels) {
            let Some(rest) = key.strip_prefix(PREFIX) else { continue };
            let note = |text: String| Note::new(&container.name, format!("{}: {text}", quote(key)));
            if key.len() + value.len() > MAX_ENTRY_BYTES {
                notes.push(note(format!(
                    "ignored, it has {} bytes and at most {MAX_ENTRY_BYTES} are read",
                    value.len()
                )));
            } else if pairs.len() == MAX_ENTRIES {
                surplus_count += 1;
            } else {
                // Docker has put this in the place of bytes that are no UTF-8.
                if key.contains('\u{fffd}') || value.contains('\u{fffd}') {
                    notes.push(note("it was not UTF-8; what could not be read is U+FFFD".into()));
                }
                pairs.push((rest.to_ascii_lowercase(), value.to_owned()));
            }
        }
        if surplus_count > 0 {
            let text = format!("{surplus_count} SERVICE_ variables and labels ignored, at most {MAX_ENTRIES} are read");
            notes.push(Note::new(&container.name, text));
        }
        Self { pairs }
    }

    /// What holds for one port.
    pub fn for_port(&self, port: u16) -> Metadata {
        let mut values: BTreeMap<String, Value> = BTreeMap::new();
        for (key, text) in &self.pairs {
            let of_port = key.split_once('_').and_then(|(number, rest)| Some((number.parse::<i64>().ok()?, rest)));
            let (key, is_of_port) = match of_port {
                // registrator compares texts: `SERVICE_080_NAME` is of no port.
                Some((_, rest)) if key.starts_with(&format!("{port}_")) => (rest, true),
                Some(_) => continue,
                None => (key.as_str(), false),
            };
            if is_of_port || !values.get(key).is_some_and(|value| value.is_of_port) {
                values.insert(key.to_owned(), Value { text: text.clone(), is_of_port });
            }
        }
        Metadata { values }
    }
}

impl Metadata {
    /// A value, unless it is empty.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|value| value.text.as_str()).filter(|text| !text.is_empty())
    }

    /// True when the value is of this port and not of the container.
    pub fn is_of_port(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|value| value.is_of_port)
    }

    /// All but what names the instance: registrator hands these on as the service's metadata.
    pub fn rest(&self) -> BTreeMap<String, String> {
        let has_meaning = |key: &str| matches!(key, "name" | "id" | "tags");
        let rest = self.values.iter().filter(|(key, _)| !has_meaning(key));
        rest.map(|(key, value)| (key.clone(), value.text.clone())).collect()
    }
}

/// Tags between commas; `\,` is a comma within one. Empty ones are left out.
pub fn split_tags(text: &str) -> Vec<String> {
    let mut tags = vec![String::new()];
    for char in text.chars() {
        let last = tags.last_mut().expect("there is one from the start, and none is taken away here");
        match char {
            ',' if last.ends_with('\\') => {
                last.pop();
                last.push(',');
            }
            ',' => tags.push(String::new()),
            _ => last.push(char),
        }
    }
    tags.retain(|tag| !tag.is_empty());
    tags
}

/// The beginning of somebody's text, fit for a line.
pub fn quote(text: &str) -> String {
    let mut end = text.len().min(MAX_QUOTE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let dots = if end < text.len() { "…" } else { "" };
    format!("{}{dots}", text[..end].escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(env: &[&str], labels: &[(&str, &str)]) -> (Entries, Vec<Note>) {
        let container = ContainerFacts {
            name: "web".into(),
            env: env.iter().map(ToString::to_string).collect(),
            labels: labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            ..ContainerFacts::default()
        };
        let mut notes = Vec::new();
        (Entries::of(&container, &mut notes), notes)
    }

    #[test]
    fn labels_beat_variables_and_a_port_beats_both() {
        let (all, notes) = entries(
            &["SERVICE_NAME=env", "SERVICE_80_NAME=port", "SERVICE_TAGS=a", "PATH=/bin", "SERVICE_NOTHING"],
            &[("SERVICE_NAME", "label"), ("SERVICE_81_Name", "other"), ("service_tags", "b")],
        );
        assert_eq!(notes, []);
        assert_eq!(all.for_port(80).value("name"), Some("port"));
        assert!(all.for_port(80).is_of_port("name"));
        assert_eq!(all.for_port(81).value("name"), Some("other"));
        assert_eq!(all.for_port(8080).value("name"), Some("label"));
        assert!(!all.for_port(8080).is_of_port("name"));
        assert_eq!(all.for_port(80).value("tags"), Some("a"), "the prefix is of capitals");
    }

    #[test]
    fn what_has_no_meaning_is_metadata_checks_included() {
        let (all, _) = entries(
            &["SERVICE_REGION=eu", "SERVICE_80_CHECK_HTTP=/up", "SERVICE_ID=x", "SERVICE_443_REGION=us"],
            &[("SERVICE_TAGS", "a")],
        );
        let expected = [("region".to_owned(), "eu".to_owned()), ("check_http".to_owned(), "/up".to_owned())];
        assert_eq!(all.for_port(80).rest(), expected.into());
        // A number alone is a key like any other.
        let (all, _) = entries(&["SERVICE_80=x"], &[]);
        assert_eq!(all.for_port(80).value("80"), Some("x"));
    }

    #[test]
    fn a_comma_in_a_tag_is_escaped_and_empty_tags_vanish() {
        for (text, tags) in [
            ("a,b", vec!["a", "b"]),
            ("", vec![]),
            (",,a,", vec!["a"]),
            (r"a\,b,c", vec!["a,b", "c"]),
            (r"a\b", vec![r"a\b"]),
            ("a, b", vec!["a", " b"]),
        ] {
            assert_eq!(split_tags(text), tags, "{text}");
        }
    }

    #[test]
    fn giants_and_crowds_are_noted_and_left_out() {
        let giant = format!("SERVICE_NAME={}", "x".repeat(5000));
        let crowd: Vec<String> = (0..600).map(|index| format!("SERVICE_K{index}=v")).collect();
        let mut env = vec![giant.as_str(), "SERVICE_BAD=\u{fffd}"];
        env.extend(crowd.iter().map(String::as_str));
        let (all, notes) = entries(&env, &[]);
        assert_eq!(all.for_port(80).value("name"), None);
        assert_eq!(all.pairs.len(), MAX_ENTRIES);
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(notes[2].text.contains("89 SERVICE_"), "{notes:?}");
    }
}
