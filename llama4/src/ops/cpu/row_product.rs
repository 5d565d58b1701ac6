//! Few rows times a weight of `[out, in]` rows, or several such weights: each weight row is read once, in order.
//!
//! burn-ndarray's matmul packs the weight first, which for one row costs many times the product itself.

use burn_ndarray::NdArrayTensor;
use burn_ndarray::SharedArray;
use rayon::prelude::*;

use super::dot;

/// From this many rows on, packing pays and the general product is faster.
const MOST_ROWS: usize = 8;

/// Multiplications below which handing a piece to another thread costs more than it saves.
const WORK_PER_TASK: usize = 1 << 15;

/// `y = x W[g]ᵀ` for each group's rows of `x`; `None` where this kernel is not the right one: many rows, another dtype, or a
/// tensor that is not contiguous.
///
/// `x [rows, in]`, `weights [out, in]` or `[groups, out, in]`, `counts` rows of each group.
pub(in crate::ops) fn row_product(
    x: &NdArrayTensor,
    weights: &NdArrayTensor,
    counts: &[usize],
) -> Option<NdArrayTensor> {
    let (NdArrayTensor::F32(x), NdArrayTensor::F32(weights)) = (x, weights) else {
        return None;
    };
    if counts.iter().any(|count| *count > MOST_ROWS) {
        return None;
    }
    let (x, weights) = (x.view(), weights.view());
    let [output, input] = *weights.shape().last_chunk::<2>()?;
    let (x, weights) = (x.as_slice()?, weights.as_slice()?);

    let dot = dot::best();
    let rows = counts.iter().sum();
    let mut y = vec![0.0_f32; rows * output];
    let mut first = 0;
    for (group, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let x = &x[first * input..(first + count) * input];
        let weight = &weights[group * output * input..(group + 1) * output * input];
        let y = &mut y[first * output..(first + count) * output];
        if count == 1 {
            let per_task = (WORK_PER_TASK / input.max(1)).max(1);
            y.par_chunks_mut(per_task).enumerate().for_each(|(task, y)| {
                let weight = weight[task * per_task * input..].chunks_exact(input);
                y.iter_mut().zip(weight).for_each(|(y, row)| *y = dot(x, row));
            });
        } else {
            // One output column at a time, so that each weight row is read once for all rows of x.
            let per_task = (WORK_PER_TASK / (input * count).max(1)).max(1);
            let columns: Vec<f32> = weight
                .par_chunks(per_task * input)
                .flat_map_iter(|weight| {
                    weight.chunks_exact(input).flat_map(|row| x.chunks_exact(input).map(move |x| dot(x, row)))
                })
                .collect();
            for (column, values) in columns.chunks_exact(count).enumerate() {
                values.iter().enumerate().for_each(|(row, value)| y[row * output + column] = *value);
            }
        }
        first += count;
    }
    Some(SharedArray::from_shape_vec(vec![rows, output], y).ok()?.into())
}
