use cubecl::prelude::*;

use super::block::{KEYS, QUERIES};

/// Less than any score: what a query does not see.
pub(super) const HIDDEN: f32 = -1.0e30;

/// Softmax of two queries, eight apart, step by step: what there is so far is scaled to the largest score yet.
#[derive(CubeType)]
pub(super) struct Softmax {
    /// The largest scores.
    largest: Array<f32>,
    /// Sums of the weights, of this unit's keys.
    sums: Array<f32>,
}

#[cube]
impl Softmax {
    pub(super) fn new() -> Softmax {
        let mut largest = Array::<f32>::new(2usize);
        let mut sums = Array::<f32>::new(2usize);
        #[unroll]
        for half in 0..2usize {
            largest[half] = HIDDEN;
            sums[half] = 0.0;
        }
        Softmax { largest, sums }
    }

    /// Turn scores of the next keys into weights, and give what the results so far are to be multiplied with. `scale` makes scores powers of 2.
    ///
    /// `scores` has, for each eight keys, two of both queries. The first query sees `visible` keys from the unit's first on, the second eight more.
    pub(super) fn step(
        &mut self,
        scores: &mut Array<Line<f32>>,
        scale: f32,
        visible: i32,
        #[comptime] masked: bool,
    ) -> Array<f32> {
        let mut factors = Array::<f32>::new(2usize);
        #[unroll]
        for half in 0..2usize {
            let mut most = self.largest[half];
            #[unroll]
            for j in 0..comptime!(KEYS / 8) {
                let at = comptime!(2 * j + half);
                if comptime!(masked) {
                    let seen = visible + comptime!((half * QUERIES / 2) as i32);
                    let mut pair = scores[at];
                    #[unroll]
                    for side in 0..2usize {
                        pair[side] = select(comptime!((8 * j + side) as i32) < seen, pair[side], HIDDEN);
                    }
                    scores[at] = pair;
                }
                most = max(most, max(scores[at][0], scores[at][1]));
            }
            most = max(most, plane_shuffle_xor(most, 1u32));
            most = max(most, plane_shuffle_xor(most, 2u32));
            let factor = power((self.largest[half] - most) * scale);
            let offset = -most * scale;
            let mut sum = self.sums[half] * factor;
            #[unroll]
            for j in 0..comptime!(KEYS / 8) {
                let at = comptime!(2 * j + half);
                let mut weights = Line::<f32>::empty(2usize);
                weights[0] = power(fma(scores[at][0], scale, offset));
                weights[1] = power(fma(scores[at][1], scale, offset));
                sum += weights[0] + weights[1];
                scores[at] = weights;
            }
            self.largest[half] = most;
            self.sums[half] = sum;
            factors[half] = factor;
        }
        factors
    }

    /// What the results are to be multiplied with in the end.
    pub(super) fn finish(&self) -> Array<f32> {
        let mut factors = Array::<f32>::new(2usize);
        #[unroll]
        for half in 0..2usize {
            let mut sum = self.sums[half];
            sum += plane_shuffle_xor(sum, 1u32);
            sum += plane_shuffle_xor(sum, 2u32);
            factors[half] = 1.0 / sum;
        }
        factors
    }
}

/// 2 to a power that is not positive, with the device's own instruction.
#[cube(fast_math = FastMath::ReducedPrecision | FastMath::NotNaN | FastMath::NotInf)]
fn power(x: f32) -> f32 {
    f32::powf(2.0, x)
}
