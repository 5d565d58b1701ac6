use burn::tensor::DType;
use serde::{Deserialize, Serialize};

use crate::config::words::words;

/// Values that share a scale.
pub const BLOCK: usize = 32;

/// How the values of a weight are packed into words of 32 bits.
///
/// A row of the weight is a row of words, so that rows can be looked up and sliced:
///
/// - `Q8`: value `4 i + b` of the row is byte `b` of word `i`.
/// - `Q4`: a block of 32 values is four words, 16 bytes; the low half of byte `j` is value `j` of the block, the high half value
///   `16 + j`, as in GGUF.
/// - `Bf16`, `F16`: value `2 i + h` is half `h` of word `i`. No scales: 16-bit storage where the backend has no such type.
///
/// Scales of `Q8` and `Q4` stand in words of their own, two `f16` to a word, low half first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// `int8 · scale`.
    Q8,
    /// `(nibble - 8) · scale`.
    Q4,
    /// The upper half of an `f32`.
    Bf16,
    /// IEEE's half precision.
    F16,
}

words!(Packing, "quantize", { Q8 = "q8", Q4 = "q4", Bf16 = "bf16", F16 = "f16" });

impl Packing {
    /// Whether a row of `columns` values can be packed: blocks are whole, and so are words.
    pub fn fits(self, columns: usize) -> bool {
        columns > 0 && columns.is_multiple_of(if self.has_scales() { BLOCK } else { 2 })
    }

    /// Bits of a value, its share of the scale not counted.
    pub fn bits(self) -> usize {
        match self {
            Self::Q8 => 8,
            Self::Q4 => 4,
            Self::Bf16 | Self::F16 => 16,
        }
    }

    /// Whether blocks have a scale.
    pub fn has_scales(self) -> bool {
        !matches!(self, Self::Bf16 | Self::F16)
    }

    /// The floats that it stores, where it is 16-bit storage: where a model computes in them, they need no packing.
    pub fn float(self) -> Option<DType> {
        match self {
            Self::Bf16 => Some(DType::BF16),
            Self::F16 => Some(DType::F16),
            Self::Q8 | Self::Q4 => None,
        }
    }

    /// Words that hold the values of a row.
    pub fn words(self, columns: usize) -> usize {
        columns * self.bits() / 32
    }

    /// Scales of a row.
    pub fn scales(self, columns: usize) -> usize {
        if self.has_scales() { columns / BLOCK } else { 0 }
    }

    /// Words that hold the scales of a row; the last one is half used where their number is odd.
    pub fn scale_words(self, columns: usize) -> usize {
        self.scales(columns).div_ceil(2)
    }

    /// Bytes that a row takes in memory.
    pub fn row_bytes(self, columns: usize) -> usize {
        4 * (self.words(columns) + self.scale_words(columns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_take_the_bits_of_their_packing() {
        assert_eq!([Packing::Q8, Packing::Q4, Packing::Bf16].map(|p| p.words(64)), [16, 8, 32]);
        assert_eq!([Packing::Q8, Packing::Q4, Packing::Bf16].map(|p| p.scale_words(96)), [2, 2, 0]);
        assert_eq!(Packing::Q4.row_bytes(5120), 5120 / 32 * 18);
        assert!(Packing::Q4.fits(96) && !Packing::Q4.fits(48) && !Packing::Q8.fits(0));
        assert!(Packing::Bf16.fits(6) && !Packing::Bf16.fits(7));
        assert_eq!("Q4".parse::<Packing>().unwrap(), Packing::Q4);
    }
}
