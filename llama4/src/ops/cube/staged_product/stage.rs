use burn::tensor::f16;
use cubecl::prelude::*;

use super::tile::{Part, Tile, placed};
use crate::ops::cube::decode::half_of;
use crate::ops::cube::values::{Encoding, LINE, four};
use crate::quant::Packing;

/// Rows of a matrix that a cube needs.
#[derive(CubeType)]
pub(super) struct Source {
    pub(super) first: usize,
    /// The last there is.
    pub(super) last: usize,
    /// Values of a row, and words of its scales.
    pub(super) columns: usize,
    pub(super) scale_words: usize,
}

/// What a unit brings to shared memory of a matrix, in registers: of the next step.
#[derive(CubeType)]
pub(super) struct Stage {
    values: Array<Line<u32>>,
    scales: Array<u32>,
}

#[cube]
impl Stage {
    pub(super) fn new(#[comptime] part: Part, #[comptime] tile: Tile) -> Stage {
        let loads = comptime!(tile.loads(part));
        Stage { values: Array::<Line<u32>>::lined(loads, LINE), scales: Array::<u32>::new(loads) }
    }

    /// Load what the unit has of a step. Rows beyond the last are the last one.
    pub(super) fn load(
        &mut self,
        values: &Array<Line<u32>>,
        scales: &Array<u32>,
        source: &Source,
        step: usize,
        #[comptime] part: Part,
        #[comptime] tile: Tile,
    ) {
        let vectors = comptime!(tile.vectors(part));
        #[unroll]
        for i in 0..comptime!(tile.loads(part)) {
            let at = UNIT_POS as usize + comptime!(i * tile.units());
            let row = source.first + at / vectors;
            let row = select(row < source.last, row, source.last);
            let vector = step * vectors + at % vectors;
            self.values[i] = values[row * (source.columns / comptime!(part.encoding.values())) + vector];
            if comptime!(part.encoding.has_scales()) {
                // Two blocks to a word.
                self.scales[i] =
                    scales[row * source.scale_words + vector / comptime!(2 * part.encoding.block_vectors())];
            }
        }
    }

    /// Put what was loaded of a step where all units of the cube find it.
    pub(super) fn put(
        &self,
        shared: &mut SharedMemory<Line<u32>>,
        step: usize,
        #[comptime] part: Part,
        #[comptime] tile: Tile,
    ) {
        let vectors = comptime!(tile.vectors(part));
        let lines = comptime!(part.encoding.values() / tile.line_values());
        #[unroll]
        for i in 0..comptime!(tile.loads(part)) {
            let at = UNIT_POS as usize + comptime!(i * tile.units());
            let (row, vector) = (at / vectors, at % vectors);
            let mut scale = 0u32.runtime();
            if comptime!(part.encoding.has_scales()) {
                let block = (step * vectors + vector) / comptime!(part.encoding.block_vectors());
                scale = (self.scales[i] >> (block as u32 % 2 * 16)) & 0xffff;
            }
            #[unroll]
            for line in 0..lines {
                let words = if comptime!(tile.cores) {
                    eight(self.values[i], scale, line, part.encoding, comptime!(tile.exchanged()))
                } else {
                    four(self.values[i], scale, line, part.encoding)
                };
                shared[placed(row, vector * lines + line, tile)] = words;
            }
        }
    }
}

/// Values `8 index ..` of a vector, as `f16`; with values 1 and 2 of every four exchanged if that is asked for, as it always is of numbers with a
/// scale.
#[cube]
fn eight(
    words: Line<u32>,
    scale: u32,
    #[comptime] index: usize,
    #[comptime] encoding: Encoding,
    #[comptime] exchanged: bool,
) -> Line<u32> {
    let mut pairs = Line::<u32>::empty(LINE);
    #[unroll]
    for half in 0..2usize {
        let (mut first, mut second) = if comptime!(encoding == Encoding::Packed(Packing::Q8)) {
            // Adding 128 modulo 256 turns two's complement into an offset.
            let word = words[comptime!(2 * index + half)] ^ 0x8080_8080u32;
            (numbers(word & 0x00ff_00ff, scale, 128u32), numbers((word >> 8u32) & 0x00ff_00ff, scale, 128u32))
        } else if comptime!(encoding == Encoding::Packed(Packing::Q4)) {
            // The upper halves of the bytes are the upper half of the block.
            let word = words[comptime!((2 * index + half) % 4)] >> comptime!(index as u32 / 2 * 4);
            (numbers(word & 0x000f_000f, scale, 8u32), numbers((word >> 8u32) & 0x000f_000f, scale, 8u32))
        } else if comptime!(encoding == Encoding::Packed(Packing::Bf16)) {
            (of_brain(words[comptime!(2 * half)]), of_brain(words[comptime!(2 * half + 1)]))
        } else {
            (words[comptime!(2 * half)], words[comptime!(2 * half + 1)])
        };
        if comptime!(exchanged && !encoding.has_scales()) {
            let lower = (first & 0xffff) | (second << 16u32);
            second = (first >> 16u32) | (second & 0xffff_0000u32);
            first = lower;
        }
        pairs[comptime!(2 * half)] = first;
        pairs[comptime!(2 * half + 1)] = second;
    }
    pairs
}

/// Two whole numbers below 1024, in halves of a word, less `offset`, times the `f16` whose bits `scale` is; exactly, but for one rounding. With
/// the exponent of 1024 in front of it, a number is `1024 + number`.
#[cube]
fn numbers(word: u32, scale: u32, #[comptime] offset: u32) -> u32 {
    let number = Line::<f16>::reinterpret(word | 0x6400_6400);
    let offset = Line::<f16>::empty(2usize).fill(f16::new(comptime!((1024 + offset) as f32)));
    let scale = Line::<f16>::reinterpret(scale | (scale << 16u32));
    u32::reinterpret((number - offset) * scale)
}

/// Two `bf16` as `f16`.
#[cube]
fn of_brain(word: u32) -> u32 {
    let mut both = Line::<f32>::empty(2usize);
    both[0] = half_of(word, 0u32, true);
    both[1] = half_of(word, 1u32, true);
    u32::reinterpret(Line::<f16>::cast_from(both))
}
