//! Every parser on any bytes: none panics, and what is parsed is emitted as something that parses to the same.

use weaved_api::{
    DesiredState, Event, Request,
    framing::{LEN_BYTES, MAX_MESSAGE_BYTES, decode, decode_len, encode, read_message},
};

use crate::{
    limits::MAX_FRAME_LEN,
    offload::{
        superframe::Layout,
        translate::{classify, rebuild},
        vnet_hdr::{VNET_HEADER_LEN, VnetHeader},
    },
    wire::{
        data::DataHeader,
        ethernet::EthernetHeader,
        handshake::{Challenge, Finish, Initiation, InitiationPayload, Refusal, Response, ResponsePayload},
        header::{parse_receiver, parse_type},
        neighbour::{MAX_ANSWER_LEN, NeighbourMessage},
        record::{Farewell, ProbeAck, ProbeId, RecordHeader, RecordKind, Records},
        relay::{Envelope, RelayHeader},
    },
};

/// Parses what has been emitted and compares.
macro_rules! assert_round_trip {
    ($type:ident, $bytes:expr) => {
        if let Some(parsed) = $type::parse($bytes) {
            assert_eq!($type::parse(&parsed.emit()), Some(parsed));
        }
    };
}

/// All parsers of network and kernel bytes.
pub fn wire(data: &[u8]) {
    let _ = (parse_type(data), parse_receiver(data));
    assert_round_trip!(Initiation, data);
    assert_round_trip!(Response, data);
    assert_round_trip!(Finish, data);
    assert_round_trip!(Challenge, data);
    assert_round_trip!(Refusal, data);
    payloads(data);
    if let Some(header) = DataHeader::parse(data) {
        let mut emitted = header.emit().to_vec();
        emitted.resize(data.len(), 0);
        assert_eq!(DataHeader::parse(&emitted), Some(header));
    }
    if let Some(header) = RelayHeader::parse(data) {
        let mut emitted = header.emit().to_vec();
        emitted.resize(data.len(), 0);
        assert_eq!(RelayHeader::parse(&emitted), Some(header));
    }
    if let Some(envelope) = Envelope::parse(data) {
        let emitted = [&envelope.emit()[..], envelope.datagram].concat();
        assert_eq!(Envelope::parse(&emitted), Some(envelope));
    }
    records(data);
    frame(data);
}

fn payloads(data: &[u8]) {
    if let Some(bytes) = data.first_chunk() {
        let payload = InitiationPayload::parse(bytes);
        assert_eq!(InitiationPayload::parse(&payload.emit()), payload);
    }
    if let Some(bytes) = data.first_chunk() {
        let payload = ResponsePayload::parse(bytes);
        assert_eq!(ResponsePayload::parse(&payload.emit()), payload);
    }
}

fn records(data: &[u8]) {
    let mut len = 0;
    for record in Records::new(data) {
        let Ok(record) = record else { break };
        let header = RecordHeader { kind: record.kind, body_len: record.body.len() };
        assert_eq!(RecordHeader::parse(&header.emit()), Ok(header));
        len += header.emit().len() + record.body.len();
        let _ = ProbeId::parse(record.body);
        assert_round_trip!(ProbeAck, record.body);
        assert_round_trip!(Farewell, record.body);
        if let RecordKind::Frame(kind) = record.kind
            && let Ok(vnet) = rebuild(kind, record.body)
        {
            assert_deliverable(vnet, record.body);
        }
    }
    assert!(len <= data.len(), "records do not overlap");
}

fn frame(data: &[u8]) {
    let _ = (EthernetHeader::parse(data), Layout::parse(data, data.len()));
    if let Some(NeighbourMessage::Question(question)) = NeighbourMessage::parse(data) {
        let mut answer = [0; MAX_ANSWER_LEN];
        let len = question.answer(weaved_api::MacAddr([2; 6]), data, &mut answer).expect("there is room");
        let said = NeighbourMessage::parse(&answer[..len]);
        assert!(matches!(said, Some(NeighbourMessage::Announcement { ip, .. }) if ip == question.target), "{said:?}");
    }
    let (Ok(vnet), Some(frame)) = (VnetHeader::parse(data), data.get(VNET_HEADER_LEN..)) else { return };
    assert_eq!(VnetHeader::parse(&vnet.emit()), Ok(vnet));
    let mut frame = frame.to_vec();
    if let Ok(kind) = classify(&vnet, &mut frame) {
        let vnet = rebuild(kind, &frame).expect("what one end takes the other delivers");
        assert_deliverable(vnet, &frame);
    }
}

/// What the kernel asks of a frame written to a TAP, and a little more.
pub(super) fn assert_deliverable(vnet: VnetHeader, frame: &[u8]) {
    assert!((14..=MAX_FRAME_LEN).contains(&frame.len()));
    if vnet.needs_csum {
        assert!(usize::from(vnet.csum_start) + usize::from(vnet.csum_offset) + 2 <= frame.len(), "{vnet:?}");
    }
    if vnet.gso_size > 0 {
        assert!(vnet.needs_csum && usize::from(vnet.hdr_len) < frame.len(), "{vnet:?}");
        assert!(frame.len() - usize::from(vnet.hdr_len) > usize::from(vnet.gso_size), "several segments: {vnet:?}");
    }
}

/// What control and the data plane say to each other, and a desired state from a file.
pub fn framing(data: &[u8]) {
    if let Some(announced) = data.first_chunk::<LEN_BYTES>()
        && let Ok(len) = decode_len(*announced)
    {
        assert!(len <= MAX_MESSAGE_BYTES);
    }
    let mut reader = data;
    while let Ok(Some(request)) = read_message::<Request>(&mut reader) {
        let encoded = encode(&request).expect("it was short enough");
        assert_eq!(decode::<Request>(&encoded[LEN_BYTES..]).expect("what we encode we decode"), request);
    }
    if let Ok(event) = decode::<Event>(data) {
        let encoded = encode(&event).expect("it was short enough");
        assert_eq!(decode::<Event>(&encoded[LEN_BYTES..]).expect("what we encode we decode"), event);
    }
    let _ = decode::<DesiredState>(data);
}
