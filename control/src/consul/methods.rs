//! Which methods a path has: for `405 Method Not Allowed` and `OPTIONS`, which name them as Consul does.
//!
//! INVARIANT: what is not here is answered by nobody; a test asks each path with each of its methods.

use hyper::Method;

/// Methods of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Methods {
    /// It is only read.
    Read,
    /// It changes something. POST is PUT, for clients that know no other.
    Change,
    /// The same, and some clients do it by GET.
    ChangeByGet,
    /// It is a key.
    Key,
}

impl Methods {
    /// With commas between them, for `Allow`.
    pub const fn names(self) -> &'static str {
        match self {
            Self::Read => "OPTIONS,GET,HEAD",
            Self::Change => "OPTIONS,PUT,POST",
            Self::ChangeByGet => "OPTIONS,PUT,POST,GET",
            Self::Key => "OPTIONS,GET,HEAD,PUT,POST,DELETE",
        }
    }

    /// True if this is one of them.
    pub fn have(self, method: &Method) -> bool {
        self.names().split(',').any(|one| one == method.as_str())
    }
}

/// The methods of a path without its `/v1/`; None for a path that there is not.
pub fn of(path: &str) -> Option<Methods> {
    let (area, rest) = path.split_once('/').unwrap_or((path, ""));
    match (area, rest) {
        ("kv", _) => Some(Methods::Key),
        ("txn", "") | ("session", "create") | ("catalog", "register" | "deregister") => Some(Methods::Change),
        ("catalog", "datacenters" | "nodes" | "services") | ("status", "leader" | "peers") | ("session", "list") => {
            Some(Methods::Read)
        }
        ("agent", rest) => of_agent(rest),
        (_, rest) => match (area, rest.split_once('/').unwrap_or((rest, "")).0) {
            ("catalog", "service" | "node")
            | ("health", "service" | "checks" | "node" | "state")
            | ("session", "info" | "node") => Some(Methods::Read),
            ("session", "destroy" | "renew") => Some(Methods::Change),
            _ => None,
        },
    }
}

fn of_agent(rest: &str) -> Option<Methods> {
    let (area, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let is_single = !rest.contains('/');
    match (area, rest.split_once('/').unwrap_or((rest, "")).0) {
        ("self" | "members" | "services" | "checks", "") => Some(Methods::Read),
        ("maintenance", "") | ("service", "register" | "maintenance") | ("check", "register" | "update") => {
            Some(Methods::Change)
        }
        ("service", "deregister") | ("check", "deregister" | "pass" | "warn" | "fail") => Some(Methods::ChangeByGet),
        ("service", id) if !id.is_empty() && is_single => Some(Methods::Read),
        _ => None,
    }
}
