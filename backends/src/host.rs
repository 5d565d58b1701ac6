//! The CPU, through burn-ndarray.

use crate::Adapter;

pub(crate) type NdArray = burn_ndarray::NdArray<f32>;

pub(crate) fn adapter() -> Adapter {
    let threads = rayon::current_num_threads();
    Adapter { name: format!("{}, {threads} threads", cpu_model()), driver: None, memory: None, largest_tensor: None }
}

/// The processor's name where the system tells, else its architecture.
fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let names = info.lines().filter_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == "model name"));
    match names.map(|(_, name)| name.trim()).find(|name| !name.is_empty() && *name != "unknown") {
        Some(name) => name.to_owned(),
        None => std::env::consts::ARCH.to_owned(),
    }
}
