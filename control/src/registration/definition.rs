//! A service as somebody describes it, before anybody knows how it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::{
    catalogue::{CheckId, InstanceId, limits},
    health::{CheckSpec, Probe},
};

/// Why a client's check by a command is refused, and what it may do instead.
pub(super) const NO_COMMANDS: &str = "a check by a command is not taken from clients: use HTTP, TCP, GRPC or TTL, label \
                                      the container with SERVICE_CHECK_CMD, or put the definition into the host's \
                                      services directory";

/// What is registered: an instance without its health, and how that is to be found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Names it on its node.
    pub id: InstanceId,
    /// The service.
    pub service: String,
    /// Where it answers; None for the address of its node.
    pub address: Option<IpAddr>,
    /// At which port; 0 for none.
    pub port: u16,
    /// In the order in which they were given.
    pub tags: Vec<String>,
    /// Whatever its owner says about it.
    pub meta: BTreeMap<String, String>,
    /// How its health is found out.
    pub checks: Vec<CheckSpec>,
}

/// Something that was ignored, cut or mapped, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Note {
    /// The container, file or instance that it is about.
    pub about: String,
    /// One line for the operator.
    pub text: String,
}

impl Note {
    /// A note about something.
    pub fn new(about: impl Into<String>, text: impl Into<String>) -> Self {
        Self { about: about.into(), text: text.into() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.text)
    }
}

/// A definition that is not taken; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

impl Definition {
    /// Refuses what is longer or more than the catalogue carries. For definitions that somebody can correct at once;
    /// what containers say is cut instead.
    pub fn check(&self) -> Result<(), Unusable> {
        let refuse = |text: String| Err(Unusable(text));
        if let Some(address) = self.address.filter(IpAddr::is_unspecified) {
            return refuse(format!(
                "address {address} is none that others reach: name one, or none for the host's own"
            ));
        }
        for (what, text) in [("the service's name", &self.service), ("the id", &self.id.0)] {
            if text.is_empty() {
                return refuse(format!("{what} is empty"));
            }
            if text.len() > limits::MAX_NAME_BYTES {
                return refuse(format!("{what} has {} bytes, at most {} fit", text.len(), limits::MAX_NAME_BYTES));
            }
            if text.chars().any(char::is_control) {
                return refuse(format!("{what} holds a control character"));
            }
        }
        let counts = [
            ("tags", self.tags.len(), limits::MAX_TAGS),
            ("pairs of metadata", self.meta.len(), limits::MAX_META),
            ("checks", self.checks.len(), limits::MAX_CHECKS),
        ];
        if let Some((what, count, most)) = counts.into_iter().find(|(_, count, most)| count > most) {
            return refuse(format!("{count} {what}, at most {most} fit"));
        }
        if let Some(tag) = self.tags.iter().find(|tag| tag.len() > limits::MAX_TAG_BYTES) {
            return refuse(format!("a tag of {} bytes, at most {} fit", tag.len(), limits::MAX_TAG_BYTES));
        }
        let is_long = |(key, value): &(&String, &String)| {
            key.len() > limits::MAX_META_KEY_BYTES || value.len() > limits::MAX_META_VALUE_BYTES
        };
        if let Some((key, _)) = self.meta.iter().find(is_long) {
            let key: String = key.chars().take(32).collect();
            return refuse(format!("metadata {key} is too long: keys have at most 128 bytes, values 512"));
        }
        let mut ids = BTreeSet::new();
        if let Some(twice) = self.checks.iter().find(|spec| !ids.insert(&spec.id)) {
            return refuse(format!("two checks have the id {}", twice.id.0));
        }
        self.checks.iter().try_for_each(refuse_long)
    }
}

