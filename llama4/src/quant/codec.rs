//! From floats to packed words and back, on the host.

use half::{bf16, f16};
use multiversion::multiversion;

use super::{BLOCK, Packing};

/// A block that cannot be packed: a value that is not finite, or so large that the block's scale is beyond the range of `f16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotRepresentable;

/// Pack whole blocks of a row.
///
/// `words` and `scales` have room for exactly these values: [`Packing::words`] and [`Packing::scales`] of them.
///
/// # Errors
/// When a value is not finite or beyond what the packing can hold.
///
/// # Panics
/// If the lengths do not belong together.
pub fn pack(packing: Packing, values: &[f32], words: &mut [u32], scales: &mut [u16]) -> Result<(), NotRepresentable> {
    assert!(packing.fits(values.len()) || values.is_empty(), "whole blocks");
    assert_eq!((words.len(), scales.len()), (packing.words(values.len()), packing.scales(values.len())));
    let ok = match packing {
        Packing::Q8 => pack_q8(values, words, scales),
        Packing::Q4 => pack_q4(values, words, scales),
        Packing::Bf16 => pack_bf16(values, words),
        Packing::F16 => pack_f16(values, words),
    };
    if ok { Ok(()) } else { Err(NotRepresentable) }
}

/// Unpack whole blocks of a row. Exact: every value is one product of a small integer and an `f16`.
///
/// # Panics
/// If the lengths do not belong together.
pub fn unpack(packing: Packing, words: &[u32], scales: &[u16], values: &mut [f32]) {
    assert_eq!((words.len(), scales.len()), (packing.words(values.len()), packing.scales(values.len())));
    match packing {
        Packing::Q8 => unpack_q8(words, scales, values),
        Packing::Q4 => unpack_q4(words, scales, values),
        Packing::Bf16 => unpack_bf16(words, values),
        Packing::F16 => unpack_f16(words, values),
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512dq+avx2+fma+f16c",
    "x86_64+avx2+fma+f16c",
    "aarch64+neon"
))]
fn pack_q8(values: &[f32], words: &mut [u32], scales: &mut [u16]) -> bool {
    let mut ok = true;
    let (blocks, _) = values.as_chunks::<BLOCK>();
    let (words, _) = words.as_chunks_mut::<{ BLOCK / 4 }>();
    for ((block, words), scale) in blocks.iter().zip(words).zip(scales) {
        let largest = largest(block);
        let half = f16::from_f32(largest / 127.0);
        ok &= largest.is_finite() && half.is_finite();
        *scale = half.to_bits();
        let inverse = inverse(half.to_f32());
        let mut quants = [0_u8; BLOCK];
        for (quant, &value) in quants.iter_mut().zip(block) {
            *quant = round(value * inverse).clamp(-127, 127) as i8 as u8;
        }
        let (bytes, _) = quants.as_chunks::<4>();
        for (word, &bytes) in words.iter_mut().zip(bytes) {
            *word = u32::from_le_bytes(bytes);
        }
    }
    ok
}

/// The value of largest size becomes -8 or 8 less one step: 4 bits reach further down than up, so the scale has the sign that puts it
/// on the longer side.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512dq+avx2+fma+f16c",
    "x86_64+avx2+fma+f16c",
    "aarch64+neon"
))]
fn pack_q4(values: &[f32], words: &mut [u32], scales: &mut [u16]) -> bool {
    let mut ok = true;
    let (blocks, _) = values.as_chunks::<BLOCK>();
    let (words, _) = words.as_chunks_mut::<{ BLOCK / 8 }>();
    for ((block, words), scale) in blocks.iter().zip(words).zip(scales) {
        let largest = largest(block);
        let highest = block.iter().fold(f32::MIN, |highest, &value| if value > highest { value } else { highest });
        let signed = if highest == largest { largest } else { -largest };
        let half = f16::from_f32(signed / -8.0);
        ok &= largest.is_finite() && half.is_finite();
        *scale = half.to_bits();
        let inverse = inverse(half.to_f32());
        let mut quants = [0_u8; BLOCK];
        for (quant, &value) in quants.iter_mut().zip(block) {
            *quant = (round(value * inverse) + 8).clamp(0, 15) as u8;
        }
        let (low, high) = quants.split_at(BLOCK / 2);
        let mut bytes = [0_u8; BLOCK / 2];
        for (byte, (low, high)) in bytes.iter_mut().zip(low.iter().zip(high)) {
            *byte = low | high << 4;
        }
        let (bytes, _) = bytes.as_chunks::<4>();
        for (word, &bytes) in words.iter_mut().zip(bytes) {
            *word = u32::from_le_bytes(bytes);
        }
    }
    ok
}

