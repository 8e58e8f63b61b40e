#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| firn_engine::fuzz::placement_decode(data));
