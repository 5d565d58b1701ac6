use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::decode::{byte_of, half_of, nibble_of, scale_of};
use super::{PackedRows, cube_count};
use crate::quant::Packing;

/// Units that share one output, and outputs of a cube.
const UNITS: u32 = 32;
const OUTPUTS: u32 = 8;

/// Rows of `x` that one pass over a weight serves. Beyond two passes the product of unpacked rows is quicker.
const ROWS: usize = 8;
const MOST_ROWS: usize = 2 * ROWS;

/// Elements of a vector that is loaded at once.
const LINE: usize = 4;

/// What rows are multiplied with.
pub(in crate::ops) enum Weights<'a, R: CubeRuntime> {
    /// Floats, `[rows, in]`, contiguous.
    Float(&'a CubeTensor<R>),
    /// Packed rows.
    Packed(&'a PackedRows<R>),
}

/// How a kernel reads a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Encoding {
    /// Floats of the kernel's type.
    Float,
    /// Packed words.
    Packed(Packing),
}

impl Encoding {
    /// Values that a vector of weights holds.
    fn values(self) -> usize {
        match self {
            Self::Float => LINE,
            Self::Packed(packing) => LINE * 32 / packing.bits(),
        }
    }
}

/// `y = x W[g]ᵀ` for few rows of `x` in each group `g`; accumulated in `f32`, of the type of `x`.
///
/// `x` is `[rows, in]`, rows of group 0 first, `counts` of them in each; the weight's rows are `groups` times `out`. `None` where that
/// is not this kernel's work: many rows, or widths that are not whole vectors.
pub(in crate::ops) fn row_product<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weights: &Weights<'_, R>,
    counts: &[usize],
) -> Option<CubeTensor<R>> {
    let (encoding, columns, rows) = match weights {
        Weights::Float(weight) => {
            let columns = *weight.shape.dims.last()?;
            (Encoding::Float, columns, weight.shape.num_elements() / columns.max(1))
        }
        Weights::Packed(packed) => (Encoding::Packed(packed.packing), packed.columns, packed.words.shape[0]),
    };
    if counts.iter().any(|&count| count > MOST_ROWS) || columns == 0 || !columns.is_multiple_of(encoding.values()) {
        return None;
    }
    let outputs = rows / counts.len();
    let shape = Shape::new([x.shape[0], outputs]);
    let output = empty_device_dtype(x.client.clone(), x.device.clone(), shape, x.dtype);
    let mut first = 0;
    for (group, &count) in counts.iter().enumerate() {
        for start in (0..count).step_by(ROWS) {
            let part = Part {
                encoding,
                columns,
                outputs,
                first_row: first + start,
                rows: ROWS.min(count - start),
                first_weight: group * outputs,
            };
            if !super::ran("row product", part.launch(x, weights, &output)) {
                return None;
            }
        }
        first += count;
    }
    Some(output)
}

/// Some rows of one group.
struct Part {
    encoding: Encoding,
    columns: usize,
    outputs: usize,
    first_row: usize,
    rows: usize,
    first_weight: usize,
}

impl Part {
    fn launch<R: CubeRuntime>(&self, x: &CubeTensor<R>, weights: &Weights<'_, R>, output: &CubeTensor<R>) -> bool {
        let (weight, weight_type, scales, scale_words) = match weights {
            Weights::Float(weight) => (*weight, weight.dtype.into(), *weight, 0),
            Weights::Packed(packed) => {
                let scale_words = packed.packing.scale_words(packed.columns);
                (&packed.words, DType::U32.into(), packed.bound_scales(), scale_words)
            }
        };
        // SAFETY: reads stay in the rows of `x` and of the group's weight, which exist; writes in the output of the same rows.
        let launched = unsafe {
            row_product_kernel::launch_unchecked(
                &x.client,
                cube_count(self.outputs.div_ceil(OUTPUTS as usize)),
                CubeDim::new_2d(UNITS, OUTPUTS),
                array(x, LINE),
                array(weight, LINE),
                scales.as_array_arg::<u32>(1),
                array(output, 1),
                ScalarArg::new(self.outputs),
                ScalarArg::new(self.columns),
                ScalarArg::new(scale_words),
                ScalarArg::new(self.first_row),
                ScalarArg::new(self.first_weight),
                self.rows,
                self.encoding,
                [x.dtype.into(), weight_type],
            )
        };
        launched.is_ok()
    }
}

fn array<R: CubeRuntime>(tensor: &CubeTensor<R>, line: usize) -> ArrayArg<'_, R> {
    let (length, size) = (tensor.shape.num_elements(), tensor.dtype.size());
    // SAFETY: the length is that of the tensor, which is contiguous.
    unsafe { ArrayArg::from_raw_parts_and_size(&tensor.handle, length, line, size) }
}

