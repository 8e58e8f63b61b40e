#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| firn_pack::fuzz::frame_decode(data));
