use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType, Int, Tensor, TensorData};

use super::bands::in_bands;
use super::dispatch;
use super::pick::select_words;
use crate::quant::{BLOCK, PackedTensor, Packing};

/// `y = x Wᵀ` with a packed weight.
///
/// # Shapes
/// - x: `[tokens, in]`
/// - weight: `[out, in]`
/// - output: `[tokens, out]`, of the type of `x`
pub fn packed_linear<B: Backend>(x: Tensor<B, 2>, weight: &PackedTensor<B>) -> Tensor<B, 2> {
    let tokens = x.dims()[0];
    packed_grouped_linear(x, weight, &[tokens])
}

/// [`packed_linear`] whose sums are of type `dtype`: that of `x`, or `F32`.
pub fn packed_linear_into<B: Backend>(x: Tensor<B, 2>, weight: &PackedTensor<B>, dtype: FloatDType) -> Tensor<B, 2> {
    let tokens = x.dims()[0];
    packed_grouped_linear_into(x, weight, &[tokens], dtype)
}

/// A different packed weight for each group of rows, as in [`grouped_linear`](super::grouped_linear).
///
/// # Shapes
/// - x: `[rows, in]`, rows of group 0 first
/// - weights: `[groups * out, in]`
/// - counts: one entry a group, in sum `rows`
/// - output: `[rows, out]`, of the type of `x`
///
/// # Panics
/// If `counts` does not fit `weights` or `x`.
pub fn packed_grouped_linear<B: Backend>(x: Tensor<B, 2>, weights: &PackedTensor<B>, counts: &[usize]) -> Tensor<B, 2> {
    let dtype = x.dtype().into();
    packed_grouped_linear_into(x, weights, counts, dtype)
}

/// [`packed_grouped_linear`] whose sums are of type `dtype`: that of `x`, or `F32`.
pub fn packed_grouped_linear_into<B: Backend>(
    x: Tensor<B, 2>,
    weights: &PackedTensor<B>,
    counts: &[usize],
    dtype: FloatDType,
) -> Tensor<B, 2> {
    assert!(weights.rows().is_multiple_of(counts.len()), "one count per group");
    assert_eq!(counts.iter().sum::<usize>(), x.dims()[0], "counts sum to the rows");
    match dispatch::packed_grouped_linear(&x, weights, counts, dtype.into()) {
        Some(y) => y,
        None => {
            let of_x = x.dtype().into();
            in_bands(x, weights.rows() / counts.len(), counts, dtype, |rows| unpack_rows(weights, rows, of_x))
        }
    }
}

/// The definition of [`packed_grouped_linear`] in burn's own operations: unpack, multiply.
///
/// # Panics
/// As [`packed_grouped_linear`].
pub fn packed_grouped_linear_plain<B: Backend>(
    x: Tensor<B, 2>,
    weights: &PackedTensor<B>,
    counts: &[usize],
) -> Tensor<B, 2> {
    let dtype = x.dtype().into();
    in_bands(x, weights.rows() / counts.len(), counts, dtype, |rows| unpack_rows_plain(weights, rows, dtype))
}

/// Rows of a packed weight as `f32`: an embedding's rows of some tokens.
///
/// # Shapes
/// - ids: `[tokens]`
/// - output: `[tokens, in]`, `f32`
pub fn packed_select<B: Backend>(weight: &PackedTensor<B>, ids: Tensor<B, 1, Int>) -> Tensor<B, 2> {
    match dispatch::packed_select(weight, &ids) {
        Some(rows) => rows,
        None => packed_select_plain(weight, ids),
    }
}

/// The definition of [`packed_select`] in burn's own operations.
pub fn packed_select_plain<B: Backend>(weight: &PackedTensor<B>, ids: Tensor<B, 1, Int>) -> Tensor<B, 2> {
    let scales = weight.scales().map(|scales| select_words(scales, ids.clone()));
    unpack_plain(weight.packing(), weight.columns(), select_words(weight.words(), ids), scales)
}

/// Consecutive rows of a packed weight as floats of type `dtype`, `[rows, in]`.
pub fn unpack_rows<B: Backend>(weight: &PackedTensor<B>, rows: Range<usize>, dtype: FloatDType) -> Tensor<B, 2> {
    match dispatch::unpack_rows(weight, rows.clone(), dtype) {
        Some(values) => values,
        None => unpack_rows_plain(weight, rows, dtype),
    }
}

