//! What a template may ask for, and the path of the query that answers it.
//!
//! INVARIANT: names from templates are percent-encoded: they cannot add parameters or leave their part of the path.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Unreserved characters stay (RFC 3986 §2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Keys keep their slashes.
const KEY: &AsciiSet = &SEGMENT.remove(b'/');

/// One thing that is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependency {
    /// Instances of a service.
    Service {
        /// Which service.
        name: String,
        /// Only instances that have it.
        tag: Option<String>,
        /// In which health.
        health: HealthFilter,
    },
    /// Names and tags of all services.
    Services,
    /// All nodes.
    Nodes,
    /// One node with its services; without a name the node whose API is asked.
    Node(Option<String>),
    /// The value of a key.
    Key(String),
    /// All keys below a prefix.
    Prefix(String),
}

/// Which instances a template wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthFilter {
    /// All checks of the instance and of its node pass.
    Passing,
    /// Whatever the checks say.
    Any,
}

impl Dependency {
    /// A service by consul-template's notation `NAME` or `TAG.NAME`; the part behind the last dot is the name.
    pub fn service(written: &str, tag: Option<String>, health: HealthFilter) -> Result<Self, String> {
        if written.contains('@') {
            return Err(format!("service {written:?}: there is one data centre, write the name without `@`"));
        }
        let (prefix, name) = written.rsplit_once('.').map_or((None, written), |(tag, name)| (Some(tag), name));
        let tag = match (prefix, tag) {
            (Some(_), Some(_)) => return Err(format!("service {written:?}: the tag is given twice")),
            (prefix, tag) => tag.or(prefix.map(str::to_owned)).filter(|tag| !tag.is_empty()),
        };
        if name.is_empty() {
            return Err("service(): the name is empty".into());
        }
        Ok(Self::Service { name: name.into(), tag, health })
    }

    /// The key as the API names it: a leading slash is dropped, as consul-template does.
    pub fn key(written: &str) -> Result<Self, String> {
        match written.trim_start_matches('/') {
            "" => Err("the key is empty".into()),
            key => Ok(Self::Key(key.into())),
        }
    }

    /// Path and parameters of the query, without those of blocking.
    pub fn path(&self) -> String {
        match self {
            Self::Service { name, tag, health } => {
                let mut path = format!("/v1/health/service/{}?stale=", utf8_percent_encode(name, SEGMENT));
                if *health == HealthFilter::Passing {
                    path += "&passing=1";
                }
                if let Some(tag) = tag {
                    path.push_str("&tag=");
                    path.extend(utf8_percent_encode(tag, SEGMENT));
                }
                path
            }
            Self::Services => "/v1/catalog/services?stale=".into(),
            Self::Nodes => "/v1/catalog/nodes?stale=".into(),
            Self::Node(Some(name)) => format!("/v1/catalog/node/{}?stale=", utf8_percent_encode(name, SEGMENT)),
            Self::Node(None) => "/v1/agent/self".into(),
            Self::Key(key) => format!("/v1/kv/{}?stale=", utf8_percent_encode(key, KEY)),
            Self::Prefix(prefix) => format!("/v1/kv/{}?recurse=&stale=", utf8_percent_encode(prefix, KEY)),
        }
    }
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { name, tag: Some(tag), .. } => write!(f, "service {name:?} with tag {tag:?}"),
            Self::Service { name, tag: None, .. } => write!(f, "service {name:?}"),
            Self::Services => f.write_str("the list of services"),
            Self::Nodes => f.write_str("the list of nodes"),
            Self::Node(Some(name)) => write!(f, "node {name:?}"),
            Self::Node(None) => f.write_str("this node"),
            Self::Key(key) => write!(f, "key {key:?}"),
            Self::Prefix(prefix) => write!(f, "keys below {prefix:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(written: &str) -> String {
        Dependency::service(written, None, HealthFilter::Passing).unwrap().path()
    }

    #[test]
    fn a_service_is_asked_for_as_consul_template_does() {
        assert_eq!(service("apache-80"), "/v1/health/service/apache-80?stale=&passing=1");
        assert_eq!(service("blue.web"), "/v1/health/service/web?stale=&passing=1&tag=blue");
        let any = Dependency::service("web", Some("a b".into()), HealthFilter::Any).unwrap();
        assert_eq!(any.path(), "/v1/health/service/web?stale=&tag=a%20b");
    }

    #[test]
    fn a_name_cannot_leave_its_part_of_the_path() {
        assert_eq!(service("a/b?c&d#e"), "/v1/health/service/a%2Fb%3Fc%26d%23e?stale=&passing=1");
        assert_eq!(Dependency::key("/a/b c?raw").unwrap().path(), "/v1/kv/a/b%20c%3Fraw?stale=");
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        assert!(Dependency::service("web@dc2", None, HealthFilter::Any).unwrap_err().contains("one data centre"));
        assert!(
            Dependency::service("blue.web", Some("green".into()), HealthFilter::Any).unwrap_err().contains("twice")
        );
        assert!(Dependency::service("blue.", None, HealthFilter::Any).unwrap_err().contains("empty"));
        assert!(Dependency::key("/").unwrap_err().contains("empty"));
    }
}
