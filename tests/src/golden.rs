//! Golden checkpoints: tiny models with the outputs of an independent implementation.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// The repository's `fixtures` folder.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").join("fixtures")
}

/// Outputs of one golden case.
pub struct Golden {
    /// Folder of checkpoint and outputs.
    pub dir: PathBuf,
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Golden {
    /// Read a case by the name of its folder.
    ///
    /// # Panics
    /// If it is not there or not as expected: a broken fixture.
    pub fn open(name: &str) -> Self {
        let dir = fixtures().join("goldens").join(name);
        let bytes = std::fs::read(dir.join("golden.safetensors")).expect("a golden case");
        let file = SafeTensors::deserialize(&bytes).expect("a valid golden file");
        let tensors = file
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let data = view.data();
                let values = match view.dtype() {
                    Dtype::F32 => numbers::<4>(data, |bytes| f64::from(f32::from_le_bytes(bytes))),
                    Dtype::F64 => numbers::<8>(data, f64::from_le_bytes),
                    Dtype::I64 => numbers::<8>(data, |bytes| i64::from_le_bytes(bytes) as f64),
                    other => panic!("{name}: no test reads {other:?}"),
                };
                (name, (view.shape().to_vec(), values))
            })
            .collect();
        Self { dir, tensors }
    }

    /// Values of a tensor, row by row.
    ///
    /// # Panics
    /// If the case has no such tensor.
    pub fn values(&self, name: &str) -> &[f64] {
        &self.tensors[name].1
    }

    /// Shape of a tensor.
    ///
    /// # Panics
    /// If the case has no such tensor.
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.tensors[name].0
    }

    /// Whether the case has this tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor of token ids.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.values(name).iter().map(|&id| id as u32).collect()
    }
}

fn numbers<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    data.chunks_exact(N).map(|bytes| read(bytes.try_into().expect("chunks of N"))).collect()
}

/// Fail unless every value is within `tolerance` of its golden.
///
/// # Panics
/// That is the failure; it says where the largest difference is.
pub fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let differences = found.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).abs());
    let (at, worst) = differences.enumerate().fold((0, 0.0), |worst, (at, difference)| {
        if difference > worst.1 || difference.is_nan() { (at, difference) } else { worst }
    });
    assert!(worst <= tolerance, "{what}: {} instead of {} at {at}, off by {worst:.2e}", found[at], expected[at]);
}
