//! Which keys the definitions of a file may have.
//!
//! One that nobody knows is a slip of the pen: passed over, it would change what the operator meant without a word. Those of
//! Consul's that mean nothing here are known. Clients are not held to this: they send all that their library has.

use std::fmt;

use serde::{
    de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor, value},
    forward_to_deserialize_any,
};

use super::{Check, DefinitionError, File, SaidWeights, Service, unreadable};
use crate::registration::metadata::quote;

/// Consul's keys of a service that mean nothing here, without `_`.
const OTHERS_OF_SERVICES: [&str; 9] = [
    "connect",
    "enabletagoverride",
    "kind",
    "locality",
    "namespace",
    "partition",
    "proxy",
    "socketpath",
    "taggedaddresses",
];
/// Consul's keys of a check that mean nothing here, without `_`.
const OTHERS_OF_CHECKS: [&str; 14] = [
    "aliasnode",
    "aliasservice",
    "disableredirects",
    "failuresbeforewarning",
    "h2ping",
    "h2pingusetls",
    "namespace",
    "notes",
    "osservice",
    "outputmaxsize",
    "partition",
    "tcpusetls",
    "tlsservername",
    "udp",
];
/// Consul takes it with everything that is registered.
const TOKEN: &str = "token";

/// What holds keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A whole file, around its services.
    File,
    /// A whole file that is one service.
    LoneService,
    Service,
    Check,
    Weights,
}

/// Refuses the first key that is unknown. `json` has its keys in lower case and could be read already.
pub(super) fn refuse_unknown(json: &[u8], holder: Holder) -> Result<(), DefinitionError> {
    holder.deserialize(&mut serde_json::Deserializer::from_slice(json)).map_err(|error| unreadable(&error))
}

impl Holder {
    fn name(self) -> &'static str {
        match self {
            Self::File => "a file of services",
            Self::LoneService | Self::Service => "a service",
            Self::Check => "a check",
            Self::Weights => "weights",
        }
    }

    /// What is read.
    fn keys(self) -> Vec<&'static str> {
        match self {
            Self::File => keys_of::<File>().to_vec(),
            Self::LoneService => [keys_of::<Service>(), keys_of::<File>()].concat(),
            Self::Service => keys_of::<Service>().to_vec(),
            Self::Check => keys_of::<Check>().to_vec(),
            Self::Weights => keys_of::<SaidWeights>().to_vec(),
        }
    }

    fn passes_over(self, key: &str) -> bool {
        let others: &[&str] = match self {
            Self::LoneService | Self::Service => &OTHERS_OF_SERVICES,
            Self::Check => &OTHERS_OF_CHECKS,
            Self::File | Self::Weights => return false,
        };
        let key = key.replace('_', "");
        key == TOKEN || others.contains(&key.as_str())
    }

    /// What is held below a key; None where its owner chooses the keys, or there are none.
    fn held(self, key: &str) -> Option<Self> {
        match (self, key) {
            (Self::File, _) => Some(Self::Service),
            (Self::LoneService | Self::Service, "check" | "checks") => Some(Self::Check),
            (Self::LoneService | Self::Service, "weights") => Some(Self::Weights),
            _ => None,
        }
    }

    fn complaint(self, key: &str) -> String {
        let keys = self.keys();
        let help = match nearest(key, &keys) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("known are {}", keys.join(", ")),
        };
        format!("{} is no key of {}; {help}", quote(key), self.name())
    }
}

impl<'de> DeserializeSeed<'de> for Holder {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

/// Types other than these were refused when it was read.
impl<'de> Visitor<'de> for Holder {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let keys = self.keys();
        while let Some(key) = map.next_key::<String>()? {
            if !keys.contains(&key.as_str()) && !self.passes_over(&key) {
                return Err(A::Error::custom(self.complaint(&key)));
            }
            match self.held(&key) {
                Some(held) => map.next_value_seed(held)?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// The one that was meant, if it is less than a third off.
fn nearest<'a>(key: &str, keys: &[&'a str]) -> Option<&'a str> {
    let is_near = |count: usize, known: &str| count * 3 <= key.len().max(known.len());
    // The lengths alone tell giants off.
    let alike = keys.iter().filter(|known| is_near(key.len().abs_diff(known.len()), known));
    // How many letters are too many, left out, wrong, or swapped with their neighbour.
    let near =
        alike.map(|known| (strsim::osa_distance(key, known), *known)).filter(|(count, known)| is_near(*count, known));
    near.min_by_key(|(count, _)| *count).map(|(_, known)| known)
}

/// The keys that a type is read from, in all their spellings.
fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // It fails when it has heard them: there is nothing to read.
    drop(T::deserialize(Listener(&mut keys)));
    keys
}

/// Reads nothing, and hears which keys are asked for.
struct Listener<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Listener<'_> {
    type Error = value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        keys: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = keys;
        Err(Self::Error::custom("it only listens"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("it has no keys"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_heard_from_the_types_in_all_their_spellings() {
        assert_eq!(keys_of::<File>(), ["service", "services"]);
        for key in ["tlsskipverify", "tls_skip_verify", "args", "script_args", "ttl"] {
            assert!(keys_of::<Check>().contains(&key), "{key}");
        }
    }

    #[test]
    fn what_is_a_slip_away_is_nearest() {
        let near = |key| nearest(key, &Holder::Service.keys());
        for (key, meant) in [
            ("prot", "port"),
            ("tag", "tags"),
            ("nmae", "name"),
            ("adress", "address"),
            ("wieghts", "weights"),
            ("chekcs", "checks"),
            // A letter is one, whatever its bytes.
            ("pört", "port"),
        ] {
            assert_eq!(near(key), Some(meant));
        }
        for key in ["", "colour", "hostname", &"port".repeat(100), "ä"] {
            assert_eq!(near(key), None, "{key}");
        }
    }
}
