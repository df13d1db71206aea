//! Whether this kernel can send and receive trains: found out, not assumed.
//!
//! A train goes over the loopback device, on a port of its own. Where loopback is down there is no traffic to learn
//! from, and the kernel's version and what it accepts as an option decide.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use weaved_api::{OffloadSwitches, Switch};

use super::{RECEIVE_BYTES, SocketError};
use crate::sys::socket;

/// `UDP_GRO` corrupts trains before Linux 5.12.
const OLDEST_GRO_KERNEL: (u32, u32) = (5, 12);
/// `UDP_SEGMENT` came with Linux 4.18.
const OLDEST_GSO_KERNEL: (u32, u32) = (4, 18);

const PROBE_SEGMENT_LEN: u16 = 1000;
/// Several segments and a shorter last one, like a train.
const PROBE_BYTES: usize = 4300;
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// What the kernel does for the UDP socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpOffload {
    /// Trains leave in one send.
    pub gso: bool,
    /// Trains arrive in one receive.
    pub gro: bool,
}

/// Decides by the switches and, where they leave it open, by a self-test.
pub(super) fn negotiate(port: u16, switches: OffloadSwitches) -> Result<UdpOffload, SocketError> {
    if switches.udp_gso == Switch::Off && switches.udp_gro == Switch::Off {
        return Ok(UdpOffload::default());
    }
    let probed = probe().map_err(|source| SocketError::Other { port, step: "test its offloads", source })?;
    Ok(UdpOffload {
        gso: decide(switches.udp_gso, probed.gso, "UDP_SEGMENT (udp_gso)")?,
        gro: decide(switches.udp_gro, probed.gro, "UDP_GRO (udp_gro)")?,
    })
}

fn decide(switch: Switch, works: bool, name: &'static str) -> Result<bool, SocketError> {
    match switch {
        Switch::Off => Ok(false),
        Switch::Auto => Ok(works),
        Switch::On if works => Ok(true),
        Switch::On => Err(SocketError::NoOffload(name)),
    }
}

/// Sends one train over loopback and looks at what arrives.
fn probe() -> std::io::Result<UdpOffload> {
    let kernel = kernel_version(&rustix::system::uname().release().to_string_lossy());
    let presumed = UdpOffload { gso: kernel >= OLDEST_GSO_KERNEL, gro: kernel >= OLDEST_GRO_KERNEL };
    let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    receiver.set_read_timeout(Some(PROBE_TIMEOUT))?;
    let accepts_gro = presumed.gro && socket::set_receive_offload(receiver.as_fd()).is_ok();
    let to = receiver.local_addr()?;
    let train: Vec<u8> = (0..PROBE_BYTES).map(|at| at as u8).collect();
    match sender.send_to(&train[..1], to).and_then(|_| receiver.recv_from(&mut [0; 1])) {
        Ok((_, from)) if from.port() == sender.local_addr()?.port() => {}
        // No loopback, no proof.
        _ => return Ok(UdpOffload { gro: accepts_gro, ..presumed }),
    }
    let gso = presumed.gso && socket::send(sender.as_fd(), to, &train, Some(PROBE_SEGMENT_LEN)).is_ok();
    if !gso {
        return Ok(UdpOffload { gso, gro: accepts_gro });
    }
    let arrived = receive_train(&receiver, sender.local_addr()?.port(), &train);
    Ok(UdpOffload { gso: arrived.is_some(), gro: accepts_gro && arrived == Some(1) })
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

/// Major and minor number of a release like `6.12.3-amd64`; zeroes where there is none.
fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers =
        release.split(|letter: char| !letter.is_ascii_digit()).map(|digits| digits.parse().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_are_compared_as_numbers() {
        assert_eq!(kernel_version("6.12.3-amd64"), (6, 12));
        assert_eq!(kernel_version("5.4"), (5, 4));
        assert_eq!(kernel_version("strange"), (0, 0));
        assert!(kernel_version("5.4.0") < OLDEST_GRO_KERNEL);
    }

    #[test]
    fn insisting_on_an_offload_that_fails_is_an_error() {
        assert!(decide(Switch::On, false, "x").is_err());
        assert_eq!(decide(Switch::Auto, false, "x").ok(), Some(false));
        assert_eq!(decide(Switch::Off, true, "x").ok(), Some(false));
    }
}
