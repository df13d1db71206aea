//! Good-byes between routers in virtual time: orderly ends, dismissals, and those that come late, twice or not at all.

use std::time::Duration;

use weaved_api::{Event, LinkEnd, MacAddr};
use weaved_core::{
    forward::{DropReason, seal_train},
    noise::spec::REKEY_AFTER,
    testing::{
        Conditions, Network,
        frames::{frame, mac},
    },
    wire::{data::Lane, header::MessageType, record::RECORD_HEADER_LEN},
};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Two connected nodes that know each other's address; a container of the second has been heard.
fn connected(seed: u64) -> Network {
    let mut network = Network::mesh(2, Conditions::lan(), seed);
    assert!(network.run_until(5 * SECOND, Network::is_full_mesh), "seed {seed}");
    network.send(1, &[frame(mac(2, 1), MacAddr::BROADCAST, b"here I am")]);
    network.run(SECOND);
    network
}

/// Why a node has lost the other one, each time that it has.
fn ends_seen_by(network: &Network, node: usize) -> Vec<LinkEnd> {
    let other = network.nodes[1 - node].id;
    let end = |event: &Event| match event {
        Event::PeerDown { id, end } if *id == other => Some(*end),
        _ => None,
    };
    network.nodes[node].events.iter().filter_map(end).collect()
}

fn is_connected(network: &Network) -> bool {
    network.nodes[0].is_connected(network.nodes[1].id)
}

#[test]
fn a_peer_that_ends_in_an_orderly_way_is_gone_at_once_and_so_are_its_addresses() {
    let mut network = connected(1);
    assert!(network.nodes[0].table().mac(mac(2, 1)).is_some());
    network.end(1);
    network.run(20 * MILLI);
    assert_eq!(ends_seen_by(&network, 0), [LinkEnd::PeerSaidGoodbye]);
    assert!(!is_connected(&network));
    assert!(network.nodes[0].table().mac(mac(2, 1)).is_none());
    assert!(network.nodes[1].table().peers.is_empty(), "the one that ends forwards nothing more");
    let status = &network.nodes[0].router.stats(network.now).peers[0];
    assert_eq!((status.ended, status.session.is_some()), (Some(LinkEnd::PeerSaidGoodbye), false));
}

#[test]
fn an_end_takes_less_than_two_hundred_milliseconds_and_no_time_without_peers() {
    let mut network = connected(1);
    network.end(1);
    network.run(20 * MILLI);
    assert!(!network.nodes[1].router.has_ended(), "a farewell that gets lost is repeated");
    network.run(180 * MILLI);
    assert!(network.nodes[1].router.has_ended());
    network.restart(1);
    network.end(1);
    assert!(network.nodes[1].router.has_ended());
}

#[test]
fn one_farewell_of_three_is_enough() {
    let mut network = connected(1);
    network.cut.insert((0, 1));
    network.end(1);
    network.run(100 * MILLI);
    assert!(is_connected(&network));
    network.cut.clear();
    network.run(50 * MILLI);
    assert_eq!(ends_seen_by(&network, 0), [LinkEnd::PeerSaidGoodbye]);
}

#[test]
fn a_peer_that_said_good_bye_is_back_as_soon_as_it_is_started() {
    let mut network = connected(1);
    network.end(1);
    network.run(SECOND);
    network.restart(1);
    assert!(network.run_until(50 * MILLI, Network::is_full_mesh));
    assert_eq!(network.nodes[0].router.stats(network.now).peers[0].ended, None);
}

#[test]
fn a_peer_that_said_good_bye_is_dialled_until_it_answers() {
    let mut network = connected(1);
    network.end(1);
    network.run(SECOND);
    network.nodes[1].desired.peers.clear();
    network.restart(1);
    assert!(network.run_until(3 * SECOND, Network::is_full_mesh));
}

#[test]
fn one_that_ends_accepts_no_new_session() {
    let mut network = connected(1);
    network.end(1);
    network.run(10 * SECOND);
    assert_eq!(ends_seen_by(&network, 0), [LinkEnd::PeerSaidGoodbye]);
    assert!(!is_connected(&network));
}

