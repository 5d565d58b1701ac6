//! Numbers and weights for the tests of kernels.

use super::matrix::Matrix;
use crate::quant::{Packing, pack};

/// Numbers that look random and are the same every time.
pub(super) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

pub(super) struct Weight {
    packing: Option<Packing>,
    columns: usize,
    words: Vec<u32>,
    scales: Vec<u16>,
}

impl Weight {
    pub(super) fn new(packing: Option<Packing>, rows: usize, columns: usize) -> Self {
        let values = numbers(rows * columns, 1);
        let Some(packing) = packing else {
            return Self { packing: None, columns, words: bytemuck::cast_slice(&values).to_vec(), scales: Vec::new() };
        };
        let mut words = vec![0; rows * packing.words(columns)];
        let stride = 2 * packing.scale_words(columns);
        let mut scales = vec![0; rows * stride];
        for (row, values) in values.chunks_exact(columns).enumerate() {
            let words = &mut words[row * packing.words(columns)..][..packing.words(columns)];
            pack(packing, values, words, &mut scales[row * stride..][..packing.scales(columns)]).unwrap();
        }
        Self { packing: Some(packing), columns, words, scales }
    }

    pub(super) fn matrix(&self) -> Matrix<'_> {
        match self.packing {
            None => Matrix::floats(bytemuck::cast_slice(&self.words), self.columns),
            Some(packing) => Matrix::packed(packing, self.columns, &self.words, &self.scales),
        }
    }
}
