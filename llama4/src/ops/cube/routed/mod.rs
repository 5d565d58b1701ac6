//! Routed experts without a word of the host: the device counts the tokens of each expert, and products find their rows by these counts.

mod rows;
mod sort;

use std::ops::Range;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::Weights;
use super::args::empty;
use super::gate::swiglu_halves;
use super::grouped_product::tiled_product;
use super::row_tiles::{Groups, RoutedGroups};
pub(super) use sort::sort;

/// Consecutive experts, one tensor each for the two products.
pub(in crate::ops) struct ExpertGroup<'a, R: CubeRuntime> {
    /// Which they are.
    pub(in crate::ops) experts: Range<usize>,
    /// `2 * intermediate` rows an expert, the gate's first.
    pub(in crate::ops) gate_up: Weights<'a, R>,
    /// `hidden` rows an expert.
    pub(in crate::ops) down: Weights<'a, R>,
}

/// `shared + Expert_e(s · x)` of each row, `e` being the highest of its `logits` and `s` the sigmoid of that.
///
/// `x` is `[rows, hidden]`, `logits` `F32`, `[rows, experts]`, `shared` `[rows, hidden]` of the type that sums have. `None` where the device or the
/// shapes do not allow it.
pub(in crate::ops) fn routed_experts<R: CubeRuntime>(
    x: &CubeTensor<R>,
    logits: &CubeTensor<R>,
    groups: &[ExpertGroup<'_, R>],
    shared: &CubeTensor<R>,
) -> Option<CubeTensor<R>> {
    let (rows, hidden) = (x.shape[0], x.shape[1]);
    // Kernels are not checked: each row has logits, and each expert is in one group, in order.
    let ends = groups.iter().try_fold(0, |end, group| {
        (group.experts.start == end && !group.experts.is_empty()).then_some(group.experts.end)
    });
    if shared.shape != x.shape
        || ![x.dtype, DType::F32].contains(&shared.dtype)
        || logits.shape[0] != rows
        || ends != Some(logits.shape[1])
    {
        return None;
    }
    let fresh = |width, dtype| empty(x.client.clone(), x.device.clone(), Shape::new([rows, width]), dtype);
    let first = groups.first()?;
    let gate_up = fresh(first.gate_up.rows()? / first.experts.len().max(1), x.dtype);
    let sorted = sort(logits)?;
    let inputs = rows::take_scaled(x, &sorted)?;
    let of_weight = |group: &ExpertGroup<'_, R>| {
        Groups::Routed(RoutedGroups { counts: &sorted.counts, of_weight: group.experts.clone() })
    };
    groups.iter().try_for_each(|group| tiled_product(&inputs, &group.gate_up, &of_weight(group), &gate_up))?;
    let gated = swiglu_halves(&gate_up)?;
    let sums = fresh(hidden, shared.dtype);
    groups.iter().try_for_each(|group| tiled_product(&gated, &group.down, &of_weight(group), &sums))?;
    rows::add_placed(shared, &sums, &sorted)
}

/// Rows sorted by the group that each goes to.
pub(super) struct Sorted<R: CubeRuntime> {
    /// Rows of each group, `U32`.
    pub(super) counts: CubeTensor<R>,
    /// The row that stands at each place, and the place of each row, `U32`.
    pub(super) rows: CubeTensor<R>,
    pub(super) places: CubeTensor<R>,
    /// Of each row, `F32`.
    pub(super) scores: CubeTensor<R>,
}

impl<R: CubeRuntime> Sorted<R> {
    /// For so many rows and groups, with anything in it.
    fn empty(like: &CubeTensor<R>, [rows, groups]: [usize; 2]) -> Self {
        let fresh = |len, dtype| empty(like.client.clone(), like.device.clone(), Shape::new([len]), dtype);
        Self {
            counts: fresh(groups, DType::U32),
            rows: fresh(rows, DType::U32),
            places: fresh(rows, DType::U32),
            scores: fresh(rows, DType::F32),
        }
    }
}
