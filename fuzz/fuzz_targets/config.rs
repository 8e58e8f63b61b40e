#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| firn_server::http::fuzz::fuzz_config(data));
