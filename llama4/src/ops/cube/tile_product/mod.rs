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

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::features::MmaConfig;
use cubecl::prelude::*;

use super::args::{empty, upload, words};
use super::row_tiles::{ENTRY, row_tiles};
use super::{Weights, processors};
use crate::quant::Packing;
use tile::{Encoding, LINE, OWN, PLANE, Tile};

/// A weight as the kernel gets it.
struct Source<'a, R: CubeRuntime> {
    encoding: Encoding,
    columns: usize,
    /// All of them, of every group.
    rows: usize,
    values: &'a CubeTensor<R>,
    scales: &'a CubeTensor<R>,
}

impl<'a, R: CubeRuntime> Source<'a, R> {
    /// `None` for a weight that has to be converted to the type of `x`.
    fn new(weights: &Weights<'a, R>, dtype: DType) -> Option<Self> {
        match weights {
            Weights::Float(weight) => {
                let columns = *weight.shape.dims.last()?;
                let rows = weight.shape.num_elements() / columns.max(1);
                let source = Self { encoding: Encoding::Half, columns, rows, values: *weight, scales: *weight };
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
                let (columns, rows) = (packed.columns, packed.words.shape[0]);
                Some(Self { encoding, columns, rows, values: &packed.words, scales: packed.bound_scales() })
            }
        }
    }
}

/// As [`row_product`](super::row_product), for more rows: of `bf16` or `f16`, accumulated in `f32`, of type `dtype`, which is that of `x` or
/// `F32`.
///
/// `None` where the device or the shapes do not allow it.
pub(in crate::ops) fn tile_product<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weights: &Weights<'_, R>,
    counts: &[usize],
    dtype: DType,
) -> Option<CubeTensor<R>> {
    let source = Source::new(weights, x.dtype)?;
    let outputs = source.rows / counts.len().max(1);
    let launches: Option<Vec<Launch>> = plan(source.encoding, counts, outputs, processors(&x.client))
        .into_iter()
        .map(|(heights, table)| choose(x, &source, outputs, heights, table))
        .collect();
    let launches = launches?;
    let shape = Shape::new([x.shape[0], outputs]);
    let output = empty(x.client.clone(), x.device.clone(), shape, dtype);
    let grouped = counts.len() > 1 || launches.len() > 1;
    let launched =
        launches.into_iter().all(|(tile, table)| launch(x, &source, &output, Tile { grouped, ..tile }, &table));
    launched.then_some(output)
}

/// How cubes work on tiles of rows, and these.
type Launch = (Tile, Vec<u32>);

fn launch<R: CubeRuntime>(
    x: &CubeTensor<R>,
    source: &Source<'_, R>,
    output: &CubeTensor<R>,
    tile: Tile,
    table: &[u32],
) -> bool {
    let outputs = output.shape[1];
    let (row_tiles, output_tiles) = (table.len() / ENTRY, outputs.div_ceil(tile.outputs()));
    let uploaded = tile.grouped.then(|| upload(&x.client, table));
    // Something to bind where there is no table.
    let bound = uploaded.as_ref().unwrap_or(&x.handle);
    // SAFETY: the tiles name rows of `x`, of the output and of the weight that exist; the kernel takes the last one for those beyond.
    let launched = unsafe {
        kernel::tile_product_kernel::launch_unchecked(
            &x.client,
            super::cube_count(row_tiles * output_tiles),
            CubeDim::new_2d(PLANE as u32, (tile.planes * tile.split) as u32),
            words(x, LINE),
            words(source.values, LINE),
            words(source.scales, 1),
            ArrayArg::from_raw_parts_and_size(bound, table.len(), ENTRY, 4),
            words(output, OWN * output.dtype.size() / 4),
            ScalarArg::new(source.columns),
            ScalarArg::new(outputs),
            ScalarArg::new(x.shape[0]),
            ScalarArg::new(row_tiles),
            ScalarArg::new(output_tiles),
            tile,
            output.dtype == DType::F32,
            x.dtype.into(),
        )
    };
    super::ran("tile product", launched)
}

/// Which heights tiles should have, in units of [`tile::ROWS`], and the tiles of each: where what is left of a group in front of its end fits
/// a smaller tile, two heights are quicker than one.
fn plan(encoding: Encoding, counts: &[usize], outputs: usize, processors: usize) -> Vec<(usize, Vec<u32>)> {
    // The time of a tile is that of its rows and something for the weight, which is more for wider values.
    let weight = match encoding {
        Encoding::Q4 => 8,
        Encoding::Q8 => 10,
        Encoding::Half => 24,
    };
    let heights = [1, 2, 4, 8, 16];
    let pairs = heights.into_iter().flat_map(|large| heights.into_iter().map(move |small| (large, small)));
    let plans = pairs.filter(|(large, small)| small <= large).map(|(large, small)| {
        let [full, rest] = row_tiles(counts, outputs, large * tile::ROWS, small * tile::ROWS);
        let plan =
            if small == large { vec![(large, [full, rest].concat())] } else { vec![(large, full), (small, rest)] };
        plan.into_iter().filter(|(_, table)| !table.is_empty()).collect::<Vec<_>>()
    });
    let cost = |plan: &[(usize, Vec<u32>)]| {
        let launch = |(heights, table): &(usize, Vec<u32>)| {
            let cubes = table.len() / ENTRY * outputs.div_ceil(8 * tile::OUTPUTS);
            (heights + weight) * cubes.max(processors / 4)
        };
        // Launches take turns, and the last cubes of each leave processors without work.
        plan.iter().map(launch).sum::<usize>() * (9 + plan.len())
    };
    plans.min_by_key(|plan| cost(plan)).unwrap_or_default()
}

