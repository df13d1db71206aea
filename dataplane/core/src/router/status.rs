//! What the router tells of itself.

use std::time::{Duration, Instant};

use weaved_api::{LinkStatus, PackingStatus, PeerStatus, SendsStatus, SessionStatus, Stats};

use super::Router;
use crate::{
    forward::{Packing, PeerTotals, Sends, sum},
    peer::{Link, Peer},
};

impl Router {
    /// A snapshot for `status`. The devices are the shell's to fill in.
    pub fn stats(&self, now: Instant) -> Stats {
        let threads = self.workers.iter().map(AsRef::as_ref).chain(std::iter::once(self.stats.as_ref()));
        Stats {
            peers: self.peers.values().map(|peer| peer_status(peer, now)).collect(),
            counters: sum(&threads),
            device: None,
            mac_count: self.fib.len() as u32,
            uptime_ms: millis(now.saturating_duration_since(self.started_at)),
        }
    }

    /// Peers that get datagram by datagram, because what leaves in one send is lost.
    pub fn gso_given_up(&self) -> Vec<String> {
        let given_up = |peer: &&Peer| peer.link.as_ref().is_some_and(|link| sends_status(link) == SendsStatus::Apart);
        self.peers.values().filter(given_up).map(Peer::label).collect()
    }
}

fn sends_status(link: &Link) -> SendsStatus {
    match link.gso.sends() {
        Sends::Joined => SendsStatus::Joined,
        Sends::Apart if link.gso.is_trial() => SendsStatus::Trial,
        Sends::Apart => SendsStatus::Apart,
    }
}

fn peer_status(peer: &Peer, now: Instant) -> PeerStatus {
    let link = match (&peer.link, &peer.dial) {
        (Some(_), _) => LinkStatus::Connected,
        (None, Some(dial)) if !dial.has_failed() => LinkStatus::Connecting,
        _ => LinkStatus::Waiting,
    };
    let PeerTotals { tx_frame_count, tx_bytes, rx_frame_count, rx_bytes } = peer.counters.totals();
    PeerStatus {
        id: peer.id,
        name: peer.name.clone(),
        link,
        ended: peer.ended,
        endpoint: peer.link.as_ref().map(|link| link.endpoint),
        session: peer.link.as_ref().map(|link| session_status(link, now)),
        tx_frame_count,
        tx_bytes,
        rx_frame_count,
        rx_bytes,
    }
}

fn session_status(link: &Link, now: Instant) -> SessionStatus {
    SessionStatus {
        cipher: link.current.cipher().name().to_owned(),
        connected_ms: millis(now.saturating_duration_since(link.connected_at)),
        keys_age_ms: millis(now.saturating_duration_since(link.keys_at())),
        path_mtu: link.path.datagram_len().underlay_mtu(link.endpoint).0,
        rtt_us: link.path.rtt().map(|rtt| rtt.as_micros() as u32),
        loss_ppm: link.loss.rate().map(|rate| rate.0),
        packing: match link.loss.packing() {
            Packing::Trains => PackingStatus::Trains,
            Packing::Singles => PackingStatus::Singles,
        },
        sends: sends_status(link),
        heard_ms: millis(now.saturating_duration_since(link.heard_at)),
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}
