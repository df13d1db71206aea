//! What the data plane counts, and its peers.

use std::fmt;

use weaved_api::{Counter, Force, LinkStatus, PackingStatus, PeerStatus, SendsStatus, SessionStatus, Stats};

use super::page::{Page, flag};
use crate::serve::report::StatusReport;

/// Counters whose names begin so are drops: one family, by reason.
const DROP: &str = "drop_";

pub(super) fn write(page: &mut Page<'_>, status: &StatusReport) -> fmt::Result {
    let Some(shown) = &status.dataplane.stats else { return Ok(()) };
    write_counters(page, &shown.counters)?;
    write_peers(page, &shown.peers)?;
    write_device(page, shown)
}

fn write_counters(page: &mut Page<'_>, counters: &[Counter]) -> fmt::Result {
    let drops = counters.iter().filter_map(|counter| Some((counter.name.strip_prefix(DROP)?, counter.value)));
    page.counters(
        "dataplane_drops",
        "Frames and datagrams that went no further, by reason; `weaved status dataplane` has a sentence for each",
        drops.map(|(reason, value)| (vec![("reason", reason)], value)),
    )?;
    for counter in counters.iter().filter(|counter| !counter.name.starts_with(DROP)) {
        page.counters(&format!("dataplane_{}", counter.name), &counter.help, [(vec![], counter.value)])?;
    }
    Ok(())
}

fn write_peers(page: &mut Page<'_>, peers: &[PeerStatus]) -> fmt::Result {
    let named: Vec<(String, &PeerStatus)> = peers.iter().map(|peer| (name(peer), peer)).collect();
    let counts = |value: fn(&PeerStatus) -> u64| named.iter().map(move |(name, peer)| (label(name), value(peer)));
    page.gauges(
        "peer_connected",
        "1 while there is a session with the other host",
        named.iter().map(|(name, peer)| (label(name), flag(peer.link == LinkStatus::Connected))),
    )?;
    page.counters("peer_transmit_bytes", "Bytes of frames sent to the host", counts(|peer| peer.tx_bytes))?;
    page.counters("peer_transmit_frames", "Frames sent to the host", counts(|peer| peer.tx_frame_count))?;
    page.counters("peer_receive_bytes", "Bytes of frames received from the host", counts(|peer| peer.rx_bytes))?;
    page.counters("peer_receive_frames", "Frames received from the host", counts(|peer| peer.rx_frame_count))?;
    let sessions = |value: fn(&SessionStatus) -> Option<f64>| {
        named.iter().filter_map(move |(name, peer)| Some((label(name), value(peer.session.as_ref()?)?)))
    };
    page.gauges(
        "peer_path_mtu_bytes",
        "Largest IP packet that the path to the host has carried",
        sessions(|session| Some(f64::from(session.path_mtu))),
    )?;
    page.gauges(
        "peer_round_trip_seconds",
        "Time from a probe to its answer",
        sessions(|session| Some(f64::from(session.rtt_us?) / 1e6)),
    )?;
    page.gauges(
        "peer_loss_ratio",
        "Part of the datagrams to the host that are lost on the way",
        sessions(|session| Some(f64::from(session.loss_ppm?) / 1e6)),
    )?;
    page.gauges(
        "peer_singles",
        "1 while each datagram to the host stands alone because the path loses some",
        sessions(|session| Some(flag(session.packing == PackingStatus::Singles))),
    )?;
    page.gauges(
        "peer_gso",
        "1 while trains to the host leave in one send, as far as the loss on the way allows it",
        sessions(|session| Some(flag(session.sends == SendsStatus::Joined))),
    )
}

fn write_device(page: &mut Page<'_>, stats: &Stats) -> fmt::Result {
    let Some(device) = &stats.device else { return Ok(()) };
    let features = [
        ("tap_offload", &device.tap_offload),
        ("udp_gso", &device.udp_gso),
        ("udp_gro", &device.udp_gro),
        ("bridge_redirect", &device.bridge_redirect),
        ("source_queues", &device.source_queues),
    ];
    let extent = |force| match force {
        Force::On => 1.0,
        Force::Partly => 0.5,
        Force::Off => 0.0,
    };
    page.gauges(
        "dataplane_feature",
        "Kernel offloads: 1 in force, 0.5 in part, 0 not",
        features.map(|(name, feature)| (vec![("feature", name)], extent(feature.force))),
    )?;
    page.gauge("dataplane_workers", "Threads that carry frames", f64::from(device.workers.count))?;
    page.gauge("dataplane_mac_addresses", "Learned and static MAC addresses", f64::from(stats.mac_count))
}

fn label(name: &str) -> Vec<(&'static str, &str)> {
    vec![("peer", name)]
}

/// Its name; one that came by itself has none yet.
fn name(peer: &PeerStatus) -> String {
    if peer.name.is_empty() { peer.id.to_string() } else { peer.name.clone() }
}
