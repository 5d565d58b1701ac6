use crate::nn::moe::ELEMENTS_PER_TENSOR;
use crate::quant::Packing;

/// Most values of a tensor where none may have more than `largest` bytes: of weights with these packings, in the same number each. Never more than
/// kernels can index.
pub(super) fn most_values(largest: Option<u64>, packings: impl IntoIterator<Item = Option<Packing>>) -> usize {
    // The widest float has four bytes. Scales have tensors of their own.
    let bits = packings.into_iter().map(|packing| packing.map_or(32, Packing::bits)).max().unwrap_or(32);
    let fit = largest.map_or(usize::MAX, |bytes| usize::try_from(bytes.saturating_mul(8)).unwrap_or(usize::MAX) / bits);
    fit.min(ELEMENTS_PER_TENSOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_have_as_many_values_as_their_bytes_allow() {
        assert_eq!(most_values(None, [None]), ELEMENTS_PER_TENSOR);
        assert_eq!(most_values(Some(1 << 20), [None]), 1 << 18);
        assert_eq!(most_values(Some(1 << 20), [Some(Packing::Q4), Some(Packing::Q4)]), 1 << 21);
        assert_eq!(most_values(Some(1 << 20), [Some(Packing::Q4), Some(Packing::Q8)]), 1 << 20);
        assert_eq!(most_values(Some(1 << 40), [Some(Packing::Q4)]), ELEMENTS_PER_TENSOR, "kernels index with 32 bits");
    }
}
