use burn::tensor::DType;

use super::plan::{Plan, PlannedTensor};
use crate::quant::{Packing, Quantization, WeightKind};

/// How a model's parameters are to be held: the type of its floats, and what is packed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage {
    /// Type of the activations, and of all weights that are not packed.
    pub(super) dtype: DType,
    /// What was asked for; `None` leaves each parameter as it is stored.
    pub(super) quantization: Option<Quantization>,
}

impl Storage {
    /// How a parameter is packed; `None` is floats.
    pub(super) fn packing(&self, tensor: &PlannedTensor) -> Option<Packing> {
        let wanted = self.wanted(tensor)?;
        // Where the model computes in it, 16-bit storage needs no packing.
        let needed = !(wanted == Packing::Bf16 && self.dtype == DType::BF16);
        (needed && wanted.fits(tensor.expected.matrices()[2])).then_some(wanted)
    }

    fn wanted(&self, tensor: &PlannedTensor) -> Option<Packing> {
        let kind = tensor.expected.kind;
        match &self.quantization {
            Some(quantization) => quantization.packing(kind),
            None if kind == WeightKind::Float => None,
            None => tensor.dtype.nearest_packing(),
        }
    }

    /// Parameters that should be packed and stay floats, because their rows are not whole blocks.
    pub(super) fn kept_float(&self, plan: &Plan) -> Vec<String> {
        let kept = |tensor: &&PlannedTensor| {
            self.wanted(tensor).is_some_and(|wanted| !wanted.fits(tensor.expected.matrices()[2]))
        };
        plan.tensors.iter().filter(kept).map(|tensor| tensor.expected.name.clone()).collect()
    }
}
