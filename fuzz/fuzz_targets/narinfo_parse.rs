#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| firn_nix::fuzz::narinfo_parse(data));
