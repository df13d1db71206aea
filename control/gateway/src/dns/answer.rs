//! From a question to records.
//!
//! | asked for                                                            | answer                                  |
//! |----------------------------------------------------------------------|-----------------------------------------|
//! | a name of ours that has such records                                 | them, in random order                   |
//! | a name of ours that has none, or whose instances all are out         | none, with the SOA (NODATA, RFC 2308 §2.2) |
//! | a name below our zone that is not there                              | NXDOMAIN with the SOA (RFC 2308 §2.1)   |
//! | a name of Consul's that is not there, or without a living instance   | NXDOMAIN, as Consul does                |
//! | an address of the overlay                                            | its name, or NXDOMAIN                   |
//! | anything else                                                        | for another resolver                    |

use std::net::IpAddr;

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, HINFO, NS, PTR, SOA, SRV},
    },
};
use rand::{Rng, seq::SliceRandom};

use super::{
    names::{dns_name, hex_label, lower_text, parse_hex_label, within},
    zone::{CONSUL, DATACENTER, Entry, Place, TTL_SECS, Zone},
};
use crate::limits::MAX_ANSWER_RECORDS;

/// What is said to a question.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

/// Whose question it is.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Ours.
    Own(Answer),
    /// Another resolver's.
    Foreign,
}

/// Which zone a name is in: the forms and a few habits differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Realm {
    Weave,
    Consul,
}

/// What a name below a zone leads to.
enum Found<'a> {
    Apex,
    Places { entry: &'a Entry, form: Form },
    Address(Option<IpAddr>),
    Inner,
    Nothing,
}

/// How a name is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As a host name.
    Plain,
    /// As RFC 2782 has it: it has SRV records and no others.
    Service,
}

/// Decides about a question of class IN.
pub(crate) fn answer(zone: &Zone, query: &Query, random: &mut impl Rng) -> Verdict {
    let text = lower_text(query.name());
    if let Some(below) = within(&text, zone.domain()) {
        let found = find(zone, below);
        return Verdict::Own(Answerer { zone, query, realm: Realm::Weave }.records(&found, random));
    }
    if let Some(below) = within(&text, CONSUL) {
        let found = find_consul(zone, below);
        return Verdict::Own(Answerer { zone, query, realm: Realm::Consul }.records(&found, random));
    }
    reverse(zone, query).map_or(Verdict::Foreign, Verdict::Own)
}

/// What a name below our zone stands for, for explanations.
pub(crate) fn entry<'a>(zone: &'a Zone, text: &str) -> Option<&'a Entry> {
    let found = match within(text, zone.domain()) {
        Some(below) => find(zone, below),
        None => find_consul(zone, within(text, CONSUL)?),
    };
    match found {
        Found::Places { entry, .. } => Some(entry),
        _ => None,
    }
}

fn find<'a>(zone: &'a Zone, below: &str) -> Found<'a> {
    if below.is_empty() {
        return Found::Apex;
    }
    if let Some(entry) = service_form(below).and_then(|name| zone.service(&name)) {
        return Found::Places { entry, form: Form::Service };
    }
    // Before hosts and addresses: nobody's service named `x.node` is hidden by a rule of ours.
    if let Some(entry) = zone.service_or_container(below) {
        return Found::Places { entry, form: Form::Plain };
    }
    find_fixed(zone, below).unwrap_or(if zone.is_inner(below) { Found::Inner } else { Found::Nothing })
}

/// `HOST.node`, `HEX.addr` and `NAME.lb`.
fn find_fixed<'a>(zone: &'a Zone, below: &str) -> Option<Found<'a>> {
    if let Some(address) = below.strip_suffix(".lb").and_then(|name| zone.balancer(name)) {
        return Some(Found::Address(Some(address)));
    }
    if let Some(host) = below.strip_suffix(".node").and_then(|name| zone.host(name)) {
        return Some(Found::Address(host.address.filter(|_| host.standing.takes_traffic())));
    }
    let address = parse_hex_label(below.strip_suffix(".addr")?)?;
    Some(Found::Address(Some(address)))
}

