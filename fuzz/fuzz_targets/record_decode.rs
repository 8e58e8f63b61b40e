#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| firn_engine::fuzz::record_decode(data));
