use burn::tensor::f16;
use cubecl::prelude::*;

use super::tile::{Encoding, LINE, OWN};

/// What a unit has of the weight in one step, and in the next, which is on its way: of each of its rows 16 bytes, which are consecutive
/// values.
#[derive(CubeType)]
pub(super) struct Steps {
    values: Array<Line<u32>>,
    scales: Array<u32>,
    /// Zero, which the compiler does not know. With constants alone it takes two instructions for one, and what it only has to move it
    /// moves again for every product.
    zero: u32,
}

/// Where in the weight a unit's values begin, for each of its rows.
#[derive(CubeType)]
pub(super) struct Rows {
    vectors: Array<usize>,
}

#[cube]
impl Rows {
    /// Rows `first ..` of the weight, of which those beyond `last` are not there: they are `last` instead. The unit is the `quarter`th of four.
    pub(super) fn new(
        first: usize,
        last: usize,
        columns: usize,
        quarter: usize,
        #[comptime] encoding: Encoding,
    ) -> Rows {
        let mut vectors = Array::<usize>::new(OWN);
        #[unroll]
        for row in 0..OWN {
            let number = select(first + row < last, first + row, last);
            vectors[row] = number * (columns / comptime!(encoding.values())) + quarter;
        }
        Rows { vectors }
    }
}

#[cube]
impl Steps {
    pub(super) fn new() -> Steps {
        let slots = comptime!(2 * OWN);
        Steps { values: Array::<Line<u32>>::lined(slots, LINE), scales: Array::<u32>::new(slots), zero: UNIT_POS_Z }
    }

    /// Load what the unit has of step `step`, to be the next one.
    pub(super) fn load(
        &mut self,
        weights: &Array<Line<u32>>,
        scales: &Array<u32>,
        rows: &Rows,
        step: usize,
        #[comptime] encoding: Encoding,
    ) {
        #[unroll]
        for row in 0..OWN {
            let (vector, at) = (rows.vectors[row] + step * 4, comptime!(OWN + row));
            self.values[at] = weights[vector];
            match comptime!(encoding) {
                Encoding::Half => {}
                // Rows are whole words of scales: two blocks to a word, two vectors to a block.
                Encoding::Q8 => self.scales[at] = scales[vector / 4] >> (16 * (vector as u32 / 2 % 2)),
                Encoding::Q4 => self.scales[at] = scales[vector / 2] >> (16 * (vector as u32 % 2)),
            }
        }
    }

    /// Go to the next step.
    pub(super) fn advance(&mut self, #[comptime] encoding: Encoding) {
        #[unroll]
        for row in 0..OWN {
            let next = self.values[comptime!(OWN + row)];
            match comptime!(encoding) {
                Encoding::Half => self.values[row] = next ^ Line::empty(LINE).fill(self.zero),
                Encoding::Q8 | Encoding::Q4 => {
                    self.values[row] = next;
                    self.scales[row] = self.scales[comptime!(OWN + row)];
                }
            }
        }
    }

    /// Fragments of the eight values that meet vector `chunk` of `x`: of both pairs of rows, first those of the four lower values.
    pub(super) fn fragments<X: Float>(
        &self,
        #[comptime] chunk: usize,
        #[comptime] encoding: Encoding,
    ) -> Sequence<Array<Line<X>>> {
        let mut fragments = Sequence::<Array<Line<X>>>::new();
        #[unroll]
        for half in 0..2usize {
            #[unroll]
            for rows in 0..comptime!(OWN / 2) {
                let mut fragment = Array::<Line<X>>::lined(4usize, 2usize);
                #[unroll]
                for row in 0..2usize {
                    let four = self.four::<X>(comptime!(2 * rows + row), comptime!(2 * chunk + half), encoding);
                    fragment[row] = four[0];
                    fragment[comptime!(row + 2)] = four[1];
                }
                fragments.push(fragment);
            }
        }
        fragments
    }

    /// Values `4 index ..` of a row, in two pairs.
    fn four<X: Float>(
        &self,
        #[comptime] row: usize,
        #[comptime] index: usize,
        #[comptime] encoding: Encoding,
    ) -> Array<Line<X>> {
        let mut pairs = Array::<Line<X>>::lined(2usize, 2usize);
        match comptime!(encoding) {
            Encoding::Half => {
                pairs[0] = Line::<X>::reinterpret(self.values[row][comptime!(2 * index)]);
                pairs[1] = Line::<X>::reinterpret(self.values[row][comptime!(2 * index + 1)]);
            }
            Encoding::Q8 => {
                // Adding 128 modulo 256 turns two's complement into an offset.
                let word = self.values[row][index] ^ 0x8080_8080u32;
                let scale = scale_of(self.scales[row]);
                let offset = scale * -384.0;
                let exponent = self.zero + 0x4380_0000;
                pairs[0] =
                    pair::<X>(byte(word, 0usize, scale, offset, exponent), byte(word, 1usize, scale, offset, exponent));
                pairs[1] =
                    pair::<X>(byte(word, 2usize, scale, offset, exponent), byte(word, 3usize, scale, offset, exponent));
            }
            Encoding::Q4 => {
                let word = self.values[row][comptime!(index % 4)];
                let scale = scale_of(self.scales[row]);
                let offset = scale * -136.0;
                let exponent = self.zero + 0x4300_0000;
                // The upper halves of the bytes are the upper half of the block.
                let first = comptime!(index / 4);
                pairs[0] = pair::<X>(
                    nibble(word, first, scale, offset, exponent),
                    nibble(word, comptime!(first + 2), scale, offset, exponent),
                );
                pairs[1] = pair::<X>(
                    nibble(word, comptime!(first + 4), scale, offset, exponent),
                    nibble(word, comptime!(first + 6), scale, offset, exponent),
                );
            }
        }
        pairs
    }
}

/// The `f16` in the lower half.
#[cube]
fn scale_of(word: u32) -> f32 {
    f32::cast_from(Line::<f16>::reinterpret(word)[0])
}

/// Byte `index` times the scale, exactly: with the exponent of 256 in front of it, it is `256 + byte`.
#[cube]
fn byte(word: u32, #[comptime] index: usize, scale: f32, offset: f32, exponent: u32) -> f32 {
    let place = comptime!(8 * index as i32 - 15);
    let moved = if comptime!(place >= 0) { word >> comptime!(place as u32) } else { word << comptime!(-place as u32) };
    fma(f32::reinterpret((moved & 0x007f_8000) | exponent), scale, offset)
}

/// Nibble `index` times the scale, exactly: with the exponent of 128 in front of it, it is `128 + nibble`.
#[cube]
fn nibble(word: u32, #[comptime] index: usize, scale: f32, offset: f32, exponent: u32) -> f32 {
    let place = comptime!(4 * index as i32 - 16);
    let moved = if comptime!(place >= 0) { word >> comptime!(place as u32) } else { word << comptime!(-place as u32) };
    fma(f32::reinterpret((moved & 0x000f_0000) | exponent), scale, offset)
}

/// Two floats side by side.
#[cube]
pub(super) fn pair<X: Float>(first: f32, second: f32) -> Line<X> {
    let mut both = Line::<f32>::empty(2usize);
    both[0] = first;
    both[1] = second;
    Line::<X>::cast_from(both)
}
