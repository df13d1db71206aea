//! Bodies as clients send them: keys in any case ([`crate::any_case`]), `null` for nothing.
//!
//! INVARIANT: a body becomes a value once, here; depth and length are bounded (the parser's recursion limit, the
//! server's limit of bodies).

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::any_case;

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
    match read(body, keep)? {
        value @ Value::Object(_) => Ok(serde_json::from_value(value)?),
        _ => Err(BodyError::OtherKind("an object")),
    }
}

/// Reads a list of objects, each as [`decode`] does.
pub fn decode_list<T: DeserializeOwned>(body: &[u8], keep: &[&str]) -> Result<Vec<T>, BodyError> {
    match read(body, keep)? {
        Value::Array(items) if items.iter().all(Value::is_object) => Ok(serde_json::from_value(Value::Array(items))?),
        _ => Err(BodyError::OtherKind("a list of objects")),
    }
}

/// Keys that are the same but for the case: the last one counts, as in Go. What is `null` is not there.
fn read(body: &[u8], keep: &[&str]) -> Result<Value, BodyError> {
    let value = serde_json::from_slice(&any_case::lower_keys(body, keep))?;
    Ok(without_null(value))
}

fn without_null(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let members = object.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(members.map(|(key, value)| (key, without_null(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_null).collect()),
        other => other,
    }
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
