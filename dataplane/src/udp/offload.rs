//! Whether this kernel can send and receive trains: found out, not assumed.
//!
//! A train goes over the loopback device, on a port of its own. Where loopback is down there is no traffic to learn
//! from, and the kernel's version and what it accepts as an option decide.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use weaved_api::OffloadSwitches;

use super::{RECEIVE_BYTES, SocketError};
use crate::{
    feature::{Feature, Finding},
    sys::socket::{self, MessageOut},
};

/// `UDP_GRO` corrupts trains before Linux 5.12.
const OLDEST_GRO_KERNEL: KernelVersion = KernelVersion(5, 12);
/// `UDP_SEGMENT` came with Linux 4.18.
const OLDEST_GSO_KERNEL: KernelVersion = KernelVersion(4, 18);

const PROBE_SEGMENT_LEN: u16 = 1000;
/// Several segments and a shorter last one, like a train.
const PROBE_BYTES: usize = 4300;
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// What the kernel does for the UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOffload {
    /// Trains leave in one send.
    pub gso: Feature,
    /// Trains arrive in one receive.
    pub gro: Feature,
}

/// Major and minor number of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct KernelVersion(u32, u32);

/// What is known of sending and of receiving trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Findings {
    gso: Finding,
    gro: Finding,
}

/// Decides by the switches and, where they leave it open, by a self-test.
pub(super) fn negotiate(port: u16, switches: OffloadSwitches) -> Result<UdpOffload, SocketError> {
    let findings = probe().map_err(|source| SocketError::Other { port, step: "test its offloads", source })?;
    let decide = |switch, finding: Finding, name| {
        Feature::decide(switch, finding).ok_or(SocketError::NoOffload { name, reason: finding.reason })
    };
    Ok(UdpOffload {
        gso: decide(switches.udp_gso, findings.gso, "udp-gso (UDP_SEGMENT)")?,
        gro: decide(switches.udp_gro, findings.gro, "udp-gro (UDP_GRO)")?,
    })
}

/// Sends one train over loopback and looks at what arrives.
fn probe() -> std::io::Result<Findings> {
    let kernel = KernelVersion::parse(&rustix::system::uname().release().to_string_lossy());
    let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    receiver.set_read_timeout(Some(PROBE_TIMEOUT))?;
    let accepts_gro = kernel >= OLDEST_GRO_KERNEL && socket::set_receive_offload(receiver.as_fd()).is_ok();
    let presumed = presume(kernel, accepts_gro);
    let to = receiver.local_addr()?;
    let train: Vec<u8> = (0..PROBE_BYTES).map(|at| at as u8).collect();
    match sender.send_to(&train[..1], to).and_then(|_| receiver.recv_from(&mut [0; 1])) {
        Ok((_, from)) if from.port() == sender.local_addr()?.port() => {}
        // No loopback, no proof.
        _ => return Ok(presumed),
    }
    if !presumed.gso.works {
        return Ok(presumed);
    }
    let message = MessageOut::train(to, &train, PROBE_SEGMENT_LEN);
    if socket::send(sender.as_fd(), message).is_err() {
        return Ok(Findings { gso: Finding::fails("the kernel refused a train in the self-test"), ..presumed });
    }
    Ok(presumed.after(receive_train(&receiver, sender.local_addr()?.port(), &train)))
}

/// What the version and the socket option tell.
fn presume(kernel: KernelVersion, accepts_gro: bool) -> Findings {
    let untested = Finding::works("the kernel is new enough; there was no loopback device to test it on");
    let gso = if kernel >= OLDEST_GSO_KERNEL { untested } else { Finding::fails("needs Linux 4.18 or newer") };
    let gro = match (kernel >= OLDEST_GRO_KERNEL, accepts_gro) {
        (true, true) => untested,
        (true, false) => Finding::fails("the kernel refuses UDP_GRO"),
        (false, _) => Finding::fails("corrupts datagrams before Linux 5.12"),
    };
    Findings { gso, gro }
}

impl Findings {
    /// What the self-test adds: in how many receives the train has arrived, none when it has not.
    fn after(self, receive_count: Option<usize>) -> Self {
        let passed = Finding::works("passed its self-test");
        let gso = match receive_count {
            Some(_) => passed,
            None => Finding::fails("a train was lost or damaged in the self-test"),
        };
        let gro = match receive_count {
            _ if !self.gro.works => self.gro,
            Some(1) => passed,
            Some(_) => Finding::fails("a train did not arrive in one receive in the self-test"),
            None => self.gro,
        };
        Self { gso, gro }
    }
}

/// In how many receives the train has arrived; none when it has not, or not as it was sent.
fn receive_train(receiver: &UdpSocket, sender_port: u16, train: &[u8]) -> Option<usize> {
    let mut buffer = vec![0; RECEIVE_BYTES];
    let mut arrived = Vec::new();
    let mut receive_count = 0;
    while arrived.len() < train.len() {
        let message = socket::receive(receiver.as_fd(), &mut buffer).ok()?;
        let is_ours = message.from == SocketAddr::from((Ipv4Addr::LOCALHOST, sender_port));
        if is_ours {
            arrived.extend_from_slice(&buffer[..message.len]);
            receive_count += 1;
        }
    }
    (arrived == train).then_some(receive_count)
}

impl KernelVersion {
    /// Of a release like `6.12.3-amd64`; zeroes where there is none.
    fn parse(release: &str) -> Self {
        let mut numbers =
            release.split(|letter: char| !letter.is_ascii_digit()).map(|digits| digits.parse().unwrap_or_default());
        Self(numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_are_compared_as_numbers() {
        assert_eq!(KernelVersion::parse("6.12.3-amd64"), KernelVersion(6, 12));
        assert_eq!(KernelVersion::parse("5.4"), KernelVersion(5, 4));
        assert_eq!(KernelVersion::parse("strange"), KernelVersion(0, 0));
        assert!(KernelVersion::parse("5.4.0") < OLDEST_GRO_KERNEL);
    }

    #[test]
    fn receiving_trains_is_not_even_tried_before_linux_5_12() {
        for (kernel, gso, gro) in
            [("4.17.0", false, false), ("4.18.1", true, false), ("5.11.22", true, false), ("5.12.0", true, true)]
        {
            let findings = presume(KernelVersion::parse(kernel), true);
            assert_eq!((findings.gso.works, findings.gro.works), (gso, gro), "{kernel}");
            let tested = findings.after(Some(1));
            assert_eq!(tested.gro.works, gro, "{kernel}: no luck in a test makes an old kernel good");
        }
    }

    #[test]
    fn the_self_test_decides_over_the_version() {
        let presumed = presume(KernelVersion(6, 18), true);
        let works = |findings: Findings| (findings.gso.works, findings.gro.works);
        assert_eq!(works(presumed.after(Some(1))), (true, true));
        assert_eq!(works(presumed.after(Some(5))), (true, false));
        assert!(!presumed.after(None).gso.works);
        assert!(!presume(KernelVersion(6, 18), false).gro.works);
    }
}