/// `[TAG.]NAME.service[.DC]`, `_NAME._TAG.service[.DC]`, `HOST.node[.DC]`, `HEX.addr[.DC]`.
fn find_consul<'a>(zone: &'a Zone, below: &str) -> Found<'a> {
    if below.is_empty() {
        return Found::Apex;
    }
    let here = within(below, DATACENTER).unwrap_or(below);
    if matches!(here, "" | "service" | "node" | "addr") {
        return Found::Inner;
    }
    if let Some(name) = here.strip_suffix(".service") {
        let (name, form) = service_form(name).map_or((name.to_owned(), Form::Plain), |name| (name, Form::Service));
        return match zone.service(&name) {
            // Clients of Consul expect NXDOMAIN and nothing else when no instance is well.
            Some(entry) if !entry.live.is_empty() => Found::Places { entry, form },
            _ => Found::Nothing,
        };
    }
    match find_fixed(zone, here) {
        Some(Found::Address(None)) | None => Found::Nothing,
        Some(found) => found,
    }
}

/// `_NAME._TAG` as `TAG.NAME`, and `_NAME._tcp` as `NAME`: Consul takes `tcp` for no tag.
fn service_form(text: &str) -> Option<String> {
    let (name, tag) = text.strip_prefix('_')?.rsplit_once("._")?;
    Some(if tag == "tcp" { name.to_owned() } else { format!("{tag}.{name}") })
}

struct Answerer<'a> {
    zone: &'a Zone,
    query: &'a Query,
    realm: Realm,
}

impl Answerer<'_> {
    fn records(&self, found: &Found<'_>, random: &mut impl Rng) -> Answer {
        let mut answer = Answer::default();
        match found {
            Found::Nothing => answer.code = ResponseCode::NXDomain,
            _ if self.query.query_type() == RecordType::ANY => {
                // RFC 8482 §4.2: one small record instead of all that there is.
                answer.answers.push(self.record(RData::HINFO(HINFO::new("RFC8482".into(), String::new()))));
            }
            Found::Apex => answer.answers.extend(self.apex_record()),
            Found::Inner => {}
            Found::Address(address) => answer.answers.extend(address.and_then(|address| self.address(address))),
            Found::Places { entry, form } => self.places(entry, *form, &mut answer, random),
        }
        if answer.answers.is_empty() {
            answer.authorities.extend(self.soa());
        }
        answer
    }

    fn apex_record(&self) -> Option<Record> {
        match self.query.query_type() {
            RecordType::SOA => self.soa(),
            RecordType::NS => Some(self.record(RData::NS(NS(self.server()?)))),
            _ => None,
        }
    }

    fn address(&self, address: IpAddr) -> Option<Record> {
        address_data(self.query.query_type(), address).map(|data| self.record(data))
    }

    fn places(&self, entry: &Entry, form: Form, answer: &mut Answer, random: &mut impl Rng) {
        match self.query.query_type() {
            RecordType::SRV => self.ports(entry, answer, random),
            kind if form == Form::Plain => {
                let mut addresses: Vec<IpAddr> = entry.live.iter().filter_map(|place| place.address).collect();
                // Several instances at one address are one record (RFC 2181 §5: a set has no duplicates).
                addresses.sort_unstable();
                addresses.dedup();
                addresses.shuffle(random);
                let records = addresses.into_iter().filter_map(|address| address_data(kind, address));
                answer.answers.extend(records.take(MAX_ANSWER_RECORDS).map(|data| self.record(data)));
            }
            _ => {}
        }
    }

    fn ports(&self, entry: &Entry, answer: &mut Answer, random: &mut impl Rng) {
        let mut places: Vec<Place> = entry.live.iter().copied().filter(|place| place.port != 0).collect();
        places.shuffle(random);
        for place in places.into_iter().take(MAX_ANSWER_RECORDS) {
            let (Some(target), Some(address)) = (self.target(place), place.address) else { continue };
            let weight = self.zone.weight_of(place.of);
            answer.answers.push(self.record(RData::SRV(SRV::new(1, weight, place.port, target.clone()))));
            let data = match address {
                IpAddr::V4(address) => RData::A(A(address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(address)),
            };
            let glue = Record::from_rdata(target, TTL_SECS, data);
            answer.additionals.push(glue);
        }
    }

    /// The name to connect to for a place.
    fn target(&self, place: Place) -> Option<Name> {
        match self.realm {
            Realm::Weave => self.zone.absolute(&self.zone.target_of(place)?),
            Realm::Consul => {
                let host = self.zone.host_of(place.of).filter(|host| host.address == place.address);
                let host = host.and_then(|host| dns_name(&host.name));
                let front = match host {
                    Some(name) => format!("{name}.node"),
                    None => format!("{}.addr", hex_label(place.address?)),
                };
                Name::from_ascii(format!("{front}.{DATACENTER}.{CONSUL}.")).ok()
            }
        }
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.query.name().clone(), TTL_SECS, data)
    }

    fn soa(&self) -> Option<Record> {
        let apex = match self.realm {
            Realm::Weave => self.zone.absolute("")?,
            Realm::Consul => Name::from_ascii("consul.").ok()?,
        };
        soa(self.zone, apex)
    }

    fn server(&self) -> Option<Name> {
        server(self.zone)
    }
}

