//! Compiled kernels are kept from one run to the next: compiling them takes ten seconds and more before the first token.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::{env, fs};

use cubecl::config::GlobalConfig;
use cubecl::config::cache::CacheConfig;

/// Have CubeCL keep compiled kernels of a device in the user's cache folder. Before the first use of any device; a `cubecl.toml` of the user's
/// is left to decide by itself.
///
/// CubeCL finds a kernel by its name and parameters alone, so each build's sources, each kind of device and each toolkit has a folder.
pub(crate) fn keep_kernels(device: &str, toolkit: &Path) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Some(folder) = folder(device, toolkit).filter(|_| !configured()) else { return };
        if let Err(error) = fs::create_dir_all(&folder) {
            tracing::warn!("compiled kernels are not kept: {}: {error}", folder.display());
            return;
        }
        let mut config = GlobalConfig::default();
        config.compilation.cache = Some(CacheConfig::File(folder));
        // Panics where a device was used before.
        if crate::start::attempt(|| GlobalConfig::set(config.override_from_env())).is_err() {
            tracing::debug!("CubeCL is configured already");
        }
    });
}

fn folder(device: &str, toolkit: &Path) -> Option<PathBuf> {
    let mut hasher = DefaultHasher::new();
    // Usually a link to the folder of a version.
    let toolkit = toolkit.canonicalize().unwrap_or_else(|_| toolkit.to_owned());
    (env!("LLAMA4_KERNELS"), device, toolkit).hash(&mut hasher);
    Some(dirs::cache_dir()?.join("llama4").join("kernels").join(format!("{:016x}", hasher.finish())))
}

/// Whether CubeCL finds a configuration, in this folder or above it.
fn configured() -> bool {
    let Ok(here) = env::current_dir() else { return true };
    here.ancestors().any(|folder| ["cubecl.toml", "CubeCL.toml"].iter().any(|name| folder.join(name).exists()))
}
