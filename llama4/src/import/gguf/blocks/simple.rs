//! Plain floats, and blocks of 32 values with one scale.

use half::slice::HalfFloatSliceExt;

use super::{IQ4_VALUES, half};

/// Values of a block.
const LEN: usize = 32;

/// Halves that are converted together: enough for the processor's own instruction, where it has one.
const HALVES: usize = 64;

pub(super) fn f32(bytes: &[u8], out: &mut [f32]) {
    let (values, _) = bytes.as_chunks();
    for (value, &bytes) in out.iter_mut().zip(values) {
        *value = f32::from_le_bytes(bytes);
    }
}

pub(super) fn f16(bytes: &[u8], out: &mut [f32]) {
    let (values, _) = bytes.as_chunks();
    for (out, values) in out.chunks_mut(HALVES).zip(values.chunks(HALVES)) {
        let mut halves = [half::f16::ZERO; HALVES];
        for (half, &bytes) in halves.iter_mut().zip(values) {
            *half = half::f16::from_le_bytes(bytes);
        }
        halves[..out.len()].convert_to_f32_slice(out);
    }
}

pub(super) fn bf16(bytes: &[u8], out: &mut [f32]) {
    let (values, _) = bytes.as_chunks();
    for (value, &bytes) in out.iter_mut().zip(values) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
    }
}

pub(super) fn q4_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<18>(bytes, out) {
        let [d0, d1, quants @ ..] = block;
        let scale = half([*d0, *d1]);
        nibbles(quants, out, |q| scale * (f32::from(q) - 8.0));
    }
}

pub(super) fn q4_1(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<20>(bytes, out) {
        let [d0, d1, m0, m1, quants @ ..] = block;
        let (scale, minimum) = (half([*d0, *d1]), half([*m0, *m1]));
        nibbles(quants, out, |q| scale * f32::from(q) + minimum);
    }
}

pub(super) fn q5_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<22>(bytes, out) {
        let [d0, d1, h0, h1, h2, h3, quants @ ..] = block;
        let scale = half([*d0, *d1]);
        five_bits([*h0, *h1, *h2, *h3], quants, out, |q| scale * (f32::from(q) - 16.0));
    }
}

pub(super) fn q5_1(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<24>(bytes, out) {
        let [d0, d1, m0, m1, h0, h1, h2, h3, quants @ ..] = block;
        let (scale, minimum) = (half([*d0, *d1]), half([*m0, *m1]));
        five_bits([*h0, *h1, *h2, *h3], quants, out, |q| scale * f32::from(q) + minimum);
    }
}

pub(super) fn q8_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<34>(bytes, out) {
        let [d0, d1, quants @ ..] = block;
        let scale = half([*d0, *d1]);
        for (value, &q) in out.iter_mut().zip(quants) {
            *value = f32::from(q.cast_signed()) * scale;
        }
    }
}

pub(super) fn iq4_nl(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<18>(bytes, out) {
        let [d0, d1, quants @ ..] = block;
        let scale = half([*d0, *d1]);
        nibbles(quants, out, |q| scale * f32::from(IQ4_VALUES[usize::from(q & 0xf)]));
    }
}

/// Each block with the place of its values.
fn pairs<'a, const BYTES: usize>(
    bytes: &'a [u8],
    out: &'a mut [f32],
) -> impl Iterator<Item = (&'a [u8; BYTES], &'a mut [f32; LEN])> {
    bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<LEN>().0)
}

/// Byte `j` has value `j` in its low half and value `j + 16` in its high one.
fn nibbles(quants: &[u8; 16], out: &mut [f32; LEN], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for ((low, high), &q) in low.iter_mut().zip(high).zip(quants) {
        *low = value(q & 0xf);
        *high = value(q >> 4);
    }
}

/// As [`nibbles`], with bit `i` of `fifths`, counted from the lowest of the first byte, above the four of value `i`.
fn five_bits(fifths: [u8; 4], quants: &[u8; 16], out: &mut [f32; LEN], value: impl Fn(u8) -> f32) {
    const MASKS: [u8; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
    let mut bits = [[0; 8]; 4];
    for (bits, fifths) in bits.iter_mut().zip(fifths) {
        for (bit, mask) in bits.iter_mut().zip(MASKS) {
            *bit = if fifths & mask == mask { 16 } else { 0 };
        }
    }
    let bits = bits.as_flattened();
    for half in 0..2 {
        let (out, bits) = (&mut out[16 * half..][..16], &bits[16 * half..][..16]);
        for ((out, bit), &q) in out.iter_mut().zip(bits).zip(quants) {
            *out = value(q >> (4 * half) & 0xf | bit);
        }
    }
}
