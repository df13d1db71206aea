//! The screens of `weaved status`. Pure: a report in, text out.

use weaved_api::{
    FeatureStatus, Force, LinkEnd, LinkStatus, PackingStatus, PeerStatus, SendsStatus, SessionStatus,
    gateway::GatewayStats,
};

use crate::{
    cli::output::{Table, ago, bytes},
    docker::watch::DockerState,
    node::{MemberState, SliceState},
    serve::report::{StatusReport, TargetState, explain},
};

/// Everything that matters at a glance.
pub(super) fn overview(report: &StatusReport) -> String {
    let cluster = &report.cluster;
    let slice = match (&cluster.ipam.state, cluster.ipam.slice) {
        (SliceState::Ready, Some(slice)) => slice.to_string(),
        (SliceState::Waiting(reason), Some(slice)) => format!("{slice} ({reason})"),
        (SliceState::Refused(_), Some(slice)) => format!("{slice} (in conflict)"),
        (_, None) => "none yet".into(),
    };
    let up_count = cluster.members.iter().filter(|member| member.state == MemberState::Up).count();
    let others: usize = cluster.members.iter().map(|member| member.containers.len()).sum();
    let mut lines = vec![
        format!("host         {} ({}), up {}", cluster.name, cluster.id.short(), ago(report.uptime_ms)),
        format!("addresses    {slice} of {}", cluster.ipam.range),
        format!("members      {} up of {}, this host included", up_count + 1, cluster.members.len() + 1),
        format!("containers   {} here, {others} elsewhere", cluster.containers.len()),
        format!(
            "services     {}, {} of {} instances passing, {} here",
            report.services.services, report.services.passing, report.services.instances, report.services.here
        ),
        format!("data plane   {}", dataplane_line(report)),
        format!("names        {}", names_line(report)),
        format!("keys         {}", keys_line(report)),
        format!("docker       {}", docker_line(report)),
    ];
    if report.exposed {
        lines.push("exposed      this host's address is announced".into());
    }
    if !sessions(report).is_empty() {
        lines.push(format!("\n{}", connections(report)));
    }
    if report.problems.is_empty() {
        lines.push("\nno problems".into());
    } else {
        lines.push("\nproblems".into());
        lines.extend(report.problems.iter().map(|problem| format!("  ! {problem}")));
    }
    lines.join("\n")
}

pub(super) fn peers(report: &StatusReport) -> Table {
    let mut table = Table::new(&["NAME", "ID", "STATE", "FOR", "ADDRESSES", "ENDPOINT", "CONTAINERS"]);
    for member in &report.cluster.members {
        let state = match member.state {
            MemberState::Joining => "joining",
            MemberState::Up => "up",
            MemberState::Down => "down",
            MemberState::Away => "away",
        };
        let endpoint = member.endpoint.or_else(|| member.endpoints.first().copied());
        table.row([
            member.name.clone(),
            member.id.short().to_string(),
            state.into(),
            ago(member.since_secs * 1000),
            member.slice.map_or_else(|| "-".into(), |slice| slice.to_string()),
            endpoint.map_or_else(|| "-".into(), |endpoint| endpoint.to_string()),
            member.containers.len().to_string(),
        ]);
    }
    table
}

pub(super) fn connections(report: &StatusReport) -> Table {
    let mut table =
        Table::new(&["PEER", "ENDPOINT", "STATE", "SINCE", "CIPHER", "PATH MTU", "RTT", "LOSS", "SENT", "RECEIVED"]);
    for peer in sessions(report) {
        let state = match (peer.link, peer.ended) {
            (LinkStatus::Connected, _) => "connected",
            (_, Some(LinkEnd::PeerSaidGoodbye)) => "away, said good-bye",
            (_, Some(LinkEnd::PeerDismissedUs)) => "sent us away",
            (LinkStatus::Connecting, _) => "connecting",
            (LinkStatus::Waiting, _) => "waiting",
        };
        let session = |show: &dyn Fn(&SessionStatus) -> String| peer.session.as_ref().map_or_else(|| "-".into(), show);
        table.row([
            name_of(report, peer),
            peer.endpoint.map_or_else(|| "-".into(), |endpoint| endpoint.to_string()),
            state.into(),
            session(&|session| ago(session.connected_ms)),
            session(&|session| session.cipher.clone()),
            session(&|session| session.path_mtu.to_string()),
            session(&|session| session.rtt_us.map_or_else(|| "-".into(), rtt)),
            session(&loss),
            bytes(peer.tx_bytes),
            bytes(peer.rx_bytes),
        ]);
    }
    table
}

