//! Whether rules let every packet of the overlay pass that is bridged from one port of our bridge to another.
//!
//! The rules are walked as the kernel walks them, with a packet of which only this is known: it came in by the bridge, it
//! leaves by the bridge, both its addresses are in the overlay's range, and it is not for the host itself. So a
//! condition of a rule holds always, never, or perhaps.
//!
//! INVARIANT: a rule that may match and does anything but accept or hand the packet on is an obstacle; so is one that
//! is not understood, one that counts, and a policy that drops what may reach it. When there is none, taking packets
//! past the rules changes nothing.

use ipnet::Ipv4Net;

use super::save::{Chain, Rule, Table};

/// The chains of any table that bridged packets pass.
const PASSED: [&str; 3] = ["PREROUTING", "FORWARD", "POSTROUTING"];

/// Matches that only look at the packet. Others remember what they have seen, or are not known here.
const PURE: [&str; 17] = [
    "addrtype",
    "comment",
    "conntrack",
    "dscp",
    "icmp",
    "icmp6",
    "iprange",
    "length",
    "mac",
    "mark",
    "multiport",
    "physdev",
    "pkttype",
    "set",
    "state",
    "tcp",
    "udp",
];

/// How deep chains may jump.
const MAX_DEPTH: u32 = 32;
/// Rules that are looked at, those of a chain that is jumped to twice counted twice. One beyond is an obstacle.
const MAX_STEPS: u32 = 100_000;

/// What is known of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packets<'a> {
    /// They come in and leave by it.
    pub(super) bridge: &'a str,
    /// Both addresses are in it; none for IPv6, of which no address is known.
    pub(super) range: Option<Ipv4Net>,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holds {
    Never,
    Perhaps,
    Always,
}

/// What becomes of packets in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// All of them are accepted in it.
    Ends,
    /// Some may come out at its end.
    GoesOn,
}

/// The first obstacle, for the operator.
pub(super) fn obstacle(tables: &[Table], packets: Packets<'_>) -> Option<String> {
    tables.iter().find_map(|table| {
        PASSED.iter().find_map(|name| {
            let chain = table.chains.get(*name)?;
            let mut steps_left = MAX_STEPS;
            match walk(table, chain, packets, 0, &mut steps_left) {
                Err(rule) => Some(format!("the rule `{rule}` of the table {}", table.name)),
                Ok(Flow::GoesOn) if chain.policy != "ACCEPT" => {
                    Some(format!("the policy {} of the chain {name} of the table {}", chain.policy, table.name))
                }
                Ok(_) => None,
            }
        })
    })
}

/// Walks one chain; fails with the rule that is an obstacle.
fn walk(table: &Table, chain: &Chain, packets: Packets<'_>, depth: u32, steps_left: &mut u32) -> Result<Flow, String> {
    let mut may_return = false;
    for rule in &chain.rules {
        let refused = || rule.text.clone();
        *steps_left = steps_left.checked_sub(1).ok_or_else(refused)?;
        let (holds, action) = read(rule, packets);
        if holds == Holds::Never {
            continue;
        }
        let flow = match action {
            Action::Accept => Flow::Ends,
            Action::Return if holds == Holds::Always => return Ok(Flow::GoesOn),
            Action::Return => {
                may_return = true;
                continue;
            }
            Action::Jump(name) if depth < MAX_DEPTH => {
                let target = table.chains.get(name).filter(|target| target.policy == "-").ok_or_else(refused)?;
                walk(table, target, packets, depth + 1, steps_left)?
            }
            Action::Jump(_) | Action::Other => return Err(refused()),
        };
        if flow == Flow::Ends && holds == Holds::Always && !may_return {
            return Ok(Flow::Ends);
        }
        if flow == Flow::Ends && holds == Holds::Always {
            return Ok(Flow::GoesOn);
        }
    }
    Ok(Flow::GoesOn)
}

/// What a rule does with a packet that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action<'a> {
    Accept,
    Return,
    Jump(&'a str),
    /// Drops, changes, counts, remembers, logs, or is not known.
    Other,
}

