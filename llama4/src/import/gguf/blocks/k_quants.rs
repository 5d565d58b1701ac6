//! Blocks of 256 values in groups of 16 or 32, whose own scales are small numbers times one for the block.

use super::{IQ4_VALUES, half};

/// Values of a block.
const LEN: usize = 256;

pub(super) fn q2_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<84>(bytes, out) {
        let (scales, rest) = split::<16>(block);
        let (quants, rest) = split::<64>(rest);
        let (scale, minimum) = (half_at(rest, 0), half_at(rest, 2));
        for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let d = scale * f32::from(scales[group] & 0xf);
            let m = minimum * f32::from(scales[group] >> 4);
            for (value, q) in out.iter_mut().zip(crumbs(quants, group)) {
                *value = d * f32::from(q) - m;
            }
        }
    }
}

pub(super) fn q3_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<110>(bytes, out) {
        let (high, rest) = split::<32>(block);
        let (quants, rest) = split::<64>(rest);
        let (scales, rest) = split::<12>(rest);
        let scale = half_at(rest, 0);
        for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            // Four bits of each scale are in the first eight bytes, the other two in the last four.
            let four = scales[group % 8] >> (4 * (group / 8)) & 0xf;
            let two = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
            let d = scale * f32::from((four | two << 4).cast_signed() - 32);
            // A set bit stands for no offset, a clear one for minus four.
            let bits = &high[16 * (group % 2)..][..16];
            for ((value, q), &bits) in out.iter_mut().zip(crumbs(quants, group)).zip(bits) {
                let third = bits >> (group / 2) & 1;
                *value = d * f32::from((q | third << 2).cast_signed() - 4);
            }
        }
    }
}

pub(super) fn q4_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<144>(bytes, out) {
        let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
        let (scales, quants) = split::<12>(&block[4..]);
        for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (d, m) = six_bits(scales, group);
            let (d, m) = (scale * f32::from(d), minimum * f32::from(m));
            for (value, q) in out.iter_mut().zip(nibbles(quants, group)) {
                *value = d * f32::from(q) - m;
            }
        }
    }
}

pub(super) fn q5_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<176>(bytes, out) {
        let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
        let (scales, rest) = split::<12>(&block[4..]);
        let (high, quants) = split::<32>(rest);
        for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (d, m) = six_bits(scales, group);
            let (d, m) = (scale * f32::from(d), minimum * f32::from(m));
            for ((value, q), &bits) in out.iter_mut().zip(nibbles(quants, group)).zip(high) {
                *value = d * f32::from(q | (bits >> group & 1) << 4) - m;
            }
        }
    }
}

pub(super) fn q6_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<210>(bytes, out) {
        let (low, rest) = split::<128>(block);
        let (high, rest) = split::<64>(rest);
        let (scales, rest) = split::<16>(rest);
        let scale = half_at(rest, 0);
        // A run is 32 values with one shift: two scales.
        for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (half, quarter) = (run / 4, run % 4);
            let low = &low[64 * half + 32 * (quarter % 2)..][..32];
            let high = &high[32 * half..][..32];
            let (low_shift, high_shift) = (4 * (quarter / 2), 2 * quarter);
            let d = [0, 1].map(|index| scale * f32::from(scales[2 * run + index].cast_signed()));
            let bytes = low.as_chunks::<16>().0.iter().zip(high.as_chunks::<16>().0);
            for ((out, d), (low, high)) in out.as_chunks_mut::<16>().0.iter_mut().zip(d).zip(bytes) {
                for ((value, &low), &high) in out.iter_mut().zip(low).zip(high) {
                    let q = (low >> low_shift & 0xf) | (high >> high_shift & 3) << 4;
                    *value = d * f32::from(q.cast_signed() - 32);
                }
            }
        }
    }
}

pub(super) fn iq4_xs(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in pairs::<136>(bytes, out) {
        let scale = half_at(block, 0);
        let high = u16::from_le_bytes([block[2], block[3]]);
        let (low, quants) = split::<4>(&block[4..]);
        let quants = quants.as_chunks::<16>().0;
        for (group, (out, quants)) in out.as_chunks_mut::<32>().0.iter_mut().zip(quants).enumerate() {
            let four = low[group / 2] >> (4 * (group % 2)) & 0xf;
            let two = (high >> (2 * group) & 3) as u8;
            let d = scale * f32::from((four | two << 4).cast_signed() - 32);
            let (first, second) = out.split_at_mut(16);
            for ((first, second), &q) in first.iter_mut().zip(second).zip(quants) {
                *first = d * f32::from(IQ4_VALUES[usize::from(q & 0xf)]);
                *second = d * f32::from(IQ4_VALUES[usize::from(q >> 4)]);
            }
        }
    }
}

/// Each block with the place of its values.
fn pairs<'a, const BYTES: usize>(
    bytes: &'a [u8],
    out: &'a mut [f32],
) -> impl Iterator<Item = (&'a [u8; BYTES], &'a mut [f32; LEN])> {
    bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<LEN>().0)
}

/// The first `N` bytes and the others. Blocks are arrays and have them.
fn split<const N: usize>(bytes: &[u8]) -> (&[u8; N], &[u8]) {
    bytes.split_first_chunk().expect("a block has all its parts")
}

fn half_at(bytes: &[u8], position: usize) -> f32 {
    half([bytes[position], bytes[position + 1]])
}

/// The 16 values of two bits of `group`: 32 bytes have eight groups, a pair of them for each shift.
fn crumbs(quants: &[u8; 64], group: usize) -> impl Iterator<Item = u8> {
    let shift = 2 * (group % 8 / 2);
    let bytes = &quants[32 * (group / 8) + 16 * (group % 2)..][..16];
    bytes.iter().map(move |&byte| byte >> shift & 3)
}

/// The 32 values of four bits of `group`: 32 bytes have two groups, in their low and in their high halves.
fn nibbles(quants: &[u8], group: usize) -> impl Iterator<Item = u8> {
    let shift = 4 * (group % 2);
    let bytes = &quants[32 * (group / 2)..][..32];
    bytes.iter().map(move |&byte| byte >> shift & 0xf)
}

/// Scale and minimum of a group of 32. The first four groups have theirs in the low six bits of a byte; of the others, four bits
/// are in the last bytes, and two above those of the first groups.
fn six_bits(scales: &[u8; 12], group: usize) -> (u8, u8) {
    if group < 4 {
        return (scales[group] & 0x3f, scales[group + 4] & 0x3f);
    }
    let four = scales[group + 4];
    let two = |byte: u8| byte >> 6 << 4;
    (four & 0xf | two(scales[group - 4]), four >> 4 | two(scales[group]))
}
