use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::product_into;

/// Values of a weight that are made into floats of another type at once where many rows are multiplied: 64 MiB in `f32`.
pub(crate) const UNPACKED_AT_ONCE: usize = 1 << 24;

/// `y = x W[g]ᵀ` for the rows of each group, some rows of the weight at a time: `rows(range)` makes those of `[groups * out, in]` floats of
/// the type of `x`. The sums are of type `dtype`.
pub(super) fn in_bands<B: Backend>(
    x: Tensor<B, 2>,
    output: usize,
    counts: &[usize],
    dtype: FloatDType,
    rows: impl Fn(Range<usize>) -> Tensor<B, 2>,
) -> Tensor<B, 2> {
    let band = (UNPACKED_AT_ONCE / x.dims()[1].max(1)).max(1);
    let mut start = 0;
    let mut groups = Vec::new();
    for (group, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let x = x.clone().narrow(0, start, count);
        let first = group * output;
        let bands = (0..output).step_by(band).map(|row| {
            let weight = rows(first + row..first + (row + band).min(output));
            product_into(x.clone(), weight.transpose(), dtype)
        });
        groups.push(cat(bands.collect(), 1));
        start += count;
    }
    match groups.is_empty() {
        true => Tensor::<B, 2>::zeros([0, output], &x.device()).cast(dtype),
        false => cat(groups, 0),
    }
}

pub(super) fn cat<B: Backend>(mut parts: Vec<Tensor<B, 2>>, dim: usize) -> Tensor<B, 2> {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, dim) }
}