/// This host as a name server.
fn server(zone: &Zone) -> Option<Name> {
    let host = dns_name(&zone.state().host)?;
    zone.absolute(&format!("{host}.node"))
}

/// Its last field says how long "there is nothing" may be kept (RFC 2308 §4): as short as an answer.
fn soa(zone: &Zone, apex: Name) -> Option<Record> {
    let serial = zone.state().generation.0 as u32;
    let mail = apex.prepend_label("hostmaster").ok()?;
    let data = SOA::new(server(zone)?, mail, serial, 3600, 600, 86400, TTL_SECS);
    Some(Record::from_rdata(apex, TTL_SECS, RData::SOA(data)))
}

fn address_data(kind: RecordType, address: IpAddr) -> Option<RData> {
    match (kind, address) {
        (RecordType::A, IpAddr::V4(address)) => Some(RData::A(A(address))),
        (RecordType::AAAA, IpAddr::V6(address)) => Some(RData::AAAA(AAAA(address))),
        _ => None,
    }
}

/// Names of addresses. The overlay's range is ours whole, so that addresses of containers are asked of nobody else.
fn reverse(zone: &Zone, query: &Query) -> Option<Answer> {
    let network = query.name().parse_arpa_name().ok()?;
    let address = network.addr();
    let is_host = network.prefix_len() == network.max_prefix_len();
    let name = zone.name_of(address).filter(|_| is_host).and_then(|name| zone.absolute(name));
    let is_ours = match address {
        // All of it, or the end of a name that is.
        IpAddr::V4(address) => {
            zone.state().range.contains(&address) && network.prefix_len() >= zone.state().range.prefix_len()
        }
        IpAddr::V6(_) => false,
    };
    if name.is_none() && !is_ours {
        return None;
    }
    let mut answer = Answer::default();
    match (name, query.query_type()) {
        (Some(name), RecordType::PTR) => {
            answer.answers.push(Record::from_rdata(query.name().clone(), TTL_SECS, RData::PTR(PTR(name))));
        }
        (None, _) if is_host => answer.code = ResponseCode::NXDomain,
        _ => {}
    }
    if answer.answers.is_empty() {
        answer.authorities.extend(soa(zone, query.name().base_name()));
    }
    Some(answer)
}

#[cfg(test)]
mod tests;
