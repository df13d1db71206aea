//! A small cluster for tests, and what the fuzzer runs.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType};
use rand::{SeedableRng, rngs::StdRng};
use weaved_api::{
    Generation,
    balancer::BalancerState,
    gateway::{GatewayState, NamedContainer, NamedHost, NamedInstance, Standing},
};

use super::{
    respond::{Recursion, Step, Transport, respond},
    zone::Zone,
};
use crate::{limits::MAX_UDP_ANSWER_BYTES, stats::Counters};

/// Two hosts that answer, one that does not; containers `web1`, `web2`, `db`, `gone`; the service `web` in two colours with one
/// instance critical and one on the dead host; `ill` without a living instance; `api` on a host's own address.
pub fn state() -> GatewayState {
    let host = |name: &str, address: &str, standing| NamedHost {
        name: name.into(),
        address: Some(ip(address)),
        standing,
        is_gone: false,
    };
    GatewayState {
        generation: Generation(7),
        zone: "weave.local".into(),
        host: "alpha".into(),
        listen: None,
        range: "10.32.0.0/12".parse().expect("this is a network"),
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
        balancer: BalancerState::default(),
    }
}

fn container(name: &str, ips: &[&str], host: u32) -> NamedContainer {
    NamedContainer { name: name.into(), ips: ips.iter().map(|text| ip(text)).collect(), host }
}

fn instance(service: &str, id: &str, tags: &[&str], address: Option<&str>, host: u32) -> NamedInstance {
    NamedInstance {
        service: service.into(),
        id: id.into(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        colours: Vec::new(),
        address: address.map(ip),
        port: 80,
        host,
        standing: Standing::Passing,
        weight: 1,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("this is an address")
}

/// Any bytes as a datagram: whatever they are, the answer is one that a client can read, belongs to the question and fits.
pub fn fuzz_dns(bytes: &[u8]) {
    let (zone, counters) = (Zone::new(state()), Counters::default());
    let mut random = StdRng::seed_from_u64(1);
    let step = respond(bytes, Transport::Udp, Recursion::Offered, Some(&zone), &counters, &mut random);
    let reply = match step {
        Step::Drop => return,
        Step::Reply(reply) => reply,
        // The same bytes as what another resolver might answer.
        Step::Forward(request) => request.finish(Message::from_vec(bytes).ok().as_ref(), &counters),
    };
    assert!(reply.len() <= MAX_UDP_ANSWER_BYTES, "{} bytes", reply.len());
    assert_eq!(reply[..2], bytes[..2], "the id is the question's");
    let reply = Message::from_vec(&reply).expect("an answer of ours can be read");
    assert_eq!(reply.metadata.message_type, MessageType::Response);
}
