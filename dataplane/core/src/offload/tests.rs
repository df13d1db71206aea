//! Frames and their requests, held against frames built field by field (`reference`).

use proptest::prelude::*;

use super::{
    carve::{Carver, Checksums},
    checksum,
    reference::{self, Check, Ip, L4, Spec, any_spec, small_tcp},
    superframe::{FrameError, GsoRequest, Layout, Transport},
    translate::{FrameKind, classify, rebuild},
    vnet_hdr::{Gso, VnetHeader},
};
use crate::limits::{MAX_FRAME_LEN, MAX_UDP_SEGMENTS, MIN_TCP_GSO_SIZE};

fn all(spec: &Spec) -> std::ops::Range<usize> {
    0..spec.segment_count()
}

fn udp(spec: Spec) -> Spec {
    Spec { transport: L4::Udp, ..spec }
}

fn v6(spec: Spec) -> Spec {
    Spec { ip: Ip::V6 { extensions: vec![(0, 0), (60, 1)] }, ..spec }
}

/// What `classify` says to a frame and its header, and that it did not touch the frame.
fn classify_untouched(vnet: &VnetHeader, frame: &[u8]) -> Result<FrameKind, FrameError> {
    let mut copy = frame.to_vec();
    let kind = classify(vnet, &mut copy);
    assert_eq!(copy, frame);
    kind
}

#[test]
fn a_frame_without_a_request_is_complete_whatever_it_holds() {
    for len in [14, 60, 1514, MAX_FRAME_LEN] {
        let frame = vec![0x81; len];
        assert_eq!(classify_untouched(&VnetHeader::default(), &frame), Ok(FrameKind::Complete));
        assert_eq!(rebuild(FrameKind::Complete, &frame), Ok(VnetHeader::default()));
    }
    for len in [0, 13, MAX_FRAME_LEN + 1] {
        let frame = vec![0x81; len];
        assert_eq!(classify_untouched(&VnetHeader::default(), &frame), Err(FrameError::FrameLen));
        assert_eq!(rebuild(FrameKind::Complete, &frame), Err(FrameError::FrameLen));
    }
}

#[test]
fn a_checksum_that_the_receiver_cannot_find_is_finished_here() {
    let spec = small_tcp();
    let mut sctp = spec.frame(&(0..1), Check::Partial);
    sctp[23] = 132;
    let inner = VnetHeader { csum_start: 54, csum_offset: 6, ..spec.vnet(&(0..1)) };
    let fragment = {
        let mut frame = spec.frame(&(0..1), Check::Partial);
        frame[20] = 0x20;
        frame
    };
    let cases = [(spec.vnet(&(0..1)), sctp), (inner, spec.superframe()), (spec.vnet(&(0..1)), fragment)];
    for (vnet, mut frame) in cases {
        let mut expected = frame.clone();
        checksum::finish(&mut expected, vnet.csum_start, vnet.csum_offset).unwrap();
        assert_eq!(classify(&vnet, &mut frame), Ok(FrameKind::Complete));
        assert_eq!(frame, expected);
    }
    let outside = VnetHeader { csum_start: 5000, ..inner };
    assert_eq!(classify_untouched(&outside, &spec.superframe()), Err(FrameError::Contradiction));
}

#[test]
fn a_checksum_among_the_ethernet_addresses_is_refused() {
    for csum_start in 0..14 {
        let vnet = VnetHeader { needs_csum: true, csum_start, ..VnetHeader::default() };
        let mut frame = small_tcp().superframe();
        let before = frame.clone();
        assert_eq!(classify(&vnet, &mut frame), Err(FrameError::Contradiction), "{csum_start}");
        assert_eq!(frame, before, "addresses stay as they were looked up");
    }
}

#[test]
fn a_super_frame_of_one_segment_is_an_ordinary_frame() {
    for (spec, payload_len) in [(small_tcp(), 90), (udp(small_tcp()), 90), (small_tcp(), 100)] {
        let spec = Spec { payload: reference::payload(payload_len, 1), ..spec };
        let vnet = VnetHeader { gso: Gso::UdpL4, gso_size: 100, ..spec.vnet(&(0..1)) };
        let vnet = if matches!(spec.transport, L4::Udp) { vnet } else { VnetHeader { gso: Gso::TcpV4, ..vnet } };
        assert_eq!(classify_untouched(&vnet, &spec.superframe()), Ok(FrameKind::PartialChecksum));
    }
}

