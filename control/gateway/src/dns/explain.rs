//! Why an answer is as it is: `weaved dns-lookup`.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{Name, RecordType},
};
use weaved_api::gateway::{Candidate, LookupKind, LookupReport};

use super::{
    answer::{Verdict, answer, entry},
    forward::Forwarder,
    names::lower_text,
    zone::{Place, Zone},
};

/// Looks a name up as a container would, the search domain included.
pub(crate) async fn explain(zone: &Zone, forwarder: &Forwarder, text: &str, kind: LookupKind) -> LookupReport {
    let Some(name) = whole_name(zone, text, kind) else {
        return LookupReport {
            name: text.to_owned(),
            outcome: "FORMERR".into(),
            source: "this is no name: labels have 1 to 63 bytes, a name at most 255".into(),
            ..LookupReport::default()
        };
    };
    let query = Query::query(name.clone(), record_type(kind));
    let lower = lower_text(&name);
    let candidates = entry(zone, &lower).map_or_else(Vec::new, |entry| candidates(zone, &entry.all));
    let mut report = LookupReport { name: name.to_ascii(), candidates, ..LookupReport::default() };
    let verdict = answer(zone, &query, &mut rand::rng());
    let (code, records) = match verdict {
        Verdict::Own(answer) => {
            report.source = "the names of this cluster".into();
            (answer.code, [answer.answers, answer.additionals].concat())
        }
        Verdict::Foreign => match forwarder.resolve(&query).await {
            Ok(message) => {
                report.source = "the resolvers of this host".into();
                (message.metadata.response_code, message.answers.clone())
            }
            Err(failure) => {
                report.source = failure.to_string();
                (ResponseCode::ServFail, Vec::new())
            }
        },
    };
    report.outcome = outcome(code).into();
    report.records = records.iter().map(ToString::to_string).collect();
    report
}

/// An address stands for its reverse name; a name that is not in our zone is tried there first, as a search domain does.
fn whole_name(zone: &Zone, text: &str, kind: LookupKind) -> Option<Name> {
    if kind == LookupKind::Ptr
        && let Ok(address) = text.parse::<IpAddr>()
    {
        return Some(Name::from(address));
    }
    if !text.ends_with('.') {
        let searched = Name::from_ascii(format!("{text}.{}.", zone.domain())).ok();
        let is_known =
            |name: &Name| match answer(zone, &Query::query(name.clone(), record_type(kind)), &mut rand::rng()) {
                Verdict::Own(answer) => answer.code == ResponseCode::NoError,
                Verdict::Foreign => false,
            };
        let is_absolute = Name::from_ascii(format!("{text}.")).is_ok_and(|name| is_known(&name));
        // A name of one label is never asked of others.
        if !is_absolute && (searched.as_ref().is_some_and(is_known) || !text.contains('.')) {
            return searched;
        }
    }
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn candidates(zone: &Zone, places: &[Place]) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for place in places {
        let standing = zone.standing_of(place.of);
        let address = place.address.map(|address| match place.port {
            0 => address.to_string(),
            port => SocketAddr::new(address, port).to_string(),
        });
        let candidate = Candidate {
            id: zone.id_of(place.of).to_owned(),
            host: zone.host_of(place.of).map_or_else(String::new, |host| host.name.clone()),
            addresses: address.into_iter().collect(),
            standing,
        };
        match candidates.iter_mut().find(|known| known.id == candidate.id && known.host == candidate.host) {
            Some(known) => known.addresses.extend(candidate.addresses),
            None => candidates.push(candidate),
        }
    }
    candidates
}

fn record_type(kind: LookupKind) -> RecordType {
    match kind {
        LookupKind::A => RecordType::A,
        LookupKind::Aaaa => RecordType::AAAA,
        LookupKind::Srv => RecordType::SRV,
        LookupKind::Ptr => RecordType::PTR,
    }
}

/// As dig writes it.
fn outcome(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::Refused => "REFUSED",
        _ => "another error",
    }
}

/// The report while control has told no names.
pub(crate) fn no_names(text: &str) -> LookupReport {
    LookupReport {
        name: text.to_owned(),
        outcome: outcome(ResponseCode::ServFail).into(),
        source: "the gateway has heard of no names yet; see `weaved status`".into(),
        ..LookupReport::default()
    }
}
