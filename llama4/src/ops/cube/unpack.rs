use std::ops::Range;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::ops::cube::args::empty;

use super::decode::{byte, half_of, nibble, scale_of};
use super::{PackedRows, cube_count};
use crate::quant::{BLOCK, Packing};

/// Units of a cube; every unit unpacks one word.
const UNITS: u32 = 256;

/// Which rows are unpacked.
pub(in crate::ops) enum Rows<'a, R: CubeRuntime> {
    /// Consecutive ones.
    Range(Range<usize>),
    /// Those of some indices, `I32`, `[rows]`.
    Picked(&'a CubeTensor<R>),
}

/// Unpack rows into floats of type `dtype`, `[rows, columns]`.
pub(in crate::ops) fn unpack<R: CubeRuntime>(
    weight: &PackedRows<R>,
    rows: &Rows<'_, R>,
    dtype: DType,
) -> Option<CubeTensor<R>> {
    let (packing, columns) = (weight.packing, weight.columns);
    let (count, first, picked) = match rows {
        Rows::Range(range) => (range.len(), range.start, None),
        Rows::Picked(ids) if ids.dtype == DType::I32 => (ids.shape.num_elements(), 0, Some(*ids)),
        Rows::Picked(_) => return None,
    };
    let client = &weight.words.client;
    let output = empty(client.clone(), weight.words.device.clone(), Shape::new([count, columns]), dtype);
    let words = count * packing.words(columns);
    if words == 0 {
        return Some(output);
    }
    // SAFETY: the lengths are those of the tensors, and the kernel stays below `count` rows, which the caller says exist.
    let launched = unsafe {
        unpack_kernel::launch_unchecked(
            client,
            cube_count(words.div_ceil(UNITS as usize)),
            CubeDim::new_1d(UNITS),
            weight.words.as_array_arg::<u32>(1),
            weight.bound_scales().as_array_arg::<u32>(1),
            picked.unwrap_or(&weight.words).as_array_arg::<i32>(1),
            ArrayArg::from_raw_parts_and_size(&output.handle, count * columns, 1, dtype.size()),
            ScalarArg::new(packing.words(columns)),
            ScalarArg::new(packing.scale_words(columns)),
            ScalarArg::new(first),
            ScalarArg::new(words),
            packing,
            picked.is_some(),
            dtype.into(),
        )
    };
    super::ran("unpack rows", launched).then_some(output)
}

#[cube(launch_unchecked)]
fn unpack_kernel<F: Float>(
    words: &Array<u32>,
    scales: &Array<u32>,
    ids: &Array<i32>,
    output: &mut Array<F>,
    row_words: usize,
    scale_words: usize,
    first: usize,
    count: usize,
    #[comptime] packing: Packing,
    #[comptime] picked: bool,
    #[define(F)] _dtype: StorageType,
) {
    let position = ABSOLUTE_POS;
    if position >= count {
        terminate!();
    }
    let (row, at) = (position / row_words, position % row_words);
    let mut source = first + row;
    if comptime!(picked) {
        source = usize::cast_from(ids[row]);
    }
    let word = words[source * row_words + at];
    let scale_row = source * scale_words;
    if comptime!(packing == Packing::Q4) {
        // Four words a block; the low nibbles are its first half.
        let (block, within) = (at / 4, at % 4);
        let scale = scale_of(scales, scale_row, block);
        let start = (row * (row_words / 4) + block) * BLOCK + within * 4;
        #[unroll]
        for index in 0..4_usize {
            let place = start + index;
            output[place] = F::cast_from(nibble(word, comptime!(2 * index)) * scale);
            output[place + BLOCK / 2] = F::cast_from(nibble(word, comptime!(2 * index + 1)) * scale);
        }
    } else if comptime!(packing == Packing::Q8) {
        let scale = scale_of(scales, scale_row, at / 8);
        #[unroll]
        for index in 0..4_usize {
            output[position * 4 + index] = F::cast_from(byte(word, index) * scale);
        }
    } else {
        #[unroll]
        for half in 0..2_u32 {
            let value = half_of(word, half, comptime!(packing == Packing::Bf16));
            output[position * 2 + usize::cast_from(half)] = F::cast_from(value);
        }
    }
}