/// Refuses a check whose names the catalogue does not carry: it would take along every instance that has it.
pub(super) fn refuse_long(spec: &CheckSpec) -> Result<(), Unusable> {
    for (what, text) in [("id", &spec.id.0), ("name", &spec.name)] {
        if text.len() > limits::MAX_CHECK_NAME_BYTES {
            let (len, most) = (text.len(), limits::MAX_CHECK_NAME_BYTES);
            return Err(Unusable(format!(
                "the {what} of a check has {len} bytes, at most {most} fit: give it a shorter one"
            )));
        }
    }
    Ok(())
}

/// The id of a check that has none of its own, such as `service:ID`, cut to what the catalogue carries.
pub(super) fn check_id(kind: &str, id: &InstanceId) -> CheckId {
    CheckId(cut(format!("{kind}:{}", id.0)))
}

/// A name of a check, cut to what the catalogue carries.
pub(super) fn cut(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(limits::MAX_CHECK_NAME_BYTES));
    name
}

/// Refuses what only the operator and a container for itself may ask for.
pub(super) fn refuse_command(spec: &CheckSpec) -> Result<(), Unusable> {
    if matches!(spec.probe, Probe::Exec(_)) { Err(Unusable(NO_COMMANDS.into())) } else { Ok(()) }
}

#[cfg(test)]
pub(crate) fn definition(id: &str, service: &str) -> Definition {
    Definition {
        id: InstanceId(id.into()),
        service: service.into(),
        address: None,
        port: 80,
        tags: vec![],
        meta: BTreeMap::new(),
        checks: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_catalogue_cannot_carry_is_refused_with_the_bound() {
        let good = definition("a", "web");
        assert_eq!(good.check(), Ok(()));
        let refused = [
            Definition { service: String::new(), ..good.clone() },
            Definition { service: "web\n".into(), ..good.clone() },
            Definition { id: InstanceId("x".repeat(256)), ..good.clone() },
            Definition { tags: vec!["t".into(); 65], ..good.clone() },
            Definition { tags: vec!["t".repeat(256)], ..good.clone() },
            Definition { meta: [("k".repeat(129), String::new())].into(), ..good.clone() },
            Definition { meta: [("k".into(), "v".repeat(513))].into(), ..good.clone() },
            Definition { address: Some("0.0.0.0".parse().unwrap()), ..good.clone() },
            Definition { address: Some("::".parse().unwrap()), ..good },
        ];
        for definition in refused {
            assert!(definition.check().is_err(), "{definition:?}");
        }
    }

    #[test]
    fn a_check_whose_names_the_catalogue_cannot_carry_is_refused() {
        let with_check = |id: &str, name: &str| {
            let mut spec = CheckSpec::new(CheckId(id.into()), Probe::Tcp("a:1".into()));
            spec.name = name.into();
            Definition { checks: vec![spec], ..definition("a", "web") }.check().map_err(|error| error.0)
        };
        assert_eq!(with_check(&"x".repeat(255), &"y".repeat(255)), Ok(()));
        let refused = with_check(&"x".repeat(256), "y").unwrap_err();
        assert_eq!(refused, "the id of a check has 256 bytes, at most 255 fit: give it a shorter one");
        assert!(with_check("x", &"y".repeat(256)).unwrap_err().starts_with("the name of a check has 256 bytes"));
    }

    #[test]
    fn two_checks_of_one_id_are_refused() {
        let spec = |id: &str| CheckSpec::new(CheckId(id.into()), Probe::Tcp("a:1".into()));
        let with = |ids: [&str; 2]| Definition { checks: ids.map(spec).into(), ..definition("a", "web") }.check();
        assert_eq!(with(["x", "y"]), Ok(()));
        assert_eq!(with(["x", "x"]), Err(Unusable("two checks have the id x".into())));
    }

    #[test]
    fn an_id_that_is_made_is_cut_between_two_characters() {
        assert_eq!(check_id("service", &InstanceId("db".into())), CheckId("service:db".into()));
        let long = check_id("service", &InstanceId("ö".repeat(127))).0;
        assert_eq!(long, format!("service:{}", "ö".repeat(123)));
    }
}
