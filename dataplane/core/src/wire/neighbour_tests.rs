//! Tests of `neighbour`.

use proptest::prelude::*;

use super::*;

const ASKER: MacAddr = MacAddr([2, 0x42, 10, 32, 0, 2]);
const OWNER: MacAddr = MacAddr([2, 0x42, 10, 32, 1, 2]);

fn arp(oper: u8, sender_ip: [u8; 4], target_ip: [u8; 4]) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &ASKER.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, oper], &ASKER.0, &sender_ip].concat();
    frame.extend([0; 6]);
    frame.extend(target_ip);
    frame.resize(60, 0);
    frame
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A discovery message with a right checksum, behind `tags`.
fn discovery(kind: u8, source: &str, target: &str, options: &[u8], tags: &[u8]) -> Vec<u8> {
    let (source, target): (Ipv6Addr, Ipv6Addr) = (source.parse().unwrap(), target.parse().unwrap());
    let destination: Ipv6Addr = "ff02::1:ff00:102".parse().unwrap();
    let mut message = [&[kind, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..], options].concat();
    let pseudo_header = checksum::pseudo_header_v6(source, destination, ICMPV6, message.len() as u16);
    let sum = !checksum::add(pseudo_header, checksum::sum(&message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255];
    let ethernet = [&[0x33, 0x33, 0xff, 0, 1, 2][..], &ASKER.0, tags, &[0x86, 0xdd]].concat();
    [&ethernet[..], &header, &source.octets(), &destination.octets(), &message].concat()
}

#[test]
fn an_arp_request_is_a_question_and_its_reply_an_announcement() {
    let asked = arp(1, [10, 32, 0, 2], [10, 32, 1, 2]);
    let Some(NeighbourMessage::Question(question)) = NeighbourMessage::parse(&asked) else { panic!("no question") };
    assert_eq!(question, Question { target: ip("10.32.1.2"), asker_ip: ip("10.32.0.2"), asker_mac: ASKER });
    let mut out = [0xee; MAX_ANSWER_LEN];
    let len = question.answer(OWNER, &asked, &mut out).unwrap();
    let ethernet = [2, 0x42, 10, 32, 0, 2, 2, 0x42, 10, 32, 1, 2, 8, 6];
    let reply = [0, 1, 8, 0, 6, 4, 0, 2, 2, 0x42, 10, 32, 1, 2, 10, 32, 1, 2, 2, 0x42, 10, 32, 0, 2, 10, 32, 0, 2];
    assert_eq!(out[..len], [&ethernet[..], &reply].concat());
    let announcement = NeighbourMessage::Announcement { ip: ip("10.32.1.2"), mac: OWNER };
    assert_eq!(NeighbourMessage::parse(&out[..len]), Some(announcement));
}

#[test]
fn a_gratuitous_arp_of_either_kind_is_an_announcement() {
    let announcement = NeighbourMessage::Announcement { ip: ip("10.32.0.2"), mac: ASKER };
    for oper in [1, 2] {
        assert_eq!(NeighbourMessage::parse(&arp(oper, [10, 32, 0, 2], [10, 32, 0, 2])), Some(announcement));
    }
}

#[test]
fn probes_for_duplicates_are_not_questions() {
    let arp_probe = NeighbourMessage::parse(&arp(1, [0; 4], [10, 32, 1, 2]));
    assert_eq!(arp_probe, Some(NeighbourMessage::Probe { target: ip("10.32.1.2") }));
    let nobody = NeighbourMessage::parse(&arp(1, [0; 4], [0; 4]));
    assert_eq!(nobody, Some(NeighbourMessage::Probe { target: ip("0.0.0.0") }), "nobody announces this address");
    let nd_probe = NeighbourMessage::parse(&discovery(TYPE_SOLICITATION, "::", "fe80::2", &[], &[]));
    assert_eq!(nd_probe, Some(NeighbourMessage::Probe { target: ip("fe80::2") }));
}

#[test]
fn a_solicitation_is_answered_by_a_valid_advertisement_under_the_same_tags() {
    for tags in [&[][..], &[0x81, 0, 0, 7], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 7]] {
        let option = [&[OPTION_SOURCE_ADDRESS, 1][..], &ASKER.0].concat();
        let asked = discovery(TYPE_SOLICITATION, "fe80::1", "fe80::2", &option, tags);
        let Some(NeighbourMessage::Question(question)) = NeighbourMessage::parse(&asked) else { panic!("no question") };
        assert_eq!(question, Question { target: ip("fe80::2"), asker_ip: ip("fe80::1"), asker_mac: ASKER });
        let mut out = [0xee; MAX_ANSWER_LEN];
        let len = question.answer(OWNER, &asked, &mut out).unwrap();
        assert_eq!(len, 14 + tags.len() + 72);
        assert_eq!((&out[..6], &out[12..12 + tags.len()]), (&ASKER.0[..], tags));
        let announcement = NeighbourMessage::Announcement { ip: ip("fe80::2"), mac: OWNER };
        assert_eq!(NeighbourMessage::parse(&out[..len]), Some(announcement), "also its checksum");
    }
}