pub(super) fn ipam(report: &StatusReport) -> String {
    let ipam = &report.cluster.ipam;
    let state = match &ipam.state {
        SliceState::Ready => "agreed".into(),
        SliceState::Waiting(reason) => reason.clone(),
        SliceState::Refused(conflict) => conflict.to_string(),
    };
    let own = ipam.slice.map_or_else(|| "none yet".into(), |slice| slice.to_string());
    let mut table = Table::new(&["OWNER", "ID", "SHARE", "RANGES"]);
    for owner in &ipam.owners {
        let ranges = owner.ranges.iter().map(|range| format!("{} × {}", range.first, range.slice_count));
        table.row([
            owner.name.clone(),
            owner.id.short().to_string(),
            format!("{}.{} %", owner.share_permille / 10, owner.share_permille % 10),
            ranges.collect::<Vec<_>>().join(", "),
        ]);
    }
    let (range, prefix) = (ipam.range, ipam.slice_prefix);
    format!("range        {range} in parts of /{prefix}\nthis host    {own}\nstate        {state}\n\n{table}")
}

pub(super) fn targets(report: &StatusReport) -> Table {
    let mut table = Table::new(&["TARGET", "ADDRESSES", "STATE"]);
    for target in &report.targets {
        let state = match &target.state {
            TargetState::Resolving => "looking up its name".into(),
            TargetState::Unresolved(reason) => format!("does not resolve: {reason}"),
            TargetState::Connecting => "connecting".into(),
            TargetState::Failed(failure) => explain(*failure).into(),
            TargetState::Connected(id) => format!("connected, {}", id.short()),
        };
        let addresses = target.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        table.row([target.target.clone(), addresses, state]);
    }
    table
}

pub(super) fn docker(report: &StatusReport) -> String {
    let told = match report.docker_options() {
        Ok(options) => format!("dockerd {options}"),
        Err(reason) => reason,
    };
    format!("docker       {}\nto be told   {told}", docker_line(report))
}

pub(super) fn dns(stats: &GatewayStats) -> String {
    let upstreams: Vec<String> = stats.upstreams.iter().map(ToString::to_string).collect();
    let upstreams =
        if upstreams.is_empty() { "nobody: /etc/resolv.conf names none".into() } else { upstreams.join(", ") };
    let mut lines = vec![
        format!("names        {} known, up {}", stats.name_count, ago(stats.uptime_ms)),
        format!("answered at  {}", stats.listening.join(", ")),
        format!("others from  {upstreams}; {} answers kept", stats.cached_count),
    ];
    lines.extend(stats.problems.iter().map(|problem| format!("  ! {}", problem.message)));
    let mut table = Table::new(&["COUNTER", "VALUE", "MEANING"]);
    for counter in stats.counters.iter().filter(|counter| counter.value > 0) {
        table.row([counter.name.clone(), counter.value.to_string(), counter.help.clone()]);
    }
    lines.push(format!("\n{table}"));
    lines.join("\n")
}

pub(super) fn dataplane(report: &StatusReport) -> String {
    let mut lines = vec![format!("data plane   {}", dataplane_line(report))];
    lines.extend(report.dataplane.problems.iter().map(|problem| format!("  ! {problem}")));
    if let Some(stats) = &report.dataplane.stats {
        if let Some(device) = &stats.device {
            lines.push(format!(
                "devices      bridge {}, TAP {}, UDP port {}",
                device.bridge, device.tap, device.listen_port
            ));
            let workers = &device.workers;
            let ports = match workers.source_port_count {
                0 | 1 => String::new(),
                count => format!("; sending from {count} ports"),
            };
            lines.push(format!(
                "workers      {} (wanted: {}): {}{ports}",
                workers.count, workers.wanted, workers.reason
            ));
            lines.push(format!(
                "queues       UDP receive {}, UDP send {}, TAP {} of {} frames",
                bytes(device.receive_buffer_bytes),
                bytes(device.send_buffer_bytes),
                device.tap_queue_count,
                device.tap_queue_frames
            ));
            let features = [("tap-offload", &device.tap_offload), ("udp-gso", &device.udp_gso)];
            let more = [("udp-gro", &device.udp_gro), ("bridge-redirect", &device.bridge_redirect)];
            let features = features.into_iter().chain(more).chain([("source-queues", &device.source_queues)]);
            for (name, feature) in features {
                lines.push(feature_line(name, feature));
            }
        }
        if let Some(container_gso) = &report.dataplane.container_gso {
            lines.push(feature_line("container-gso", container_gso));
        }
        lines.push(format!("addresses    {} Ethernet addresses known\n", stats.mac_count));
        let mut table = Table::new(&["COUNTER", "VALUE", "MEANING"]);
        for counter in stats.counters.iter().filter(|counter| counter.value > 0) {
            table.row([counter.name.clone(), counter.value.to_string(), counter.help.clone()]);
        }
        lines.push(table.to_string());
    }
    lines.join("\n")
}

