//! A name for what this build's kernels are, so that compiled ones are only kept for builds with the same sources.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let workspace = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo says where the crate is")).join("..");
    let mut files = vec![workspace.join("Cargo.lock")];
    collect(&workspace.join("llama4/src/ops/cube"), &mut files)?;
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in &files {
        fs::read(file)?.hash(&mut hasher);
        println!("cargo::rerun-if-changed={}", file.display());
    }
    println!("cargo::rustc-env=LLAMA4_KERNELS={:016x}", hasher.finish());
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
