use burn::tensor::{DType, FloatDType};

/// Type of the residual stream, and of the sums that are added to it, in a model that computes in `dtype`.
///
/// That type itself, but `F32` for `F16`: the stream of a model that was trained in `bf16` grows beyond 65504, and so do the sums of the
/// down projections.
pub(super) fn residual_dtype(dtype: DType) -> FloatDType {
    match dtype {
        DType::F16 => FloatDType::F32,
        dtype => dtype.into(),
    }
}
