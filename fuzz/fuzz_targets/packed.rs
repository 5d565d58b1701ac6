#![no_main]

use libfuzzer_sys::fuzz_target;
use llama4::import::fuzz;

/// Two layers, one of them with experts; rows that are whole blocks, and rows that are not.
const CONFIG: &str = include_str!("../packed_config.json");

fuzz_target!(|bytes: &[u8]| {
    if let Some(file) = llama4_fuzz::safetensors(bytes) {
        fuzz::packed(CONFIG, &file);
    }
});
