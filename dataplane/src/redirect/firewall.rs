//! Which rules of the host's would see a frame on the bridge.
//!
//! nftables is asked for its base chains, and those of iptables (`iptables-nft`) are among them. What a rule means is
//! not looked at here: a chain that bridged frames pass and that has rules is an obstacle, unless it is one of
//! iptables' and control, which can run `iptables-save`, has found that its rules let all of them pass. Control's
//! verdict is about one generation of the rules; the kernel counts a new one with every change.
//!
//! Of the legacy tools nothing tells when a rule changes, so that their tables alone are an obstacle.
//!
//! INVARIANT: what is not understood is an obstacle.

use std::{fs, io, os::fd::OwnedFd, path::Path};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
    netlink::{NETFILTER, SocketAddrNetlink},
    recv, send, socket_with,
};
use weaved_api::RulesVerdict;

use super::attributes::{self, Message};

/// `NFNL_SUBSYS_NFTABLES` and the messages of it that are used (`linux/netfilter/nf_tables.h`).
const SUBSYSTEM: u16 = 10 << 8;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
const GET_GENERATION: u16 = SUBSYSTEM | 16;
/// Flags of a request and of a dump (linux/netlink.h).
const REQUEST: u16 = 0x1;
const DUMP: u16 = 0x300;

/// Longest answer of the kernel's in one piece.
const ANSWER_BYTES: usize = 64 << 10;
/// Base chains that are looked at; nobody has so many.
const MAX_CHAINS: usize = 1024;

/// Names that iptables gives its tables.
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// The modules of legacy ebtables, which says of its tables nothing at all.
const LEGACY_BRIDGE_MODULES: [&str; 3] = ["ebtable_filter", "ebtable_nat", "ebtable_broute"];

/// Families of chains (`NFPROTO_*`).
mod family {
    pub(super) const INET: u8 = 1;
    pub(super) const IPV4: u8 = 2;
    pub(super) const ARP: u8 = 3;
    pub(super) const NETDEV: u8 = 5;
    pub(super) const BRIDGE: u8 = 7;
    pub(super) const IPV6: u8 = 10;
}

/// Places in the host's own delivery (`NF_INET_LOCAL_IN`, `NF_INET_LOCAL_OUT`), which bridged frames do not pass.
const LOCAL_HOOKS: [u32; 2] = [1, 3];

/// Where a device receives (`NF_INET_INGRESS`), which comes before the bridge and has nothing to do with its filters.
const INGRESS_HOOK: u32 = 5;

/// A chain that the kernel itself calls.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BaseChain {
    family: u8,
    table: String,
    name: String,
    hook: u32,
    /// It lets everything pass.
    is_empty: bool,
}

/// A view of the rules of this network namespace.
pub(super) struct Firewall {
    /// None when the kernel has no nftables.
    socket: Option<OwnedFd>,
}

/// What keeps packets from skipping the bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Obstacles {
    /// In the way of IPv4.
    pub(super) ipv4: Option<String>,
    /// In the way of IPv6.
    pub(super) ipv6: Option<String>,
    /// Control has to look at iptables' rules of this generation.
    pub(super) ask: Option<u32>,
}

/// A family of packets, and where its settings are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Family {
    number: u8,
    /// Whether bridged frames are handed to its rules.
    sysctl: &'static str,
    /// Where the legacy tool lists its tables, in the network namespace of the thread.
    legacy_tables: &'static str,
}

const IPV4: Family =
    Family { number: family::IPV4, sysctl: "bridge-nf-call-iptables", legacy_tables: "ip_tables_names" };
const IPV6: Family =
    Family { number: family::IPV6, sysctl: "bridge-nf-call-ip6tables", legacy_tables: "ip6_tables_names" };

impl Firewall {
    /// Nothing is looked at yet.
    pub(super) fn open() -> Self {
        let socket = netlink_socket(0).inspect_err(|error| tracing::debug!(%error, "no nftables in this kernel"));
        Self { socket: socket.ok() }
    }

