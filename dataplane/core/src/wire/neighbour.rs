//! "Who has this address?" in both IPs: ARP (RFC 826) and neighbour discovery (RFC 4861) as far as an overlay needs it.
//!
//! [`NeighbourMessage::parse`] recognises questions, announcements and probes; [`Question::answer`] makes the frame
//! that the owner of the address would send. What is none of these, or not valid, is an ordinary frame to us.
//!
//! INVARIANT: a probe for duplicates (ARP probe, RFC 5227 §2.1.1; solicitation from `::`, RFC 4862 §5.4.2) is never
//! answered on behalf of another. An answer takes the address away from the one who asks; when what control told us
//! is out of date, a container that moved here would lose its own address. The owner, if it lives, hears the flooded
//! probe and defends itself. The types see to it: only a [`Question`] has an answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weaved_api::MacAddr;

use super::ethernet::{EthernetHeader, ethertype};
use crate::offload::checksum;

/// Room for every answer: Ethernet with two tags, IPv6, an advertisement with its option.
pub const MAX_ANSWER_LEN: usize = 22 + IPV6_HEADER_LEN + ADVERTISEMENT_LEN;

const ARP_LEN: usize = 28;
const IPV6_HEADER_LEN: usize = 40;
const SOLICITATION_LEN: usize = 24;
const ADVERTISEMENT_LEN: usize = 32;
const ICMPV6: u8 = 58;
const TYPE_SOLICITATION: u8 = 135;
const TYPE_ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE_ADDRESS: u8 = 1;
const OPTION_TARGET_ADDRESS: u8 = 2;

/// A recognised message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourMessage {
    /// Somebody wants to know who has an address.
    Question(Question),
    /// Somebody says that it has an address: a reply, a gratuitous ARP of either kind, an advertisement.
    Announcement {
        /// The address.
        ip: IpAddr,
        /// Its owner.
        mac: MacAddr,
    },
    /// Somebody wants to know whether an address is free to take.
    Probe {
        /// The address.
        target: IpAddr,
    },
}

/// A question with everything that its answer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The address asked for; of the same version as `asker_ip`.
    pub target: IpAddr,
    /// Who asks.
    pub asker_ip: IpAddr,
    /// Where the answer goes.
    pub asker_mac: MacAddr,
}

impl NeighbourMessage {
    /// Recognises a frame. `None` for every other frame, also for those that RFC 826 and RFC 4861 §7.1 call invalid.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetHeader::parse(frame)?;
        let packet = frame.get(ethernet.l3..)?;
        match ethernet.ethertype {
            ethertype::ARP => parse_arp(packet),
            ethertype::IPV6 => parse_discovery(packet, ethernet.src),
            _ => None,
        }
    }
}

impl Question {
    /// Writes the answer "`target` is at `mac`" into `out` and gives its length.
    ///
    /// `request` is the frame that the question was parsed from: the answer goes out under the same VLAN tags. `None`
    /// when `out` has less than [`MAX_ANSWER_LEN`] bytes or `request` is no frame.
    pub fn answer(&self, mac: MacAddr, request: &[u8], out: &mut [u8]) -> Option<usize> {
        let out = out.get_mut(..MAX_ANSWER_LEN)?;
        let l3 = EthernetHeader::parse(request)?.l3;
        out[..6].copy_from_slice(&self.asker_mac.0);
        out[6..12].copy_from_slice(&mac.0);
        out[12..l3].copy_from_slice(&request[12..l3]);
        let packet = &mut out[l3..];
        let packet_len = match (self.target, self.asker_ip) {
            (IpAddr::V4(target), IpAddr::V4(asker)) => emit_arp_reply(target, mac, asker, self.asker_mac, packet),
            (IpAddr::V6(target), IpAddr::V6(asker)) => emit_advertisement(target, mac, asker, packet),
            _ => return None,
        };
        Some(l3 + packet_len)
    }
}

fn parse_arp(packet: &[u8]) -> Option<NeighbourMessage> {
    const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let packet: &[u8; ARP_LEN] = packet.first_chunk()?;
    let ip = |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let (sender_ip, target) = (ip(14), ip(24));
    let sender_mac = MacAddr(*packet[8..].first_chunk()?);
    if !packet.starts_with(&ETHERNET_IPV4) || sender_mac.is_group() {
        return None;
    }
    match (packet[6], packet[7]) {
        (0, 1 | 2) if sender_ip == target && !target.is_unspecified() => {
            Some(NeighbourMessage::Announcement { ip: target.into(), mac: sender_mac })
        }
        (0, 1) if sender_ip.is_unspecified() => Some(NeighbourMessage::Probe { target: target.into() }),
        (0, 1) if target.is_unspecified() => None,
        (0, 1) => Some(NeighbourMessage::Question(Question {
            target: target.into(),
            asker_ip: sender_ip.into(),
            asker_mac: sender_mac,
        })),
        (0, 2) if !sender_ip.is_unspecified() => {
            Some(NeighbourMessage::Announcement { ip: sender_ip.into(), mac: sender_mac })
        }
        _ => None,
    }
}