#[test]
fn trailing_bytes_are_allowed_behind_a_plain_frame_and_refused_behind_a_super_frame() {
    for spec in [small_tcp(), v6(small_tcp()), udp(small_tcp())] {
        let mut single = spec.frame(&(0..1), Check::Partial);
        single.extend([0; 6]);
        assert_eq!(rebuild(FrameKind::PartialChecksum, &single), Ok(spec.vnet(&(0..1))));
        let mut frame = spec.superframe();
        frame.push(0);
        assert_eq!(rebuild(FrameKind::Gso(spec.request()), &frame), Err(FrameError::Length));
        frame.truncate(frame.len() - 2);
        assert_eq!(rebuild(FrameKind::Gso(spec.request()), &frame), Err(FrameError::Length));
        assert_eq!(rebuild(FrameKind::PartialChecksum, &frame), Err(FrameError::Length));
    }
}

#[test]
fn requests_that_contradict_the_headers_are_refused() {
    let spec = small_tcp();
    let good = spec.vnet(&all(&spec));
    assert_eq!(classify_untouched(&good, &spec.superframe()), Ok(FrameKind::Gso(spec.request())));
    let contradictions = [
        VnetHeader { needs_csum: false, ..good },
        VnetHeader { gso: Gso::TcpV6, ..good },
        VnetHeader { gso: Gso::UdpL4, ..good },
        VnetHeader { csum_start: good.csum_start + 2, ..good },
        VnetHeader { csum_offset: 6, ..good },
    ];
    for vnet in contradictions {
        assert_eq!(classify_untouched(&vnet, &spec.superframe()), Err(FrameError::Contradiction), "{vnet:?}");
    }
    let as_udp = GsoRequest { transport: Transport::Udp, gso_size: 100 };
    assert_eq!(rebuild(FrameKind::Gso(as_udp), &spec.superframe()), Err(FrameError::Contradiction));
}

#[test]
fn segments_too_small_too_many_or_too_few_are_refused() {
    let rebuilt = |spec: Spec, gso_size: usize| {
        let request = GsoRequest { gso_size: gso_size as u16, ..spec.request() };
        rebuild(FrameKind::Gso(request), &spec.superframe())
    };
    assert!(rebuilt(small_tcp(), MIN_TCP_GSO_SIZE).is_ok());
    assert_eq!(rebuilt(small_tcp(), MIN_TCP_GSO_SIZE - 1), Err(FrameError::Segments));
    assert_eq!(rebuilt(small_tcp(), 0), Err(FrameError::Segments));
    let few = Spec { payload: reference::payload(MAX_UDP_SEGMENTS, 0), ..small_tcp() };
    assert!(rebuilt(udp(few.clone()), 1).is_ok(), "datagrams may be short");
    assert_eq!(rebuilt(udp(few), 0), Err(FrameError::Segments));
    assert!(rebuilt(small_tcp(), 249).is_ok());
    assert_eq!(rebuilt(small_tcp(), 250), Err(FrameError::Segments));
    let many = Spec { payload: reference::payload(100 * MAX_UDP_SEGMENTS, 0), ..small_tcp() };
    assert!(rebuilt(udp(many.clone()), 100).is_ok());
    assert_eq!(rebuilt(udp(many.clone()), 99), Err(FrameError::Segments));
    assert!(rebuilt(many, 60).is_ok(), "TCP has no such bound");
}

