//! The target `device` of `udax-test-fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| udax_test_fuzz::target("device")(data));