#[multiversion(targets("x86_64+avx2+fma+f16c", "aarch64+neon"))]
fn pack_bf16(values: &[f32], words: &mut [u32]) -> bool {
    let (pairs, _) = values.as_chunks::<2>();
    let mut ok = true;
    for (word, &[low, high]) in words.iter_mut().zip(pairs) {
        let (low, high) = (bf16::from_f32(low), bf16::from_f32(high));
        ok &= low.is_finite() && high.is_finite();
        *word = u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
    }
    ok
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512dq+avx2+fma+f16c",
    "x86_64+avx2+fma+f16c",
    "aarch64+neon"
))]
fn unpack_q8(words: &[u32], scales: &[u16], values: &mut [f32]) {
    let (blocks, _) = values.as_chunks_mut::<BLOCK>();
    let (words, _) = words.as_chunks::<{ BLOCK / 4 }>();
    for ((block, words), &scale) in blocks.iter_mut().zip(words).zip(scales) {
        let scale = f16_to_f32(scale);
        for (values, word) in block.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            for (value, byte) in values.iter_mut().zip(word.to_le_bytes()) {
                *value = f32::from(byte as i8) * scale;
            }
        }
    }
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512dq+avx2+fma+f16c",
    "x86_64+avx2+fma+f16c",
    "aarch64+neon"
))]
fn unpack_q4(words: &[u32], scales: &[u16], values: &mut [f32]) {
    let (blocks, _) = values.as_chunks_mut::<BLOCK>();
    let (words, _) = words.as_chunks::<{ BLOCK / 8 }>();
    for ((block, words), &scale) in blocks.iter_mut().zip(words).zip(scales) {
        let scale = f16_to_f32(scale);
        let mut bytes = [0_u8; BLOCK / 2];
        for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        let (low, high) = block.split_at_mut(BLOCK / 2);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
            *low = (i32::from(byte & 15) - 8) as f32 * scale;
            *high = (i32::from(byte >> 4) - 8) as f32 * scale;
        }
    }
}

#[multiversion(targets("x86_64+avx2+fma+f16c", "aarch64+neon"))]
fn unpack_bf16(words: &[u32], values: &mut [f32]) {
    for ([low, high], word) in values.as_chunks_mut::<2>().0.iter_mut().zip(words) {
        *low = f32::from_bits(word << 16);
        *high = f32::from_bits(word & 0xffff_0000);
    }
}

/// The largest size in a block. Sizes are compared as integers, in whose order what is not a number comes last and so is found.
#[inline(always)]
fn largest(block: &[f32; BLOCK]) -> f32 {
    let largest = block.iter().fold(0, |largest, value| (value.to_bits() & 0x7fff_ffff).cast_signed().max(largest));
    f32::from_bits(largest.cast_unsigned())
}

/// A block of zeros has scale zero, and every quant of it is zero.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The nearest integer, ties to even, of a value far below 2²²: adding 1.5 · 2²³ leaves it in the low bits.
#[inline(always)]
fn round(value: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    (value + MAGIC).to_bits().cast_signed() - MAGIC.to_bits().cast_signed()
}

#[multiversion(targets("x86_64+avx2+fma+f16c", "aarch64+neon"))]
fn pack_f16(values: &[f32], words: &mut [u32]) -> bool {
    let (pairs, _) = values.as_chunks::<2>();
    let mut ok = true;
    for (word, &[low, high]) in words.iter_mut().zip(pairs) {
        let (low, high) = (f16::from_f32(low), f16::from_f32(high));
        ok &= low.is_finite() && high.is_finite();
        *word = u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
    }
    ok
}

#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512vl+avx512dq+avx2+fma+f16c",
    "x86_64+avx2+fma+f16c",
    "aarch64+neon"
))]
fn unpack_f16(words: &[u32], values: &mut [f32]) {
    for (pair, word) in values.as_chunks_mut::<2>().0.iter_mut().zip(words) {
        *pair = [f16_to_f32(*word as u16), f16_to_f32((word >> 16) as u16)];
    }
}