#[test]
fn headers_that_lie_about_lengths_are_refused() {
    let spec = small_tcp();
    let refusal = |at: usize, value: u8, base: &Spec| {
        let mut frame = base.superframe();
        frame[at] = value;
        rebuild(FrameKind::Gso(base.request()), &frame).unwrap_err()
    };
    assert_eq!(refusal(14, 0x44, &spec), FrameError::Length, "IPv4 header of 16 bytes");
    assert_eq!(refusal(14, 0x65, &spec), FrameError::Length, "version 6 under the ethertype of 4");
    assert_eq!(refusal(16, 0xff, &spec), FrameError::Length, "total length");
    assert_eq!(refusal(20, 0x20, &spec), FrameError::Fragment);
    assert_eq!(refusal(23, 1, &spec), FrameError::NotTcpOrUdp);
    assert_eq!(refusal(46, 0x40, &spec), FrameError::Length, "TCP header of 16 bytes");
    assert_eq!(refusal(12, 0x86, &spec), FrameError::NotIp);
    assert_eq!(refusal(39, 0, &udp(spec.clone())), FrameError::Length, "UDP length");
    let spec = v6(spec);
    assert_eq!(refusal(14, 0x45, &spec), FrameError::Length, "version 4 under the ethertype of 6");
    assert_eq!(refusal(18, 0xff, &spec), FrameError::Length, "payload length");
    assert_eq!(refusal(54, 44, &spec), FrameError::Fragment);
    assert_eq!(refusal(54, 59, &spec), FrameError::NotTcpOrUdp);
    assert_eq!(refusal(55, 255, &spec), FrameError::HeadersCut, "an extension header longer than the frame");
}

#[test]
fn a_packet_that_ends_within_its_transport_header_is_refused() {
    for (spec, len_at) in [(small_tcp(), 16), (udp(small_tcp()), 16), (v6(small_tcp()), 18)] {
        let mut frame = spec.frame(&(0..1), Check::Partial);
        frame[len_at..len_at + 2].copy_from_slice(&[0, 27]);
        assert_eq!(rebuild(FrameKind::PartialChecksum, &frame), Err(FrameError::Length));
    }
}

#[test]
fn headers_too_long_to_be_copied_aside_are_refused() {
    let spec = |units| Spec { ip: Ip::V6 { extensions: vec![(60, units)] }, ..small_tcp() };
    let rebuilt = |spec: Spec| rebuild(FrameKind::Gso(spec.request()), &spec.superframe());
    assert!(rebuilt(spec(15)).is_ok());
    assert_eq!(rebuilt(spec(31)), Err(FrameError::Segments));
}

#[test]
fn endless_extension_headers_are_not_followed() {
    let spec = Spec { ip: Ip::V6 { extensions: vec![(60, 0); 8] }, ..small_tcp() };
    assert!(rebuild(FrameKind::Gso(spec.request()), &spec.superframe()).is_ok());
    let spec = Spec { ip: Ip::V6 { extensions: vec![(60, 0); 9] }, ..small_tcp() };
    assert_eq!(rebuild(FrameKind::Gso(spec.request()), &spec.superframe()), Err(FrameError::NotTcpOrUdp));
}

#[test]
fn a_finished_frame_needs_no_header_and_room() {
    let spec = small_tcp();
    let carver = Carver::new(spec.request(), &spec.superframe(), spec.superframe().len()).unwrap();
    let mut out = [0; 2000];
    let (vnet, len) = carver.carve(&(2..3), Checksums::Finished, &spec.superframe(), &mut out).unwrap();
    assert_eq!((vnet, &out[..len]), (VnetHeader::default(), &spec.frame(&(2..3), Check::Finished)[..]));
    let refused = carver.carve(&(2..3), Checksums::Finished, &spec.superframe(), &mut out[..len - 1]);
    assert_eq!(refused, Err(FrameError::FrameLen));
}

