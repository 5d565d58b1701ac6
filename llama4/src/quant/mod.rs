//! Block-quantised weights: what they are ([`Packing`]), how a row of floats becomes one ([`pack`], [`unpack`]), and the tensors that
//! hold them in a model ([`PackedTensor`], [`Weight`]).
//!
//! The numbers are those of GGUF's Q8_0 and Q4_0, bit for bit: blocks of 32 along the input width with one `f16` scale each, values
//! `int8 · scale` in 8 bits and `(nibble - 8) · scale` in 4. Everything is held in words of 32 bits, the one integer type that every
//! backend has.

mod choice;
mod codec;
mod packing;
mod resident;
mod tensor;

pub use choice::{Quantization, WeightKind};
pub use codec::{NotRepresentable, pack, unpack};
pub use packing::{BLOCK, Packing};
pub(crate) use resident::resident;
pub(crate) use tensor::WeightRecord;
pub(crate) use tensor::shared_bytes;
pub use tensor::{PackedData, PackedTensor, Rows, Weight};
