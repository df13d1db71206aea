//! Hosts with several addresses: where a peer is dialled, and from which address of one's own. Simulated.

use std::{net::SocketAddr, time::Duration};

use weaved_core::{
    noise::spec::REKEY_AFTER,
    testing::{Conditions, Network, wiretap::Observed},
    wire::header::{MessageType, parse_type},
};

const SECOND: Duration = Duration::from_secs(1);

/// The first node's address, and another one that it can be reached at.
const FIRST: SocketAddr = address([192, 168, 0, 1]);
const FIRST_TOO: SocketAddr = address([10, 9, 9, 1]);
/// Where the first node reaches the second, whose kernel would send from another address.
const SECOND_TOO: SocketAddr = address([10, 9, 9, 2]);

/// By then the end that has not started a session starts a new one, if the other one does not.
const RESPONDER_REKEYS: Duration = REKEY_AFTER.saturating_add(Duration::from_secs(25));

const fn address(ip: [u8; 4]) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3])), 6783)
}

/// Two nodes, with a session that the first has started.
fn connected() -> Network {
    let mut network = Network::new(2, Conditions::lan(), 1);
    network.other_addresses.extend([(FIRST_TOO, 0), (SECOND_TOO, 1)]);
    let id = network.nodes[1].id;
    network.nodes[0].want_peer(id, SECOND_TOO);
    network.apply();
    assert!(network.run_until(5 * SECOND, Network::is_full_mesh));
    assert_eq!((network.nodes[0].address, network.nodes[1].table().peers[0].endpoint), (FIRST, FIRST));
    network
}

/// The second node has heard of an address of the first.
fn tell_second(network: &mut Network, address: SocketAddr) {
    let id = network.nodes[0].id;
    network.nodes[1].want_peer(id, address);
    network.apply();
}

fn is_initiation(observed: &Observed) -> bool {
    parse_type(&observed.datagram) == Ok(MessageType::Initiation)
}

/// What the second node has sent, in order.
fn of_second(network: &Network) -> impl Iterator<Item = &Observed> {
    network.wiretap.seen.iter().filter(|observed| ![FIRST, FIRST_TOO].contains(&observed.from))
}

#[test]
fn a_session_is_renewed_from_the_address_that_the_peer_knows() {
    let mut network = connected();
    network.wiretap.seen.clear();
    network.is_lost = Some(|observed| is_initiation(observed) && observed.from == FIRST);
    let has_answered = |network: &Network| network.wiretap.count(MessageType::Finish) > 0;
    assert!(network.run_until(RESPONDER_REKEYS, has_answered), "the second node has started a handshake");
    network.is_lost = Some(|_| true);
    network.run(SECOND);
    assert!(network.wiretap.count(MessageType::Finish) > 2, "the third message is repeated");
    network.is_lost = None;
    network.run(5 * SECOND);
    let strange = of_second(&network).find(|observed| observed.from != SECOND_TOO);
    assert!(strange.is_none(), "{strange:?}");
    assert_eq!(network.nodes[0].table().peers[0].endpoint, SECOND_TOO);
}

#[test]
fn a_peer_that_is_found_elsewhere_is_sent_to_from_where_it_was_found() {
    let mut network = connected();
    tell_second(&mut network, FIRST_TOO);
    network.is_lost = Some(|observed| is_initiation(observed) && (observed.from == FIRST || observed.to == FIRST));
    let is_elsewhere = |network: &Network| network.nodes[1].table().peers[0].endpoint == FIRST_TOO;
    assert!(network.run_until(RESPONDER_REKEYS, is_elsewhere));
    network.wiretap.seen.clear();
    network.run(5 * SECOND);
    let mut sent = of_second(&network).peekable();
    assert!(sent.peek().is_some(), "probes at least");
    let own = network.nodes[1].address;
    assert!(sent.all(|observed| (observed.from, observed.to) == (own, FIRST_TOO)));
}

#[test]
fn where_a_peer_is_is_dialled_in_turn_with_where_it_is_said_to_be() {
    let mut network = connected();
    let told = address([10, 9, 9, 3]);
    tell_second(&mut network, told);
    network.is_lost = Some(is_initiation);
    network.run(RESPONDER_REKEYS);
    let attempts = |to| of_second(&network).filter(|seen| is_initiation(seen) && seen.to == to).count();
    let (here, there) = (attempts(FIRST), attempts(told));
    assert!(here > 1 && here.abs_diff(there) <= 1, "{here} and {there}");
}