    /// Looks at all of it.
    pub(super) fn check(&self, bridge_calls_iptables: bool, verdict: Option<&RulesVerdict>) -> Obstacles {
        let module = LEGACY_BRIDGE_MODULES.iter().find(|module| Path::new("/sys/module").join(module).exists());
        if let Some(module) = module {
            return Obstacles::everything(&format!("legacy ebtables may have rules (module {module} is loaded)"));
        }
        let (generation, chains) = match self.chains() {
            Ok(found) => found,
            Err(error) => return Obstacles::everything(&format!("the firewall cannot be looked at: {error}")),
        };
        let mut obstacles = Obstacles::default();
        let verdict = verdict.filter(|verdict| verdict.generation == generation);
        for family in [IPV4, IPV6] {
            let is_filtered = bridge_calls_iptables || is_on(family.sysctl);
            let legacy = is_filtered && has_legacy_tables(family.legacy_tables);
            let judged = if legacy { Judged::obstacle(LEGACY) } else { judge(&chains, family.number, is_filtered) };
            let is_ipv4 = family == IPV4;
            let told = verdict.map(|verdict| if is_ipv4 { verdict.ipv4.clone() } else { verdict.ipv6.clone() });
            let obstacle = match (judged, told) {
                (Judged::Free, _) => None,
                (Judged::Obstacle(reason), _) => Some(reason),
                (Judged::Iptables, Some(told)) => told,
                (Judged::Iptables, None) => {
                    obstacles.ask = Some(generation);
                    Some("the rules of iptables have not been looked at yet".into())
                }
            };
            *(if is_ipv4 { &mut obstacles.ipv4 } else { &mut obstacles.ipv6 }) = obstacle;
        }
        obstacles
    }

    /// All base chains, and the generation that they belong to.
    fn chains(&self) -> io::Result<(u32, Vec<BaseChain>)> {
        let Some(socket) = &self.socket else { return Ok((0, Vec::new())) };
        let before = generation(socket)?;
        let mut chains = Vec::new();
        ask(socket, GET_CHAIN, REQUEST | DUMP, |message| {
            if message.kind == NEW_CHAIN && chains.len() < MAX_CHAINS {
                chains.extend(parse_chain(message));
            }
        })?;
        if generation(socket)? != before || chains.len() == MAX_CHAINS {
            return Err(io::Error::other("they are changing"));
        }
        Ok((before, chains))
    }
}

/// A socket to the kernel's netfilter, in these multicast groups.
pub(super) fn netlink_socket(groups: u32) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// The legacy tool does not tell when a rule changes.
const LEGACY: &str = "legacy iptables is in use, and weaved cannot see when its rules change: use iptables-nft";

/// What chains mean for the packets of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Judged {
    /// No chain with rules is passed.
    Free,
    /// Only chains of iptables are, and somebody has to read their rules.
    Iptables,
    /// This one is.
    Obstacle(String),
}

impl Judged {
    fn obstacle(reason: &str) -> Self {
        Self::Obstacle(reason.to_owned())
    }
}

fn judge(chains: &[BaseChain], of: u8, is_filtered: bool) -> Judged {
    let mut judged = Judged::Free;
    for chain in chains.iter().filter(|chain| !chain.is_empty) {
        let is_passed = match chain.family {
            // ARP never skips the bridge.
            family::ARP => false,
            family::IPV4 | family::IPV6 if chain.family != of => false,
            // At a device, whatever the bridge does.
            family::INET if chain.hook == INGRESS_HOOK => true,
            family::INET | family::IPV4 | family::IPV6 => is_filtered && !LOCAL_HOOKS.contains(&chain.hook),
            // Of the bridge, of a device, and any that comes in future.
            _ => true,
        };
        if is_passed && chain.family == of && IPTABLES.contains(&&*chain.table) {
            judged = Judged::Iptables;
        } else if is_passed {
            let family = family_name(chain.family);
            return Judged::Obstacle(format!("the nftables chain {family} {} {} has rules", chain.table, chain.name));
        }
    }
    judged
}

impl Obstacles {
    fn everything(reason: &str) -> Self {
        Self { ipv4: Some(reason.to_owned()), ipv6: Some(reason.to_owned()), ask: None }
    }
}

fn family_name(family: u8) -> &'static str {
    match family {
        family::INET => "inet",
        family::IPV4 => "ip",
        family::ARP => "arp",
        family::NETDEV => "netdev",
        family::BRIDGE => "bridge",
        family::IPV6 => "ip6",
        _ => "(of an unknown family)",
    }
}

fn is_on(sysctl: &str) -> bool {
    let text = fs::read_to_string(Path::new("/proc/sys/net/bridge").join(sysctl));
    // No such file: no bridge netfilter in this kernel.
    text.is_ok_and(|text| text.trim() != "0")
}

fn has_legacy_tables(list: &str) -> bool {
    let text = fs::read_to_string(Path::new("/proc/thread-self/net").join(list));
    text.is_ok_and(|text| !text.trim().is_empty())
}

