//! What tests of this package share.

use std::thread;

use crate::{netlink::Netlink, sys::namespace};

/// Runs a test in a thread with a network namespace of its own, which ends with it.
///
/// # Panics
///
/// Without the right to make namespaces: such a test fails, it is never skipped.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        namespace::enter_new().expect("tests of the data plane need root (CAP_SYS_ADMIN) to make network namespaces");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// As [`in_namespace`], with the loopback device up.
pub(crate) fn in_namespace_with_loopback(test: impl FnOnce() + Send + 'static) {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let loopback = netlink.link("lo").unwrap().expect("each namespace has a loopback device");
        netlink.set_up(loopback.index).unwrap();
        test();
    });
}
