//! Packed words to floats, inside kernels. In integer operations that every device has: WGSL knows no 16-bit types.

use cubecl::prelude::*;

/// 2⁻¹⁴, of `f16`.
const SMALLEST_NORMAL: f32 = 6.103_515_6e-5;

/// The `f32` of an `f16`'s bits.
#[cube]
pub(super) fn half_to_f32(bits: u32) -> f32 {
    let magnitude = bits & 0x7fff;
    // 112 is what the exponents' biases differ by, twice that what those of infinity do.
    let bias = select(magnitude < 0x7c00, 0x1_c000u32, 0x3_8000u32);
    let normal = f32::reinterpret((magnitude + bias) << 13);
    // Subnormal numbers have no implied bit, and an exponent that is one less than what they count by. Devices flush those of `f32`, so that none may
    // come of it on the way.
    let value = select(magnitude < 0x400, normal + normal - SMALLEST_NORMAL, normal);
    f32::reinterpret(u32::reinterpret(value) ^ ((bits & 0x8000) << 16))
}

/// Scale of a block: two to a word, low half first.
#[cube]
pub(super) fn scale_of(scales: &Array<u32>, row_start: usize, block: usize) -> f32 {
    let word = scales[row_start + block / 2];
    let shift = u32::cast_from(block % 2) * 16;
    half_to_f32((word >> shift) & 0xffff)
}

/// Half number `index` of a word, as `bf16` or `f16`.
#[cube]
pub(super) fn half_of(word: u32, #[comptime] index: u32, #[comptime] brain: bool) -> f32 {
    let bits = (word >> comptime!(16 * index)) & 0xffff;
    if comptime!(brain) { f32::reinterpret(bits << 16) } else { half_to_f32(bits) }
}

/// Nibble `index` of a word, less 8.
#[cube]
pub(super) fn nibble(word: u32, #[comptime] index: usize) -> f32 {
    // The upper three are not bits of a mantissa where they are.
    if comptime!(index < 5) {
        in_mantissa(word, comptime!(4 * index as u32), 4u32, 0u32)
    } else {
        in_mantissa(word >> 12, comptime!(4 * index as u32 - 12), 4u32, 0u32)
    }
}

/// Byte `index` of a word, in two's complement: with its upper bit turned it is 128 more.
#[cube]
pub(super) fn byte(word: u32, #[comptime] index: usize) -> f32 {
    if comptime!(index < 2) {
        in_mantissa(word, comptime!(8 * index as u32), 8u32, 0x80u32)
    } else {
        in_mantissa(word >> comptime!(8 * index as u32 - 8), 8u32, 8u32, 0x80u32)
    }
}

/// `bits` bits of a word from `place` on, those of `turned` turned over, less half of what they can be. They stay where they are, without a
/// shift, and become bits of the mantissa of a float whose exponent is such that they count as whole numbers; what it is too much is taken off
/// exactly.
#[cube]
fn in_mantissa(word: u32, #[comptime] place: u32, #[comptime] bits: u32, #[comptime] turned: u32) -> f32 {
    let (mask, exponent) = comptime!((((1u32 << bits) - 1) << place, ((150 - place) << 23) | (turned << place)));
    f32::reinterpret((word & mask) ^ exponent) - comptime!(((1u32 << (23 - place)) + (1 << (bits - 1))) as f32)
}
