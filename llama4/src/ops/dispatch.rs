//! Which implementation an operation runs: the only file that looks at which backend it is on.
//!
//! A tensor's primitive is compared with those of the backends that have kernels here. Under `Autodiff<B>` the primitive is autodiff's own, so
//! the comparison fails and the plain definition runs, as it must: that is what gets differentiated.

#[cfg(not(feature = "ndarray"))]
use std::ops::Range;

use burn::tensor::backend::Backend;
#[cfg(not(feature = "ndarray"))]
use burn::tensor::{Int, Tensor};

#[cfg(not(feature = "ndarray"))]
use crate::quant::PackedTensor;

/// What runs an operation on some backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveKernels {
    /// Name of the operation.
    pub operation: &'static str,
    /// `plain`, or the name of the kernel and the instructions it uses.
    pub implementation: &'static str,
}

/// Which implementation of each operation runs on `B`.
pub fn active_kernels<B: Backend>() -> Vec<ActiveKernels> {
    let (rows, packed) = (row_kernel::<B>(), packed_kernel::<B>());
    [("linear, up to 8 rows", rows), ("grouped linear, up to 8 rows a group", rows), ("packed linear", packed)]
        .into_iter()
        .chain([("linear, more rows", "plain"), ("attention", "plain")])
        .map(|(operation, implementation)| ActiveKernels { operation, implementation })
        .collect()
}

#[cfg(not(feature = "ndarray"))]
fn row_kernel<B: Backend>() -> &'static str {
    "plain"
}

#[cfg(not(feature = "ndarray"))]
fn packed_kernel<B: Backend>() -> &'static str {
    "plain"
}

#[cfg(not(feature = "ndarray"))]
pub(super) fn linear<B: Backend>(_x: &Tensor<B, 2>, _weight: &Tensor<B, 2>) -> Option<Tensor<B, 2>> {
    None
}

#[cfg(not(feature = "ndarray"))]
pub(super) fn grouped_linear<B: Backend>(
    _x: &Tensor<B, 2>,
    _weights: &Tensor<B, 3>,
    _counts: &[usize],
) -> Option<Tensor<B, 2>> {
    None
}

#[cfg(not(feature = "ndarray"))]
pub(super) fn packed_grouped_linear<B: Backend>(
    _x: &Tensor<B, 2>,
    _weights: &PackedTensor<B>,
    _counts: &[usize],
) -> Option<Tensor<B, 2>> {
    None
}

#[cfg(not(feature = "ndarray"))]
pub(super) fn packed_select<B: Backend>(_weight: &PackedTensor<B>, _ids: &Tensor<B, 1, Int>) -> Option<Tensor<B, 2>> {
    None
}

#[cfg(not(feature = "ndarray"))]
pub(super) fn unpack_rows<B: Backend>(_weight: &PackedTensor<B>, _rows: Range<usize>) -> Option<Tensor<B, 2>> {
    None
}

#[cfg(not(feature = "ndarray"))]
pub(crate) fn shared<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Tensor<B, D> {
    tensor
}

#[cfg(feature = "ndarray")]
pub(crate) use on_ndarray::shared;

#[cfg(feature = "ndarray")]
pub(super) use on_ndarray::{grouped_linear, linear, packed_grouped_linear, packed_select, unpack_rows};
#[cfg(feature = "ndarray")]
use on_ndarray::{packed_kernel, row_kernel};

#[cfg(feature = "ndarray")]
mod on_ndarray {
    use std::any::{Any, TypeId};
    use std::ops::Range;

    use burn::tensor::backend::Backend;
    use burn::tensor::{Int, Tensor, TensorPrimitive};
    use burn_ndarray::NdArrayTensor;

    use crate::ops::cpu::{self, PackedRows};
    use crate::quant::PackedTensor;

