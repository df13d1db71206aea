//! An eavesdropper on the underlay: keeps what passed and says what an observer could learn from it.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::wire::{
    data::{Counter, DataHeader, Lane, ReceiverIndex},
    header::{MessageType, parse_type},
};

/// A datagram as it was sent.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// What it was.
    pub datagram: Vec<u8>,
}

/// Everything that was sent over the underlay, in order.
#[derive(Debug, Default)]
pub struct Wiretap {
    /// The datagrams.
    pub seen: Vec<Observed>,
}

impl Wiretap {
    /// How many datagrams of this type were sent.
    pub fn count(&self, message_type: MessageType) -> usize {
        self.seen.iter().filter(|observed| parse_type(&observed.datagram) == Ok(message_type)).count()
    }

    /// Panics if `secret` can be read in any datagram.
    pub fn assert_unreadable(&self, secret: &[u8]) {
        assert!(!secret.is_empty());
        for observed in &self.seen {
            let readable = observed.datagram.windows(secret.len()).any(|window| window == secret);
            assert!(!readable, "plaintext on the wire from {} to {}", observed.from, observed.to);
        }
    }

    /// Panics if two different sealed datagrams share a nonce under one key.
    pub fn assert_no_nonce_reused(&self) {
        let mut used: BTreeMap<(SocketAddr, ReceiverIndex, Lane, Counter), &[u8]> = BTreeMap::new();
        for observed in &self.seen {
            let Some(header) = DataHeader::parse(&observed.datagram) else { continue };
            let nonce = (observed.to, header.receiver, header.lane, header.counter);
            if let Some(earlier) = used.insert(nonce, &observed.datagram) {
                assert_eq!(earlier, observed.datagram, "a nonce was used for two datagrams: {header:?}");
            }
        }
    }
}
