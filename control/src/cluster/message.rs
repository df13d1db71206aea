//! Control bytes: what one node's control half tells another's.
//!
//! ```text
//! +---------------+----------------------------------+
//! | version: u8   | Message, postcard                |
//! +---------------+----------------------------------+
//! ```
//!
//! INVARIANT: decoding never panics and never allocates more than a small multiple of the bytes that came; whatever is
//! not exactly a message is [`Garbage`].

use serde::{Deserialize, Serialize};
use weaved_api::MAX_CONTROL_BYTES;

use super::{Delta, Digest};
use crate::{catalogue::CatalogueMessage, ipam::IpamMessage, switch::SwitchMessage};

/// Version of these messages.
const VERSION: u8 = 1;

/// One message. All may be lost, repeated or reordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Of the failure detector.
    Membership(#[serde(with = "serde_bytes")] Vec<u8>),
    /// What I have.
    Digest(Digest),
    /// Records that you lack.
    Delta(Delta),
    /// About addresses.
    Ipam(IpamMessage),
    /// About instances of services.
    Catalogue(CatalogueMessage),
    /// About keys and values.
    Kv(#[serde(with = "serde_bytes")] Vec<u8>),
    /// About switches of services.
    Switch(Box<SwitchMessage>),
}

/// Bytes that are not a message. Nothing has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbage {
    /// Of a version that this program does not know.
    #[error("control message of version {0}, not {VERSION}")]
    OtherVersion(u8),
    /// Not a message at all.
    #[error("not a control message")]
    Malformed,
}

impl Message {
    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = postcard::to_extend(self, vec![VERSION]).expect("a vector takes any message");
        debug_assert!(bytes.len() <= MAX_CONTROL_BYTES, "INVARIANT: every message fits control bytes");
        bytes
    }

    /// What came.
    pub fn decode(bytes: &[u8]) -> Result<Self, Garbage> {
        match bytes.split_first() {
            Some((&VERSION, body)) if bytes.len() <= MAX_CONTROL_BYTES => match postcard::take_from_bytes(body) {
                Ok((message, [])) => Ok(message),
                _ => Err(Garbage::Malformed),
            },
            Some((&version, _)) if version != VERSION => Err(Garbage::OtherVersion(version)),
            _ => Err(Garbage::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weaved_api::{PeerId, balancer::ColourShare};

    use super::*;
    use crate::{
        hlc::Hlc,
        ipam::RingSeed,
        switch::{ColourRule, Core, DrainLimits, Stamp, SwitchMessage},
    };

    fn some() -> Message {
        Message::Ipam(IpamMessage::Request { seed: RingSeed { made_at_us: 1, founder: PeerId([1; 32]) } })
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        assert_eq!(Message::decode(&some().encode()), Ok(some()));
    }

    #[test]
    fn a_decision_about_a_service_is_read_as_it_was_written() {
        let core = Core {
            service: "web".into(),
            stamp: Stamp { lineage: None, modified: Hlc(5), writer: PeerId([1; 32]) },
            revision: 3,
            live: vec![ColourShare { colour: "green".into(), weight: 100 }],
            before: vec![],
            at_us: 7,
            drain: DrainLimits { requests_ms: 1, streams_ms: None },
            colours: ColourRule::Label("version".into()),
        };
        let message = Message::Switch(Box::new(SwitchMessage::Commit { attempt: 1, core, in_us: 2 }));
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn trailing_missing_and_excessive_bytes_are_garbage() {
        let good = some().encode();
        let longer = [good.as_slice(), &[0]].concat();
        let huge = [good.as_slice(), &vec![0; MAX_CONTROL_BYTES]].concat();
        for bytes in [&[][..], &[VERSION], &good[..good.len() - 1], &longer, &huge] {
            assert_eq!(Message::decode(bytes), Err(Garbage::Malformed), "{} bytes", bytes.len());
        }
    }

    #[test]
    fn another_version_is_told_apart_from_garbage() {
        assert_eq!(Message::decode(&[9, 1, 2, 3]), Err(Garbage::OtherVersion(9)));
    }

    proptest! {
        #[test]
        fn decoding_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..8u8) {
            bytes.splice(0..0, [VERSION, kind]);
            let _ = Message::decode(&bytes);
        }

        #[test]
        fn a_flipped_bit_is_another_message_or_garbage(position in 0..40usize, bit in 0..8u8) {
            let mut bytes = some().encode();
            let position = position % bytes.len();
            bytes[position] ^= 1 << bit;
            prop_assert_ne!(Message::decode(&bytes), Ok(some()));
        }
    }
}