/// The definition of [`unpack_rows`] in burn's own operations.
pub fn unpack_rows_plain<B: Backend>(weight: &PackedTensor<B>, rows: Range<usize>, dtype: FloatDType) -> Tensor<B, 2> {
    let part = |words: Tensor<B, 2, Int>| words.narrow(0, rows.start, rows.len());
    unpack_plain(weight.packing(), weight.columns(), part(weight.words()), weight.scales().map(part)).cast(dtype)
}

/// Words to values, by integer operations and products alone that are exact in `f32`.
fn unpack_plain<B: Backend>(
    packing: Packing,
    columns: usize,
    words: Tensor<B, 2, Int>,
    scales: Option<Tensor<B, 2, Int>>,
) -> Tensor<B, 2> {
    let rows = words.dims()[0];
    let blocks = columns / BLOCK;
    let values = match packing {
        Packing::Bf16 => return halves(words, 8),
        Packing::F16 => return halves(words, 5),
        Packing::Q8 => {
            let bytes = fields(words, &[0, 8, 16, 24], 255);
            // From 0..256 to -128..128.
            let negative = bytes.clone().bitwise_right_shift_scalar(elem::<B>(7));
            bytes - negative * 256
        }
        Packing::Q4 => {
            // Four words a block: their low halves are its first 16 values, their high halves the others.
            let blocks = words.reshape([rows * blocks, 4]);
            let (low, high) = (fields(blocks.clone(), &[0, 8, 16, 24], 15), fields(blocks, &[4, 12, 20, 28], 15));
            Tensor::cat(vec![low, high], 1) - 8
        }
    };
    let values = values.float().cast(FloatDType::F32).reshape([rows, blocks, BLOCK]);
    let Some(scales) = scales else { return values.reshape([rows, columns]) };
    let scales = halves(scales, 5).narrow(1, 0, blocks).reshape([rows, blocks, 1]);
    (values * scales).reshape([rows, columns])
}

/// The bits of each word under `mask` at each of the `shifts`, side by side.
fn fields<B: Backend>(words: Tensor<B, 2, Int>, shifts: &[i32], mask: i32) -> Tensor<B, 2, Int> {
    let [rows, width] = words.dims();
    let field = |&shift| words.clone().bitwise_right_shift_scalar(elem::<B>(shift)).bitwise_and_scalar(elem::<B>(mask));
    Tensor::stack::<3>(shifts.iter().map(field).collect(), 2).reshape([rows, width * shifts.len()])
}

/// Two 16-bit floats a word, low half first: `f16` with 5 bits of exponent, `bf16` with 8. Infinities are taken for large numbers.
fn halves<B: Backend>(words: Tensor<B, 2, Int>, exponent_bits: i32) -> Tensor<B, 2> {
    let device = words.device();
    let [rows, width] = words.dims();
    let fraction_bits = 15 - exponent_bits;
    let bias = (1 << (exponent_bits - 1)) - 1;
    let halves = fields(words, &[0, 16], 0xffff);
    let exponent = halves
        .clone()
        .bitwise_right_shift_scalar(elem::<B>(fraction_bits))
        .bitwise_and_scalar(elem::<B>((1 << exponent_bits) - 1));
    let fraction = halves.clone().bitwise_and_scalar(elem::<B>((1 << fraction_bits) - 1));
    let sign = halves.bitwise_right_shift_scalar(elem::<B>(15));
    // Normal numbers have one more bit than is stored.
    let fraction = fraction + exponent.clone().clamp(0, 1) * (1 << fraction_bits);
    let signed = fraction.clone() - fraction * sign * 2;
    // Powers of two by table: not every backend computes them exactly.
    let powers: Vec<f32> = (0..1_i32 << exponent_bits)
        .map(|exponent| (f64::from(exponent.max(1) - bias - fraction_bits)).exp2() as f32)
        .collect();
    let shape = [powers.len()];
    let powers = Tensor::<B, 1>::from_data_dtype(TensorData::new(powers, shape), &device, DType::F32);
    let power = powers.select(0, exponent.reshape([rows * width * 2])).reshape([rows, width * 2]);
    signed.float().cast(FloatDType::F32) * power
}

