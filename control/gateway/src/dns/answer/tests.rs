//! Every form of a name, and what is said to it.

use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::dns::testing::state;

/// `None` for another resolver's; else the code and the records, sorted, as in `A 10.0.0.1`.
fn ask(name: &str, kind: RecordType) -> Option<(ResponseCode, Vec<String>)> {
    let (zone, mut random) = (Zone::new(state()), StdRng::seed_from_u64(1));
    match answer(&zone, &Query::query(Name::from_ascii(name).unwrap(), kind), &mut random) {
        Verdict::Foreign => None,
        Verdict::Own(answer) => {
            let soa_count = answer.authorities.iter().filter(|record| record.record_type() == RecordType::SOA).count();
            assert_eq!(
                soa_count,
                usize::from(answer.answers.is_empty()),
                "{name}: an answer of nothing says for how long"
            );
            assert!(answer.answers.iter().all(|record| record.name.eq_case(&Name::from_ascii(name).unwrap())));
            let mut records: Vec<String> =
                answer.answers.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect();
            records.sort();
            Some((answer.code, records))
        }
    }
}

fn records(name: &str, kind: RecordType) -> Vec<String> {
    let (code, records) = ask(name, kind).unwrap_or_else(|| panic!("{name} is not ours"));
    assert_eq!(code, ResponseCode::NoError, "{name}");
    records
}

const NOTHING: [&str; 0] = [];

#[test]
fn names_of_services_give_the_instances_that_take_traffic() {
    for name in ["web.weave.local.", "WEB.Weave.LOCAL.", "web.service.consul.", "web.service.dc1.consul."] {
        assert_eq!(records(name, RecordType::A), ["A 10.32.0.2", "A 10.32.1.2"], "{name}");
    }
    for name in ["green.web.weave.local.", "green.web.service.consul.", "green.web.service.dc1.consul."] {
        assert_eq!(records(name, RecordType::A), ["A 10.32.1.2"], "{name}");
    }
    assert_eq!(records("blue.web.weave.local.", RecordType::A), ["A 10.32.0.2"]);
    assert_eq!(records("v1-2.web.weave.local.", RecordType::A), ["A 10.32.0.2"]);
    assert_eq!(records("api.weave.local.", RecordType::A), ["A 10.32.1.1"]);
}

#[test]
fn a_balanced_service_has_a_name_that_stays_where_its_listener_can_be_reached() {
    use weaved_api::balancer::{BalancerState, ClientLimits, Listener, ListenerProtocol, Route, Trust};
    let (host, path, header, colour, colour_header) = (None, None, None, None, None);
    let to_web = Route { host, path, header, service: "web".into(), colour, colour_header };
    let at = |address: &str| Listener {
        name: "x".into(),
        address: address.parse().unwrap(),
        protocol: ListenerProtocol::Http,
        tls: None,
        accept_proxy: Trust::Nobody,
        trust_forwarded: Trust::Nobody,
        routes: vec![to_web.clone()],
        limits: ClientLimits::default(),
        access_log: None,
    };
    let found = |addresses: &[&str]| {
        let listen = Some("10.32.0.1".parse().unwrap());
        let balancer =
            BalancerState { listeners: addresses.iter().map(|address| at(address)).collect(), services: vec![] };
        let zone = Zone::new(weaved_api::gateway::GatewayState { listen, balancer, ..state() });
        match find(&zone, "web.lb") {
            Found::Address(address) => address,
            _ => None,
        }
    };
    let own = Some("10.32.0.1".parse().unwrap());
    assert_eq!((found(&["10.32.0.1:80"]), found(&["0.0.0.0:80"])), (own, own));
    assert_eq!((found(&["127.0.0.1:80"]), found(&[])), (None, None));
    // An address that the operator gives it, unless containers reach it in the usual way as well.
    assert_eq!(found(&["127.0.0.1:80", "10.99.0.1:80"]), Some("10.99.0.1".parse().unwrap()));
    assert_eq!((found(&["10.99.0.1:80", "10.32.0.1:81"]), found(&["0.0.0.0:80", "10.99.0.1:80"])), (own, own));
    assert_eq!(ask("web.lb.weave.local.", RecordType::A), Some((ResponseCode::NXDomain, vec![])));
}

#[test]
fn names_of_containers_hosts_and_addresses_give_addresses() {
    for (name, kind, record) in [
        ("db.weave.local.", RecordType::A, "A 10.32.0.3"),
        ("web1.weave.local.", RecordType::AAAA, "AAAA 2001:db8::2"),
        ("alpha.node.weave.local.", RecordType::A, "A 10.32.0.1"),
        ("beta.example.node.weave.local.", RecordType::A, "A 10.32.1.1"),
        ("alpha.node.consul.", RecordType::A, "A 10.32.0.1"),
        ("beta.example.node.dc1.consul.", RecordType::A, "A 10.32.1.1"),
        ("0a200003.addr.weave.local.", RecordType::A, "A 10.32.0.3"),
        ("0a200003.addr.dc1.consul.", RecordType::A, "A 10.32.0.3"),
        ("20010db8000000000000000000000002.addr.consul.", RecordType::AAAA, "AAAA 2001:db8::2"),
    ] {
        assert_eq!(records(name, kind), [record], "{name}");
    }
}

