//! Causal attention of many queries on tensor cores, block of queries by block of queries: no score leaves the registers.
//!
//! A plane has sixteen queries of one head, their results and their softmax so far, and goes through the keys they see, 64 at a time; the planes
//! of a cube share keys and values in shared memory.

mod block;
mod kernel;
mod softmax;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::features::{MmaConfig, Plane};
use cubecl::prelude::*;

use super::args::{array, empty, words};
use crate::cache::Piece;
use block::{Block, CHUNK, LINE, PLANE, QUERIES};

/// Keys or values of an attention: where its vectors are.
struct Layout {
    /// Vectors of a row of the cache, or of a token.
    row: usize,
    /// Vectors from a key to the next, and from a head to the next.
    key: usize,
    head: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Whether keys are found by the row of the cache rather than by the tokens themselves.
    cached: bool,
}

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
    let width = head_dim / CHUNK;
    let layout =
        Layout { row: kv_heads * slots * width, key: width, head: slots * width, kv_heads, head_dim, cached: true };
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
    let width = head_dim / CHUNK;
    let layout =
        Layout { row: kv_heads * width, key: kv_heads * width, head: width, kv_heads, head_dim, cached: false };
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
    let [_, heads, _] = queries.shape.dims[..] else { return None };
    let block = choose(queries, keys, values, layout, pieces)?;
    let (table, tokens) = blocks(pieces, block.queries(), layout);
    let shape = Shape::new([tokens, heads, layout.head_dim]);
    let output = empty(queries.client.clone(), queries.device.clone(), shape, queries.dtype);
    if table.is_empty() {
        return Some(output);
    }
    let count = table.len() / (2 * LINE);
    let bytes: Vec<u8> = table.iter().flat_map(|word| word.to_le_bytes()).collect();
    let uploaded = queries.client.create_from_slice(&bytes);
    // SAFETY: the table names queries, keys and rows of the output that exist; of others the kernel takes the last one that does.
    let launched = unsafe {
        kernel::block_attention_kernel::launch_unchecked(
            &queries.client,
            super::cube_count(count * heads),
            CubeDim::new_2d(PLANE as u32, block.planes as u32),
            words(queries, LINE),
            words(keys, LINE),
            array(values, CHUNK),
            ArrayArg::from_raw_parts_and_size(&uploaded, table.len(), LINE, 4),
            array(&output, 2),
            ScalarArg::new(scale as f32),
            ScalarArg::new(heads),
            ScalarArg::new(heads / layout.kv_heads),
            ScalarArg::new(layout.key),
            ScalarArg::new(layout.head),
            ScalarArg::new(count),
            block,
            queries.dtype.into(),
        )
    };
    super::ran("block attention", launched).then_some(output)
}

/// For every block of queries two lines, and how many queries there are in all: its first query in the batch and in the output, the number of its
/// queries, the keys before the first one's own; and where the piece's keys begin. Blocks that see most come first, since they take longest.
fn blocks(pieces: &[Piece], most: usize, layout: &Layout) -> (Vec<u32>, usize) {
    let mut entries = Vec::new();
    let mut output = 0;
    for piece in pieces {
        let keys = layout.row * if layout.cached { piece.row } else { piece.offset };
        for start in (0..piece.len).step_by(most) {
            let (queries, past) = (most.min(piece.len - start), piece.first_slot + start);
            entries.push([piece.offset + start, output + start, queries, past, keys, 0, 0, 0]);
        }
        output += piece.len;
    }
    entries.sort_by_key(|entry| std::cmp::Reverse(entry[2] + entry[3]));
    (entries.into_iter().flatten().map(|value| value as u32).collect(), output)
}

fn choose<R: CubeRuntime>(
    queries: &CubeTensor<R>,
    keys: &CubeTensor<R>,
    values: &CubeTensor<R>,
    layout: &Layout,
    pieces: &[Piece],
) -> Option<Block> {
    let dtype = queries.dtype;
    let properties = queries.client.properties();
    let (hardware, features) = (&properties.hardware, &properties.features);
    let mma = MmaConfig { a_type: dtype.into(), b_type: dtype.into(), cd_type: DType::F32.into(), m: 16, n: 8, k: 16 };
    let fits = matches!(dtype, DType::BF16 | DType::F16)
        && keys.dtype == dtype
        && values.dtype == dtype
        && matches!(layout.head_dim, 64 | 128)
        && layout.kv_heads > 0
        && queries.shape[1].is_multiple_of(layout.kv_heads)
        && queries.shape[2] == layout.head_dim
        && keys.shape.num_elements() / CHUNK <= u32::MAX as usize
        && hardware.plane_size_min == PLANE as u32
        && hardware.plane_size_max == PLANE as u32
        && features.copy_async
        && features.plane.contains(Plane::Ops)
        && features.ldmatrix.contains(&dtype.into())
        && features.mma.contains(&mma);
    if !fits {
        return None;
    }
    let cubes: usize = queries.shape[1] * pieces.iter().map(|piece| piece.len.div_ceil(8 * QUERIES)).sum::<usize>();
    let planes = match pieces.iter().map(|piece| piece.len).max()? {
        0..=16 => 1,
        17..=64 => 4,
        _ if cubes < 2 * super::processors(&queries.client) => 4,
        _ => 8,
    };
    [3, 2].into_iter().find_map(|stages| {
        let block = Block { head_dim: layout.head_dim, planes, stages };
        (block.shared_bytes() <= hardware.max_shared_memory_size).then_some(block)
    })
}

#[cfg(test)]
mod tests {
    use super::{Layout, blocks};
    use crate::cache::Piece;

    #[test]
    fn blocks_that_see_most_come_first() {
        let cached = |cached| Layout { row: 1000, key: 16, head: 160, kv_heads: 2, head_dim: 128, cached };
        let pieces = [
            Piece { row: 3, offset: 5, len: 130, first_slot: 40 },
            Piece { row: 1, offset: 200, len: 2, first_slot: 500 },
        ];
        let (table, tokens) = blocks(&pieces, 128, &cached(true));
        assert_eq!(tokens, 132);
        // Query, its place in the output, queries, keys before; keys.
        let seen: Vec<_> = table.chunks(8).map(|entry| entry[..5].to_vec()).collect();
        assert_eq!(seen, [[200, 130, 2, 500, 1000], [133, 128, 2, 168, 3000], [5, 0, 128, 40, 3000]]);
        let (table, _) = blocks(&pieces[..1], 128, &cached(false));
        assert!(table.chunks(8).all(|entry| entry[4] == 5000), "fresh keys begin with the piece");
    }
}
