//! What the fuzzer runs, and what must hold of whatever it finds. Its corpus is replayed by the tests.

mod api;
mod files;
mod gossip;
mod template;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Instant,
};

use futures_util::FutureExt as _;
use hyper::body::Bytes;
use weaved_api::balancer::SwitchState;

use crate::{
    balancer_file::{BalancerFile, MAX_LISTENERS, MAX_ROUTES},
    consul::{json, kv::Keys, request::Ask, txn},
    health::{MAX_TIMEOUT, MIN_INTERVAL},
    kv::{self, Kv, KvError, RequestId},
    registration::{
        Definition, consul_json,
        facts::{Attachment, ContainerFacts},
        rules,
    },
};

pub use self::{files::fuzz_files, gossip::fuzz_gossip, template::fuzz_template};

/// A store of one node behind the HTTP API. Its one voter decides at once.
#[derive(Debug)]
pub struct Alone(Mutex<Kv>);

impl Default for Alone {
    fn default() -> Self {
        Self(Mutex::new(kv::testing::alone(&Vec::new())))
    }
}

impl Keys for Alone {
    async fn call_from(&self, request: kv::Request, _source: &str) -> kv::Answer {
        let mut kv = self.0.lock().map_err(|_| KvError::Ending)?;
        kv.handle_request(RequestId(1), request, Instant::now(), 100);
        drop(kv.poll_persist());
        kv.poll_answer().map_or(Err(KvError::Busy), |(_, answer)| answer)
    }
}

/// A request to the HTTP API: the first line is a method, or none for PUT, path and parameters; the rest is the body.
pub fn fuzz_consul(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (head, body) = (String::from_utf8_lossy(&data[..end]), data.get(end + 1..).unwrap_or_default());
    let (method, target) = api::method_of(&head);
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    if let Ok(ask) = Ask::new(method, path, query, Bytes::copy_from_slice(body)) {
        api::fuzz_routes(&ask);
        if let Ok(Some(blocking)) = ask.query.blocking() {
            assert!(blocking.seen > 0 && !blocking.wait.is_zero(), "{blocking:?}");
        }
        let _ = (ask.query.number("cas"), ask.query.number("flags"), ask.behind("kv"));
        fuzz_transaction(&ask);
    }
    if let Ok(object) = json::decode::<BTreeMap<String, serde_json::Value>>(body, &[]) {
        let is_lower = |key: &String| !key.contains('\\') && key.bytes().all(|byte| !byte.is_ascii_uppercase());
        assert!(object.keys().all(|key| is_lower(key) || body.contains(&b'\\')), "{object:?}");
    }
    let text = String::from_utf8_lossy(body);
    let services = consul_json::parse_file(&text).into_iter().flatten().chain(consul_json::parse_service(&text));
    services.for_each(|service| assert_usable(&service));
    let _ = consul_json::parse_check(&text);
}

/// Twice, because what is there already decides otherwise. A transaction that fails changes nothing.
fn fuzz_transaction(ask: &Ask) {
    let keys = Alone::default();
    let contents = || {
        let kv = keys.0.lock().expect("nobody panicked");
        kv.entries("").map(|(key, entry)| (key.clone(), entry.clone())).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        let before = contents();
        match txn::answer(ask, &keys).now_or_never() {
            Some(Ok(_)) => {}
            Some(Err(_)) => assert_eq!(contents(), before),
            None => panic!("nothing waits for a store that answers at once"),
        }
    }
}

/// Containers, a line for each thing that they say: `L` a label, `E` a variable, `P` a port, `N` the name, `I` the image, `C`
/// begins the next.
pub fn fuzz_labels(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut containers = vec![container(0)];
    for line in text.lines() {
        let Some((number, container)) = containers.len().checked_sub(1).zip(containers.last_mut()) else { return };
        let rest = line.get(1..).unwrap_or_default();
        match line.as_bytes().first() {
            Some(b'L') => {
                let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
                container.labels.insert(key.to_owned(), value.to_owned());
            }
            Some(b'E') => container.env.push(rest.to_owned()),
            Some(b'P') => container.exposed.extend(rest.parse::<crate::registration::facts::Port>().ok()),
            Some(b'N') => rest.clone_into(&mut container.name),
            Some(b'I') => rest.clone_into(&mut container.image),
            Some(b'C') if number < 8 => containers.push(self::container(number + 1)),
            _ => {}
        }
    }
    let outcome = rules::register("alpha", &containers);
    let mut ids = BTreeSet::new();
    for each in &outcome.registered {
        assert_usable(&each.definition);
        assert!(ids.insert(&each.definition.id), "two have the id {:?}", each.definition.id);
    }
    containers.reverse();
    assert_eq!(rules::register("alpha", &containers), outcome, "the order of containers does not matter");
}

