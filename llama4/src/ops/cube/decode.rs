//! Packed words to floats, inside kernels. In integer operations that every device has: WGSL knows no 16-bit types.

use cubecl::prelude::*;

/// The `f32` of an `f16`'s bits. Infinities are taken for large numbers, as in the plain definition.
#[cube]
pub(super) fn half_to_f32(bits: u32) -> f32 {
    let magnitude = bits & 0x7fff;
    // 112 is what the exponents' biases differ by. Subnormal numbers have no implied bit, and devices flush those of `f32`.
    let normal = f32::reinterpret((magnitude + 0x1_c000) << 13);
    let subnormal = f32::cast_from(magnitude) * 5.960_464_5e-8;
    let value = select(magnitude < 0x400, subnormal, normal);
    select(bits >= 0x8000, -value, value)
}

/// Scale of a block: two to a word, low half first.
#[cube]
pub(super) fn scale_of(scales: &Array<u32>, row_start: usize, block: usize) -> f32 {
    let word = scales[row_start + block / 2];
    let shift = u32::cast_from(block % 2) * 16;
    half_to_f32((word >> shift) & 0xffff)
}

/// `int8` number `index` of a word.
#[cube]
pub(super) fn byte_of(word: u32, #[comptime] index: u32) -> f32 {
    // Adding 128 modulo 256 turns two's complement into an offset.
    f32::cast_from(((word >> comptime!(8 * index)) & 0xff) ^ 0x80) - 128.0
}

/// Nibble number `index` of a word, its offset of eight taken off.
#[cube]
pub(super) fn nibble_of(word: u32, #[comptime] index: u32) -> f32 {
    f32::cast_from((word >> comptime!(4 * index)) & 0xf) - 8.0
}

/// Half number `index` of a word, as `bf16` or `f16`.
#[cube]
pub(super) fn half_of(word: u32, #[comptime] index: u32, #[comptime] brain: bool) -> f32 {
    let bits = (word >> comptime!(16 * index)) & 0xffff;
    if comptime!(brain) { f32::reinterpret(bits << 16) } else { half_to_f32(bits) }
}
