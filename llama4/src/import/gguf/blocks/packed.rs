use super::super::kind::GgmlType;
use super::{BlocksError, check_length};

/// Values of a block.
const LEN: usize = 32;

/// Whole blocks of `Q8_0` or `Q4_0` as scales and quantised values apart, without loss: each block's half-precision scale as its bits,
/// and its values in little-endian words, of `Q8_0` eight words of 32 signed bytes, of `Q4_0` four words of 16 bytes, of which byte `j`
/// has value `j` in its low half and value `j + 16` in its high one.
pub(in crate::import) fn split(
    kind: GgmlType,
    bytes: &[u8],
    scales: &mut [u16],
    words: &mut [u32],
) -> Result<(), BlocksError> {
    let values = scales.len().saturating_mul(LEN);
    check_length(kind, bytes, values)?;
    match kind {
        GgmlType::Q8_0 if words.len() == 8 * scales.len() => split_blocks::<34, 8>(bytes, scales, words),
        GgmlType::Q4_0 if words.len() == 4 * scales.len() => split_blocks::<18, 4>(bytes, scales, words),
        GgmlType::Q8_0 | GgmlType::Q4_0 => return Err(BlocksError::Length { kind, bytes: 4 * words.len(), values }),
        kind => return Err(BlocksError::Unsupported(kind)),
    }
    Ok(())
}

fn split_blocks<const BYTES: usize, const WORDS: usize>(bytes: &[u8], scales: &mut [u16], words: &mut [u32]) {
    let blocks = bytes.as_chunks::<BYTES>().0.iter();
    for ((block, scale), words) in blocks.zip(scales).zip(words.as_chunks_mut::<WORDS>().0) {
        let [s0, s1, quants @ ..] = &block[..] else { continue };
        *scale = u16::from_le_bytes([*s0, *s1]);
        for (word, &quants) in words.iter_mut().zip(quants.as_chunks().0) {
            *word = u32::from_le_bytes(quants);
        }
    }
}
