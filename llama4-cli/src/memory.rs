//! What a run will take, and whether the machine has it.

use anyhow::{Result, anyhow};
use burn::tensor::DType;
use llama4::Llama4Config;
use llama4::config::QuantConfig;
use llama4::memory::{MemoryEstimate, MemoryOptions};
use llama4::quant::{Packing, Quantization};
use llama4_backends::Target;

/// What a model takes: packed as asked, else as its configuration says it is.
pub(crate) fn estimate(
    config: &Llama4Config,
    asked: Option<Quantization>,
    [dtype, stored]: [DType; 2],
    context: usize,
    batch: usize,
    target: Target,
) -> MemoryEstimate {
    let quantization = asked.or_else(|| config.quant_config.as_ref().and_then(own));
    let (piece, max_page) = (target.backend.prefill_piece(), target.max_page());
    config.memory(&MemoryOptions { dtype, stored, quantization, context, batch, piece, max_page })
}

/// What a checkpoint in this project's own layout holds.
fn own(config: &QuantConfig) -> Option<Quantization> {
    if config.method.as_deref() != Some(QuantConfig::OWN_METHOD) {
        return None;
    }
    let weights = if config.bits == Some(8) { Packing::Q8 } else { Packing::Q4 };
    let [head, embedding] = [config.head, config.embedding].map(|packing| packing.unwrap_or(Packing::Bf16));
    Some(Quantization { weights, head, embedding })
}

/// Whether what computes has the memory, and can bind what it holds. Where the system does not say how much there is, that is assumed.
///
/// # Errors
/// With the numbers, when it has not.
pub(crate) fn check(name: &str, estimate: &MemoryEstimate, target: Target) -> Result<()> {
    if let Some(largest) = target.largest_tensor().filter(|largest| estimate.largest_cache > *largest) {
        return Err(anyhow!(
            "the key-value cache has tensors of {}, but one on this device has at most {}; take a shorter --context",
            bytes(estimate.largest_cache),
            bytes(largest)
        ));
    }
    let Some(free) = target.free_memory() else { return Ok(()) };
    let needed = estimate.device();
    if needed <= free {
        return Ok(());
    }
    Err(anyhow!(
        "{name} needs {} ({} weights, {} key-value cache, {} work space), {} has {} free; take fewer bits (--quantize), \
         a shorter --context, or go ahead with --force",
        bytes(needed),
        bytes(estimate.weights),
        bytes(estimate.cache),
        bytes(estimate.work),
        target.memory_name(),
        bytes(free)
    ))
}

/// A size for people.
pub(crate) fn bytes(count: u64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let exact = count as f64;
    match units.into_iter().find(|(size, _)| exact >= *size) {
        Some((size, unit)) => format!("{:.2} {unit}", exact / size),
        None => format!("{count} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes(999), "999 bytes");
        assert_eq!(bytes(14_200_000), "14.20 MB");
    }
}
