//! Known frames that skip the bridge: that they do, and that nothing else changes by it.

use std::sync::Arc;

use weaved_netns_tests::{Guest, Host, Lab, SOON, traffic, wait_until};

/// Two hosts with a guest each, connected, with the redirect on.
struct Pair {
    a: Arc<Host>,
    b: Arc<Host>,
    from: Guest,
    to: Guest,
    // Last, so that it is dropped when the hosts are no longer used.
    _lab: Lab,
}

impl Pair {
    fn launch(name: &str) -> Option<Self> {
        let mut lab = Lab::open(name)?;
        let (a, b) = (lab.host("a"), lab.host("b"));
        a.weaved().launch(&["--bridge-redirect", "on"]);
        b.weaved().launch(&[
            "--bridge-redirect",
            "on",
            "--token-file",
            &a.weaved().token_file(),
            &a.ipv4().to_string(),
        ]);
        let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
        traffic::wait_for_ping(&from, to.address());
        Some(Self { a, b, from, to, _lab: lab })
    }
}

/// What `status` says about it, such as `off: switched off`.
fn state(host: &Host) -> String {
    let status = host.weaved().status().unwrap_or_default();
    let redirect = status.pointer("/dataplane/stats/device/bridge_redirect").cloned().unwrap_or_default();
    let text = |key: &str| redirect[key].as_str().unwrap_or_default().to_owned();
    format!("{}: {}", text("force"), text("reason"))
}

fn counts(host: &Host) -> [u64; 2] {
    ["redirect_to_container", "redirect_to_tap"].map(|name| host.weaved().counter(name))
}

/// Waits until pings of the guests skip the bridge of the host in both directions.
#[track_caller]
fn wait_until_redirected(host: &Host, from: &Guest, to: &Guest) {
    wait_until("frames skip the bridge", SOON, || {
        let before = counts(host);
        traffic::can_ping(from, to.address());
        counts(host).iter().zip(before).all(|(now, then)| *now > then)
    });
}

#[test]
fn every_kind_of_traffic_passes_and_known_frames_skip_the_bridge() {
    let Some(pair) = Pair::launch("redir") else { return };
    let other = pair.b.overlay_guest(3, 1400);
    wait_until_redirected(&pair.a, &pair.from, &pair.to);
    wait_until_redirected(&pair.b, &pair.from, &pair.to);
    let before = counts(&pair.b);
    traffic::check_every_kind(&pair.from, &pair.to, pair.to.address(), &[&other]);
    traffic::check_every_kind(&pair.to, &pair.from, pair.from.address(), &[&other]);
    let after = counts(&pair.b);
    assert!(after[0] > before[0] + 100 && after[1] > before[1] + 100, "{before:?} {after:?}");
    assert_eq!(state(&pair.a), "on: local containers: 1");
    assert_eq!(state(&pair.b), "on: local containers: 2");
}
