//! Causal attention of many queries, block of queries by block of queries: no score is ever in memory.
//!
//! On tensor cores no score leaves the registers: a plane has sixteen queries of one head, their results and their softmax so far, and goes
//! through the keys they see, some at a time; the planes of a cube share keys and values in shared memory. Where there are no such cores, [`units`]
//! multiply.

mod block;
mod kernel;
mod softmax;
mod table;
mod units;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::features::{MmaConfig, Plane};
use cubecl::prelude::*;

use super::args::{array, empty, upload, words};
use crate::cache::Piece;
use block::{Block, CHUNK, LINE, PLANE, QUERIES};
use table::{Layout, blocks};

/// Fewer queries than these would leave a block of [`units`] next to empty, and one cube a head with all the keys.
const FEW: usize = 8;

/// As [`cached_attention`](crate::ops::cached_attention): `keys` and `values` are the cache's, `[rows, kv_heads, slots, head_dim]`.
///
/// `None` where the device or the shapes do not allow it.
pub(in crate::ops) fn cached_attention<R: CubeRuntime>(
    queries: &CubeTensor<R>,
    keys: &CubeTensor<R>,
    values: &CubeTensor<R>,
    pieces: &[Piece],
    scale: f64,
) -> Option<CubeTensor<R>> {
    let [_, kv_heads, slots, head_dim] = keys.shape.dims[..] else { return None };
    let head = slots * head_dim;
    let layout = Layout { row: kv_heads * head, key: head_dim, head, kv_heads, head_dim, cached: true };
    attend(queries, keys, values, &layout, pieces, scale)
}

/// As [`fresh_attention`](crate::ops::fresh_attention): `keys` and `values` are those of the tokens, `[tokens, kv_heads, head_dim]`.
///
/// `None` where the device or the shapes do not allow it.
pub(in crate::ops) fn fresh_attention<R: CubeRuntime>(
    queries: &CubeTensor<R>,
    keys: &CubeTensor<R>,
    values: &CubeTensor<R>,
    pieces: &[Piece],
    scale: f64,
) -> Option<CubeTensor<R>> {
    let [_, kv_heads, head_dim] = keys.shape.dims[..] else { return None };
    let row = kv_heads * head_dim;
    let layout = Layout { row, key: row, head: head_dim, kv_heads, head_dim, cached: false };
    attend(queries, keys, values, &layout, pieces, scale)
}

fn attend<R: CubeRuntime>(
    queries: &CubeTensor<R>,
    keys: &CubeTensor<R>,
    values: &CubeTensor<R>,
    layout: &Layout,
    pieces: &[Piece],
    scale: f64,
) -> Option<CubeTensor<R>> {
    let [_, heads, width] = queries.shape.dims[..] else { return None };
    let fits = keys.dtype == queries.dtype
        && values.dtype == queries.dtype
        && layout.kv_heads > 0
        && heads.is_multiple_of(layout.kv_heads)
        && width == layout.head_dim
        && keys.shape.num_elements() / LINE <= u32::MAX as usize;
    if !fits {
        return None;
    }
    let way = match choose(queries, layout, pieces) {
        Some(block) => Way::Cores(block),
        None if pieces.iter().all(|piece| piece.len < FEW) => return None,
        None => Way::Units(units::Block::choose(queries, layout.head_dim)?),
    };
    let (most, chunk) = match way {
        Way::Cores(block) => (block.queries(), CHUNK),
        Way::Units(block) => (units::QUERIES, block.values()),
    };
    let (table, tokens) = blocks(pieces, most, layout, chunk);
    let shape = Shape::new([tokens, heads, layout.head_dim]);
    let output = empty(queries.client.clone(), queries.device.clone(), shape, queries.dtype);
    if table.is_empty() {
        return Some(output);
    }
    let count = table.len() / (2 * LINE);
    let uploaded = upload(&queries.client, &table);
    // SAFETY: the length is that of the table.
    let table = unsafe { ArrayArg::from_raw_parts_and_size(&uploaded, table.len(), LINE, 4) };
    let (group, key_stride, head_stride) = (heads / layout.kv_heads, layout.key / chunk, layout.head / chunk);
    let work = Work { queries, keys, values, output: &output, scale, group, key_stride, head_stride };
    let launched = match way {
        Way::Cores(block) => launch(&work, block, table, count),
        Way::Units(block) => units::launch(&work, block, table, count),
    };
    launched.then_some(output)
}

/// Who multiplies.
#[derive(Clone, Copy)]
enum Way {
    Cores(Block),
    Units(units::Block),
}

/// What kernels work on: tensors, query heads to one of keys, and how many vectors lie between two keys and between two heads of them.
struct Work<'a, R: CubeRuntime> {
    queries: &'a CubeTensor<R>,
    keys: &'a CubeTensor<R>,
    values: &'a CubeTensor<R>,
    output: &'a CubeTensor<R>,
    scale: f64,
    group: usize,
    key_stride: usize,
    head_stride: usize,
}

/// The blocks of queries that a table of so many entries names, on tensor cores.
fn launch<R: CubeRuntime>(work: &Work<'_, R>, block: Block, table: ArrayArg<'_, R>, count: usize) -> bool {
    let heads = work.queries.shape[1];
    // SAFETY: the table names queries, keys and rows of the output that exist; of others the kernel takes the last one that does.
    let launched = unsafe {
        kernel::block_attention_kernel::launch_unchecked(
            &work.queries.client,
            super::cube_count(count * heads),
            CubeDim::new_2d(PLANE as u32, block.planes as u32),
            words(work.queries, LINE),
            words(work.keys, LINE),
            array(work.values, CHUNK),
            table,
            array(work.output, 2),
            ScalarArg::new((work.scale * std::f64::consts::LOG2_E) as f32),
            ScalarArg::new(heads),
            ScalarArg::new(work.group),
            ScalarArg::new(work.key_stride),
            ScalarArg::new(work.head_stride),
            ScalarArg::new(count),
            block,
            work.queries.dtype.into(),
        )
    };
    super::ran("block attention", launched)
}

/// How tensor cores would do it, where the device and the shapes allow it.
fn choose<R: CubeRuntime>(queries: &CubeTensor<R>, layout: &Layout, pieces: &[Piece]) -> Option<Block> {
    let dtype = queries.dtype;
    let properties = queries.client.properties();
    let (hardware, features) = (&properties.hardware, &properties.features);
    let mma = MmaConfig { a_type: dtype.into(), b_type: dtype.into(), cd_type: DType::F32.into(), m: 16, n: 8, k: 16 };
    let fits = matches!(dtype, DType::BF16 | DType::F16)
        && matches!(layout.head_dim, 64 | 128)
        && hardware.plane_size_min == PLANE as u32
        && hardware.plane_size_max == PLANE as u32
        && features.copy_async
        && features.plane.contains(Plane::Ops)
        && features.ldmatrix.contains(&dtype.into())
        && features.mma.contains(&mma);
    if !fits {
        return None;
    }
    // Cubes of more planes need less of keys and values, but planes of one cube wait for each other.
    let planes = if pieces.iter().all(|piece| piece.len <= QUERIES) { 1 } else { 4 };
    [4, 3, 2].into_iter().find_map(|stages| {
        let block = Block { head_dim: layout.head_dim, planes, stages };
        (block.shared_bytes() <= hardware.max_shared_memory_size).then_some(block)
    })
}