fn elem<B: Backend>(value: i32) -> B::IntElem {
    burn::tensor::ElementConversion::elem(value)
}

#[cfg(all(test, feature = "ndarray"))]
mod tests {
    use burn::tensor::Distribution;
    use burn_ndarray::NdArray;

    use super::*;
    use crate::quant::{PackedData, unpack};

    type B = NdArray;

    fn values(rows: usize, columns: usize) -> Vec<f32> {
        let values = Tensor::<B, 2>::random([rows, columns], Distribution::Normal(0.0, 0.02), &Default::default());
        values.into_data().to_vec().unwrap()
    }

    /// A weight, and what it holds, unpacked on the host.
    fn weight(packing: Packing, rows: usize, columns: usize) -> (PackedTensor<B>, Vec<f32>) {
        let data = PackedData::pack(packing, columns, &values(rows, columns)).unwrap();
        let words: &[u32] = bytemuck::cast_slice(&data.words);
        let scales: &[u16] = bytemuck::cast_slice(&data.scales);
        let mut expected = vec![0.0; rows * columns];
        for (row, values) in expected.chunks_exact_mut(columns).enumerate() {
            let scales = scales.get(2 * row * packing.scale_words(columns)..).unwrap_or_default();
            unpack(
                packing,
                &words[row * packing.words(columns)..][..packing.words(columns)],
                &scales[..packing.scales(columns)],
                values,
            );
        }
        (PackedTensor::from_data(data, &Default::default()), expected)
    }

    fn host(tensor: Tensor<B, 2>) -> Vec<f32> {
        tensor.into_data().to_vec().unwrap()
    }

    const PACKINGS: [Packing; 4] = [Packing::Q8, Packing::Q4, Packing::Bf16, Packing::F16];

    #[test]
    fn the_definition_unpacks_bit_for_bit() {
        // 96 columns have three scales a row, so that the last word of scales is half used.
        for (packing, columns) in PACKINGS.into_iter().flat_map(|packing| [(packing, 96), (packing, 64)]) {
            let (weight, expected) = weight(packing, 5, columns);
            assert_eq!(host(unpack_rows_plain(&weight, 0..5, FloatDType::F32)), expected, "{packing}");
            assert_eq!(host(unpack_rows(&weight, 1..4, FloatDType::F32)), expected[columns..4 * columns], "{packing}");
            let ids = Tensor::<B, 1, Int>::from_ints([4, 0, 4], &Default::default());
            let row = |row: usize| expected[row * columns..][..columns].to_vec();
            let rows = [row(4), row(0), row(4)].concat();
            assert_eq!(host(packed_select_plain(&weight, ids.clone())), rows, "{packing}");
            assert_eq!(host(packed_select(&weight, ids)), rows, "{packing}");
        }
    }

    #[test]
    fn the_kernel_multiplies_as_the_definition_does() {
        for packing in PACKINGS {
            let (weight, _) = weight(packing, 3 * 70, 96);
            // One row, few rows and many; groups without rows.
            for counts in [vec![1, 0, 0], vec![0, 3, 2], vec![9, 0, 1], vec![0, 0, 0]] {
                let rows = counts.iter().sum();
                let x = Tensor::<B, 2>::from_data(TensorData::new(values(rows, 96), [rows, 96]), &Default::default());
                let expected = packed_grouped_linear_plain(x.clone(), &weight, &counts);
                let found = packed_grouped_linear(x, &weight, &counts);
                assert_eq!(found.dims(), [rows, 70]);
                // Activations are at most 0.1 here, and weights are below that. For blocks, activations are rounded to 127 steps either
                // way, and for `bf16` to eight bits where a processor has products of those.
                let bound = match packing {
                    Packing::Q8 | Packing::Q4 => 96.0 * 0.1 * 0.5 * 0.1 / 127.0,
                    Packing::Bf16 => 96.0 * 0.1 * 0.1 / 512.0,
                    Packing::F16 => 1e-6,
                };
                for (found, expected) in host(found).into_iter().zip(host(expected)) {
                    assert!((found - expected).abs() < bound, "{packing}, {counts:?}: {found} for {expected}");
                }
            }
        }
    }
}
