#![no_main]

use libfuzzer_sys::fuzz_target;
use llama4::import::fuzz;

fuzz_target!(|bytes: &[u8]| {
    if let Some(file) = llama4_fuzz::safetensors(bytes) {
        fuzz::safetensors(&file);
    }
});