/// A `balancer.toml`.
pub fn fuzz_balancer(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match BalancerFile::parse(&text) {
        Ok(file) => {
            assert_eq!(BalancerFile::parse(&format!("{text}\n# a remark\n")), Ok(file.clone()));
            assert_balanceable(&file);
        }
        Err(error) => {
            assert!((1..=text.split('\n').count()).contains(&error.line), "{error:?}");
            assert_is_a_line(Some(&error.message));
        }
    }
}

/// Whatever is understood says everything that the gateway needs.
fn assert_balanceable(file: &BalancerFile) {
    let state = file.state(Some([10, 32, 0, 1].into()), |_| SwitchState::default());
    let without_bridge = file.state(None, |_| SwitchState::default()).listeners;
    assert!(state.listeners.len() <= MAX_LISTENERS && file.describe().len() == state.listeners.len());
    assert!(without_bridge.iter().all(|listener| state.listeners.contains(listener)));
    for listener in &state.listeners {
        assert!(listener.address.port() != 0 && (1..=MAX_ROUTES).contains(&listener.routes.len()), "{listener:?}");
        assert!(!listener.limits.head_timeout.is_zero() && !listener.limits.idle_timeout.is_zero(), "{listener:?}");
        for route in &listener.routes {
            let of_this_name = state.services.iter().filter(|service| service.name == route.service);
            assert_eq!(of_this_name.count(), 1, "{route:?}");
        }
    }
    let names = state.services.iter().map(|service| &service.name);
    assert!(names.eq(file.facts().iter().map(|facts| &facts.name)));
}

/// What people are told.
fn assert_is_a_line(said: Option<&str>) {
    assert!(said.is_none_or(|said| !said.is_empty() && !said.contains(char::is_control)), "{said:?}");
}

fn container(number: usize) -> ContainerFacts {
    let ips = vec![std::net::Ipv4Addr::new(10, 32, 0, number as u8 + 2).into()];
    ContainerFacts {
        id: format!("{number:064}"),
        name: format!("c{number}"),
        image: "web".into(),
        created: number.to_string(),
        attachments: vec![Attachment { network: "bridge".into(), ips, is_overlay: true }],
        ..ContainerFacts::default()
    }
}

/// Whatever becomes a definition can be registered, told to others and checked.
fn assert_usable(definition: &Definition) {
    assert!(definition.check().is_ok(), "{definition:?}");
    let mut ids = BTreeSet::new();
    for spec in &definition.checks {
        assert!(spec.interval >= MIN_INTERVAL && spec.rise > 0 && spec.fall > 0, "{spec:?}");
        assert!((MIN_INTERVAL..=MAX_TIMEOUT).contains(&spec.timeout), "{spec:?}");
        ids.insert(&spec.id);
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    pub(super) fn folder(target: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
    }

    /// Each input whole, and cut short in so many places, or everywhere if it is not longer.
    pub(super) fn replay(target: &str, cuts: usize, fuzz: impl Fn(&[u8])) {
        let files: Vec<_> = std::fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() > 2);
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            fuzz(&bytes);
            (0..bytes.len()).step_by(bytes.len().div_ceil(cuts).max(1)).for_each(|len| fuzz(&bytes[..len]));
        }
    }

    #[test]
    fn every_request_of_the_corpus_is_answered_or_refused_also_cut_short() {
        replay("consul", usize::MAX, fuzz_consul);
    }

    #[test]
    fn every_text_of_the_corpus_is_understood_or_refused_also_cut_short() {
        replay("files", usize::MAX, fuzz_files);
    }

    #[test]
    fn every_template_of_the_corpus_is_rendered_or_refused_also_cut_short() {
        replay("template", usize::MAX, fuzz_template);
    }

    #[test]
    fn every_container_of_the_corpus_is_registered_or_noted_also_cut_short() {
        replay("labels", usize::MAX, fuzz_labels);
    }

    #[test]
    fn every_file_of_the_corpus_is_understood_or_refused_in_one_line_also_cut_short() {
        replay("balancer", usize::MAX, fuzz_balancer);
    }
}
