//! Packed weights that are used where the file has them, without a copy.

use burn::tensor::{AllocationProperty, Bytes};

use super::blob::Blob;
use super::matrix::{Matrix, Span};
use crate::quant::{PackedData, Packing};

/// Bytes that are read into memory at once.
const PIECE: usize = 64 << 20;

/// The words of matrices that are packed in the file as they are wanted, one right after the other; `None` where something has to be done
/// to them first.
pub(super) fn packed(matrices: &[Matrix], packing: Packing) -> Option<PackedData> {
    if cfg!(target_endian = "big") {
        return None;
    }
    let first = matrices.first()?;
    let columns = first.columns();
    // A file has no padding after an odd number of scales.
    if !packing.scales(columns).is_multiple_of(2) {
        return None;
    }
    let (mut words, mut scales) = first.packed_spans(packing)?;
    for matrix in &matrices[1..] {
        let (more_words, more_scales) = matrix.packed_spans(packing)?;
        words = words.joined(&more_words)?;
        scales = match (scales, more_scales) {
            (Some(scales), Some(more)) => Some(scales.joined(&more)?),
            _ => None,
        };
    }
    let scales = match scales {
        Some(scales) => bytes(scales)?,
        None => Bytes::from_bytes_vec(Vec::new()),
    };
    let rows = matrices.iter().map(Matrix::rows).sum();
    Some(PackedData { packing, rows, columns, words: bytes(words)?, scales })
}

/// The bytes of a span, which stay the file's. Read from the disk now, so that it is the loading that takes the time.
fn bytes(span: Span) -> Option<Bytes> {
    let aligned = span.blob[span.range.clone()].as_ptr().cast::<u32>().is_aligned();
    if !aligned {
        return None;
    }
    for start in span.range.clone().step_by(PIECE) {
        span.blob.populate(start..span.range.end.min(start + PIECE));
    }
    let shared = bytes::Bytes::from_owner(Owner(span));
    Some(Bytes::from_shared(shared, AllocationProperty::File))
}

struct Owner(Span);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0.blob[self.0.range.clone()]
    }
}

impl Span {
    /// Both spans as one, if the second begins where the first ends.
    fn joined(self, next: &Self) -> Option<Self> {
        let same = match (&self.blob, &next.blob) {
            (Blob::Mapped(a), Blob::Mapped(b)) => std::sync::Arc::ptr_eq(a, b),
            (Blob::Static(a), Blob::Static(b)) => std::ptr::eq(*a, *b),
            _ => false,
        };
        (same && self.range.end == next.range.start)
            .then(|| Self { range: self.range.start..next.range.end, blob: self.blob })
    }
}
