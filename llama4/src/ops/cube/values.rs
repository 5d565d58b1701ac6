//! Vectors of words, 16 bytes each, as the values they are.

use burn::tensor::DType;
use cubecl::prelude::*;

use super::decode::{byte, half_of, half_to_f32, nibble};
use crate::quant::{BLOCK, Packing};

/// Words of a vector.
pub(super) const LINE: usize = 4;

/// How the words of a vector are values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Encoding {
    /// Floats of 32 bits.
    F32,
    /// Packed words, and floats of 16 bits.
    Packed(Packing),
}

impl Encoding {
    /// That of floats.
    pub(super) fn of_floats(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::F16 => Some(Self::Packed(Packing::F16)),
            DType::BF16 => Some(Self::Packed(Packing::Bf16)),
            _ => None,
        }
    }

    /// Values of a vector.
    pub(super) fn values(self) -> usize {
        match self {
            Self::F32 => LINE,
            Self::Packed(packing) => LINE * 32 / packing.bits(),
        }
    }

    pub(super) fn has_scales(self) -> bool {
        matches!(self, Self::Packed(packing) if packing.has_scales())
    }

    /// Vectors of a block with a scale.
    pub(super) fn block_vectors(self) -> usize {
        BLOCK / self.values()
    }
}

/// Values `4 index ..` of a vector, as `f32`; `scale` has the bits of an `f16`, if the encoding has scales.
#[cube]
pub(super) fn four(
    words: Line<u32>,
    scale: u32,
    #[comptime] index: usize,
    #[comptime] encoding: Encoding,
) -> Line<u32> {
    let mut floats = Line::<u32>::empty(LINE);
    #[unroll]
    for value in 0..LINE {
        floats[value] = match comptime!(encoding) {
            Encoding::F32 => words[value],
            Encoding::Packed(Packing::Q8) => u32::reinterpret(byte(words[index], value) * half_to_f32(scale)),
            // The upper halves of the bytes are the upper half of the block.
            Encoding::Packed(Packing::Q4) => {
                let number = nibble(words[comptime!(index % 4)], comptime!(2 * value + index / 4));
                u32::reinterpret(number * half_to_f32(scale))
            }
            Encoding::Packed(packing) => u32::reinterpret(half_of(
                words[comptime!(2 * index + value / 2)],
                comptime!(value as u32 % 2),
                comptime!(packing == Packing::Bf16),
            )),
        };
    }
    floats
}
