use crate::nn::LoraTarget;
use crate::quant::Packing;

/// What can go wrong with the adapters of a model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LoraError {
    /// A rank of zero.
    #[error("the rank of an adapter is 0; it must be at least 1")]
    Rank,
    /// A strength that is no number.
    #[error("the alpha of an adapter is {found}; it must be finite")]
    Alpha {
        /// The strength.
        found: f64,
    },
    /// A share outside of its range.
    #[error("the dropout of an adapter is {found}; it must be at least 0 and less than 1")]
    Dropout {
        /// The share.
        found: f64,
    },
    /// No projection to adapt.
    #[error("an adapter without target; it can have {}", all_targets())]
    NoTargets,
    /// A projection that cannot be adapted.
    #[error("{found} cannot be adapted, only {}", all_targets())]
    Target {
        /// The name given.
        found: String,
    },
    /// A model that has adapters is to get some.
    #[error("the model has adapters; merge them or take them away first")]
    Adapted,
    /// A model without adapters.
    #[error("the model has no adapters")]
    NotAdapted,
    /// A packed weight.
    #[error("{name} is packed as {packing}, which an adapter cannot be merged into; load the model in floats to merge")]
    Packed {
        /// Path of the projection in the model.
        name: String,
        /// How its weight is packed.
        packing: Packing,
    },
}

fn all_targets() -> String {
    LoraTarget::ALL.map(LoraTarget::as_str).join(", ")
}
