//! `y = x Wᵀ` for few rows of `x`: what a decoded token consists of. Bound by reading `W`.

mod fused;
mod input;
mod scalar;
mod tiles;
mod units;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::ArrayArg;

use super::PackedRows;
use super::args::{array, empty, words};
use crate::quant::Packing;
#[cfg(test)]
pub(super) use fused::WITHOUT_CORES;
pub(in crate::ops) use fused::{Chosen, Norm, down, fuses_tokens, gated, normed_rows};

/// Rows of `x` that one pass over a weight serves, and those of two passes, beyond which other kernels are quicker.
const ROWS: usize = 8;
const MOST_ROWS: usize = 2 * ROWS;

/// Elements of a vector that is loaded at once; of words, 16 bytes.
const LINE: usize = 4;

/// What rows are multiplied with.
pub(in crate::ops) enum Weights<'a, R: CubeRuntime> {
    /// Floats, `[rows, in]`, contiguous.
    Float(&'a CubeTensor<R>),
    /// Packed rows.
    Packed(&'a PackedRows<R>),
}

impl<R: CubeRuntime> Weights<'_, R> {
    /// Values of a row.
    pub(super) fn columns(&self) -> Option<usize> {
        match self {
            Self::Float(weight) => weight.shape.dims.last().copied(),
            Self::Packed(packed) => Some(packed.columns),
        }
    }

    /// Rows of all groups.
    pub(super) fn rows(&self) -> Option<usize> {
        match self {
            Self::Float(weight) => weight.shape.num_elements().checked_div(self.columns()?),
            Self::Packed(packed) => Some(packed.words.shape[0]),
        }
    }
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

    /// Whether blocks of values have a scale.
    fn has_scales(self) -> bool {
        matches!(self, Self::Packed(packing) if packing.has_scales())
    }
}

/// A weight as kernels get it.
struct Source<'a, R: CubeRuntime> {
    encoding: Encoding,
    columns: usize,
    /// All of them, of every group.
    rows: usize,
    values: &'a CubeTensor<R>,
    scales: &'a CubeTensor<R>,
}

impl<'a, R: CubeRuntime> Source<'a, R> {
    fn new(weights: &Weights<'a, R>) -> Option<Self> {
        match weights {
            Weights::Float(weight) => {
                let columns = *weight.shape.dims.last()?;
                let words = weight.dtype == DType::BF16 && columns.is_multiple_of(8);
                let encoding = if words { Encoding::Packed(Packing::Bf16) } else { Encoding::Float };
                let rows = weight.shape.num_elements() / columns.max(1);
                Some(Self { encoding, columns, rows, values: *weight, scales: *weight })
            }
            Weights::Packed(packed) => Some(Self {
                encoding: Encoding::Packed(packed.packing),
                columns: packed.columns,
                rows: packed.words.shape[0],
                values: &packed.words,
                scales: packed.bound_scales(),
            }),
        }
    }

    /// The type that kernels take the values for.
    fn dtype(&self) -> DType {
        if self.encoding == Encoding::Float { self.values.dtype } else { DType::U32 }
    }

    fn values(&self) -> ArrayArg<'a, R> {
        if self.encoding == Encoding::Float { array(self.values, LINE) } else { words(self.values, LINE) }
    }

    fn scales(&self) -> ArrayArg<'a, R> {
        words(self.scales, 1)
    }

    fn scale_words(&self) -> usize {
        match self.encoding {
            Encoding::Packed(packing) => packing.scale_words(self.columns),
            Encoding::Float => 0,
        }
    }
}

/// `y = x W[g]ᵀ` for few rows of `x` in each group `g`; accumulated in `f32`, of the type of `x`.
///
/// `x` is `[rows, in]`, rows of group 0 first, `counts` of them in each; the weight's rows are `groups` times `out`. `None` where that
/// is not this kernel's work.
pub(in crate::ops) fn row_product<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weights: &Weights<'_, R>,
    counts: &[usize],
) -> Option<CubeTensor<R>> {
    if !takes(weights, counts) {
        return None;
    }
    let source = Source::new(weights)?;
    let outputs = source.rows / counts.len();
    let shape = Shape::new([x.shape[0], outputs]);
    let output = empty(x.client.clone(), x.device.clone(), shape, x.dtype);
    let mut first = 0;
    for (group, &count) in counts.iter().enumerate() {
        for start in (0..count).step_by(ROWS) {
            let rows = ROWS.min(count - start);
            let part = Part { outputs, first_row: first + start, rows, first_weight: group * outputs };
            let launched = match tiles::Tile::new(x, &source, rows) {
                Some(tile) => tiles::launch(tile, &part, x, &source, &output),
                None => scalar::launch(&part, x, &source, &output),
            };
            if !super::ran("row product", launched) {
                return None;
            }
        }
        first += count;
    }
    Some(output)
}

/// Whether this is [`row_product`]'s work: few rows in each group, and widths that are whole vectors.
pub(super) fn takes<R: CubeRuntime>(weights: &Weights<'_, R>, counts: &[usize]) -> bool {
    let whole = |source: Source<'_, R>| source.columns > 0 && source.columns.is_multiple_of(source.encoding.values());
    counts.iter().all(|&count| count <= MOST_ROWS) && Source::new(weights).is_some_and(whole)
}

/// Some rows of one group.
struct Part {
    outputs: usize,
    first_row: usize,
    rows: usize,
    first_weight: usize,
}