proptest! {
    #[test]
    fn the_receiver_makes_the_header_that_the_sender_was_given(spec in any_spec()) {
        let vnet = spec.vnet(&all(&spec));
        // The kernel's header length is a hint that may count payload.
        let hinted = VnetHeader { hdr_len: vnet.hdr_len + 100, ..vnet };
        let frame = spec.superframe();
        let kind = classify_untouched(&hinted, &frame);
        prop_assert_eq!(kind, Ok(FrameKind::Gso(spec.request())));
        prop_assert_eq!(rebuild(kind.unwrap(), &frame), Ok(vnet));
        let single = spec.frame(&(0..1), Check::Partial);
        prop_assert_eq!(classify_untouched(&spec.vnet(&(0..1)), &single), Ok(FrameKind::PartialChecksum));
        prop_assert_eq!(rebuild(FrameKind::PartialChecksum, &single), Ok(spec.vnet(&(0..1))));
    }

    #[test]
    fn segments_are_those_of_the_reference(spec in any_spec()) {
        let frame = spec.superframe();
        let carver = Carver::new(spec.request(), &frame, frame.len()).unwrap();
        prop_assert_eq!(carver.segment_count(), spec.segment_count());
        let mut out = vec![0; MAX_FRAME_LEN];
        for segment in 0..carver.segment_count() {
            let segments = segment..segment + 1;
            let (vnet, len) = carver.carve(&segments, Checksums::Finished, &frame, &mut out).unwrap();
            prop_assert_eq!(vnet, VnetHeader::default());
            prop_assert_eq!(&out[..len], &spec.frame(&segments, Check::Finished)[..], "segment {}", segment);
        }
    }

    #[test]
    fn runs_of_segments_are_those_of_the_reference(spec in any_spec(), a: u16, b: u16) {
        let frame = spec.superframe();
        let carver = Carver::new(spec.request(), &frame, frame.len()).unwrap();
        let (a, b) = (usize::from(a) % carver.segment_count(), usize::from(b) % carver.segment_count());
        let segments = a.min(b)..a.max(b) + 1;
        let mut out = vec![0; MAX_FRAME_LEN];
        let (vnet, len) = carver.carve(&segments, Checksums::Partial, &frame, &mut out).unwrap();
        prop_assert_eq!(vnet, spec.vnet(&segments));
        prop_assert_eq!(&out[..len], &spec.frame(&segments, Check::Partial)[..]);
    }

    #[test]
    fn any_bytes_of_a_stream_are_those_of_the_reference(spec in any_spec(), a: usize, b: usize) {
        let frame = spec.superframe();
        let carver = Carver::new(spec.request(), &frame, frame.len()).unwrap();
        prop_assume!(carver.is_stream());
        let (a, b) = (a % carver.payload_len(), b % carver.payload_len());
        let bytes = a.min(b)..a.max(b) + 1;
        let mut out = vec![0; carver.header_len()];
        prop_assert_eq!(carver.emit_stream_header(&bytes, &mut out), spec.vnet_of(&bytes));
        prop_assert_eq!(&out[..], &spec.frame_of(&bytes, Check::Partial)[..carver.header_len()]);
    }

    #[test]
    fn finishing_gives_the_checksum_of_the_reference(spec in any_spec()) {
        let mut frame = spec.frame(&(0..1), Check::Partial);
        let vnet = spec.vnet(&(0..1));
        checksum::finish(&mut frame, vnet.csum_start, vnet.csum_offset).unwrap();
        prop_assert_eq!(frame, spec.frame(&(0..1), Check::Finished));
    }

    #[test]
    fn no_bytes_make_any_of_it_panic(
        mut frame in proptest::collection::vec(any::<u8>(), 0..300),
        ip in prop_oneof![Just([8_u8, 0, 0x45]), Just([0x86, 0xdd, 0x60]), Just([0x81, 0, 0])],
        protocol in prop_oneof![Just(6_u8), Just(17), Just(0)],
        header in proptest::array::uniform10(any::<u8>()),
        gso_size: u16,
    ) {
        if frame.len() > 24 {
            frame[12..15].copy_from_slice(&ip);
            frame[20] = protocol;
            frame[23] = protocol;
        }
        if let Ok(vnet) = VnetHeader::parse(&header) {
            let _ = classify(&vnet, &mut frame.clone());
        }
        for transport in [Transport::Tcp, Transport::Udp] {
            let _ = rebuild(FrameKind::Gso(GsoRequest { transport, gso_size }), &frame);
            if let Ok(carver) = Carver::new(GsoRequest { transport, gso_size }, &frame, frame.len() + 1000) {
                carver.emit_header(&(0..carver.segment_count()), &mut frame);
            }
        }
        let _ = Layout::parse(&frame, frame.len());
    }
}
