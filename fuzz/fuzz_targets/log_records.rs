//! See `tests::fuzz`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::check_log_records(data));