#[test]
fn service_records_tell_port_weight_and_a_name_that_leads_to_the_address() {
    let zone = Zone::new(state());
    for (name, expected) in [
        ("_web._tcp.weave.local.", vec!["1 1 80 web1.weave.local.", "1 7 80 web2.weave.local."]),
        ("web.weave.local.", vec!["1 1 80 web1.weave.local.", "1 7 80 web2.weave.local."]),
        ("_web._green.weave.local.", vec!["1 7 80 web2.weave.local."]),
        ("_api._udp.weave.local.", vec!["1 1 80 beta.example.node.weave.local."]),
        ("_web._tcp.service.consul.", vec!["1 1 80 0a200002.addr.dc1.consul.", "1 7 80 0a200102.addr.dc1.consul."]),
        ("_web._green.service.dc1.consul.", vec!["1 7 80 0a200102.addr.dc1.consul."]),
        ("green.web.service.consul.", vec!["1 7 80 0a200102.addr.dc1.consul."]),
        ("api.service.consul.", vec!["1 1 80 beta.example.node.dc1.consul."]),
    ] {
        let expected: Vec<String> = expected.iter().map(|data| format!("SRV {data}")).collect();
        assert_eq!(records(name, RecordType::SRV), expected, "{name}");
        let Verdict::Own(answer) = answer(
            &zone,
            &Query::query(Name::from_ascii(name).unwrap(), RecordType::SRV),
            &mut StdRng::seed_from_u64(2),
        ) else {
            panic!("{name} is not ours")
        };
        for glue in answer.additionals {
            let leads_to = records(&glue.name.to_ascii(), glue.record_type());
            assert_eq!(leads_to, [format!("{} {}", glue.record_type(), glue.data)], "{name}");
        }
    }
}

#[test]
fn a_name_that_is_there_without_such_records_is_no_error() {
    for (name, kind) in [
        ("db.weave.local.", RecordType::AAAA),
        ("db.weave.local.", RecordType::SRV),
        ("web.weave.local.", RecordType::MX),
        ("_web._tcp.weave.local.", RecordType::A),
        // All instances are out; the container's host is down.
        ("ill.weave.local.", RecordType::A),
        ("gone.weave.local.", RecordType::A),
        ("gamma.node.weave.local.", RecordType::A),
        // Only there because of what is below.
        ("node.weave.local.", RecordType::A),
        ("example.node.weave.local.", RecordType::A),
        ("_tcp.weave.local.", RecordType::A),
        ("weave.local.", RecordType::A),
        ("service.consul.", RecordType::A),
        ("dc1.consul.", RecordType::A),
        ("2.0.32.10.in-addr.arpa.", RecordType::A),
        ("0.32.10.in-addr.arpa.", RecordType::PTR),
    ] {
        assert_eq!(records(name, kind), NOTHING, "{name}");
    }
}

#[test]
fn a_name_that_is_not_there_does_not_exist() {
    for name in [
        "nothing.weave.local.",
        "red.web.weave.local.",
        "x.db.weave.local.",
        "_db._tcp.weave.local.",
        "0a20000.addr.weave.local.",
        "nothing.service.consul.",
        "ill.service.consul.",
        "web.service.dc2.consul.",
        "db.query.consul.",
        "gamma.node.consul.",
        "77.0.32.10.in-addr.arpa.",
    ] {
        assert_eq!(ask(name, RecordType::A), Some((ResponseCode::NXDomain, vec![])), "{name}");
    }
}

#[test]
fn addresses_have_the_name_of_their_container_or_host() {
    for (name, target) in [
        ("2.0.32.10.in-addr.arpa.", "web1.weave.local."),
        ("1.1.32.10.in-addr.arpa.", "beta.example.node.weave.local."),
        ("2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", "web1.weave.local."),
    ] {
        assert_eq!(records(name, RecordType::PTR), [format!("PTR {target}")], "{name}");
    }
}

#[test]
fn everything_else_is_another_resolvers() {
    for name in ["example.com.", "local.", "xweave.local.", "web.", "1.2.0.192.in-addr.arpa.", "10.in-addr.arpa."] {
        assert_eq!(ask(name, RecordType::PTR), None, "{name}");
    }
}

#[test]
fn the_zone_itself_has_a_server_and_a_start_of_authority() {
    assert_eq!(records("weave.local.", RecordType::NS), ["NS alpha.node.weave.local."]);
    assert!(
        records("weave.local.", RecordType::SOA)[0]
            .starts_with("SOA alpha.node.weave.local. hostmaster.weave.local. 7 ")
    );
    assert_eq!(records("consul.", RecordType::NS), ["NS alpha.node.weave.local."]);
}

#[test]
fn a_question_for_everything_gets_one_small_record() {
    let answer = records("web.weave.local.", RecordType::ANY);
    assert!(answer.len() == 1 && answer[0].starts_with("HINFO"), "{answer:?}");
}

#[test]
fn the_order_is_another_each_time_and_no_instance_is_preferred() {
    let zone = Zone::new(state());
    let query = Query::query(Name::from_ascii("web.weave.local.").unwrap(), RecordType::A);
    let mut random = StdRng::seed_from_u64(3);
    let firsts = (0..1000).filter(|_| match answer(&zone, &query, &mut random) {
        Verdict::Own(answer) => answer.answers[0].data == RData::A(A::new(10, 32, 0, 2)),
        Verdict::Foreign => panic!("it is ours"),
    });
    assert!((400..600).contains(&firsts.count()));
}

#[test]
fn a_service_hides_a_container_of_its_name_also_when_it_is_ill() {
    let mut state = state();
    state.containers[2].name = "ill".into();
    let zone = Zone::new(state);
    let query = Query::query(Name::from_ascii("ill.weave.local.").unwrap(), RecordType::A);
    let Verdict::Own(answer) = answer(&zone, &query, &mut StdRng::seed_from_u64(1)) else { panic!("it is ours") };
    assert!(answer.answers.is_empty());
}
