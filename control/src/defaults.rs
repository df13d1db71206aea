//! The values that hold when the operator says nothing, each with its reason.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

/// UDP port for everything. Weave's, so that existing firewall rules fit.
pub const PORT: u16 = 6783;

/// TCP port of the HTTP API: Consul's.
pub const HTTP_PORT: u16 = 8500;

/// Where metrics are served: Weave's port, for this host only, because they name hosts and services.
pub const METRICS_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6784);

/// Range of container addresses. Weave's; it collides with few company networks.
pub const RANGE: &str = "10.32.0.0/12";

/// Prefix length of a host's share of the range: 256 addresses for each of 4,096 hosts.
pub const SLICE_PREFIX: u8 = 24;

/// Name of the bridge that Docker attaches containers to. Weave's.
pub const BRIDGE: &str = "weave";

/// MTU of the bridge. Docker's own default; larger frames are cut to the path, so nobody has to tune it.
pub const MTU: u16 = 1500;

/// Zone of the names of the cluster. Weave's.
pub const ZONE: &str = "weave.local";

/// Where state is kept when neither `--state-dir` nor `WEAVED_STATE_DIR` says otherwise.
pub const STATE_DIR: &str = "/var/lib/weaved";

/// Where sockets and pid files are when neither `--run-dir` nor `WEAVED_RUN_DIR` says otherwise.
pub const RUN_DIR: &str = "/run/weaved";

/// Directory of service definitions when `launch` was not told another.
pub const SERVICES_DIR: &str = "/etc/weaved/services.d";

/// What is balanced on a host, in its state directory, when `launch` was not told another file.
pub const BALANCER_FILE: &str = "balancer.toml";

/// How long `launch` waits for the devices before it gives up and says why.
pub const LAUNCH_DEADLINE: Duration = Duration::from_secs(20);

/// How long `launch PEER` waits for an address range from the cluster before it returns without one.
pub const SLICE_PATIENCE: Duration = Duration::from_secs(10);

/// How long a part may take to end by itself before it is killed.
pub const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How often names of targets are resolved again.
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

/// Changes are gathered this long before the data plane hears of them.
pub const GATHER: Duration = Duration::from_millis(20);
