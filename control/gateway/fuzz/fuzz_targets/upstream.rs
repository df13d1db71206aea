//! See `weaved_gateway::dns::testing::fuzz_upstream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weaved_gateway::dns::testing::fuzz_upstream(data));
