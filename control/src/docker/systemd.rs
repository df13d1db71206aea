//! Texts for systemd: the unit that runs us, and the drop-in that makes Docker start after us.
//!
//! Docker's `--bridge` must exist when `dockerd` starts. A unit of `Type=notify` is started when its bridge has an
//! address, so "after" is all that is needed; "wants", not "requires", so that Docker starts also when we do not.

use std::path::{Path, PathBuf};

/// The unit, as printed by `weaved docker-config --systemd-unit`.
pub const UNIT: &str = "\
[Unit]
Description=weaved: one encrypted network for the containers of several hosts
Wants=network-online.target
After=network-online.target
Before=docker.service

[Service]
Type=notify
ExecStart=/usr/local/bin/weaved launch --foreground
ExecReload=/usr/local/bin/weaved upgrade
Restart=on-failure
RestartSec=1
# Ends the supervisor, which ends the others; they outlive one that is killed, and the next launch adopts them.
KillMode=process
TimeoutStartSec=90

[Install]
WantedBy=multi-user.target
";

/// The drop-in for `docker.service`.
pub const DROP_IN: &str = "\
# Written by `weaved docker-config --install`; `--uninstall` removes it.
[Unit]
Wants=weaved.service
After=weaved.service
";

/// Where the drop-in goes below a directory of units like `/etc/systemd/system`.
pub fn drop_in_path(units: &Path) -> PathBuf {
    units.join("docker.service.d").join("weaved.conf")
}

/// True when systemd runs this machine (`sd_booted(3)`).
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}
