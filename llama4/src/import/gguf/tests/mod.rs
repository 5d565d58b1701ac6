//! Files that the tests write themselves, and blocks that ggml's own package has read.

mod blocks;
mod broken;
mod config;
mod file;
mod golden;
mod names;
mod rope;
mod split;
mod tokenizer;
mod writer;

use std::path::Path;
use std::sync::Arc;

use super::file::GgufFile;
use crate::error::ImportError;
use crate::import::blob::Blob;
use writer::Writer;

/// Read a file that is in memory.
fn read(bytes: Vec<u8>) -> Result<GgufFile, ImportError> {
    let file: Arc<Path> = Path::new("model.gguf").into();
    GgufFile::read(&Blob::Static(bytes.leak()), &file)
}

fn open(writer: &Writer) -> GgufFile {
    read(writer.bytes()).unwrap()
}