/// RFC 4861 §7.1.1 and §7.1.2: hop limit 255, code 0, a right checksum, no empty option, a target that is one host's.
fn parse_discovery(packet: &[u8], frame_src: MacAddr) -> Option<NeighbourMessage> {
    let (header, rest) = packet.split_first_chunk::<IPV6_HEADER_LEN>()?;
    let len = u16::from_be_bytes([header[4], header[5]]);
    let message = rest.get(..usize::from(len))?;
    let source = Ipv6Addr::from_octets(*header[8..].first_chunk()?);
    let destination = Ipv6Addr::from_octets(*header[24..].first_chunk()?);
    let target = Ipv6Addr::from_octets(*message.get(8..)?.first_chunk()?);
    if header[0] >> 4 != 6 || header[6] != ICMPV6 || header[7] != 255 || message[1] != 0 {
        return None;
    }
    if target.is_multicast() || target.is_unspecified() {
        return None;
    }
    if !matches!(message[0], TYPE_SOLICITATION | TYPE_ADVERTISEMENT) {
        return None;
    }
    let pseudo_header = checksum::pseudo_header_v6(source, destination, ICMPV6, len);
    if checksum::add(pseudo_header, checksum::sum(message)) != 0xffff {
        return None;
    }
    let options = LinkAddresses::parse(&message[SOLICITATION_LEN..])?;
    Some(if message[0] == TYPE_ADVERTISEMENT {
        NeighbourMessage::Announcement { ip: target.into(), mac: options.target.unwrap_or(frame_src) }
    } else if source.is_unspecified() {
        NeighbourMessage::Probe { target: target.into() }
    } else {
        let asker_mac = options.source.unwrap_or(frame_src);
        if asker_mac.is_group() || source.is_multicast() {
            return None;
        }
        NeighbourMessage::Question(Question { target: target.into(), asker_ip: source.into(), asker_mac })
    })
}

/// The link-layer addresses among the options of a discovery message.
#[derive(Default)]
struct LinkAddresses {
    source: Option<MacAddr>,
    target: Option<MacAddr>,
}

impl LinkAddresses {
    fn parse(mut options: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        while let Some((&[kind, units], _)) = options.split_first_chunk::<2>() {
            // RFC 4861 §4.6: a length of zero makes the whole message invalid. It would also never end.
            let option_len = usize::from(units) * 8;
            let (option, rest) = options.split_at_checked(option_len).filter(|_| option_len > 0)?;
            let mac = MacAddr(*option[2..].first_chunk()?);
            match kind {
                OPTION_SOURCE_ADDRESS => found.source = Some(mac),
                OPTION_TARGET_ADDRESS => found.target = Some(mac),
                _ => {}
            }
            options = rest;
        }
        options.is_empty().then_some(found)
    }
}

fn emit_arp_reply(target: Ipv4Addr, mac: MacAddr, asker: Ipv4Addr, asker_mac: MacAddr, out: &mut [u8]) -> usize {
    out[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
    out[8..14].copy_from_slice(&mac.0);
    out[14..18].copy_from_slice(&target.octets());
    out[18..24].copy_from_slice(&asker_mac.0);
    out[24..28].copy_from_slice(&asker.octets());
    ARP_LEN
}

/// Solicited and override: the answer is what the owner says, not a proxy's (RFC 4861 §7.2.8 asks a proxy for less).
fn emit_advertisement(target: Ipv6Addr, mac: MacAddr, asker: Ipv6Addr, out: &mut [u8]) -> usize {
    const SOLICITED_OVERRIDE: u8 = 0x60;
    let (header, rest) = out.split_at_mut(IPV6_HEADER_LEN);
    header[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, ADVERTISEMENT_LEN as u8, ICMPV6, 255]);
    header[8..24].copy_from_slice(&target.octets());
    header[24..].copy_from_slice(&asker.octets());
    let message = &mut rest[..ADVERTISEMENT_LEN];
    message[..8].copy_from_slice(&[TYPE_ADVERTISEMENT, 0, 0, 0, SOLICITED_OVERRIDE, 0, 0, 0]);
    message[8..24].copy_from_slice(&target.octets());
    message[24..26].copy_from_slice(&[OPTION_TARGET_ADDRESS, 1]);
    message[26..].copy_from_slice(&mac.0);
    let pseudo_header = checksum::pseudo_header_v6(target, asker, ICMPV6, ADVERTISEMENT_LEN as u16);
    let checksum = !checksum::add(pseudo_header, checksum::sum(message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    IPV6_HEADER_LEN + ADVERTISEMENT_LEN
}

#[cfg(test)]
#[path = "neighbour_tests.rs"]
mod tests;
