//! The names of the cluster as one table, made anew from each [`GatewayState`] and never changed.
//!
//! | name below the zone            | what it is                                                  |
//! |--------------------------------|-------------------------------------------------------------|
//! | `NAME`, `TAG.NAME`             | instances of a service; a container, where no service is    |
//! | `_NAME._tcp`, `_NAME._TAG`     | the same with ports                                         |
//! | `HOST.node`                    | a host                                                      |
//! | `HEX.addr`                     | an address                                                  |
//! | `NAME.lb`                      | this host's balancer, for a service that it serves          |
//!
//! A service wins over a container of the same name: it is checked, the container is not.
//!
//! INVARIANT: nothing whose host does not answer, that is being stopped or whose check is critical is in `live`.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use hickory_proto::rr::Name;
use weaved_api::gateway::{GatewayState, NamedContainer, NamedHost, NamedInstance, Standing};

use super::names::{dns_label, dns_name, hex_label};

/// How long an answer may be kept, in seconds. A dead instance is out of our answers at once; a client that keeps one for this
/// long keeps it hardly longer. Asking again costs little, because the server is on the same host.
pub(crate) const TTL_SECS: u32 = 1;
/// Consul's name for itself as a place. We have one, and answer for it under Consul's default.
pub(crate) const DATACENTER: &str = "dc1";
/// The zone of Consul's forms.
pub(crate) const CONSUL: &str = "consul";

/// The table.
#[derive(Debug)]
pub(crate) struct Zone {
    state: GatewayState,
    /// The zone's name as text.
    domain: String,
    services: HashMap<String, Entry>,
    containers: HashMap<String, Entry>,
    hosts: HashMap<String, usize>,
    reverse: HashMap<IpAddr, Reverse>,
    /// Services that the balancer of this host serves where its containers reach it, and where that is.
    balanced: HashMap<String, IpAddr>,
    /// Names that are there only because others are below them.
    inner: HashSet<String>,
}

/// What one name stands for.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// Everything.
    pub(crate) all: Vec<Place>,
    /// What takes traffic.
    pub(crate) live: Vec<Place>,
}

/// One address behind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// None for an instance without an address on a host without one.
    pub(crate) address: Option<IpAddr>,
    /// 0 for none.
    pub(crate) port: u16,
    /// Whose.
    pub(crate) of: Owner,
}

/// Whose address it is, by index in the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Instance(usize),
    Container(usize),
}

/// What an address is called.
#[derive(Debug)]
struct Reverse {
    /// Below our zone.
    name: String,
    rank: Rank,
}

/// Of two names of one address the first kind wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Container,
    Host,
}

impl Zone {
    /// Makes the table.
    pub(crate) fn new(state: GatewayState) -> Self {
        let domain = dns_name(&state.zone).unwrap_or_default();
        let mut zone = Self {
            domain,
            services: HashMap::new(),
            containers: HashMap::new(),
            hosts: HashMap::new(),
            reverse: HashMap::new(),
            balanced: balanced(&state),
            inner: HashSet::new(),
            state,
        };
        zone.add_hosts();
        zone.add_containers();
        zone.add_instances();
        let names: Vec<String> = zone.services.keys().chain(zone.containers.keys()).cloned().collect();
        for name in names {
            zone.add_inner(&name);
        }
        let hosts: Vec<String> = zone.hosts.keys().map(|host| format!("{host}.node")).collect();
        hosts.iter().for_each(|name| zone.add_inner(name));
        zone.inner.extend(["node", "addr", "lb", "_tcp", "_udp"].map(ToOwned::to_owned));
        zone
    }

    /// What the table was made from.
    pub(crate) fn state(&self) -> &GatewayState {
        &self.state
    }

    /// Name of the zone as lower-case text.
    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// How many names there are.
    pub(crate) fn name_count(&self) -> usize {
        self.services.len() + self.containers.len() + self.hosts.len()
    }

    /// Instances of `NAME` or `TAG.NAME`.
    pub(crate) fn service(&self, name: &str) -> Option<&Entry> {
        self.services.get(name)
    }

    /// A service, or else a container.
    pub(crate) fn service_or_container(&self, name: &str) -> Option<&Entry> {
        self.services.get(name).or_else(|| self.containers.get(name))
    }

    /// A host by its name.
    pub(crate) fn host(&self, name: &str) -> Option<&NamedHost> {
        self.hosts.get(name).map(|index| &self.state.hosts[*index])
    }

    /// Where the balancer of this host serves a service.
    pub(crate) fn balancer(&self, service: &str) -> Option<IpAddr> {
        self.balanced.get(service).copied()
    }

    /// True if names end in `.NAME`.
    pub(crate) fn is_inner(&self, name: &str) -> bool {
        self.inner.contains(name)
    }

    /// What an address is called, below our zone.
    pub(crate) fn name_of(&self, address: IpAddr) -> Option<&str> {
        self.reverse.get(&address).map(|reverse| reverse.name.as_str())
    }

    /// The whole name of something below our zone.
    pub(crate) fn absolute(&self, below: &str) -> Option<Name> {
        let text = if below.is_empty() { format!("{}.", self.domain) } else { format!("{below}.{}.", self.domain) };
        Name::from_ascii(text).ok()
    }

