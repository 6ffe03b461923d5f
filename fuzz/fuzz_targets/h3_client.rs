#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| moretta_fuzz::h3::client(data));
