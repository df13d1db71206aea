//! See `weaved::testing::fuzz_files`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weaved::testing::fuzz_files(data));
