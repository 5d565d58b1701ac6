//! `y = x W[g]ᵀ` for many rows of `x`, sorted by group `g`, on tensor cores: one launch for all groups.
//!
//! A cube has a tile of rows and outputs, a plane all its rows and 32 of its outputs, so that a weight is read, and unpacked, by one plane
//! of the cube only: from memory into the registers that the product takes. Only `x` goes through shared memory.
//!
//! What makes this work is that a product may take its values in any order, if both sides have the same. Each of the four units with values
//! of a row has 16 bytes of it, the next four values for each product; of `x` it reads the vectors at the same places.

mod fragment;
mod kernel;
mod tile;

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::features::{MmaConfig, Plane};
use cubecl::prelude::*;

use super::args::words;
use super::row_tiles::{Groups, RowTiles};
use super::{Weights, processors};
use crate::quant::Packing;
use tile::{Encoding, LINE, OWN, PLANE, Tile};

/// A weight as the kernel gets it.
struct Source<'a, R: CubeRuntime> {
    encoding: Encoding,
    columns: usize,
    values: &'a CubeTensor<R>,
    scales: &'a CubeTensor<R>,
}

impl<'a, R: CubeRuntime> Source<'a, R> {
    /// `None` for a weight that has to be converted to the type of `x`.
    fn new(weights: &Weights<'a, R>, dtype: DType) -> Option<Self> {
        match weights {
            Weights::Float(weight) => {
                let columns = *weight.shape.dims.last()?;
                let source = Self { encoding: Encoding::Half, columns, values: *weight, scales: *weight };
                (weight.dtype == dtype).then_some(source)
            }
            Weights::Packed(packed) => {
                let encoding = match packed.packing {
                    Packing::Q4 => Encoding::Q4,
                    Packing::Q8 => Encoding::Q8,
                    Packing::Bf16 if dtype == DType::BF16 => Encoding::Half,
                    Packing::F16 if dtype == DType::F16 => Encoding::Half,
                    Packing::Bf16 | Packing::F16 => return None,
                };
                let (values, scales) = (&packed.words, packed.bound_scales());
                Some(Self { encoding, columns: packed.columns, values, scales })
            }
        }
    }
}

/// As [`row_product`](super::row_product), for more rows: of `bf16` or `f16`, accumulated in `f32`, to `output`, which is of the type of `x` or
/// `F32` and whose rows are those of `x`.
///
/// `None` where the device or the shapes do not allow it.
pub(in crate::ops) fn tile_product<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weights: &Weights<'_, R>,
    groups: &Groups<'_, R>,
    output: &CubeTensor<R>,
) -> Option<()> {
    tile_product_for(processors(&x.client), x, weights, groups, output)
}

/// The same with tiles for a device of so many multiprocessors.
pub(super) fn tile_product_for<R: CubeRuntime>(
    processors: usize,
    x: &CubeTensor<R>,
    weights: &Weights<'_, R>,
    groups: &Groups<'_, R>,
    output: &CubeTensor<R>,
) -> Option<()> {
    let source = Source::new(weights, x.dtype)?;
    let most_shared = most_shared(x)?;
    let (rows, outputs) = (x.shape[0], output.shape[1]);
    let there = |tiles| groups.most_tiles(rows, tiles) > 0;
    let plan = plan(source.encoding, &groups.likely(rows), there, outputs, processors);
    let grouped = groups.several() || plan.len() > 1;
    let launches = plan.into_iter().map(|(tiles, number)| {
        let shape = [outputs, source.columns];
        let tile = choose(source.encoding, shape, tiles.rows() / tile::ROWS, number, processors, most_shared)?;
        Some((tiles, Tile { grouped, ..tile }))
    });
    let launches: Vec<(RowTiles, Tile)> = launches.collect::<Option<_>>()?;
    let counts = groups.bind(&x.client, grouped, x);
    let launched = launches.into_iter().all(|(tiles, tile)| {
        let (row_tiles, output_tiles) = (groups.most_tiles(rows, tiles), outputs.div_ceil(tile.outputs()));
        // SAFETY: the tiles name rows of `x`, of the output and of the weight that exist; the kernel takes the last one for those beyond.
        let launched = unsafe {
            kernel::tile_product_kernel::launch_unchecked(
                &x.client,
                super::cube_count(row_tiles * output_tiles),
                CubeDim::new_2d(PLANE as u32, (tile.planes * tile.split) as u32),
                words(x, LINE),
                words(source.values, LINE),
                words(source.scales, 1),
                counts.argument(),
                words(output, OWN * output.dtype.size() / 4),
                ScalarArg::new(source.columns),
                counts.divide([rows, outputs], tiles, [row_tiles, output_tiles]),
                tile,
                output.dtype == DType::F32,
                x.dtype.into(),
            )
        };
        super::ran("tile product", launched)
    });
    launched.then_some(())
}

