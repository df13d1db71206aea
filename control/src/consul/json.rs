//! Bodies as clients send them: keys in any case (Go's decoder does not care, and clients rely on it), `null` for
//! nothing.
//!
//! INVARIANT: a body becomes a value once, here; depth and length are bounded (the parser's recursion limit, the
//! server's limit of bodies).

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A body that cannot be used. The text is the answer to the client, as Consul words it.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// No JSON, or of other types.
    #[error("Request decode failed: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// JSON of another kind.
    #[error("Request decode failed: {0} expected")]
    OtherKind(&'static str),
}

/// Reads an object into a type whose fields are named in lower case (`#[serde(rename = "enabletagoverride")]`).
///
/// Metadata is named by its owner: the keys within the objects `keep` stay as they are.
pub fn decode<T: DeserializeOwned>(body: &[u8], keep: &[&str]) -> Result<T, BodyError> {
    match serde_json::from_slice(body)? {
        Value::Object(object) => Ok(serde_json::from_value(Value::Object(lower_object(object, keep)))?),
        _ => Err(BodyError::OtherKind("an object")),
    }
}

/// Reads a list of objects, each as [`decode`] does.
pub fn decode_list<T: DeserializeOwned>(body: &[u8], keep: &[&str]) -> Result<Vec<T>, BodyError> {
    let items: Vec<Value> = serde_json::from_slice(body)?;
    if !items.iter().all(Value::is_object) {
        return Err(BodyError::OtherKind("a list of objects"));
    }
    Ok(serde_json::from_value(lower_keys(Value::Array(items), keep))?)
}

fn lower_keys(value: Value, keep: &[&str]) -> Value {
    match value {
        Value::Object(object) => Value::Object(lower_object(object, keep)),
        Value::Array(items) => Value::Array(items.into_iter().map(|item| lower_keys(item, keep)).collect()),
        other => other,
    }
}

/// Keys that are the same but for the case: the last one counts, as in Go. What is `null` is not there.
fn lower_object(object: Map<String, Value>, keep: &[&str]) -> Map<String, Value> {
    let mut lowered = Map::new();
    for (key, value) in object.into_iter().filter(|(_, value)| !value.is_null()) {
        let key = key.to_lowercase();
        let value = if keep.contains(&key.as_str()) { value } else { lower_keys(value, keep) };
        lowered.insert(key, value);
    }
    lowered
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Service {
        name: String,
        tags: Vec<String>,
        meta: BTreeMap<String, String>,
    }

    fn read(body: &str) -> Service {
        decode(body.as_bytes(), &["meta"]).unwrap()
    }

    #[test]
    fn keys_are_read_in_any_case() {
        for body in [r#"{"Name":"web","Tags":["x"]}"#, r#"{"name":"web","TAGS":["x"]}"#] {
            assert_eq!(read(body), Service { name: "web".into(), tags: vec!["x".into()], ..Service::default() });
        }
    }

    #[test]
    fn names_that_the_owner_chose_keep_their_case() {
        assert_eq!(read(r#"{"Meta":{"VersionOf":"1"}}"#).meta, BTreeMap::from([("VersionOf".into(), "1".into())]));
    }

    #[test]
    fn null_is_nothing() {
        assert_eq!(read(r#"{"name":"web","tags":null,"meta":null}"#).tags, Vec::<String>::new());
    }

    #[test]
    fn what_is_no_json_or_of_another_type_is_refused_with_the_place() {
        for body in ["", "{", r#"{"name":7}"#, "[]"] {
            let refused = decode::<Service>(body.as_bytes(), &[]).map(|_| ()).unwrap_err().to_string();
            assert!(refused.starts_with("Request decode failed: "), "{refused}");
        }
        assert!(decode_list::<Service>(br#"["web"]"#, &[]).is_err());
        assert_eq!(decode_list::<Service>(br#"[{"NAME":"web"}]"#, &[]).unwrap()[0].name, "web");
        let deep = "[".repeat(100_000);
        assert!(decode::<Service>(deep.as_bytes(), &[]).is_err());
    }
}
