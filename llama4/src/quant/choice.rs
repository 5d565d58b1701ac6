use burn::tensor::DType;

use super::Packing;

/// What a parameter of the model is, as far as its storage is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightKind {
    /// Rows that are looked up.
    Embedding,
    /// The head, where it is not the embedding.
    Head,
    /// A projection or the product of an MLP, `[out, in]`.
    Projection,
    /// A layer's stacked experts.
    Experts,
    /// What stays float: norms, routers, biases.
    Float,
}

/// Which weights are packed, and how, when a model is loaded or imported.
///
/// Norms, routers and biases always stay float.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// Projections and experts.
    pub weights: Packing,
    /// The head.
    pub head: Packing,
    /// The embedding; of a model that ties the two, the head as well.
    pub embedding: Packing,
}

impl Quantization {
    /// 8 bits, the embedding in 16.
    pub fn q8() -> Self {
        Self { weights: Packing::Q8, head: Packing::Q8, embedding: Packing::Bf16 }
    }

    /// 4 bits, the head in 8 and the embedding in 16: those two are a small part of the model and what 4 bits hurt most.
    pub fn q4() -> Self {
        Self { weights: Packing::Q4, ..Self::q8() }
    }

    /// Everything alike: 16-bit storage, or what other programs mean by a file of one type.
    pub fn uniform(packing: Packing) -> Self {
        Self { weights: packing, head: packing, embedding: packing }
    }

    /// How a parameter of this kind is packed; `None` is float.
    pub fn packing(&self, kind: WeightKind) -> Option<Packing> {
        match kind {
            WeightKind::Embedding => Some(self.embedding),
            WeightKind::Head => Some(self.head),
            WeightKind::Projection | WeightKind::Experts => Some(self.weights),
            WeightKind::Float => None,
        }
    }

    /// How a parameter of this kind, with rows of `columns` values, is packed where the model computes in `dtype`; `None` is float.
    ///
    /// Rows that are not whole blocks stay floats, and so does what is to be 16 bits wide where the floats are: it needs no packing.
    pub fn storage(&self, kind: WeightKind, columns: usize, dtype: DType) -> Option<Packing> {
        let wanted = self.packing(kind)?;
        (wanted.fits(columns) && wanted.float() != Some(dtype)).then_some(wanted)
    }
}
