//! `y = x W[g]ᵀ` for rows of `x` that are sorted by group `g`: which kernel does it.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::cast;
use burn_cubecl::tensor::CubeTensor;

use super::args::empty;
use super::row_product::{Weights, row_product, takes};
use super::row_tiles::Groups;
use super::staged_product::staged_product;
use super::tile_product::tile_product;

/// Rows of `x` up to which [`row_product`] is quicker than [`staged_product`]: as many as it takes at once.
const FEW: usize = 8;

/// The same of [`tile_product`], whose smallest tile has eight rows. Measured were eight.
const FEW_FOR_TILES: usize = 4;

/// A kernel that writes the product of rows and weights to an output.
type Product<R> = fn(&CubeTensor<R>, &Weights<'_, R>, &Groups<'_, R>, &CubeTensor<R>) -> Option<()>;

/// `y = x W[g]ᵀ` for the rows of each group `g`, by the kernel for so many rows: accumulated in `f32`, of type `dtype`, which is that of `x` or
/// `F32`.
///
/// `x` is `[rows, in]`, rows of group 0 first, `counts` of them in each; the weight's rows are `groups` times `out`. `None` where no kernel
/// can do it.
pub(in crate::ops) fn grouped_product<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weights: &Weights<'_, R>,
    counts: &[usize],
    dtype: DType,
) -> Option<CubeTensor<R>> {
    if !fits(x, weights) {
        return None;
    }
    let by = |product: Product<R>| {
        let outputs = weights.rows()? / counts.len().max(1);
        let output = empty(x.client.clone(), x.device.clone(), Shape::new([x.shape[0], outputs]), dtype);
        product(x, weights, &Groups::Known(counts), &output).map(|()| output)
    };
    let (tiles, cores) = (|| by(tiled_product), || by(tile_product));
    // These give what they take.
    let rows = || match x.dtype == dtype {
        true => row_product(x, weights, counts),
        false if takes(weights, counts) => row_product(&cast(x.clone(), dtype), weights, counts),
        false => None,
    };
    // One launch for all groups is quicker than one for each.
    let alone = counts.iter().filter(|&&count| count > 0).count() <= 1;
    match x.shape[0] {
        few if alone && few <= FEW_FOR_TILES => rows().or_else(tiles),
        few if alone && few <= FEW => cores().or_else(rows).or_else(tiles),
        _ => tiles().or_else(rows),
    }
}

/// The same to `output`, by the kernels that know of tiles, which need not be told how many rows a group has. `None` where none of them can do it.
pub(super) fn tiled_product<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weights: &Weights<'_, R>,
    groups: &Groups<'_, R>,
    output: &CubeTensor<R>,
) -> Option<()> {
    if !fits(x, weights) || weights.rows()? != groups.len() * output.shape[1] || output.shape[0] != x.shape[0] {
        return None;
    }
    tile_product(x, weights, groups, output).or_else(|| staged_product(x, weights, groups, output))
}

/// Whether rows are as wide as those of the weight.
fn fits<R: CubeRuntime>(x: &CubeTensor<R>, weights: &Weights<'_, R>) -> bool {
    weights.columns().is_some_and(|columns| columns > 0 && columns == x.shape[1])
}
