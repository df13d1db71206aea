//! Traffic between two places, checked for content: what containers do with each other.
//!
//! Every check is one call of the traffic tool at one end against a server at the other. The tool compares content,
//! so a check fails for a wrong byte as for a missing one.

use std::{net::IpAddr, time::Duration};

use crate::{
    Guest,
    command::Process,
    place::Place,
    wait::{SOON, wait_until},
};

/// How long a server may take to say that it listens.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Long enough for 64 MB between unoptimised programs on a shared core.
const TRANSFER_DEADLINE: Duration = Duration::from_mins(2);

/// The IPv6 address that the kernel has given to `eth0`, once it may be used: for up to two seconds after its start a
/// container asks whether somebody else has it (RFC 4862, section 5.4), and until then cannot send from it.
#[track_caller]
pub fn link_local(place: &dyn Place) -> String {
    let list = || place.run(&["ip", "-6", "addr", "show", "dev", "eth0", "scope", "link"]).ok().stdout;
    wait_until(&format!("{} may use its link-local address", place.name()), SOON, || {
        let listing = list();
        listing.contains("fe80:") && !listing.contains("tentative")
    });
    let listing = list();
    let address = listing.split_whitespace().find(|word| word.starts_with("fe80:"));
    let address = address.unwrap_or_else(|| panic!("{} has no link-local address\n{listing}", place.name()));
    address.split('/').next().unwrap_or(address).to_owned()
}

/// Seed of the bytes that [`check_tcp`] sends.
pub const TCP_SEED: u64 = 7;

/// Waits until `from` gets answers from `to`.
#[track_caller]
pub fn wait_for_ping(from: &dyn Place, to: IpAddr) {
    let what = format!("{} can ping {to}", from.name());
    // What is lost before it can arrive is not waited for.
    wait_until(&what, SOON, || from.run(&["ping", "-c", "1", "-W", "0.3", &to.to_string()]).success());
}

/// True if one of three pings is answered.
pub fn can_ping(from: &dyn Place, to: IpAddr) -> bool {
    from.run(&["ping", "-c", "3", "-i", "0.2", "-W", "1", &to.to_string()]).stdout.contains("bytes from")
}

/// Everything that containers do with each other: a large and a small stream, datagrams of 1 to 60,000 bytes, broadcast,
/// multicast of both families, and IPv6 by the addresses that the kernel makes. `others` hear what is sent to all.
#[track_caller]
pub fn check_every_kind(from: &dyn Place, to: &dyn Place, address: IpAddr, others: &[&dyn Place]) {
    wait_for_ping(from, address);
    let address = address.to_string();
    check_tcp(from, to, &address, 64 << 20);
    check_udp_sizes(from, to, &address, 60_000);
    let all = [&[to], others].concat();
    for broadcast in ["10.47.255.255", "255.255.255.255"] {
        check_broadcast(from, &all, broadcast);
    }
    // Without its own address the sender cannot send to a group of IPv6.
    link_local(from);
    for group in ["239.1.2.3", "ff02::1:5%eth0"] {
        check_multicast(from, &all, group);
    }
    let link_local = format!("{}%eth0", link_local(to));
    check_tcp(from, to, &link_local, 4 << 20);
    check_udp_sizes(from, to, &link_local, 60_000);
}

/// Streams of so many bytes both ways, datagrams of all sizes, and one to all.
#[track_caller]
pub fn check_both_ways(a: &Guest, b: &Guest, bytes: u64) {
    wait_for_ping(a, b.address());
    for (from, to) in [(a, b), (b, a)] {
        let address = to.address().to_string();
        check_tcp(from, to, &address, bytes);
        check_udp_sizes(from, to, &address, 60_000);
    }
    check_broadcast(a, &[b], "10.47.255.255");
}

/// Sends `bytes` over TCP and has the receiver's checksum compared with the sender's.
#[track_caller]
pub fn check_tcp(from: &dyn Place, to: &dyn Place, address: &str, bytes: u64) {
    let _server = serve(to, &["tcp-serve", "5201"]);
    let (bytes, seed) = (bytes.to_string(), TCP_SEED.to_string());
    from.run_labtool(TRANSFER_DEADLINE, &["tcp-send", address, "5201", &bytes, &seed]).ok();
}

/// Sends UDP datagrams of many sizes up to `largest` bytes and compares what comes back.
#[track_caller]
pub fn check_udp_sizes(from: &dyn Place, to: &dyn Place, address: &str, largest: u32) {
    let _server = serve(to, &["udp-echo", "5202"]);
    from.run_labtool(TRANSFER_DEADLINE, &["udp-check", address, "5202", &largest.to_string()]).ok();
}

