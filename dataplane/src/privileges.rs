//! Fewer rights for a process that reads bytes from strangers.
//!
//! At the start, before there is a second thread, all capabilities but those for devices and sockets go, for good:
//! also from the bounding set, and `no_new_privs` keeps an `exec` from bringing them back. Then each thread that
//! only moves bytes gives up the rest, so that in the end the router thread alone may touch devices.
//!
//! Core files are off, because memory holds keys.
//!
//! INVARIANT: capabilities belong to a thread and pass to those it starts: [`drop_to_network`] comes before any of them.

use caps::{CapSet, Capability};
use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// A right could not be given up. The process must not go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {reason}")]
pub struct PrivilegeError {
    step: &'static str,
    reason: String,
}

/// What the router thread needs: devices, addresses and big socket buffers; and a port below 1024 if one is wanted.
const NETWORK: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_BIND_SERVICE];

/// Gives up all that has nothing to do with the network. For the first thread, before it starts others.
pub fn drop_to_network() -> Result<(), PrivilegeError> {
    let step = |step| move |reason: String| PrivilegeError { step, reason };
    let no_cores = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, no_cores).map_err(|e| step("turn off core files")(e.to_string()))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| step("turn off core dumps")(e.to_string()))?;
    shrink(&NETWORK)?;
    rustix::thread::set_no_new_privs(true).map_err(|e| step("set no_new_privs")(e.to_string()))
}

/// Gives up the rest. For a thread that works on descriptors that are open already.
pub fn drop_all() -> Result<(), PrivilegeError> {
    shrink(&[])
}

/// Keeps of the given capabilities those that the thread has, and no others.
fn shrink(keep: &[Capability]) -> Result<(), PrivilegeError> {
    let failed =
        |error: caps::errors::CapsError| PrivilegeError { step: "give up capabilities", reason: error.to_string() };
    let permitted = caps::read(None, CapSet::Permitted).map_err(failed)?;
    // Dropping from the bounding set is itself a privilege: first, and only where we have it.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding).map_err(failed)? {
            if !keep.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability).map_err(failed)?;
            }
        }
    }
    let kept = keep.iter().copied().filter(|capability| permitted.contains(capability)).collect();
    caps::clear(None, CapSet::Inheritable).map_err(failed)?;
    caps::set(None, CapSet::Effective, &kept).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, thread};

    /// One line of `/proc/thread-self/status`.
    fn status(name: &str) -> String {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
        line.split_once(':').unwrap().1.trim().to_owned()
    }

    fn capabilities(name: &str) -> u64 {
        u64::from_str_radix(&status(name), 16).unwrap()
    }

    /// Bits of `CAP_NET_BIND_SERVICE` (10) and `CAP_NET_ADMIN` (12).
    const NETWORK_BITS: u64 = 1 << 10 | 1 << 12;

    #[test]
    fn a_daemon_keeps_network_rights_and_its_workers_none() {
        // Rights are per thread; what is per process (core files) harms no other test.
        let daemon = thread::spawn(|| {
            assert_eq!(capabilities("CapEff") & NETWORK_BITS, NETWORK_BITS, "this test needs root");
            drop_to_network().unwrap();
            for set in ["CapEff", "CapPrm", "CapBnd"] {
                assert_eq!(capabilities(set), NETWORK_BITS, "{set}");
            }
            assert_eq!((capabilities("CapInh"), capabilities("CapAmb")), (0, 0));
            assert_eq!(status("NoNewPrivs"), "1");
            let limits = fs::read_to_string("/proc/self/limits").unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
            let worker = thread::spawn(|| {
                drop_all().unwrap();
                for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
                    assert_eq!(capabilities(set), 0, "{set}");
                }
            });
            worker.join().unwrap();
            assert_eq!(capabilities("CapEff"), NETWORK_BITS, "the worker's loss is its own");
        });
        daemon.join().unwrap();
    }
}
