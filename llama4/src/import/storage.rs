use std::collections::BTreeMap;

use burn::tensor::DType;

use super::plan::{Plan, PlannedTensor};
use super::stored::StoredDtype;
use crate::config::QuantConfig;
use crate::quant::{Packing, Quantization, WeightKind};

/// How a model's parameters are to be held: the type of its floats, and what is packed.
#[derive(Debug, Clone)]
pub(super) struct Storage {
    /// Type of the activations, and of all weights that are not packed.
    pub(super) dtype: DType,
    /// What was asked for; `None` leaves each parameter as it is stored.
    pub(super) quantization: Option<Quantization>,
    /// What a checkpoint in our own layout says of its head and embedding.
    pub(super) own: Option<QuantConfig>,
}

impl Storage {
    /// How a parameter is packed; `None` is floats.
    pub(super) fn packing(&self, tensor: &PlannedTensor) -> Option<Packing> {
        let wanted = self.wanted(tensor)?;
        // Where the model computes in it, 16-bit storage needs no packing.
        let needed = wanted.float() != Some(self.dtype);
        (needed && wanted.fits(tensor.expected.matrices()[2])).then_some(wanted)
    }

    fn wanted(&self, tensor: &PlannedTensor) -> Option<Packing> {
        let kind = tensor.expected.kind;
        match &self.quantization {
            Some(quantization) => quantization.packing(kind),
            None if kind == WeightKind::Float => None,
            None => tensor.dtype.nearest_packing().or_else(|| {
                // An ordinary 16-bit tensor in the file, which is to stay 16 bits wide in memory.
                let own = self.own.as_ref()?;
                let packing = match kind {
                    WeightKind::Embedding => own.embedding,
                    WeightKind::Head => own.head,
                    _ => None,
                };
                packing.filter(|packing| packing.float().is_some())
            }),
        }
    }

    /// Bytes that the parameters take in memory.
    pub(super) fn bytes(&self, plan: &Plan) -> u64 {
        let bytes = plan.tensors.iter().map(|tensor| {
            let [count, output, input] = tensor.expected.matrices();
            let width = match self.packing(tensor) {
                Some(packing) => packing.row_bytes(input),
                None => input * self.dtype.size(),
            };
            (count * output) as u64 * width as u64
        });
        bytes.sum()
    }

    /// Parameters whose quantised values change: they are packed in another way than they are stored.
    pub(super) fn requantised(&self, plan: &Plan) -> BTreeMap<StoredDtype, usize> {
        let mut counts = BTreeMap::new();
        for tensor in &plan.tensors {
            let packing = self.packing(tensor);
            let lossless = tensor.matrices.iter().all(|matrix| matrix.native_packing() == packing);
            if packing.is_some_and(Packing::has_scales) && tensor.dtype.is_quantised() && !lossless {
                *counts.entry(tensor.dtype.clone()).or_insert(0) += 1;
            }
        }
        counts
    }

    /// Parameters that should be packed and stay floats, because their rows are not whole blocks.
    pub(super) fn kept_float(&self, plan: &Plan) -> Vec<String> {
        let kept = |tensor: &&PlannedTensor| {
            self.wanted(tensor).is_some_and(|wanted| !wanted.fits(tensor.expected.matrices()[2]))
        };
        plan.tensors.iter().filter(kept).map(|tensor| tensor.expected.name.clone()).collect()
    }
}
