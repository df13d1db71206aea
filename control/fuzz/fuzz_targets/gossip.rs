//! See `weaved::testing::fuzz_gossip`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weaved::testing::fuzz_gossip(data));
