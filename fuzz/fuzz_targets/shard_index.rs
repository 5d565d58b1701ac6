#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| llama4::import::fuzz::shard_index(bytes));