/// Sends to a broadcast address and waits until every listener has it; fails if one has it twice.
#[track_caller]
pub fn check_broadcast(from: &dyn Place, to: &[&dyn Place], address: &str) {
    check_one_to_many(from, to, &["listen", "5203"], &["send", address, "5203"]);
}

/// Sends to a multicast group that the listeners have joined, like [`check_broadcast`].
#[track_caller]
pub fn check_multicast(from: &dyn Place, to: &[&dyn Place], group: &str) {
    check_one_to_many(from, to, &["listen", "5204", group], &["send", group, "5204"]);
}

#[track_caller]
fn check_one_to_many(from: &dyn Place, to: &[&dyn Place], listen: &[&str], send: &[&str]) {
    let listeners: Vec<Process> = to.iter().map(|place| serve(*place, listen)).collect();
    let text = format!("to-all-from-{}", from.name());
    from.run_labtool(START_DEADLINE, &[send, &[text.as_str()]].concat()).ok();
    for (place, listener) in to.iter().zip(&listeners) {
        let what = format!("{} has heard {text} on {listen:?}", place.name());
        wait_until(&what, SOON, || listener.stdout().contains(&text));
    }
    // A second message comes behind any copy of the first.
    let last = format!("{text}-last");
    from.run_labtool(START_DEADLINE, &[send, &[last.as_str()]].concat()).ok();
    for (place, listener) in to.iter().zip(&listeners) {
        wait_until(&format!("{} has heard {last}", place.name()), SOON, || listener.stdout().contains(&last));
        let heard = listener.stdout().lines().filter(|line| *line == text).count();
        assert_eq!(heard, 1, "{} has heard one message {heard} times", place.name());
    }
}

/// Starts a server of the traffic tool and waits until it listens.
#[track_caller]
pub fn serve(place: &dyn Place, args: &[&str]) -> Process {
    let mut server = place.spawn_labtool(args);
    server.wait_for_text("listening", START_DEADLINE);
    server
}

/// A running flood of small datagrams, one a millisecond, each echoed and counted by its number.
#[derive(Debug)]
pub struct Flood {
    client: Process,
    _server: Process,
}

/// What a flood came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FloodReport {
    /// Requests sent so far.
    pub sent: u64,
    /// Requests that are old enough to be given up if no answer has come.
    pub settled: u64,
    /// Those of the settled ones that were answered.
    pub answered: u64,
    /// Answers that came again.
    pub repeated: u64,
    /// Number of the latest request that was answered.
    pub latest: u64,
    /// The longest time between two answers.
    pub longest_gap: Duration,
}

impl FloodReport {
    /// Requests that were given up.
    pub fn lost(&self) -> u64 {
        self.settled - self.answered
    }

    /// A line of the tool's: `report` and the numbers in the order of the fields.
    fn parse(line: &str) -> Option<Self> {
        let numbers: Vec<u64> = line.strip_prefix("report ")?.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [sent, settled, answered, repeated, latest, gap_us] = numbers[..] else { return None };
        Some(Self { sent, settled, answered, repeated, latest, longest_gap: Duration::from_micros(gap_us) })
    }
}

impl Flood {
    /// Starts it and waits until answers come.
    #[track_caller]
    pub fn start(from: &dyn Place, to: &dyn Place, address: &str) -> Self {
        let server = serve(to, &["udp-echo", "5205"]);
        let client = from.spawn_labtool(&["flood", address, "5205"]);
        let flood = Self { client, _server: server };
        flood.wait_until_flowing();
        flood
    }

    /// Waits until a request is answered that is sent after the call.
    #[track_caller]
    pub fn wait_until_flowing(&self) {
        let sent = self.report().sent;
        wait_until("the flood is answered", SOON, || self.report().latest > sent);
    }

    /// The state of some tens of milliseconds ago.
    pub fn report(&self) -> FloodReport {
        self.client.stdout().lines().rev().find_map(FloodReport::parse).unwrap_or_default()
    }

    /// Waits until all that was sent before the call is settled, and ends.
    #[track_caller]
    pub fn finish(self) -> FloodReport {
        let sent = self.report().sent;
        wait_until("the flood is settled", SOON, || self.report().settled >= sent);
        self.report()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_and_half_lines_are_not() {
        let report = FloodReport::parse("report 10 9 7 1 8 2500").unwrap();
        assert_eq!((report.lost(), report.latest, report.longest_gap.as_micros()), (2, 8, 2500));
        assert_eq!(FloodReport::parse("report 10 9 7"), None);
    }
}
