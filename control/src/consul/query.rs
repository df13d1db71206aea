//! The parameters behind the `?`, as Consul's clients write them.
//!
//! Most flags count by being there, whatever stands behind the `=` (`recurse=None`, `keys=True`, `stale=` are all sent by
//! real clients). Times are Go's (`60000ms`, `1m0s`).
//!
//! INVARIANT: at most [`MAX_PARAMETERS`] and [`MAX_QUERY_BYTES`] are kept, of thousands of queries that wait each; a query of more is
//! refused.

use std::time::Duration;

use crate::go_duration;

/// More than any client sends.
const MAX_PARAMETERS: usize = 64;
/// Longer than any client sends: a note about a check is the longest thing.
const MAX_QUERY_BYTES: usize = 8 << 10;
/// How long a blocking query waits without `wait`.
const DEFAULT_WAIT: Duration = Duration::from_mins(5);
/// The longest that one waits.
const MAX_WAIT: Duration = Duration::from_mins(10);

/// The parameters of one request, decoded, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    parameters: Vec<(String, String)>,
}

/// Parameters that contradict each other or cannot be read. The text is the answer to the client, as Consul words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Not a number.
    #[error("Invalid index")]
    Index,
    /// Not a duration of Go.
    #[error("Invalid wait time")]
    Wait,
    /// Stale and consistent at once.
    #[error("Cannot specify ?stale with ?consistent, conflicting semantics.")]
    Consistency,
    /// Too many.
    #[error("more than {MAX_PARAMETERS} parameters")]
    TooMany,
    /// Too long.
    #[error("more than {MAX_QUERY_BYTES} bytes of parameters")]
    TooLong,
    /// Another one that has to be a number and is none.
    #[error("Invalid {0} value: {1:?}")]
    Number(&'static str, String),
}

/// What a client that waits for news has seen last, and how long it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// The index that it knows; anything newer is news.
    pub seen: u64,
    /// Without the random part that spreads answers.
    pub wait: Duration,
}

impl Query {
    /// The parameters of a query string, without its `?`.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        if text.len() > MAX_QUERY_BYTES {
            return Err(QueryError::TooLong);
        }
        let parameters: Vec<_> =
            form_urlencoded::parse(text.as_bytes()).into_owned().take(MAX_PARAMETERS + 1).collect();
        if parameters.len() > MAX_PARAMETERS {
            return Err(QueryError::TooMany);
        }
        let query = Self { parameters };
        if query.has("stale") && query.has("consistent") {
            return Err(QueryError::Consistency);
        }
        Ok(query)
    }

    /// True if the parameter is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.parameters.iter().any(|(known, _)| known == name)
    }

    /// The value of a parameter: its first, if it is given several times.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter that may be repeated.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.parameters.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// True for a switch: there, and not one of Go's words for false.
    pub fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| go_bool(value) != Some(false))
    }

    /// The value of a parameter that has to be a number.
    pub fn number(&self, name: &'static str) -> Result<Option<u64>, QueryError> {
        let parse = |text: &str| text.parse().map_err(|_| QueryError::Number(name, text.to_owned()));
        self.get(name).map(parse).transpose()
    }

    /// What a blocking query waits for; None for one that is answered at once. An empty value is none, as with Consul.
    pub fn blocking(&self) -> Result<Option<Blocking>, QueryError> {
        let given = |name| self.get(name).filter(|text| !text.is_empty());
        let wait = match given("wait") {
            Some(text) => go_duration::parse(text).ok_or(QueryError::Wait)?,
            None => DEFAULT_WAIT,
        };
        let seen: u64 = match given("index") {
            Some(text) => text.parse().map_err(|_| QueryError::Index)?,
            None => 0,
        };
        let wait = if wait.is_zero() { DEFAULT_WAIT } else { wait.min(MAX_WAIT) };
        Ok((seen > 0).then_some(Blocking { seen, wait }))
    }
}

/// What Go reads as a truth value (`strconv.ParseBool`): the libraries of each language write their own of these.
pub fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(text).unwrap()
    }

    #[test]
    fn flags_count_by_being_there() {
        for text in ["recurse", "recurse=", "recurse=None", "recurse=True", "a=b&recurse=1"] {
            assert!(query(text).has("recurse"), "{text}");
        }
        assert!(!query("recursive=1").has("recurse"));
    }

    #[test]
    fn a_switch_may_be_turned_off() {
        for (text, is_on) in [("passing", true), ("passing=1", true), ("passing=true", true), ("passing=0", false)] {
            assert_eq!(query(text).is_on("passing"), is_on, "{text}");
        }
        assert!(!query("").is_on("passing"));
    }

    #[test]
    fn a_query_blocks_only_with_an_index() {
        assert_eq!(query("wait=10s").blocking(), Ok(None));
        assert_eq!(query("index=0&wait=10s").blocking(), Ok(None));
        let blocking = |text| query(text).blocking().unwrap().unwrap();
        assert_eq!(blocking("index=7&wait=60000ms"), Blocking { seen: 7, wait: Duration::from_mins(1) });
        assert_eq!(blocking("index=7").wait, DEFAULT_WAIT);
        assert_eq!(blocking("index=7&wait=24h").wait, MAX_WAIT);
        assert_eq!(blocking("index=7&wait=0s").wait, DEFAULT_WAIT);
        assert_eq!(blocking("index=7&wait=").wait, DEFAULT_WAIT);
        assert_eq!(query("index=&wait=").blocking(), Ok(None));
    }

    #[test]
    fn what_cannot_be_read_is_refused_in_consuls_words() {
        let refused = |text: &str| query(text).blocking().unwrap_err().to_string();
        assert_eq!(refused("index=abc"), "Invalid index");
        for index in ["-1", "0x7", "7.0", "1e3", "18446744073709551616", "%207"] {
            assert_eq!(refused(&format!("index={index}")), "Invalid index", "{index}");
        }
        for wait in ["soon", "10", "-5s", "5", "1d", "NaNs", "infs", "99999999999999h"] {
            assert_eq!(refused(&format!("index=1&wait={wait}")), "Invalid wait time", "{wait}");
            assert_eq!(refused(&format!("wait={wait}")), "Invalid wait time", "also where nothing waits: {wait}");
        }
        assert!(Query::parse("stale&consistent").unwrap_err().to_string().starts_with("Cannot specify ?stale"));
        assert_eq!(Query::parse(&"a&".repeat(100)), Err(QueryError::TooMany));
        assert_eq!(Query::parse(&format!("filter={}", "a".repeat(MAX_QUERY_BYTES))), Err(QueryError::TooLong));
        assert!(query("cas=x").number("cas").is_err());
    }
}
