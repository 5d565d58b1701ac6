//! `y = x W[g]ᵀ` for many rows of `x`, sorted by group `g`, in one launch for all groups: for devices that have not what
//! [`tile_product`](super::tile_product) needs, and for types that it does not take.
//!
//! A cube has some rows and some outputs. Step by step it brings what it needs of `x` and of the weight, unpacked, to shared memory, while what
//! comes next is on its way to registers. Tensor cores multiply where the device has some that all runtimes can name (`cmma`), otherwise units
//! do, each for some rows and outputs.

mod kernel;
mod stage;
mod tile;

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::features::MmaConfig;
use cubecl::prelude::*;

use super::args::{array, is_wgpu, words};
use super::row_tiles::{Groups, RowTiles};
use super::values::{Encoding, LINE};
use super::{Weights, processors};
use tile::{FRAGMENT, PLANE, Tile};

/// A matrix as the kernel gets it.
struct Source<'a, R: CubeRuntime> {
    encoding: Encoding,
    columns: usize,
    values: &'a CubeTensor<R>,
    scales: &'a CubeTensor<R>,
    scale_words: usize,
}

impl<'a, R: CubeRuntime> Source<'a, R> {
    fn new(weights: &Weights<'a, R>) -> Option<Self> {
        match weights {
            Weights::Float(weight) => Self::of_floats(weight),
            Weights::Packed(packed) => Some(Self {
                encoding: Encoding::Packed(packed.packing),
                columns: packed.columns,
                values: &packed.words,
                scales: packed.bound_scales(),
                scale_words: packed.packing.scale_words(packed.columns),
            }),
        }
    }

    fn of_floats(values: &'a CubeTensor<R>) -> Option<Self> {
        let encoding = Encoding::of_floats(values.dtype)?;
        let columns = *values.shape.dims.last()?;
        Some(Self { encoding, columns, values, scales: values, scale_words: 0 })
    }
}

/// `y = x W[g]ᵀ` for the rows of each group `g`, accumulated in `f32`, to `output`, whose rows are those of `x`.
///
/// `x` is `[rows, in]`, rows of group 0 first; the weight's rows are `groups` times `out`. `None` where the device or the shapes do not allow it.
pub(in crate::ops) fn staged_product<R: CubeRuntime>(
    x: &CubeTensor<R>,
    weights: &Weights<'_, R>,
    groups: &Groups<'_, R>,
    output: &CubeTensor<R>,
) -> Option<()> {
    let (of_x, source) = (Source::of_floats(x)?, Source::new(weights)?);
    let (rows, outputs) = (x.shape[0], output.shape[1]);
    let tile = choose(x, &of_x, &source, groups, outputs)?;
    let tiles = RowTiles::of(tile.rows);
    let row_tiles = groups.most_tiles(rows, tiles);
    if row_tiles == 0 || outputs == 0 {
        return Some(());
    }
    let output_tiles = outputs.div_ceil(tile.outputs);
    let counts = groups.bind(&x.client, tile.grouped, x);
    // SAFETY: the tiles name rows of `x`, of the output and of the weight that exist; the kernel takes the last one for those beyond.
    let launched = unsafe {
        kernel::staged_product_kernel::launch_unchecked(
            &x.client,
            super::cube_count(row_tiles * output_tiles),
            CubeDim::new_2d(PLANE as u32, (tile.units() / PLANE) as u32),
            words(x, LINE),
            words(source.values, LINE),
            words(source.scales, 1),
            counts.argument(),
            array(output, 1),
            ScalarArg::new(source.columns),
            ScalarArg::new(source.scale_words),
            counts.divide([rows, outputs], tiles, [row_tiles, output_tiles]),
            tile,
            output.dtype.into(),
        )
    };
    super::ran("staged product", launched).then_some(())
}

/// Rows, outputs and depth of a cube with tensor cores, and without; of those with as many rows, the one that is preferred first.
const WITH_CORES: [[usize; 3]; 6] =
    [[16, 64, 64], [32, 128, 64], [64, 128, 32], [128, 128, 64], [16, 64, 32], [32, 128, 32]];
const WITHOUT: [[usize; 3]; 6] =
    [[16, 128, 32], [32, 128, 32], [64, 128, 32], [16, 64, 32], [32, 64, 32], [64, 64, 32]];

/// How cubes work on this, where device and shapes allow it.
fn choose<R: CubeRuntime>(
    x: &CubeTensor<R>,
    of_x: &Source<'_, R>,
    source: &Source<'_, R>,
    groups: &Groups<'_, R>,
    outputs: usize,
) -> Option<Tile> {
    let hardware = &x.client.properties().hardware;
    if has_registers_for_cores(x) {
        return None;
    }
    let cores = has_cores(x) && source.encoding != Encoding::F32;
    let tile = |[rows, outputs, depth]: [usize; 3]| {
        let (x, weight, grouped) = (of_x.encoding, source.encoding, groups.several());
        Tile { x, weight, rows, outputs, depth, cores, grouped }
    };
    let fits = |tile: &Tile| {
        source.columns.is_multiple_of(tile.depth)
            && tile.shared_bytes() <= hardware.max_shared_memory_size
            && tile.units() <= hardware.max_units_per_cube as usize
            && tile.loads(tile.part_of_x()) * tile.loads(tile.part_of_weight()) > 0
    };
    // The time of a tile is that of its rows and something for the weight.
    let counts = groups.likely(x.shape[0]);
    let cost = |tile: &Tile| {
        let cubes =
            (RowTiles::of(tile.rows).number(&counts) * outputs.div_ceil(tile.outputs)).max(processors(&x.client));
        cubes * tile.outputs * (tile.rows + 16)
    };
    let shapes: &[[usize; 3]] = if cores { &WITH_CORES } else { &WITHOUT };
    shapes.iter().copied().map(tile).filter(fits).min_by_key(cost)
}

/// Whether there are tensor cores whose fragments are registers. What [`tile_product`](super::tile_product) does not take there is quicker in
/// burn's products, on those cores.
fn has_registers_for_cores<R: CubeRuntime>(x: &CubeTensor<R>) -> bool {
    let dtype = x.dtype.into();
    let config = MmaConfig { a_type: dtype, b_type: dtype, cd_type: DType::F32.into(), m: 16, n: 8, k: 16 };
    x.dtype != DType::F32 && x.client.properties().features.mma.contains(&config)
}

/// Whether there are tensor cores for the type of `x` that take what lies in shared memory as words, as those of Vulkan do, and planes of the usual
/// width.
fn has_cores<R: CubeRuntime>(x: &CubeTensor<R>) -> bool {
    let properties = x.client.properties();
    let (hardware, size) = (&properties.hardware, FRAGMENT as u32);
    let (half, sums) = (DType::F16.into(), DType::F32.into());
    let config = MmaConfig { a_type: half, b_type: half, cd_type: sums, m: size, n: size, k: size };
    x.dtype == DType::F16
        && is_wgpu::<R>()
        && hardware.plane_size_min == PLANE as u32
        && hardware.plane_size_max == PLANE as u32
        && properties.features.cmma.contains(&config)
}
