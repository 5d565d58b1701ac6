//! Weight rows of floats times a few rows of activations: each weight row is read once, in order.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bf16;

use super::half::f16_to_f32;
use super::lanes::{LANES, fold};
use super::level::{Level, at_levels};
use super::matrix::Matrix;
use crate::quant::Packing;

/// Rows of activations that one pass over the weight takes.
pub(super) const MOST: usize = 4;

/// Formats of a weight's values that the kernels read, as constants that they are compiled for.
#[cfg(target_arch = "x86_64")]
const F32: u8 = 0;
#[cfg(target_arch = "x86_64")]
const BF16: u8 = 1;
#[cfg(target_arch = "x86_64")]
const F16: u8 = 2;

/// `y(row of the weight, row of x)` for all rows of `weight` and the `1..=MOST` rows of `x`.
///
/// Unless they have to be `exact`, activations are rounded to what the weight's values are where the processor multiplies two of those.
pub(super) fn dots(level: Level, weight: &Matrix, x: &[f32], exact: bool, mut y: impl FnMut(usize, usize, f32)) {
    let columns = weight.columns();
    let count = x.len() / columns;
    assert!((1..=MOST).contains(&count) && x.len() == count * columns, "a few whole rows");
    let blocks = weight.packing().is_some_and(Packing::has_scales);
    #[cfg(target_arch = "x86_64")]
    if !exact && rounds(level, weight.packing()) {
        // SAFETY: the processor has the instructions; `x` has `count` rows as wide as the weight's, whose values are `bf16`.
        return unsafe { bf16::dots(weight, x, count, &mut y) };
    }
    let _ = exact;
    #[cfg(target_arch = "x86_64")]
    match level {
        // SAFETY: the processor has the level's instructions; `x` has `count` rows as wide as the weight's.
        Level::Avx512 if !blocks => return unsafe { avx512::dots(weight, x, count, &mut y) },
        // SAFETY: as above.
        Level::Avx2 if !blocks => return unsafe { avx2::dots(weight, x, count, &mut y) },
        _ => {}
    }
    let stride = weight.row_words();
    let mut values = vec![0.0; if blocks { columns } else { 0 }];
    for row in 0..weight.rows() {
        if blocks {
            weight.unpack(row, &mut values);
            x.chunks_exact(columns).enumerate().for_each(|(index, x)| y(row, index, dot(level, &values, x)));
            continue;
        }
        let words = &weight.words()[row * stride..][..stride];
        for (index, x) in x.chunks_exact(columns).enumerate() {
            let sum = match weight.packing() {
                None => dot(level, bytemuck::cast_slice(words), x),
                Some(Packing::Bf16) => dot_bf16(level, bytemuck::cast_slice(words), x),
                Some(Packing::F16) => dot_f16(level, bytemuck::cast_slice(words), x),
                Some(Packing::Q8 | Packing::Q4) => unreachable!("unpacked above"),
            };
            y(row, index, sum);
        }
    }
}

/// Whether activations are rounded to `bf16` for weights of this packing.
pub(super) fn rounds(level: Level, packing: Option<Packing>) -> bool {
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 && packing == Some(Packing::Bf16) {
        return bf16::is_available();
    }
    let _ = (level, packing);
    false
}

/// Sum of `value(a) · b`, in many running sums, which the compiler turns into vectors of the level.
#[inline(always)]
fn sum_of_products<T: Copy>(a: &[T], b: &[f32], value: impl Fn(T) -> f32) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += value(a[lane]) * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(&a, b)| value(a) * b).sum();
    rest + fold(sums)
}

at_levels! {
    fn dot(level: Level, a: &[f32], b: &[f32]) -> f32 {
        sum_of_products(a, b, |value| value)
    }
}

at_levels! {
    fn dot_bf16(level: Level, a: &[u16], b: &[f32]) -> f32 {
        sum_of_products(a, b, |bits| f32::from_bits(u32::from(bits) << 16))
    }
}

at_levels! {
    fn dot_f16(level: Level, a: &[u16], b: &[f32]) -> f32 {
        sum_of_products(a, b, f16_to_f32)
    }
}
