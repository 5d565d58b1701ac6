//! ggml's blocks become values: the formulas of its reference code, in `f32` and in the same order, so that results are bit-equal.

mod k_quants;
pub(in crate::import) mod packed;
mod simple;

use super::kind::{GgmlType, row_bytes};

/// Why blocks cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::import) enum BlocksError {
    /// A type whose values are not read.
    Unsupported(GgmlType),
    /// The bytes are not those of so many values.
    Length {
        /// The type.
        kind: GgmlType,
        /// Bytes given.
        bytes: usize,
        /// Values wanted.
        values: usize,
    },
}

/// The values of whole blocks. For a large tensor, let several threads have some rows each.
pub(in crate::import) fn dequantise(kind: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<(), BlocksError> {
    check_length(kind, bytes, out.len())?;
    match kind {
        GgmlType::F32 => simple::f32(bytes, out),
        GgmlType::F16 => simple::f16(bytes, out),
        GgmlType::Bf16 => simple::bf16(bytes, out),
        GgmlType::Q4_0 => simple::q4_0(bytes, out),
        GgmlType::Q4_1 => simple::q4_1(bytes, out),
        GgmlType::Q5_0 => simple::q5_0(bytes, out),
        GgmlType::Q5_1 => simple::q5_1(bytes, out),
        GgmlType::Q8_0 => simple::q8_0(bytes, out),
        GgmlType::Q2K => k_quants::q2_k(bytes, out),
        GgmlType::Q3K => k_quants::q3_k(bytes, out),
        GgmlType::Q4K => k_quants::q4_k(bytes, out),
        GgmlType::Q5K => k_quants::q5_k(bytes, out),
        GgmlType::Q6K => k_quants::q6_k(bytes, out),
        GgmlType::Iq4Nl => simple::iq4_nl(bytes, out),
        GgmlType::Iq4Xs => k_quants::iq4_xs(bytes, out),
        GgmlType::Other(_) => return Err(BlocksError::Unsupported(kind)),
    }
    Ok(())
}

fn check_length(kind: GgmlType, bytes: &[u8], values: usize) -> Result<(), BlocksError> {
    match row_bytes(kind, values) {
        Some(needed) if needed == bytes.len() => Ok(()),
        _ => Err(BlocksError::Length { kind, bytes: bytes.len(), values }),
    }
}

/// Half precision to single, as numpy and ggml do it.
fn half(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}

/// The values that indices of the IQ4 types stand for.
const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
