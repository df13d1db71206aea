//! A small cluster for tests, and what the fuzzers run.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, Query},
    rr::{Name, RecordType},
};
use rand::{SeedableRng, rngs::StdRng};
use weaved_api::{
    Generation,
    gateway::{GatewayState, NamedContainer, NamedHost, NamedInstance, Standing},
    testing::{gateway_state, named_host, named_instance},
};

use super::{
    cache::{Cache, Key},
    names::lower_text,
    respond::{Recursion, Step, Transport, respond},
    upstream,
    zone::Zone,
};
use crate::{
    limits::{MAX_CACHE_TTL, MAX_UDP_ANSWER_BYTES},
    stats::Counters,
};

/// Two hosts that answer, one that does not; containers `web1`, `web2`, `db`, `gone`; the service `web` in two colours with one
/// instance critical and one on the dead host; `ill` without a living instance; `api` on a host's own address.
pub fn state() -> GatewayState {
    let host = |name, address, standing| NamedHost { address: Some(ip(address)), standing, ..named_host(name) };
    GatewayState {
        generation: Generation(7),
        host: "alpha".into(),
        hosts: vec![
            host("alpha", "10.32.0.1", Standing::Passing),
            host("beta.example", "10.32.1.1", Standing::Passing),
            host("gamma", "10.32.2.1", Standing::HostDown),
        ],
        containers: vec![
            container("web1", &["10.32.0.2", "2001:db8::2"], 0),
            container("web2", &["10.32.1.2"], 1),
            container("db", &["10.32.0.3"], 0),
            container("gone", &["10.32.2.2"], 2),
        ],
        instances: vec![
            instance("web", "a:web1:80", &["blue", "v1.2"], Some("10.32.0.2"), 0),
            NamedInstance { weight: 7, ..instance("web", "b:web2:80", &["green"], Some("10.32.1.2"), 1) },
            NamedInstance {
                standing: Standing::Critical,
                ..instance("web", "b:x:80", &["green"], Some("10.32.1.3"), 1)
            },
            instance("web", "g:gone:80", &["blue"], Some("10.32.2.2"), 2),
            NamedInstance { standing: Standing::Draining, ..instance("ill", "a:i:80", &[], Some("10.32.0.9"), 0) },
            instance("api", "b:api", &["udp"], None, 1),
        ],
        ..gateway_state()
    }
}

fn container(name: &str, ips: &[&str], host: u32) -> NamedContainer {
    NamedContainer { name: name.into(), ips: ips.iter().map(|text| ip(text)).collect(), host }
}

fn instance(service: &str, id: &str, tags: &[&str], address: Option<&str>, host: u32) -> NamedInstance {
    NamedInstance {
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        address: address.map(ip),
        host,
        ..named_instance(service, id)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("this is an address")
}

/// A zone is made once for each thread: it would be most of the work.
fn with_zone<T>(run: impl FnOnce(&Zone) -> T) -> T {
    thread_local! {
        static ZONE: Zone = Zone::new(state());
    }
    ZONE.with(run)
}

/// Any bytes as a question: whatever they are, the answer is one that a client can read, belongs to the question and fits.
pub fn fuzz_dns(bytes: &[u8]) {
    with_zone(|zone| {
        asked(bytes, Transport::Udp, Recursion::Offered, Some(zone));
        asked(bytes, Transport::Tcp, Recursion::Refused, Some(zone));
        asked(bytes, Transport::Udp, Recursion::Offered, None);
    });
}

fn asked(bytes: &[u8], transport: Transport, recursion: Recursion, zone: Option<&Zone>) {
    let (counters, mut random) = (Counters::default(), StdRng::seed_from_u64(1));
    let reply = match respond(bytes, transport, recursion, zone, &counters, &mut random) {
        Step::Drop => return,
        Step::Reply(reply) => reply,
        // The same bytes as what another resolver might answer.
        Step::Forward(request) => {
            assert_eq!(recursion, Recursion::Offered);
            request.finish(Message::from_vec(bytes).ok().as_ref(), &counters)
        }
    };
    assert_answers(&reply, bytes, transport);
}

fn assert_answers(reply: &[u8], question: &[u8], transport: Transport) {
    let room = if transport == Transport::Udp { MAX_UDP_ANSWER_BYTES } else { usize::from(u16::MAX) };
    assert!(reply.len() <= room, "{} bytes", reply.len());
    assert_eq!(reply[..2], question[..2], "the id is the question's");
    let reply = Message::from_vec(reply).expect("an answer of ours can be read");
    assert_eq!(reply.metadata.message_type, MessageType::Response);
}

/// Id of the questions that [`fuzz_upstream`] asks.
const ID: u16 = 0x1234;

/// The question that an input is the answer to, by its first byte.
fn question_of(kind: u8) -> Message {
    let kinds = [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT];
    let name = Name::from_ascii("www.ExAmple.com.").expect("this is a name");
    let query = Query::query(name, kinds[usize::from(kind) % kinds.len()]);
    let mut question = upstream::question(&query, kind & 0x80 != 0);
    question.metadata.id = ID;
    question
}

/// Any bytes as the answer of another resolver, or of somebody who says that he is one: what belongs to the question is kept
/// no longer than it may be, and passed on as an answer that the client can read; what does not is not.
pub fn fuzz_upstream(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let question = question_of(*kind);
    let Ok(found) = Message::from_vec(bytes) else { return };
    if !upstream::belongs(&found, &question) {
        return;
    }
    assert_eq!(bytes[..2], ID.to_be_bytes());
    let found = Arc::new(found);
    let (mut cache, now) = (Cache::default(), Instant::now());
    let key = Key { name: lower_text(question.queries[0].name()), kind: RecordType::A, dnssec: false };
    cache.insert(key.clone(), &found, now);
    let later = cache.find(&key, now + Duration::from_secs(2));
    assert!(cache.find(&key, now + MAX_CACHE_TTL).is_none());
    let asked = question.to_vec().expect("a question of ours can be written");
    for message in [Some(&*found), later.as_deref(), None] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let (counters, mut random) = (Counters::default(), StdRng::seed_from_u64(1));
            let step =
                with_zone(|zone| respond(&asked, transport, Recursion::Offered, Some(zone), &counters, &mut random));
            let Step::Forward(request) = step else { panic!("it is not ours: {step:?}") };
            assert_answers(&request.finish(message, &counters), &asked, transport);
        }
    }
}