/// An offload: what is in force, what the operator wants, and why it is as it is.
fn feature_line(name: &str, feature: &FeatureStatus) -> String {
    let force = match feature.force {
        Force::On => "on",
        Force::Partly => "partly on",
        Force::Off => "off",
    };
    format!("{name:<12} {force} (switch: {}): {}", feature.switch, feature.reason)
}

fn sessions(report: &StatusReport) -> &[PeerStatus] {
    report.dataplane.stats.as_ref().map_or(&[], |stats| &stats.peers)
}

fn name_of(report: &StatusReport, peer: &PeerStatus) -> String {
    let member = report.cluster.members.iter().find(|member| member.id == peer.id);
    let names = [member.map(|member| member.name.as_str()), Some(peer.name.as_str())];
    let name = names.into_iter().flatten().find(|name| !name.is_empty());
    name.map_or_else(|| peer.id.short().to_string(), ToOwned::to_owned)
}

fn rtt(microseconds: u32) -> String {
    format!("{}.{:02} ms", microseconds / 1000, microseconds % 1000 / 10)
}

/// What is lost on the way to the peer, and what is done about it: datagrams that stand alone, sends of one datagram.
fn loss(session: &SessionStatus) -> String {
    let rate =
        session.loss_ppm.map_or_else(|| "-".into(), |ppm| format!("{}.{:02} %", ppm / 10_000, ppm % 10_000 / 100));
    let packing = match session.packing {
        PackingStatus::Trains => "",
        PackingStatus::Singles => ", singles",
    };
    let sends = match session.sends {
        SendsStatus::Joined => "",
        SendsStatus::Trial => ", no gso (trial)",
        SendsStatus::Apart => ", no gso",
    };
    format!("{rate}{packing}{sends}")
}

fn dataplane_line(report: &StatusReport) -> String {
    let dataplane = &report.dataplane;
    let uptime = dataplane.stats.as_ref().map(|stats| format!(", up {}", ago(stats.uptime_ms))).unwrap_or_default();
    match (dataplane.connected, dataplane.applied) {
        (false, _) => "does not answer".into(),
        (true, Some(applied)) if applied == dataplane.wanted => format!("as wanted{uptime}"),
        (true, _) => format!("changing{uptime}"),
    }
}

fn names_line(report: &StatusReport) -> String {
    let gateway = &report.gateway;
    match (gateway.connected, gateway.applied) {
        (false, _) => "the gateway does not answer".into(),
        (true, Some(applied)) if applied == gateway.wanted => {
            format!("answered as known, zone {}", report.settings.zone)
        }
        (true, _) => "changing".into(),
    }
}

fn keys_line(report: &StatusReport) -> String {
    match &report.cluster.voters {
        None => "this host has not heard yet who decides about them".into(),
        Some(voters) => {
            let (up_count, all_count) = (voters.up_count(), voters.voters.len());
            let below = voters.guarded.join(", ");
            format!("those below {below} are decided by {up_count} of {all_count} voters")
        }
    }
}

fn docker_line(report: &StatusReport) -> String {
    match &report.docker {
        DockerState::Off => "not watched".into(),
        DockerState::Absent { reason } => format!("does not answer ({reason})"),
        DockerState::Connected { version, network: Some(network) } => {
            let cidr = network.fixed_cidr.as_deref().unwrap_or("its whole subnet");
            format!("{version}, network `{}` on our bridge, addresses from {cidr}", network.name)
        }
        DockerState::Connected { version, network: None } => {
            format!("{version}, not on our bridge: run `weaved docker-config --install` and restart Docker")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_shown_with_what_is_done_about_it() {
        let show = |loss_ppm, packing, sends| {
            loss(&SessionStatus {
                cipher: String::new(),
                connected_ms: 0,
                keys_age_ms: 0,
                path_mtu: 1500,
                rtt_us: None,
                loss_ppm,
                packing,
                sends,
                heard_ms: 0,
            })
        };
        assert_eq!(show(None, PackingStatus::Trains, SendsStatus::Joined), "-");
        assert_eq!(show(Some(2500), PackingStatus::Singles, SendsStatus::Joined), "0.25 %, singles");
        assert_eq!(show(Some(123_456), PackingStatus::Singles, SendsStatus::Trial), "12.34 %, singles, no gso (trial)");
        assert_eq!(show(None, PackingStatus::Trains, SendsStatus::Apart), "-, no gso", "too little comes for a rate");
    }
}
