use std::collections::HashMap;

use burn::tensor::{DType, TensorData};
use bytemuck::{NoUninit, Zeroable};
use half::{bf16, f16};
use rayon::prelude::*;

use super::draw::{self, mix};
use crate::quant::{BLOCK, PackedData, Packing, pack, shared_bytes};

/// Blocks of the pool that all weights are windows of. A prime, so that rows of any whole number of blocks begin at a different place each until
/// as many rows have gone by: more than the largest vocabulary has.
const POOL_BLOCKS: usize = 262_139;

/// Entries that one core fills at once.
const RUN: usize = 1 << 18;

/// Random weights of any shape and form, as windows of one pool of normal values.
#[derive(Debug)]
pub struct RandomWeights {
    seed: u64,
    pool: Vec<f32>,
    /// The pool in each packing and scale (the bits of its deviation) that was asked for.
    packed: HashMap<(Packing, u32), PackedPool>,
    /// The pool in each 16-bit type and scale. `f32` needs none: its values are scaled on their way.
    floats: HashMap<(DType, u32), FloatPool>,
}

#[derive(Debug)]
struct PackedPool {
    words: Vec<u32>,
    scales: Vec<u16>,
}

#[derive(Debug)]
enum FloatPool {
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl RandomWeights {
    /// A pool of 2²³ values.
    pub fn new(seed: u64) -> Self {
        let mut pool = vec![0.0; POOL_BLOCKS * BLOCK];
        pool.par_chunks_mut(RUN).enumerate().for_each(|(run, values)| {
            let drawn = draw::bells(mix(mix(seed) ^ run as u64));
            values.iter_mut().zip(drawn).for_each(|(value, drawn)| *value = drawn);
        });
        Self { seed, pool, packed: HashMap::new(), floats: HashMap::new() }
    }

    /// A place in the pool, at the beginning of a block: another one for each `index`.
    pub fn start(&self, index: usize) -> usize {
        (mix(self.seed ^ mix(index as u64)) % POOL_BLOCKS as u64) as usize * BLOCK
    }

    /// Rows of packed values of the given standard deviation, from a place in the pool on.
    ///
    /// # Panics
    /// If the packing does not fit rows of `columns`, or `start` is not at the beginning of a block.
    pub fn packed(
        &mut self,
        packing: Packing,
        [rows, columns]: [usize; 2],
        deviation: f32,
        start: usize,
    ) -> PackedData {
        assert!(packing.fits(columns) && start.is_multiple_of(BLOCK), "whole blocks");
        let pool = &self.pool;
        let packed = self
            .packed
            .entry((packing, deviation.to_bits()))
            .or_insert_with(|| PackedPool::new(pool, packing, deviation));
        let words = packing.words(columns);
        let (scales, stride) = (packing.scales(columns), 2 * packing.scale_words(columns));
        PackedData {
            packing,
            rows,
            columns,
            words: shared_bytes(windows(&packed.words, packing.words(start), rows, words, words)),
            scales: shared_bytes(windows(&packed.scales, packing.scales(start), rows, scales, stride)),
        }
    }

    /// Floats of the given standard deviation, from a place in the pool on. Types other than `F16` and `BF16` are made as `F32`.
    pub fn floats(&mut self, dtype: DType, shape: Vec<usize>, deviation: f32, start: usize) -> TensorData {
        let pool = &self.pool;
        let columns = shape.last().copied().unwrap_or(1).max(1);
        let rows = shape.iter().product::<usize>() / columns;
        if !matches!(dtype, DType::F16 | DType::BF16) {
            let mut values = windows(pool, start, rows, columns, columns);
            values.par_iter_mut().for_each(|value| *value *= deviation);
            return TensorData::new(values, shape);
        }
        let floats =
            self.floats.entry((dtype, deviation.to_bits())).or_insert_with(|| FloatPool::new(pool, dtype, deviation));
        match floats {
            FloatPool::F16(pool) => TensorData::new(windows(pool, start, rows, columns, columns), shape),
            FloatPool::Bf16(pool) => TensorData::new(windows(pool, start, rows, columns, columns), shape),
        }
    }
}

impl PackedPool {
    fn new(pool: &[f32], packing: Packing, deviation: f32) -> Self {
        let mut words = vec![0; packing.words(pool.len())];
        let mut scales = vec![0; packing.scales(pool.len())];
        let mut none = vec![[0_u16; 0]; pool.len().div_ceil(RUN)];
        let runs: Vec<&mut [u16]> = match packing.has_scales() {
            true => scales.chunks_mut(packing.scales(RUN)).collect(),
            false => none.iter_mut().map(|none| &mut none[..]).collect(),
        };
        let runs = words.par_chunks_mut(packing.words(RUN)).zip(runs).zip(pool.par_chunks(RUN));
        runs.for_each(|((words, scales), values)| {
            let values: Vec<f32> = values.iter().map(|value| value * deviation).collect();
            let packed = pack(packing, &values, words, scales);
            packed.expect("values of a bounded distribution are within the range of any packing");
        });
        Self { words, scales }
    }
}

impl FloatPool {
    fn new(pool: &[f32], dtype: DType, deviation: f32) -> Self {
        let scaled = pool.par_iter().map(|value| value * deviation);
        match dtype {
            DType::F16 => Self::F16(scaled.map(f16::from_f32).collect()),
            _ => Self::Bf16(scaled.map(bf16::from_f32).collect()),
        }
    }
}

/// Rows of `stride` entries, the first `width` of each copied from the pool, which begins again at its end; each row goes on where the one before
/// it ended.
fn windows<T: NoUninit + Zeroable + Send + Sync>(
    pool: &[T],
    start: usize,
    rows: usize,
    width: usize,
    stride: usize,
) -> Vec<T> {
    let mut values = bytemuck::zeroed_vec(rows * stride);
    if width == 0 {
        return values;
    }
    let at_once = RUN.div_ceil(stride);
    values.par_chunks_mut(at_once * stride).enumerate().for_each(|(band, values)| {
        for (row, values) in values.chunks_exact_mut(stride).enumerate() {
            let mut from = (start + (band * at_once + row) * width) % pool.len();
            let mut rest = &mut values[..width];
            while !rest.is_empty() {
                let count = rest.len().min(pool.len() - from);
                let (here, after) = rest.split_at_mut(count);
                here.copy_from_slice(&pool[from..from + count]);
                (rest, from) = (after, 0);
            }
        }
    });
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_go_round() {
        let pool: Vec<u16> = (0..5).collect();
        assert_eq!(windows(&pool, 3, 3, 3, 4), [3, 4, 0, 0, 1, 2, 3, 0, 4, 0, 1, 0]);
        assert_eq!(windows(&pool, 4, 1, 12, 12), [4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]);
    }
}
