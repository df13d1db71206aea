//! See `weaved_gateway::balancer::testing::fuzz_proxy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weaved_gateway::balancer::testing::fuzz_proxy(data));
