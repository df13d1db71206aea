//! Super-frames that the kernel does not take from us, and how that is found out.
//!
//! Linux 6.1.103, 6.6.44, 6.10.3 and some kernels of vendors refuse TCP super-frames (`EINVAL`), those before 6.2 all UDP
//! ones. One of each is written when the device is opened; what is refused, then or later, is not offered for a while.
//!
//! The test frame harms nobody: it goes to the address of `PAUSE` (IEEE 802.3 §31B), which no bridge forwards or learns
//! from. A device that is down says `EIO`, but only after it has looked at the header.

use weaved_core::offload::{
    superframe::Transport,
    vnet_hdr::{Gso, VnetHeader},
};

use super::{TapWriteError, VNET_HEADER_LEN};
use crate::pause::{Change, Pause};

const ETHERNET_LEN: usize = 14;
const IP_LEN: usize = 20;
const TEST_SEGMENT_LEN: u16 = 500;
const TEST_PAYLOAD_LEN: usize = 1200;

/// What the kernel refuses at the moment, by transport protocol.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    tcp: Pause,
    udp: Pause,
}

impl Refusals {
    /// Whether a super-frame may be offered. Each `false` brings the next trial nearer.
    pub(crate) fn may_offer(&self, transport: Transport) -> bool {
        self.pause(transport).may_try()
    }

    /// A super-frame was refused.
    pub(crate) fn on_refused(&self, transport: Transport) -> Change {
        self.pause(transport).on_refused()
    }

    /// A super-frame was taken.
    pub(crate) fn on_taken(&self, transport: Transport) -> Change {
        self.pause(transport).on_taken()
    }

    /// What is refused, for the operator.
    pub(crate) fn describe(&self) -> Option<String> {
        let refused = match (self.tcp.is_paused(), self.udp.is_paused()) {
            (false, false) => return None,
            (true, false) => "TCP",
            (false, true) => "UDP",
            (true, true) => "TCP and UDP",
        };
        Some(format!("the kernel refuses {refused} super-frames from us: they are cut before they are written"))
    }

    /// Writes a test frame of this kind by `write` and remembers the answer.
    pub(super) fn test(
        &self,
        transport: Transport,
        write: impl FnOnce(&[u8; VNET_HEADER_LEN], &[u8]) -> Result<(), TapWriteError>,
    ) {
        let (vnet, frame) = test_frame(transport);
        if write(&vnet.emit(), &frame) == Err(TapWriteError::GsoRefused) {
            self.on_refused(transport);
        }
    }

    fn pause(&self, transport: Transport) -> &Pause {
        match transport {
            Transport::Tcp => &self.tcp,
            Transport::Udp => &self.udp,
        }
    }
}

/// A super-frame to nobody, over IPv4.
fn test_frame(transport: Transport) -> (VnetHeader, Vec<u8>) {
    let (gso, protocol, header_len, csum_offset) = match transport {
        Transport::Tcp => (Gso::TcpV4, 6, 20, 16),
        Transport::Udp => (Gso::UdpL4, 17, 8, 6),
    };
    let payload_at = ETHERNET_LEN + IP_LEN + header_len;
    let mut frame = vec![0; payload_at + TEST_PAYLOAD_LEN];
    frame[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 0x01]);
    frame[6..12].copy_from_slice(&[0x02, 0, 0, 0, 0, 0x01]);
    frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
    let ip_len = (frame.len() - ETHERNET_LEN) as u16;
    frame[16..18].copy_from_slice(&ip_len.to_be_bytes());
    frame[22..24].copy_from_slice(&[1, protocol]);
    // From and to documentation addresses (RFC 5737).
    frame[26..34].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    match transport {
        // Data offset of 5 words.
        Transport::Tcp => frame[ETHERNET_LEN + IP_LEN + 12] = 0x50,
        Transport::Udp => {
            let udp_len = (header_len + TEST_PAYLOAD_LEN) as u16;
            frame[38..40].copy_from_slice(&udp_len.to_be_bytes());
        }
    }
    let vnet = VnetHeader {
        needs_csum: true,
        gso,
        hdr_len: payload_at as u16,
        gso_size: TEST_SEGMENT_LEN,
        csum_start: (ETHERNET_LEN + IP_LEN) as u16,
        csum_offset,
        ..VnetHeader::default()
    };
    (vnet, frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_of_the_offload_counts_and_only_for_its_protocol() {
        let refusals = Refusals::default();
        for answer in [Ok(()), Err(TapWriteError::Unavailable), Err(TapWriteError::Refused)] {
            refusals.test(Transport::Tcp, |_, _| answer);
            assert_eq!(refusals.describe(), None, "{answer:?}");
        }
        refusals.test(Transport::Udp, |_, _| Err(TapWriteError::GsoRefused));
        assert!(refusals.may_offer(Transport::Tcp) && !refusals.may_offer(Transport::Udp));
        assert!(refusals.describe().is_some_and(|text| text.contains("refuses UDP super-frames")));
    }
}