fn generation(socket: &OwnedFd) -> io::Result<u32> {
    let mut generation = None;
    ask(socket, GET_GENERATION, REQUEST, |message| {
        if message.kind == NEW_GENERATION {
            generation = message.attribute(1).and_then(attributes::number);
        }
    })?;
    generation.ok_or_else(|| io::Error::other("nftables does not tell its generation"))
}

/// Sends a request without attributes and hands over each message of the answer.
fn ask(socket: &OwnedFd, kind: u16, flags: u16, mut take: impl FnMut(&Message<'_>)) -> io::Result<()> {
    // Header of netlink, then of netfilter: family 0 for all, version, resource.
    let mut request = [0; 20];
    request[..4].copy_from_slice(&20_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    send(socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0; ANSWER_BYTES];
    loop {
        let (len, _) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        for message in attributes::messages(&buffer[..len]) {
            match message.end() {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => return Err(error),
                None => take(&message),
            }
            if flags & DUMP == 0 {
                return Ok(());
            }
        }
    }
}

/// A base chain; none for one that other chains jump to.
fn parse_chain(message: &Message<'_>) -> Option<BaseChain> {
    // NFTA_CHAIN_HOOK with NFTA_HOOK_HOOKNUM in it.
    let hook = attributes::attributes(message.attribute(4)?).find(|(kind, _)| *kind == 1);
    // NFTA_CHAIN_POLICY, NFTA_CHAIN_USE: one for each rule in it.
    let policy = message.attribute(5).and_then(attributes::number);
    let rule_count = message.attribute(6).and_then(attributes::number);
    Some(BaseChain {
        family: message.family,
        // NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME
        table: message.attribute(1).map(attributes::text).unwrap_or_default(),
        name: message.attribute(3).map(attributes::text).unwrap_or_default(),
        // One that is not told is none of the host's own.
        hook: hook.and_then(|(_, value)| attributes::number(value)).unwrap_or_default(),
        // NF_ACCEPT
        is_empty: rule_count == Some(0) && policy.is_none_or(|policy| policy == 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREROUTING: u32 = 0;
    const INPUT: u32 = 1;
    const FORWARD: u32 = 2;

    fn chain(family: u8, table: &str, hook: u32) -> BaseChain {
        BaseChain { family, table: table.into(), name: "mine".into(), hook, is_empty: false }
    }

    fn of_ipv4(chains: &[BaseChain]) -> Judged {
        judge(chains, family::IPV4, true)
    }

    fn is_obstacle(judged: &Judged, table: &str) -> bool {
        matches!(judged, Judged::Obstacle(reason) if reason.contains(table))
    }

    #[test]
    fn a_chain_that_bridged_frames_pass_is_an_obstacle_and_is_named() {
        for family in [family::BRIDGE, family::NETDEV, 99] {
            // Whatever bridge netfilter is set to.
            let judged = judge(&[chain(family, "walled", FORWARD)], family::IPV4, false);
            assert!(is_obstacle(&judged, "walled mine"), "{family}: {judged:?}");
        }
        let at_a_device = judge(&[chain(family::INET, "walled", INGRESS_HOOK)], family::IPV4, false);
        assert!(is_obstacle(&at_a_device, "inet walled mine"), "{at_a_device:?}");
        for hook in [PREROUTING, FORWARD] {
            assert!(is_obstacle(&of_ipv4(&[chain(family::INET, "walled", hook)]), "inet walled mine"));
            assert!(is_obstacle(&of_ipv4(&[chain(family::IPV4, "walled", hook)]), "ip walled mine"));
        }
    }

    #[test]
    fn chains_of_iptables_are_for_control_to_read() {
        let filter = chain(family::IPV4, "filter", FORWARD);
        assert_eq!(of_ipv4(std::slice::from_ref(&filter)), Judged::Iptables);
        let both = [filter, chain(family::INET, "walled", FORWARD)];
        assert!(is_obstacle(&of_ipv4(&both), "walled"), "another chain is an obstacle whatever iptables says");
    }

    #[test]
    fn chains_that_no_bridged_packet_of_the_family_passes_are_no_obstacle() {
        let harmless = [
            chain(family::INET, "hosts", INPUT),
            chain(family::IPV4, "filter", INPUT),
            chain(family::IPV6, "filter", FORWARD),
            chain(family::ARP, "filter", FORWARD),
            BaseChain { is_empty: true, ..chain(family::BRIDGE, "empty", FORWARD) },
        ];
        assert_eq!(of_ipv4(&harmless), Judged::Free);
        let unfiltered = [chain(family::INET, "hosts", FORWARD), chain(family::IPV4, "filter", FORWARD)];
        assert_eq!(judge(&unfiltered, family::IPV4, false), Judged::Free);
    }
}
