//! Bytes in, bytes out: good questions, bad ones, and answers that do not fit.

use hickory_proto::rr::Name;
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};
use weaved_api::gateway::NamedInstance;

use super::*;
use crate::dns::testing::{fuzz_dns, fuzz_upstream, state};

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn step(bytes: &[u8], transport: Transport, recursion: Recursion) -> (Step, Counters) {
    let (zone, counters) = (Zone::new(state()), Counters::default());
    let step = respond(bytes, transport, recursion, Some(&zone), &counters, &mut StdRng::seed_from_u64(1));
    (step, counters)
}

fn reply(message: &Message) -> Message {
    match step(&message.to_vec().unwrap(), Transport::Udp, Recursion::Offered).0 {
        Step::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// A cluster with so many instances of `many`.
fn crowd(count: u8) -> Zone {
    let mut state = state();
    let first = state.instances[0].clone();
    state.instances.extend((0..count).map(|number| NamedInstance {
        service: "many".into(),
        id: number.to_string(),
        address: Some([10, 40, 0, number].into()),
        ..first.clone()
    }));
    Zone::new(state)
}

fn ask_crowd(message: &Message, transport: Transport) -> (Vec<u8>, Message) {
    let (zone, counters, mut random) = (crowd(200), Counters::default(), StdRng::seed_from_u64(1));
    let bytes = message.to_vec().unwrap();
    match respond(&bytes, transport, Recursion::Offered, Some(&zone), &counters, &mut random) {
        Step::Reply(bytes) => (bytes.clone(), Message::from_vec(&bytes).unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_repeats_id_question_and_its_upper_case() {
    let asked = question("wEb.WeAvE.lOcAl.", RecordType::A);
    let reply = reply(&asked);
    assert_eq!(reply.metadata.id, 0x1234);
    assert!(reply.queries[0].name().eq_case(asked.queries[0].name()));
    assert!(reply.metadata.authoritative && reply.metadata.recursion_desired && reply.metadata.recursion_available);
    assert_eq!((reply.answers.len(), reply.edns), (2, None));
}

#[test]
fn what_does_not_fit_is_cut_and_says_so() {
    let plain = question("many.weave.local.", RecordType::A);
    let mut offering = plain.clone();
    offering.edns = Some(Edns::new());
    for (offer, room) in [(None, 512), (Some(100), 512), (Some(1000), 1000), (Some(65535), 1232)] {
        let asked = offer.map_or(plain.clone(), |offer| {
            let mut asked = offering.clone();
            asked.edns.as_mut().unwrap().set_max_payload(offer);
            asked
        });
        let (bytes, reply) = ask_crowd(&asked, Transport::Udp);
        assert!(reply.metadata.truncation && bytes.len() <= room, "{} of {room}", bytes.len());
        assert!(bytes.len() > room / 2, "as much as fits: {} of {room}", bytes.len());
        assert_eq!(reply.edns.is_some(), offer.is_some());
    }
    let (_, whole) = ask_crowd(&plain, Transport::Tcp);
    assert!(!whole.metadata.truncation && whole.answers.len() == 200);
}

#[test]
fn addresses_that_only_help_are_left_out_without_a_word() {
    let mut asked = question("_many._blue.weave.local.", RecordType::SRV);
    let (_, whole) = ask_crowd(&asked, Transport::Tcp);
    assert_eq!((whole.answers.len(), whole.additionals.len()), (200, 200));
    asked.queries = vec![Query::query(Name::from_ascii("_web._tcp.weave.local.").unwrap(), RecordType::SRV)];
    assert_eq!(reply(&asked).additionals.len(), 2);
}

#[test]
fn what_is_no_question_is_dropped_or_refused_with_its_code() {
    let good = question("web.weave.local.", RecordType::A).to_vec().unwrap();
    let with = |place: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[place] = byte;
        bytes
    };
    let code = |bytes: &[u8]| match step(bytes, Transport::Udp, Recursion::Offered).0 {
        Step::Reply(reply) => Some(Message::from_vec(&reply).unwrap().metadata.response_code),
        Step::Drop => None,
        Step::Forward(request) => panic!("{request:?}"),
    };
    assert_eq!(code(&good), Some(ResponseCode::NoError));
    assert_eq!(code(&good[..11]), None);
    assert_eq!(code(&[0; 5000]), None);
    assert_eq!(code(&with(2, 0x81)), None, "an answer is not answered");
    assert_eq!(code(&with(2, 0x29)), Some(ResponseCode::NotImp), "an update");
    for count in [0, 2, 255] {
        assert_eq!(code(&with(5, count)), Some(ResponseCode::FormErr), "{count} questions");
    }
    assert_eq!(code(&with(4, 0xff)), Some(ResponseCode::FormErr), "65281 questions");
    assert_eq!(code(&good[..good.len() - 1]), Some(ResponseCode::FormErr));
    // A name that points to itself (RFC 1035 §4.1.4).
    let loops = [&good[..12], &[0xc0, 12, 0, 1, 0, 1]].concat();
    assert_eq!(code(&loops), Some(ResponseCode::FormErr));
}

#[test]
fn transfers_other_classes_and_other_edns_are_refused() {
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(reply(&question("weave.local.", kind)).metadata.response_code, ResponseCode::Refused);
    }
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(reply(&chaos).metadata.response_code, ResponseCode::Refused);
    let mut newer = question("web.weave.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.edns = Some(edns);
    // Code 16 is BADSIG in a signature and BADVERS in EDNS (RFC 6891 §9).
    assert_eq!(u16::from(reply(&newer).metadata.response_code), u16::from(ResponseCode::BADVERS));
}

#[test]
fn other_names_are_looked_up_only_where_that_is_offered() {
    let bytes = question("example.com.", RecordType::A).to_vec().unwrap();
    assert!(matches!(step(&bytes, Transport::Udp, Recursion::Offered).0, Step::Forward(_)));
    let (refused, counters) = step(&bytes, Transport::Udp, Recursion::Refused);
    let Step::Reply(refused) = refused else { panic!("{refused:?}") };
    let refused = Message::from_vec(&refused).unwrap();
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    assert!(!refused.metadata.recursion_available);
    assert_eq!(counters.refused.value(), 1);
}

#[test]
fn without_names_the_client_is_told_to_try_elsewhere() {
    let bytes = question("web.weave.local.", RecordType::A).to_vec().unwrap();
    let counters = Counters::default();
    let step = respond(&bytes, Transport::Udp, Recursion::Offered, None, &counters, &mut StdRng::seed_from_u64(1));
    let Step::Reply(reply) = step else { panic!("{step:?}") };
    assert_eq!(Message::from_vec(&reply).unwrap().metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn another_resolvers_answer_is_passed_on_under_the_questions_own_name() {
    let bytes = question("ExAmple.com.", RecordType::A).to_vec().unwrap();
    let Step::Forward(request) = step(&bytes, Transport::Udp, Recursion::Offered).0 else { panic!("it is not ours") };
    let mut found = question("example.com.", RecordType::A);
    found.metadata.message_type = MessageType::Response;
    let data = hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A::new(192, 0, 2, 1));
    found.answers.push(Record::from_rdata(Name::from_ascii("example.com.").unwrap(), 60, data));
    let counters = Counters::default();
    let passed = Message::from_vec(&request.finish(Some(&found), &counters)).unwrap();
    assert!(passed.answers[0].name.eq_case(&Name::from_ascii("ExAmple.com.").unwrap()));
    assert!(passed.metadata.id == 0x1234 && !passed.metadata.authoritative);
    let failed = Message::from_vec(&request.finish(None, &counters)).unwrap();
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
}

/// Each file of the fuzzer's corpus, also cut short at every length.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        (0..=bytes.len()).for_each(|len| run(&bytes[..len]));
    }
}

#[test]
fn every_question_of_the_corpus_is_answered_well_or_dropped() {
    replay("dns", fuzz_dns);
}

#[test]
fn every_answer_of_the_corpus_is_passed_on_well_or_not_believed() {
    replay("upstream", fuzz_upstream);
}

proptest! {
    #[test]
    fn any_bytes_get_a_readable_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzz_dns(&bytes);
    }

    /// Mostly well-formed, so that the paths behind the parser are reached.
    #[test]
    fn a_damaged_question_does_no_harm(place in 0usize..60, byte: u8, kind in 0u16..300) {
        let mut message = question("_web._tcp.weave.local.", RecordType::from(kind));
        message.edns = Some(Edns::new());
        let mut bytes = message.to_vec().unwrap();
        let place = place % bytes.len();
        bytes[place] = byte;
        fuzz_dns(&bytes);
    }
}