    /// Where a place's port is to be found, below our zone.
    pub(crate) fn target_of(&self, place: Place) -> Option<String> {
        let address = place.address?;
        // A name that stands for another address of this family as well would lead there, too.
        let leads_elsewhere =
            |place: &Place| place.address.is_some_and(|other| other != address && other.is_ipv4() == address.is_ipv4());
        let named = self.name_of(address).filter(|name| {
            !self.services.contains_key(*name)
                && self.containers.get(*name).is_none_or(|entry| !entry.live.iter().any(leads_elsewhere))
        });
        Some(named.map_or_else(|| format!("{}.addr", hex_label(address)), ToOwned::to_owned))
    }

    /// Host of an instance or a container.
    pub(crate) fn host_of(&self, owner: Owner) -> Option<&NamedHost> {
        let index = match owner {
            Owner::Instance(index) => self.state.instances[index].host,
            Owner::Container(index) => self.state.containers[index].host,
        };
        self.state.hosts.get(index as usize)
    }

    /// Whether it takes traffic, and why not. The host's own standing comes first: what it last said may be old.
    pub(crate) fn standing_of(&self, owner: Owner) -> Standing {
        let host = self.host_of(owner).map_or(Standing::HostDown, |host| host.standing);
        match owner {
            _ if !host.takes_traffic() => host,
            Owner::Instance(index) => self.state.instances[index].standing,
            Owner::Container(_) => Standing::Passing,
        }
    }

    /// How much of the traffic it gets beside the others.
    pub(crate) fn weight_of(&self, owner: Owner) -> u16 {
        match owner {
            Owner::Instance(index) => self.state.instances[index].weight,
            Owner::Container(_) => 1,
        }
    }

    /// What people call an instance or a container.
    pub(crate) fn id_of(&self, owner: Owner) -> &str {
        match owner {
            Owner::Instance(index) => &self.state.instances[index].id,
            Owner::Container(index) => &self.state.containers[index].name,
        }
    }

    fn add_hosts(&mut self) {
        for (index, NamedHost { name, address, standing, .. }) in self.state.hosts.iter().enumerate() {
            let Some(name) = dns_name(name) else { continue };
            if let Some(address) = address.filter(|_| standing.takes_traffic()) {
                let name = format!("{name}.node");
                self.reverse.insert(address, Reverse { name, rank: Rank::Host });
            }
            // Two hosts of one name: the one that answers.
            let known = self.hosts.get(&name).map(|known| self.state.hosts[*known].standing);
            if known.is_none_or(|known| !known.takes_traffic()) {
                self.hosts.insert(name, index);
            }
        }
    }

    fn add_containers(&mut self) {
        for index in 0..self.state.containers.len() {
            let NamedContainer { name, ips, .. } = &self.state.containers[index];
            let (Some(name), owner) = (dns_name(name), Owner::Container(index)) else { continue };
            let is_live = self.standing_of(owner).takes_traffic();
            for address in ips.clone() {
                let place = Place { address: Some(address), port: 0, of: owner };
                self.containers.entry(name.clone()).or_default().add(place, is_live);
                if is_live && self.reverse.get(&address).is_none_or(|known| known.rank > Rank::Container) {
                    self.reverse.insert(address, Reverse { name: name.clone(), rank: Rank::Container });
                }
            }
        }
    }

    fn add_instances(&mut self) {
        for index in 0..self.state.instances.len() {
            let owner = Owner::Instance(index);
            let is_live = self.standing_of(owner).takes_traffic();
            let NamedInstance { service, tags, address, port, .. } = &self.state.instances[index];
            let Some(service) = dns_name(service) else { continue };
            let address = address.or_else(|| self.host_of(owner).and_then(|host| host.address));
            let place = Place { address, port: *port, of: owner };
            let mut tagged: Vec<String> =
                tags.iter().filter_map(|tag| dns_label(tag)).map(|tag| format!("{tag}.{service}")).collect();
            tagged.sort_unstable();
            tagged.dedup();
            for name in tagged.into_iter().chain([service]) {
                self.services.entry(name).or_default().add(place, is_live);
            }
        }
    }

    fn add_inner(&mut self, name: &str) {
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            self.inner.insert(parent.to_owned());
            rest = parent;
        }
    }
}

/// A stable address: each host's own balancer, which its containers reach whatever becomes of the instances. That of the bridge comes
/// first; else an address that the operator has given to the service (ADR 27).
fn balanced(state: &GatewayState) -> HashMap<String, IpAddr> {
    let Some(bridge) = state.listen else { return HashMap::new() };
    let mut balanced = HashMap::new();
    for listener in &state.balancer.listeners {
        let address = match listener.address.ip() {
            address if address.is_unspecified() => bridge,
            address if address.is_loopback() => continue,
            address => address,
        };
        for name in listener.routes.iter().filter_map(|route| dns_name(&route.service)) {
            let known = balanced.entry(name).or_insert(address);
            if address == bridge {
                *known = bridge;
            }
        }
    }
    balanced
}

impl Entry {
    fn add(&mut self, place: Place, is_live: bool) {
        self.all.push(place);
        if is_live {
            self.live.push(place);
        }
    }
}
