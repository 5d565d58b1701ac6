//! What targets share.

use std::borrow::Cow;

/// A safetensors file. The first byte chooses: the file itself, or a header and the number of bytes behind it, so that a mutation of
/// the header need not get its length right as well.
pub fn safetensors(input: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (&choice, rest) = input.split_first()?;
    if choice == 0 {
        return Some(Cow::Borrowed(rest));
    }
    let (&size, header) = rest.split_first_chunk()?;
    let size = u16::from_le_bytes(size);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend((0..size).map(|index| index.wrapping_mul(151) as u8));
    Some(Cow::Owned(file))
}
