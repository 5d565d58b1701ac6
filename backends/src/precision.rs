use burn::tensor::DType;
use llama4::quant::{Packing, Quantization};

use crate::BackendKind;

/// What a type of weights means on a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Type of the activations, and of the weights that are not packed.
    pub dtype: DType,
    /// How weights are stored where the backend has no floats as narrow as those asked for.
    pub storage: Option<Packing>,
}

impl BackendKind {
    /// What a model runs in: `asked`, else `bf16` on CUDA, as Llama 4 is published, and `f32` elsewhere.
    ///
    /// ndarray has no 16-bit floats: there they are what weights are stored in, and are computed with in `f32`.
    pub fn precision(self, asked: Option<DType>) -> Precision {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda => Precision { dtype: asked.unwrap_or(DType::BF16), storage: None },
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Precision { dtype: asked.unwrap_or(DType::F32), storage: None },
            #[cfg(all(feature = "wgpu", not(feature = "vulkan")))]
            Self::Wgpu => Precision { dtype: asked.unwrap_or(DType::F32), storage: None },
            #[cfg(feature = "ndarray")]
            Self::Ndarray => match asked.unwrap_or(DType::F32) {
                DType::BF16 => Precision { dtype: DType::F32, storage: Some(Packing::Bf16) },
                DType::F16 => Precision { dtype: DType::F32, storage: Some(Packing::F16) },
                dtype => Precision { dtype, storage: None },
            },
        }
    }
}

impl Precision {
    /// What is packed: as `asked`, else what stores 16-bit floats.
    pub fn quantization(self, asked: Option<Quantization>) -> Option<Quantization> {
        asked.or(self.storage.map(Quantization::uniform))
    }
}

#[cfg(all(test, feature = "ndarray"))]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_are_storage_on_the_cpu() {
        let precision = BackendKind::Ndarray.precision(Some(DType::BF16));
        assert_eq!(precision, Precision { dtype: DType::F32, storage: Some(Packing::Bf16) });
        assert_eq!(precision.quantization(None), Some(Quantization::uniform(Packing::Bf16)));
        assert_eq!(precision.quantization(Some(Quantization::q4())), Some(Quantization::q4()));
        let usual = BackendKind::Ndarray.precision(None);
        assert_eq!((usual.dtype, usual.quantization(None)), (DType::F32, None));
    }
}
