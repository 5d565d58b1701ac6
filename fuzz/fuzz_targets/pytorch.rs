#![no_main]

use libfuzzer_sys::fuzz_target;
use llama4::import::fuzz;

// The first byte chooses: a pickle alone, which a mutation seldom breaks altogether, or a whole archive.
fuzz_target!(|bytes: &[u8]| match bytes.split_first() {
    Some((0, pickle)) => fuzz::pickle(pickle),
    Some((_, archive)) => fuzz::pytorch(archive),
    None => {}
});