/// Every output by [`UNITS`] units, which each take every so many vectors of its row.
#[cube(launch_unchecked)]
fn row_product_kernel<X: Float, W: Numeric>(
    x: &Array<Line<X>>,
    weights: &Array<Line<W>>,
    scales: &Array<u32>,
    y: &mut Array<X>,
    outputs: usize,
    columns: usize,
    scale_words: usize,
    first_row: usize,
    first_weight: usize,
    #[comptime] rows: usize,
    #[comptime] encoding: Encoding,
    #[define(X, W)] _dtypes: [StorageType; 2],
) {
    let output = CUBE_POS * comptime!(OUTPUTS as usize) + usize::cast_from(UNIT_POS_Y);
    // Units beyond the last output work on it again and write nothing: all of a cube have to meet at the barriers.
    let row = first_weight + select(output < outputs, output, outputs - 1);
    let values = comptime!(encoding.values());
    let vectors = columns / values;
    let row_start = row * vectors;
    let x_row = columns / LINE;

    let mut sums = Array::<Line<f32>>::lined(rows, LINE);
    #[unroll]
    for r in 0..rows {
        sums[r] = Line::<f32>::empty(LINE).fill(0.0);
    }

    let mut at = usize::cast_from(UNIT_POS_X);
    while at < vectors {
        let vector = weights[row_start + at];
        let mut scale = 1.0_f32;
        if comptime!(encoding == Encoding::Packed(Packing::Q4)) {
            scale = scale_of(scales, row * scale_words, at);
        }
        if comptime!(encoding == Encoding::Packed(Packing::Q8)) {
            scale = scale_of(scales, row * scale_words, at / 2);
        }
        let x_start = first_row * x_row + at * comptime!(values / LINE);
        #[unroll]
        for part in 0..comptime!(values / LINE) {
            let weight = part_of::<W>(vector, scale, part, encoding);
            #[unroll]
            for r in 0..rows {
                sums[r] += weight * Line::cast_from(x[x_start + r * x_row + part]);
            }
        }
        at += comptime!(UNITS as usize);
    }

    let mut shared = SharedMemory::<f32>::new(comptime!(rows * (UNITS * OUTPUTS) as usize));
    let unit = usize::cast_from(UNIT_POS);
    #[unroll]
    for r in 0..rows {
        let sum = sums[r];
        shared[unit * rows + r] = sum[0] + sum[1] + sum[2] + sum[3];
    }
    let mut stride = comptime!(UNITS as usize / 2).runtime();
    while stride > 0 {
        sync_cube();
        if usize::cast_from(UNIT_POS_X) < stride {
            #[unroll]
            for r in 0..rows {
                shared[unit * rows + r] += shared[(unit + stride) * rows + r];
            }
        }
        stride /= 2;
    }
    if UNIT_POS_X == 0 && output < outputs {
        #[unroll]
        for r in 0..rows {
            y[(first_row + r) * outputs + output] = X::cast_from(shared[unit * rows + r]);
        }
    }
}

/// Four values of a vector of weights: those that meet part `part` of its share of `x`.
#[cube]
fn part_of<W: Numeric>(
    vector: Line<W>,
    scale: f32,
    #[comptime] part: usize,
    #[comptime] encoding: Encoding,
) -> Line<f32> {
    let mut values = Line::<f32>::empty(LINE);
    if comptime!(encoding == Encoding::Float) {
        values = Line::cast_from(vector);
    } else if comptime!(encoding == Encoding::Packed(Packing::Q4)) {
        // The low nibbles of a block's four words are its first half, the high ones its second.
        let word = u32::cast_from(vector[comptime!(part % 4)]);
        #[unroll]
        for byte in 0..4_u32 {
            let index = comptime!(2 * byte + part as u32 / 4);
            values[byte as usize] = nibble_of(word, index) * scale;
        }
    } else if comptime!(encoding == Encoding::Packed(Packing::Q8)) {
        let word = u32::cast_from(vector[part]);
        #[unroll]
        for byte in 0..4_u32 {
            values[byte as usize] = byte_of(word, byte) * scale;
        }
    } else {
        #[unroll]
        for half in 0..4_u32 {
            let word = u32::cast_from(vector[comptime!(2 * part + half as usize / 2)]);
            let index = comptime!(half % 2);
            values[half as usize] = half_of(word, index, comptime!(encoding == Encoding::Packed(Packing::Bf16)));
        }
    }
    values
}