/// When a rule matches, and what it does then.
fn read<'a>(rule: &'a Rule, packets: Packets<'_>) -> (Holds, Action<'a>) {
    let mut holds = Holds::Always;
    let mut is_pure = true;
    let mut hosts = [None, None];
    let mut words = rule.words.iter().map(String::as_str).peekable();
    let mut target = None;
    while let Some(word) = words.next() {
        let (is_negated, option) = if word == "!" { (true, words.next().unwrap_or_default()) } else { (false, word) };
        if option == "-j" {
            target = words.next();
            // What follows are the target's own options.
            is_pure &= target.is_some_and(|target| !["ACCEPT", "RETURN"].contains(&target)) || words.next().is_none();
            break;
        }
        if option == "--comment" {
            // Free text, which may look like anything.
            words.next();
            continue;
        }
        let mut values = Vec::new();
        while let Some(value) = words.next_if(|next| !next.starts_with('-') && *next != "!") {
            values.push(value);
        }
        let value = values.first().copied().unwrap_or_default();
        let condition = match option {
            "-i" | "-o" => is_interface(value, packets.bridge),
            "-s" | "-d" => {
                if !is_negated {
                    hosts[usize::from(option == "-d")] = Some(value);
                }
                is_address(value, packets.range)
            }
            // Both are the host's own addresses; its packets are not bridged from port to port.
            "--dst-type" | "--src-type" if value == "LOCAL" => Holds::Never,
            "-m" => {
                is_pure &= PURE.contains(&value);
                continue;
            }
            _ => Holds::Perhaps,
        };
        holds = holds.min(if is_negated { condition.negated() } else { condition });
    }
    // Docker's rule for a container that calls itself by its published port: that packet leaves by the port it came
    // in by, which no packet from port to port does.
    if let [Some(source), Some(destination)] = hosts
        && source == destination
        && source.ends_with("/32")
    {
        holds = Holds::Never;
    }
    let action = match target {
        _ if !is_pure => Action::Other,
        Some("ACCEPT") => Action::Accept,
        Some("RETURN") => Action::Return,
        // A built-in target is in capitals as many chains are; only the chains of the table tell.
        Some(name) => Action::Jump(name),
        None => Action::Other,
    };
    (holds, action)
}

impl Holds {
    fn negated(self) -> Self {
        match self {
            Self::Never => Self::Always,
            Self::Perhaps => Self::Perhaps,
            Self::Always => Self::Never,
        }
    }

    fn certainly(holds: bool) -> Self {
        if holds { Self::Always } else { Self::Never }
    }
}

/// `weave`, or `we+` for all that begin so.
fn is_interface(pattern: &str, bridge: &str) -> Holds {
    Holds::certainly(match pattern.strip_suffix('+') {
        Some(beginning) => bridge.starts_with(beginning),
        None => pattern == bridge,
    })
}