/// `half`'s own conversion looks for instructions at run time, each time; this one is a few integer operations.
#[inline(always)]
fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(packing: Packing, values: &[f32]) -> Result<(Vec<f32>, Vec<u16>), NotRepresentable> {
        let (mut words, mut scales) = (vec![0; packing.words(values.len())], vec![0; packing.scales(values.len())]);
        pack(packing, values, &mut words, &mut scales)?;
        let mut back = vec![f32::NAN; values.len()];
        unpack(packing, &words, &scales, &mut back);
        Ok((back, scales))
    }

    #[test]
    fn the_layout_is_the_one_that_is_documented() {
        let mut values = [0.0; 32];
        (values[0], values[1], values[16], values[31]) = (-8.0, 7.0, 1.0, -3.0);
        let (mut words, mut scales) = ([0; 4], [0]);
        pack(Packing::Q4, &values, &mut words, &mut scales).unwrap();
        assert_eq!(scales, [f16::from_f32(1.0).to_bits()]);
        // Values 0 and 16, 1 and 17 in the first bytes, 15 and 31 in the last.
        assert_eq!(words, [0x8888_8f90, 0x8888_8888, 0x8888_8888, 0x5888_8888]);

        let (mut words, mut scales) = ([0; 8], [0]);
        (values[0], values[1]) = (-127.0, 1.0);
        pack(Packing::Q8, &values, &mut words, &mut scales).unwrap();
        assert_eq!((words[0], words[4], words[7]), (0x0000_0181, 0x0000_0001, 0xfd00_0000));

        let mut words = [0];
        pack(Packing::Bf16, &[1.0, -2.0], &mut words, &mut []).unwrap();
        assert_eq!(words, [0xc000_3f80]);
    }

    #[test]
    fn half_precision_is_read_as_the_library_for_it_reads_it() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits).to_f32();
            if expected.is_finite() {
                assert_eq!(f16_to_f32(bits).to_bits(), expected.to_bits(), "{bits:#06x}");
            }
        }
    }

    #[test]
    fn what_cannot_be_held_is_an_error_and_not_a_number() {
        for packing in [Packing::Q8, Packing::Q4, Packing::Bf16, Packing::F16] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
                let mut values = [1.0; 32];
                values[17] = bad;
                assert_eq!(round_trip(packing, &values), Err(NotRepresentable), "{packing} {bad}");
            }
        }
        // The scale of Q8 would be 78,740.
        assert!(round_trip(Packing::Q8, &[1e7; 32]).is_err());
        assert!(round_trip(Packing::Bf16, &[1e7; 32]).is_ok());
        assert!(round_trip(Packing::F16, &[1e7; 32]).is_err());
    }

    proptest! {
        #[test]
        fn the_error_is_at_most_half_a_step(
            values in prop::collection::vec(-4.0_f32..4.0, 64),
            scale in prop::sample::select(vec![1e-3_f32, 1.0, 1e3]),
        ) {
            let values: Vec<f32> = values.into_iter().map(|value| value * scale).collect();
            let (back, scales) = round_trip(Packing::Q8, &values).unwrap();
            for ((value, back), index) in values.iter().zip(&back).zip(0..) {
                let step = f16_to_f32(scales[index / BLOCK]);
                // The scale itself is rounded to 11 bits, which the largest values feel.
                prop_assert!((value - back).abs() <= 0.57 * step, "{value} became {back}, step {step}");
            }
            let (back, scales) = round_trip(Packing::Q4, &values).unwrap();
            for ((value, back), index) in values.iter().zip(&back).zip(0..) {
                let step = f16_to_f32(scales[index / BLOCK]).abs();
                // A value opposite to the largest may be up to one step beyond the shorter side.
                prop_assert!((value - back).abs() <= 1.01 * step, "{value} became {back}, step {step}");
            }
        }

        #[test]
        fn packing_what_was_unpacked_changes_nothing(values in prop::collection::vec(-4.0_f32..4.0, 32)) {
            for packing in [Packing::Q8, Packing::Q4, Packing::Bf16, Packing::F16] {
                let (once, _) = round_trip(packing, &values).unwrap();
                let (twice, _) = round_trip(packing, &once).unwrap();
                prop_assert_eq!(&once, &twice, "{}", packing);
            }
        }
    }

    #[test]
    fn a_block_of_zeros_stays_one() {
        for packing in [Packing::Q8, Packing::Q4, Packing::Bf16, Packing::F16] {
            assert_eq!(round_trip(packing, &[0.0; 32]).unwrap().0, [0.0; 32]);
        }
    }
}