    pub(super) fn row_kernel<B: Backend>() -> &'static str {
        if runs_on::<B>() { cpu::instructions() } else { "plain" }
    }

    pub(in crate::ops) fn linear<B: Backend>(x: &Tensor<B, 2>, weight: &Tensor<B, 2>) -> Option<Tensor<B, 2>> {
        let count = x.dims()[0];
        let y = cpu::row_product(&primitive(x)?, &primitive(weight)?, &[count])?;
        wrap(y)
    }

    pub(in crate::ops) fn grouped_linear<B: Backend>(
        x: &Tensor<B, 2>,
        weights: &Tensor<B, 3>,
        counts: &[usize],
    ) -> Option<Tensor<B, 2>> {
        wrap(cpu::row_product(&primitive(x)?, &primitive(weights)?, counts)?)
    }

    pub(super) fn packed_kernel<B: Backend>() -> &'static str {
        if runs_on::<B>() { "unpacked row by row" } else { "plain" }
    }

    pub(in crate::ops) fn packed_grouped_linear<B: Backend>(
        x: &Tensor<B, 2>,
        weights: &PackedTensor<B>,
        counts: &[usize],
    ) -> Option<Tensor<B, 2>> {
        wrap(cpu::packed_row_product(&primitive(x)?, &packed(weights)?, counts)?)
    }

    pub(in crate::ops) fn packed_select<B: Backend>(
        weight: &PackedTensor<B>,
        ids: &Tensor<B, 1, Int>,
    ) -> Option<Tensor<B, 2>> {
        let weight = packed(weight)?;
        let ids: Vec<usize> = ids.to_data().iter::<i64>().map(usize::try_from).collect::<Result<_, _>>().ok()?;
        wrap(cpu::unpack_rows(&weight, ids)?)
    }

    pub(in crate::ops) fn unpack_rows<B: Backend>(
        weight: &PackedTensor<B>,
        rows: Range<usize>,
    ) -> Option<Tensor<B, 2>> {
        wrap(cpu::unpack_rows(&packed(weight)?, rows.collect())?)
    }

    /// The tensor in memory that its clones share.
    ///
    /// burn-ndarray takes tensors from outside as they come, without a copy, and then copies them whole with every clone; so a
    /// weight that was loaded would be copied each time it is used.
    pub(crate) fn shared<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Tensor<B, D> {
        let shared = primitive(&tensor).and_then(|primitive| match primitive {
            NdArrayTensor::F32(storage) if storage.is_borrowed() => wrap(storage.into_owned().into()),
            NdArrayTensor::F64(storage) if storage.is_borrowed() => wrap(storage.into_owned().into()),
            _ => None,
        });
        shared.unwrap_or(tensor)
    }

    fn runs_on<B: Backend>() -> bool {
        TypeId::of::<B::FloatTensorPrimitive>() == TypeId::of::<NdArrayTensor>()
    }

    /// The tensor as burn-ndarray's, if that is what it is. Shares the storage.
    fn primitive<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> Option<NdArrayTensor> {
        if !runs_on::<B>() {
            return None;
        }
        match tensor.clone().into_primitive() {
            TensorPrimitive::Float(primitive) => {
                (Box::new(primitive) as Box<dyn Any>).downcast().ok().map(|primitive| *primitive)
            }
            TensorPrimitive::QFloat(_) => None,
        }
    }

    /// A packed weight's words, where they are burn-ndarray's.
    fn packed<B: Backend>(weight: &PackedTensor<B>) -> Option<PackedRows> {
        if TypeId::of::<B::IntTensorPrimitive>() != TypeId::of::<NdArrayTensor>() || !runs_on::<B>() {
            return None;
        }
        let words = |tensor: Tensor<B, 2, Int>| -> Option<NdArrayTensor> {
            (Box::new(tensor.into_primitive()) as Box<dyn Any>).downcast().ok().map(|primitive| *primitive)
        };
        let scales = match weight.scales() {
            Some(scales) => Some(words(scales)?),
            None => None,
        };
        Some(PackedRows { packing: weight.packing(), columns: weight.columns(), words: words(weight.words())?, scales })
    }

    /// Back to the caller's backend.
    fn wrap<B: Backend, const D: usize>(tensor: NdArrayTensor) -> Option<Tensor<B, D>> {
        let primitive = (Box::new(tensor) as Box<dyn Any>).downcast().ok()?;
        Some(Tensor::from_primitive(TensorPrimitive::Float(*primitive)))
    }
}

#[cfg(all(test, feature = "ndarray"))]
mod tests {
    use burn::tensor::{Tensor, TensorPrimitive};
    use burn_ndarray::{NdArray, NdArrayTensor};

    /// Where the values are.
    fn place(tensor: Tensor<NdArray, 1>) -> *const f32 {
        match tensor.into_primitive() {
            TensorPrimitive::Float(NdArrayTensor::F32(storage)) => storage.view().as_ptr(),
            other => panic!("a tensor of f32, not {other:?}"),
        }
    }

    #[test]
    fn a_clone_of_a_loaded_weight_does_not_copy_it() {
        let weight = super::shared(Tensor::<NdArray, 1>::from_floats([1.0, 2.0, 3.0], &Default::default()));
        assert_eq!(place(weight.clone()), place(weight.clone()));
        assert_eq!(weight.into_data().to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0]);
    }
}