/// Which tiles of rows there should be, and how many if groups have as many rows as `counts` says: where what is left of a group in front of its end
/// fits a smaller tile, two heights are quicker than one. Only such as may be `there`.
fn plan(
    encoding: Encoding,
    counts: &[usize],
    there: impl Fn(RowTiles) -> bool,
    outputs: usize,
    processors: usize,
) -> Vec<(RowTiles, usize)> {
    // The time of a tile is that of its rows and something for the weight, which is more for wider values.
    let weight = match encoding {
        Encoding::Q4 => 8,
        Encoding::Q8 => 10,
        Encoding::Half => 24,
    };
    let heights = [1, 2, 4, 8, 16].map(|height| height * tile::ROWS);
    let pairs = heights.into_iter().flat_map(|large| heights.into_iter().map(move |small| (large, small)));
    let plans = pairs.filter(|(large, small)| small <= large).map(|(large, small)| {
        let two = RowTiles { large, small, rests: false };
        let plan = if small == large { vec![RowTiles::of(large)] } else { vec![two, RowTiles { rests: true, ..two }] };
        let plan = plan.into_iter().filter(|tiles| there(*tiles));
        plan.map(|tiles| (tiles, tiles.number(counts))).collect::<Vec<_>>()
    });
    let cost = |plan: &[(RowTiles, usize)]| {
        let launch = |&(tiles, number): &(RowTiles, usize)| {
            let cubes = number * outputs.div_ceil(8 * tile::OUTPUTS);
            (tiles.rows() / tile::ROWS + weight) * cubes.max(processors / 4)
        };
        // Launches take turns, and the last cubes of each leave processors without work.
        plan.iter().map(launch).sum::<usize>() * (9 + plan.len())
    };
    plans.min_by_key(|plan| cost(plan)).unwrap_or_default()
}

/// Bytes of shared memory that a cube may have, where the device has what the kernel needs.
fn most_shared<R: CubeRuntime>(x: &CubeTensor<R>) -> Option<usize> {
    let dtype = x.dtype;
    let properties = x.client.properties();
    let (hardware, features) = (&properties.hardware, &properties.features);
    let mma = MmaConfig { a_type: dtype.into(), b_type: dtype.into(), cd_type: DType::F32.into(), m: 16, n: 8, k: 16 };
    let fits = matches!(dtype, DType::BF16 | DType::F16)
        && hardware.plane_size_min == PLANE as u32
        && hardware.plane_size_max == PLANE as u32
        && features.copy_async
        && features.plane.contains(Plane::Ops)
        && features.mma.contains(&mma);
    fits.then_some(hardware.max_shared_memory_size)
}

/// How cubes work on about so many tiles of this height, where shapes allow it.
fn choose(
    encoding: Encoding,
    [outputs, columns]: [usize; 2],
    heights: usize,
    number: usize,
    processors: usize,
    most_shared: usize,
) -> Option<Tile> {
    if !outputs.is_multiple_of(OWN) {
        return None;
    }
    let cubes = |planes: usize| number * outputs.div_ceil(planes * tile::OUTPUTS);
    let (planes, splits): (usize, &[usize]) = if heights > 4 {
        // Large cubes need less of `x`, small ones fill the last round of cubes better.
        let rounds = cubes(8).div_ceil(processors) * processors;
        (if cubes(8) * 10 > rounds * 9 { 8 } else { 4 }, &[1])
    } else if heights == 4 && encoding != Encoding::Half && cubes(4) >= 4 * processors {
        (4, &[1])
    } else if cubes(4) * 10 > processors * 9 {
        (4, &[2, 1])
    } else if heights == 1 && cubes(2) < processors {
        (1, &[8, 4, 2, 1])
    } else {
        (2, &[4, 2, 1])
    };
    // More stages are more instructions that find theirs, and fewer registers for the products; what is quickest was measured, with 128 rows.
    let most = match (heights > 4, planes) {
        (true, 8) if encoding == Encoding::Q4 => 3,
        (true, 4) => 2,
        _ => 4,
    };
    splits.iter().find_map(|&split| {
        let steps = (128 / encoding.step() / split).max(1);
        let tile = Tile { encoding, heights, planes, split, steps, stages: 2, grouped: true };
        let fits = |stages: &usize| {
            let tile = Tile { stages: *stages, ..tile };
            tile.shared_bytes() <= most_shared
        };
        let stages = (2..=most).rev().find(fits)?;
        columns.is_multiple_of(tile.depth()).then_some(Tile { stages, ..tile })
    })
}

#[cfg(test)]
mod tests {
    use super::{Encoding, plan};

    /// Rows of a tile and the number of such tiles.
    fn planned(counts: &[usize]) -> Vec<(usize, usize)> {
        let plan = plan(Encoding::Q4, counts, |tiles| tiles.number(counts) > 0, 5120, 16);
        plan.into_iter().map(|(tiles, number)| (tiles.rows(), number)).collect()
    }

    #[test]
    fn what_is_left_of_a_group_gets_smaller_tiles() {
        assert_eq!(planned(&[2048]), [(128, 16)]);
        assert_eq!(planned(&[2, 0, 5]), [(8, 2)]);
        assert_eq!(planned(&[130, 128, 256]), [(128, 4), (8, 1)]);
        assert_eq!(planned(&[0, 0]), []);
    }
}
