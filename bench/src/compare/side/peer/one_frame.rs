//! The straight way, as a measure of what everything else buys: our own forwarder of one frame for each read.

use std::{path::Path, sync::Arc};

use weaved_netns_tests::{Host, Place};

use crate::one_frame::OVERHEAD;

use super::{Joined, bridge, joined_by_bridges, text};

const PORT: u16 = 6790;
const TAP: &str = "one0";
/// A frame, its Ethernet header included, has to fit into one datagram.
const MTU: u16 = 1500 - OVERHEAD;

pub(super) fn join(hosts: &[Arc<Host>; 2], program: &Path) -> Result<Joined, String> {
    let program = text(program);
    let start = |number: usize| {
        let (listen, other) = (format!("0.0.0.0:{PORT}"), format!("{}:{PORT}", hosts[1 - number].ipv4()));
        let mut process = hosts[number].spawn(&[&program, TAP, &listen, &other]);
        bridge(&hosts[number], number, TAP, MTU, &mut process).map(|address| (address, process))
    };
    Ok(joined_by_bridges([start(0)?, start(1)?], MTU))
}
