//! Fewer rights for a process that reads bytes from strangers.
//!
//! The listeners are opened anew when the address of the bridge changes, and one of them has a port below 1024: the right to that
//! is all that is kept. `no_new_privs` keeps an `exec` from bringing others back.
//!
//! INVARIANT: capabilities belong to a thread and pass to those it starts: [`keep_binding_only`] comes before any of them.

use anyhow::Context;
use caps::{CapSet, Capability};

const KEPT: Capability = Capability::CAP_NET_BIND_SERVICE;

/// Gives up everything but binding to low ports. The process must not go on when it fails.
pub(crate) fn keep_binding_only() -> anyhow::Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).context("cannot read capabilities")?;
    // Dropping from the bounding set is itself a privilege: first, and only where we have it.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding).context("cannot read capabilities")? {
            if capability != KEPT {
                caps::drop(None, CapSet::Bounding, capability).context("cannot give up capabilities")?;
            }
        }
    }
    let kept = permitted.into_iter().filter(|capability| *capability == KEPT).collect();
    caps::clear(None, CapSet::Inheritable).context("cannot give up capabilities")?;
    caps::set(None, CapSet::Effective, &kept).context("cannot give up capabilities")?;
    caps::set(None, CapSet::Permitted, &kept).context("cannot give up capabilities")?;
    rustix::thread::set_no_new_privs(true).context("cannot set no_new_privs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_binding_to_low_ports_is_kept() {
        // Rights are per thread: no other test is harmed.
        let daemon = std::thread::spawn(|| {
            keep_binding_only().unwrap();
            for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
                let left = caps::read(None, set).unwrap();
                assert!(left.iter().all(|capability| *capability == KEPT), "{left:?}");
            }
        });
        daemon.join().unwrap();
    }
}