fn is_address(pattern: &str, range: Option<Ipv4Net>) -> Holds {
    let (Some(range), Ok(pattern)) = (range, pattern.parse::<Ipv4Net>()) else { return Holds::Perhaps };
    if pattern.contains(&range) {
        Holds::Always
    } else if range.contains(&pattern) {
        Holds::Perhaps
    } else {
        Holds::Never
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::save;

    /// As Docker 20.10 makes them with `--bridge=weave`, a published port, and a second network.
    const DOCKER: &str = include_str!("testdata/docker-20.10.rules");

    fn judge(text: &str) -> Option<String> {
        let packets = Packets { bridge: "weave", range: Some("10.32.0.0/12".parse().unwrap()) };
        obstacle(&save::parse(text).unwrap(), packets)
    }

    /// Docker's rules with one of the operator's in front of a chain.
    fn with_rule(chain: &str, rule: &str) -> Option<String> {
        let first = DOCKER.find(&format!("-A {chain} ")).unwrap_or_else(|| panic!("no rule in {chain}"));
        judge(&format!("{}-A {chain} {rule}\n{}", &DOCKER[..first], &DOCKER[first..]))
    }

    #[test]
    fn dockers_own_rules_are_no_obstacle() {
        assert_eq!(judge(DOCKER), None);
    }

    #[test]
    fn a_rule_of_the_operators_that_may_match_is_an_obstacle_and_is_named() {
        for rule in [
            "-j DROP",
            "-p tcp -m tcp --dport 23 -j REJECT --reject-with icmp-port-unreachable",
            "-s 10.32.5.0/24 -j DROP",
            "-i weave -o weave -j DROP",
            "-i we+ -j LOG",
            "! -i eth0 -j DROP",
            "! -s 192.0.2.0/24 -j DROP",
            "-m recent --set --name seen -j ACCEPT",
            "-m conntrack --ctstate INVALID -j DROP",
            "-m comment --comment \"only counted\"",
            "-j MARK --set-xmark 0x1/0xffffffff",
            "-j NO-SUCH-CHAIN",
        ] {
            let obstacle = with_rule("DOCKER-USER", rule).unwrap_or_else(|| panic!("{rule} is let through"));
            assert!(obstacle.contains(&format!("-A DOCKER-USER {rule}")) && obstacle.contains("filter"), "{obstacle}");
        }
    }

    #[test]
    fn a_rule_that_cannot_match_or_only_accepts_is_none() {
        for rule in [
            "-i eth0 -j DROP",
            "-o eth+ -j DROP",
            "! -i weave -j DROP",
            "-s 192.0.2.0/24 -j DROP",
            "! -d 10.0.0.0/8 -j DROP",
            "-m addrtype --dst-type LOCAL -j DROP",
            "-s 10.32.1.2/32 -d 10.32.1.2/32 -j DROP",
            "-p tcp -m tcp --dport 80 -j ACCEPT",
            "-s 10.32.5.0/24 -j RETURN",
            "-m comment --comment -j -j ACCEPT",
        ] {
            assert_eq!(with_rule("DOCKER-USER", rule), None, "{rule}");
        }
    }

    #[test]
    fn what_everything_was_accepted_before_is_not_reached() {
        let rules = |first: &str| {
            format!(
                "*filter\n:FORWARD DROP [0:0]\n:X - [0:0]\n-A FORWARD -j X\n-A FORWARD -j DROP\n-A X {first}-A X -j ACCEPT\n"
            )
        };
        assert_eq!(judge(&rules("-p udp -j ACCEPT\n")), None);
        // Some may come back from the chain before they are accepted.
        assert!(judge(&rules("-p udp -j RETURN\n")).unwrap().contains("-A FORWARD -j DROP"));
    }

    #[test]
    fn a_policy_that_drops_what_no_rule_accepts_is_an_obstacle() {
        let drop = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p tcp -j ACCEPT\n";
        assert!(judge(drop).unwrap().contains("policy DROP of the chain FORWARD"));
        assert_eq!(judge("*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n-A INPUT -j DROP\n"), None);
        // What Docker makes of `--icc=false`.
        let no_icc = DOCKER.replace("-A FORWARD -i weave -o weave -j ACCEPT", "-A FORWARD -i weave -o weave -j DROP");
        assert_ne!(no_icc, DOCKER);
        assert!(judge(&no_icc).unwrap().contains("-i weave -o weave -j DROP"));
    }

    #[test]
    fn of_ipv6_no_address_is_known() {
        let packets = Packets { bridge: "weave", range: None };
        let rules = |text| save::parse(&format!("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD {text}\n")).unwrap();
        assert!(obstacle(&rules("-s 2001:db8::/32 -j DROP"), packets).is_some());
        assert!(obstacle(&rules("-i eth0 -j DROP"), packets).is_none());
    }

    #[test]
    fn chains_that_jump_in_a_circle_are_an_obstacle() {
        let circle = "*filter\n:FORWARD ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n-A FORWARD -j A\n-A A -j B\n-A B -j A\n";
        assert!(judge(circle).is_some());
    }

    #[test]
    fn rules_that_take_too_long_to_look_at_are_an_obstacle() {
        // Each of 30 chains jumps to the next one twice: a billion ways.
        let names = 0..30;
        let jumps = names.clone().flat_map(|number| ["tcp", "udp"].map(|protocol| (number, protocol)));
        let mut rules = vec!["*filter".to_owned(), ":FORWARD ACCEPT [0:0]".into(), ":C30 - [0:0]".into()];
        rules.extend(names.map(|number| format!(":C{number} - [0:0]")));
        rules.push("-A FORWARD -j C0".into());
        rules.extend(jumps.map(|(number, protocol)| format!("-A C{number} -p {protocol} -j C{}", number + 1)));
        rules.push("-A C30 -p tcp -j ACCEPT".into());
        assert!(judge(&rules.join("\n")).is_some());
    }
}