#[test]
fn without_an_option_the_frame_says_who_asks() {
    let asked = discovery(TYPE_SOLICITATION, "fe80::1", "fe80::2", &[], &[]);
    let Some(NeighbourMessage::Question(question)) = NeighbourMessage::parse(&asked) else { panic!("no question") };
    assert_eq!(question.asker_mac, ASKER);
}

#[test]
fn invalid_discovery_messages_are_ordinary_frames() {
    let good = discovery(TYPE_SOLICITATION, "fe80::1", "fe80::2", &[], &[]);
    assert!(NeighbourMessage::parse(&good).is_some());
    for (at, what) in [(21, "hop limit"), (55, "code"), (57, "checksum"), (20, "next header")] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_eq!(NeighbourMessage::parse(&bad), None, "{what}");
    }
    let other_type = discovery(134, "fe80::1", "fe80::2", &[], &[]);
    let multicast_target = discovery(TYPE_SOLICITATION, "fe80::1", "ff02::2", &[], &[]);
    let endless_option = discovery(TYPE_SOLICITATION, "fe80::1", "fe80::2", &[1, 0, 0, 0, 0, 0, 0, 0], &[]);
    let long_option = discovery(TYPE_SOLICITATION, "fe80::1", "fe80::2", &[1, 2, 0, 0, 0, 0, 0, 0], &[]);
    for bad in [other_type, multicast_target, endless_option, long_option] {
        assert_eq!(NeighbourMessage::parse(&bad), None);
    }
}

#[test]
fn answers_never_go_to_a_group() {
    let mut asked = arp(1, [10, 32, 0, 2], [10, 32, 1, 2]);
    asked[22] = 0xff;
    assert_eq!(NeighbourMessage::parse(&asked), None);
    let option = [OPTION_SOURCE_ADDRESS, 1, 0x33, 0x33, 0, 0, 0, 1];
    let asked = discovery(TYPE_SOLICITATION, "fe80::1", "fe80::2", &option, &[]);
    assert_eq!(NeighbourMessage::parse(&asked), None);
}

#[test]
fn the_unspecified_address_is_not_asked_for() {
    assert_eq!(NeighbourMessage::parse(&arp(1, [10, 32, 0, 2], [0; 4])), None);
    assert_eq!(NeighbourMessage::parse(&discovery(TYPE_SOLICITATION, "fe80::1", "::", &[], &[])), None);
}

#[test]
fn a_short_buffer_gets_no_answer() {
    let asked = arp(1, [10, 32, 0, 2], [10, 32, 1, 2]);
    let Some(NeighbourMessage::Question(question)) = NeighbourMessage::parse(&asked) else { panic!("no question") };
    assert_eq!(question.answer(OWNER, &asked, &mut [0; MAX_ANSWER_LEN - 1]), None);
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
        kind in prop_oneof![Just([8_u8, 6]), Just([0x86, 0xdd]), Just([0x81, 0])],
    ) {
        if let Some(ethertype) = bytes.get_mut(12..14) {
            ethertype.copy_from_slice(&kind);
        }
        let _ = NeighbourMessage::parse(&bytes);
    }
}
