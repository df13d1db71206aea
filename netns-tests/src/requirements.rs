//! What the lab needs of the machine, told by the name of the Debian package that has it.
//!
//! A test never skips by itself. `WEAVED_NETNS=skip` skips on a developer's machine; with `CI=true` it is refused.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Programs and the packages that bring them.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("ss", "iproute2"),
    ("nstat", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("tar", "tar"),
    ("ldd", "libc-bin"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
    ("iptables", "iptables"),
    ("busybox", "busybox-static"),
    ("iperf3", "iperf3"),
    ("dig", "bind9-dnsutils"),
    ("haproxy", "haproxy"),
    ("docker", "docker.io"),
    ("dockerd", "docker.io"),
    ("docker-compose", "docker-compose"),
    ("containerd", "containerd"),
    ("runc", "runc"),
];

/// Whether a test shall run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Run,
    Skip,
}

/// Panics with the list of what is missing, if anything is.
#[track_caller]
pub(crate) fn require() -> Decision {
    let variable = |name| env::var(name).unwrap_or_default();
    if decide(&variable("WEAVED_NETNS"), &variable("CI")) == Decision::Skip {
        return Decision::Skip;
    }
    let missing = missing();
    assert!(
        missing.is_empty(),
        "the network tests cannot run here: {}; or set WEAVED_NETNS=skip to leave them out",
        missing.join("; ")
    );
    Decision::Run
}

#[track_caller]
fn decide(wish: &str, ci: &str) -> Decision {
    if wish != "skip" {
        return Decision::Run;
    }
    assert!(ci != "true", "WEAVED_NETNS=skip is not accepted in CI: these tests must run there");
    Decision::Skip
}

fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("it needs root (try sudo)".to_owned());
    }
    for (program, package) in PROGRAMS {
        if find_program(program).is_none() {
            missing.push(format!("`{program}` is missing (apt-get install {package})"));
        }
    }
    if !Path::new("/dev/net/tun").exists() {
        missing.push("/dev/net/tun is missing (modprobe tun)".to_owned());
    }
    missing
}

/// Where a program is on the search path. The directories of root's programs count also for those whose path lacks
/// them.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(extra).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// The program under test: `WEAVED_BIN`, else what cargo built last in this profile.
#[track_caller]
pub fn weaved_path() -> PathBuf {
    built_program("weaved", "WEAVED_BIN", "cargo build -p weaved")
}

/// The traffic tool: `WEAVED_LABTOOL`, else what cargo built with this library.
#[track_caller]
pub fn labtool_path() -> PathBuf {
    built_program("labtool", "WEAVED_LABTOOL", "cargo build -p weaved-netns-tests")
}

#[track_caller]
fn built_program(name: &str, variable: &str, remedy: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable).map(PathBuf::from) {
        assert!(path.is_file(), "{variable} names {}, which is not a file", path.display());
        return path;
    }
    let this = env::current_exe().unwrap_or_else(|error| panic!("cannot tell where this program is: {error}"));
    // Tests are in `deps/` or `examples/`, one below the programs of their profile.
    let found = this.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found
        .unwrap_or_else(|| panic!("`{name}` was not found beside {}: run `{remedy}` or set {variable}", this.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_explicit_wish_skips() {
        assert_eq!(decide("", ""), Decision::Run);
        assert_eq!(decide("1", "true"), Decision::Run);
        assert_eq!(decide("skip", ""), Decision::Skip);
    }

    #[test]
    #[should_panic(expected = "not accepted in CI")]
    fn nothing_skips_in_ci() {
        decide("skip", "true");
    }

    #[test]
    fn programs_are_found_or_not() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-at-all").is_none());
    }
}