#[test]
fn a_replayed_farewell_does_not_end_a_new_session() {
    let mut network = connected(1);
    let before = network.wiretap.seen.len();
    network.end(1);
    network.run(SECOND);
    let ended = network.wiretap.seen.len();
    network.restart(1);
    assert!(network.run_until(SECOND, Network::is_full_mesh));
    let replayed = network.wiretap.seen[before..ended].to_vec();
    for observed in replayed {
        network.inject(observed.from, observed.to, observed.datagram);
    }
    network.run(SECOND);
    assert_eq!(ends_seen_by(&network, 0), [LinkEnd::PeerSaidGoodbye], "the first one only");
    assert!(network.is_full_mesh());
}

#[test]
fn a_farewell_that_was_held_back_does_not_end_the_session_after_it() {
    let mut network = connected(1);
    network.cut.insert((0, 1));
    network.wiretap.seen.clear();
    network.end(1);
    network.run(SECOND / 5);
    let held_back = std::mem::take(&mut network.wiretap.seen);
    network.cut.clear();
    network.restart(1);
    assert!(network.run_until(SECOND, |network| network.wiretap.count(MessageType::Finish) > 0));
    network.run(SECOND / 5);
    for observed in held_back {
        network.inject(observed.from, observed.to, observed.datagram);
    }
    network.run(SECOND);
    assert!(network.nodes[0].table().inbound.len() >= 2, "the old session still opens: this is put to the test");
    assert_eq!(ends_seen_by(&network, 0), []);
    assert!(network.is_full_mesh());
}

#[test]
fn a_good_bye_in_the_middle_of_a_rekey_is_understood() {
    for (ending, delay) in [0, 1].into_iter().flat_map(|ending| (0..12).map(move |delay| (ending, delay))) {
        let mut network = connected(1);
        let initiations = network.wiretap.count(MessageType::Initiation);
        let is_rekeying = |network: &Network| network.wiretap.count(MessageType::Initiation) > initiations;
        assert!(network.run_until(REKEY_AFTER + 30 * SECOND, is_rekeying));
        network.run(delay * MILLI / 4);
        network.end(ending);
        network.run(SECOND / 5);
        let ends = ends_seen_by(&network, 1 - ending);
        assert_eq!(ends.last(), Some(&LinkEnd::PeerSaidGoodbye), "node {ending} after {delay} quarters: {ends:?}");
        let (left, gone) = (&network.nodes[1 - ending], network.nodes[ending].id);
        assert!(!left.is_connected(gone), "node {ending} after {delay} quarters");
        network.wiretap.assert_no_nonce_reused();
    }
}

#[test]
fn a_peer_that_is_no_longer_wanted_is_sent_away_and_told() {
    let mut network = connected(1);
    network.nodes[0].desired.peers.clear();
    network.apply();
    network.run(2 * SECOND);
    assert_eq!(ends_seen_by(&network, 0), [LinkEnd::Dismissed]);
    assert_eq!(ends_seen_by(&network, 1), [LinkEnd::PeerDismissedUs]);
}

#[test]
fn a_peer_that_control_forgets_for_a_moment_stays_connected() {
    let mut network = connected(1);
    let peers = std::mem::take(&mut network.nodes[0].desired.peers);
    network.apply();
    network.run(SECOND / 2);
    network.nodes[0].desired.peers = peers;
    network.apply();
    network.run(5 * SECOND);
    assert!(network.is_full_mesh());
    assert_eq!((ends_seen_by(&network, 0), ends_seen_by(&network, 1)), (vec![], vec![]));
}

#[test]
fn a_visitor_that_nobody_has_asked_for_is_not_sent_away() {
    let mut network = Network::pair(Conditions::lan(), 1);
    assert!(network.run_until(5 * SECOND, Network::is_full_mesh));
    network.apply();
    network.run(5 * SECOND);
    assert!(network.is_full_mesh());
}

#[test]
fn a_record_of_a_kind_that_is_not_known_is_counted_and_nothing_else() {
    let mut network = connected(1);
    let session = network.nodes[1].table().peers[0].session.clone();
    let (from, to) = (network.nodes[1].address, network.nodes[0].address);
    let mut record = [0; RECORD_HEADER_LEN + 1];
    (record[0], record[2]) = (1, 200);
    seal_train(&session, Lane(1), &record, 1000, |datagrams, _| network.inject(from, to, datagrams.to_vec())).unwrap();
    network.run(SECOND);
    assert!(network.is_full_mesh());
    network.send(1, &[frame(mac(2, 1), MacAddr::BROADCAST, b"still here")]);
    network.run(SECOND);
    assert_eq!(network.nodes[0].delivered.len(), 2);
    assert_eq!(network.nodes[0].stats.dropped(DropReason::RecordMalformed), 1);
}
