#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| firn_api::fuzz::api_hints(data));