/// How cubes work on these tiles, where device and shapes allow it.
fn choose<R: CubeRuntime>(
    x: &CubeTensor<R>,
    source: &Source<'_, R>,
    outputs: usize,
    heights: usize,
    table: Vec<u32>,
) -> Option<Launch> {
    let dtype = x.dtype;
    let properties = x.client.properties();
    let hardware = &properties.hardware;
    let mma = MmaConfig { a_type: dtype.into(), b_type: dtype.into(), cd_type: DType::F32.into(), m: 16, n: 8, k: 16 };
    if !matches!(dtype, DType::BF16 | DType::F16)
        || hardware.plane_size_min != PLANE as u32
        || hardware.plane_size_max != PLANE as u32
        || !properties.features.copy_async
        || !properties.features.mma.contains(&mma)
        || !outputs.is_multiple_of(OWN)
    {
        return None;
    }
    let processors = processors(&x.client);
    let cubes = |planes: usize| table.len() / ENTRY * outputs.div_ceil(planes * tile::OUTPUTS);
    let (planes, splits): (usize, &[usize]) = if heights > 4 {
        // Large cubes need less of `x`, small ones fill the last round of cubes better.
        let rounds = cubes(8).div_ceil(processors) * processors;
        (if cubes(8) * 10 > rounds * 9 { 8 } else { 4 }, &[1])
    } else if heights == 4 && source.encoding != Encoding::Half && cubes(4) >= 4 * processors {
        (4, &[1])
    } else if cubes(4) * 10 > processors * 9 {
        (4, &[2, 1])
    } else {
        (2, &[4, 2, 1])
    };
    let most = if planes == 8 || heights <= 4 { 4 } else { 3 };
    let tile = splits.iter().find_map(|&split| {
        let steps = (128 / source.encoding.step() / split).max(1);
        let tile = Tile { encoding: source.encoding, heights, planes, split, steps, stages: 2, grouped: true };
        let fits = |stages: &usize| {
            let tile = Tile { stages: *stages, ..tile };
            tile.shared_bytes() <= hardware.max_shared_memory_size
        };
        let stages = (2..=most).rev().find(fits)?;
        source.columns.is_multiple_of(tile.depth()).then_some(Tile { stages, ..tile })
    })?;
    Some((tile, table))
}

#[cfg(test)]
mod tests {
    use super::{ENTRY, Encoding, plan};

    /// Heights and the rows of their tiles.
    fn planned(counts: &[usize]) -> Vec<(usize, Vec<u32>)> {
        let rows = |table: Vec<u32>| table.chunks(ENTRY).map(|entry| entry[1]).collect();
        plan(Encoding::Q4, counts, 5120, 16).into_iter().map(|(heights, table)| (heights, rows(table))).collect()
    }

    #[test]
    fn tiles_cover_all_rows_once() {
        for counts in [&[1usize][..], &[130], &[0, 0], &[140, 0, 117, 128, 300, 1, 7], &[2; 16], &[9, 31, 33]] {
            let mut seen = vec![0; counts.iter().sum()];
            for (_, table) in plan(Encoding::Half, counts, 64, 132) {
                for entry in table.chunks(ENTRY) {
                    let (first, rows) = (entry[0] as usize, entry[1] as usize);
                    seen[first..first + rows].iter_mut().for_each(|seen| *seen += 1);
                    let before: usize = counts[..entry[2] as usize / 64].iter().sum();
                    assert!(first >= before && first + rows <= before + counts[entry[2] as usize / 64]);
                }
            }
            assert!(seen.iter().all(|seen| *seen == 1), "{counts:?}");
        }
    }

    #[test]
    fn what_is_left_of_a_group_gets_smaller_tiles() {
        assert_eq!(planned(&[2048]), [(16, vec![128; 16])]);
        assert_eq!(planned(&[2, 0, 5]), [(1, vec![2, 5])]);
        assert_eq!(planned(&[130, 128, 256]), [(16, vec![128; 4]), (1, vec![2])]);
        assert_eq!(planned(&[0, 0]), []);
    }
}
