//! The programs in the kernel.

use super::programs::Programs;

#[test]
fn the_verifier_takes_the_programs() {
    let programs = Programs::load().unwrap_or_else(|error| panic!("{error}\n{}", Programs::complaint()));
    assert_eq!((programs.to_container_count(), programs.to_tap_count()), (0, 0));
}
