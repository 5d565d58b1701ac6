//! What NVIDIA's own tool says, where it is there to ask.

use std::process::Command;

/// Free bytes of a device.
pub(crate) fn free_memory(device: usize) -> Option<u64> {
    query("memory.free", device)
}

/// All bytes of a device.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) fn total_memory(device: usize) -> Option<u64> {
    query("memory.total", device)
}

fn query(what: &str, device: usize) -> Option<u64> {
    let output = Command::new("nvidia-smi")
        .args([&format!("--query-gpu={what}"), "--format=csv,noheader,nounits", &format!("--id={device}")])
        .output()
        .ok()?;
    let mebibytes: u64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    Some(mebibytes << 20)
}
