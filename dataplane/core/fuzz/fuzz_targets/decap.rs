//! See `weaved_core::testing::fuzz::decap`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weaved_core::testing::fuzz::decap(data));
