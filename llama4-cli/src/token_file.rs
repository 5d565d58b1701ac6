//! Files of token ids: 16 bits each, little-endian, nothing else.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Read all ids; each must be one of the model's `vocab` tokens.
pub(crate) fn read(file: &Path, vocab: usize) -> Result<Vec<u32>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(
        bytes.len() % 2 == 0,
        "{}: {} bytes, but 16-bit token ids make an even number",
        file.display(),
        bytes.len()
    );
    let tokens: Vec<u32> =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]]))).collect();
    if let Some(at) = tokens.iter().position(|&id| id as usize >= vocab) {
        bail!("{}: token {} at index {at}, but the model has {vocab} tokens", file.display(), tokens[at]);
    }
    Ok(tokens)
}
