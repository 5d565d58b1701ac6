//! Tensors of burn-ndarray.

use std::any::{Any, TypeId};
use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType, Int, Tensor, TensorPrimitive};
use burn_ndarray::NdArrayTensor;

use crate::cache::{LayerCache, Piece};
use crate::ops::cpu::{self, PackedRows};
use crate::ops::{HeadSteps, InputNorm, OneExpert};
use crate::quant::PackedTensor;

pub(super) fn row_kernel<B: Backend>() -> Option<&'static str> {
    runs_on::<B>().then(cpu::Level::name)
}

/// This backend calculates in `f32` alone, so that sums have the type of `x`, here and in what follows.
pub(super) fn linear<B: Backend>(x: &Tensor<B, 2>, weight: &Tensor<B, 2>, _sums: DType) -> Option<Tensor<B, 2>> {
    let count = x.dims()[0];
    wrap(cpu::product(&primitive(x)?, &primitive(weight)?, &[count])?)
}

pub(super) fn grouped_linear<B: Backend>(
    x: &Tensor<B, 2>,
    weights: &Tensor<B, 3>,
    counts: &[usize],
    _sums: DType,
) -> Option<Tensor<B, 2>> {
    wrap(cpu::product(&primitive(x)?, &primitive(weights)?, counts)?)
}

pub(super) fn packed_kernel<B: Backend>() -> Option<&'static str> {
    row_kernel::<B>()
}

pub(super) fn many_rows_kernel<B: Backend>() -> Option<&'static str> {
    row_kernel::<B>()
}

pub(super) fn many_queries_kernel<B: Backend>() -> Option<&'static str> {
    row_kernel::<B>()
}

pub(super) fn unpack_kernel<B: Backend>() -> Option<&'static str> {
    runs_on::<B>().then_some("unpacked row by row")
}

pub(super) fn packed_grouped_linear<B: Backend>(
    x: &Tensor<B, 2>,
    weights: &PackedTensor<B>,
    counts: &[usize],
    _sums: DType,
) -> Option<Tensor<B, 2>> {
    wrap(cpu::packed_product(&primitive(x)?, &packed(weights)?, counts)?)
}

pub(super) fn packed_select<B: Backend>(weight: &PackedTensor<B>, ids: &Tensor<B, 1, Int>) -> Option<Tensor<B, 2>> {
    let weight = packed(weight)?;
    let ids: Vec<usize> = ids.to_data().iter::<i64>().map(usize::try_from).collect::<Result<_, _>>().ok()?;
    wrap(cpu::unpack_rows(&weight, ids)?)
}

pub(super) fn unpack_rows<B: Backend>(
    weight: &PackedTensor<B>,
    rows: Range<usize>,
    dtype: FloatDType,
) -> Option<Tensor<B, 2>> {
    let rows: Tensor<B, 2> = wrap(cpu::unpack_rows(&packed(weight)?, rows.collect())?)?;
    Some(rows.cast(dtype))
}

pub(super) fn rms_norm<B: Backend>(x: &Tensor<B, 2>, weight: &Tensor<B, 1>, epsilon: f64) -> Option<Tensor<B, 2>> {
    wrap(cpu::rms_norm(&primitive(x)?, &primitive(weight)?, epsilon)?)
}

pub(super) fn position_heads<B: Backend>(x: &Tensor<B, 3>, steps: &HeadSteps<B>) -> Option<Tensor<B, 3>> {
    let rotation = match &steps.rotation {
        Some((cos, sin)) => Some((primitive(cos)?, primitive(sin)?)),
        None => None,
    };
    let temperature = match &steps.temperature {
        Some(temperature) => Some(primitive(temperature)?),
        None => None,
    };
    let rotation = rotation.as_ref().map(|(cos, sin)| (cos, sin));
    wrap(cpu::position_heads(&primitive(x)?, x.dims(), rotation, steps.norm, temperature.as_ref())?)
}

pub(super) fn swiglu<B: Backend>(gate: &Tensor<B, 2>, up: &Tensor<B, 2>) -> Option<Tensor<B, 2>> {
    wrap(cpu::swiglu(&primitive(gate)?, &primitive(up)?, gate.dims()[1])?)
}

pub(super) fn swiglu_halves<B: Backend>(gate_up: &Tensor<B, 2>) -> Option<Tensor<B, 2>> {
    wrap(cpu::swiglu_halves(&primitive(gate_up)?, gate_up.dims()[1] / 2)?)
}

pub(super) fn select_rows<B: Backend, const D: usize>(
    x: &Tensor<B, D>,
    ids: &Tensor<B, 1, Int>,
) -> Option<Tensor<B, D>> {
    let x_rows = primitive(x)?;
    let ids: Vec<usize> = ids.to_data().iter::<i64>().map(usize::try_from).collect::<Result<_, _>>().ok()?;
    wrap(cpu::select_rows(&x_rows, &x.dims(), &ids)?)
}

pub(super) fn cached_attention<B: Backend>(
    queries: &Tensor<B, 3>,
    cache: &LayerCache<B>,
    pieces: &[Piece],
    scale: f64,
) -> Option<Tensor<B, 3>> {
    let (keys, values) = (primitive(cache.keys())?, primitive(cache.values())?);
    let queries = (&primitive(queries)?, queries.dims());
    wrap(cpu::cached_attention(queries, &keys, &values, cache.keys().dims(), pieces, scale)?)
}

pub(super) fn fresh_attention<B: Backend>(
    queries: &Tensor<B, 3>,
    keys: &Tensor<B, 3>,
    values: &Tensor<B, 3>,
    pieces: &[Piece],
    scale: f64,
) -> Option<Tensor<B, 3>> {
    let dims = keys.dims();
    let (keys, values) = (primitive(keys)?, primitive(values)?);
    wrap(cpu::fresh_attention((&primitive(queries)?, queries.dims()), &keys, &values, dims, pieces, scale)?)
}

pub(super) fn token_kernel<B: Backend>() -> Option<&'static str> {
    row_kernel::<B>()
}

/// Whatever the packing is, its rows have a kernel.
pub(super) fn fuses_tokens<B: Backend>(_weight: &PackedTensor<B>, dtype: DType) -> Option<()> {
    (runs_on::<B>() && dtype == DType::F32).then_some(())
}

pub(super) fn normed_linears<B: Backend>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    weights: &[&PackedTensor<B>],
) -> Option<Vec<Tensor<B, 2>>> {
    let weights: Vec<PackedRows> = weights.iter().map(|weight| packed(weight)).collect::<Option<_>>()?;
    let ys = cpu::normed_linears(&primitive(x)?, (&primitive(&norm.weight)?, norm.epsilon), &weights)?;
    ys.into_iter().map(wrap).collect()
}

pub(super) fn normed_swiglu<B: Backend>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    [gate, up]: [&PackedTensor<B>; 2],
    chosen: Option<&OneExpert<'_, B>>,
) -> Option<Tensor<B, 2>> {
    let norm = (&primitive(&norm.weight)?, norm.epsilon);
    let experts = match chosen {
        Some(chosen) => Some(experts(chosen)?),
        None => None,
    };
    wrap(cpu::normed_swiglu(&primitive(x)?, norm, &packed(gate)?, &packed(up)?, experts.as_ref())?)
}

pub(super) fn add_linear<B: Backend>(
    residual: &Tensor<B, 2>,
    x: &Tensor<B, 2>,
    weight: &PackedTensor<B>,
    chosen: Option<&OneExpert<'_, B>>,
) -> Option<Tensor<B, 2>> {
    let experts = match chosen {
        Some(chosen) => Some(experts(chosen)?),
        None => None,
    };
    wrap(cpu::add_linear(&primitive(residual)?, &primitive(x)?, &packed(weight)?, experts.as_ref())?)
}

fn experts<B: Backend>(chosen: &OneExpert<'_, B>) -> Option<cpu::Experts> {
    Some(cpu::Experts { rows: packed(chosen.experts)?, logits: primitive(chosen.logits)? })
}

/// The tensor in memory that its clones share.
///
/// burn-ndarray takes tensors from outside as they come, without a copy, and then copies them whole with every clone; so a
/// weight that was loaded would be copied each time it is used.
pub(super) fn shared<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Tensor<B, D> {
    let shared = primitive(&tensor).and_then(|primitive| match primitive {
        NdArrayTensor::F32(storage) if storage.is_borrowed() => {
            let storage = storage.into_owned();
            storage.as_slice().into_iter().for_each(cpu::enlarge);
            wrap(storage.into())
        }
        NdArrayTensor::F64(storage) if storage.is_borrowed() => wrap(storage.into_owned().into()),
        _ => None,
    });
    shared.unwrap_or(tensor)
}

/// Hold words of a weight in large pages.
pub(super) fn enlarge<B: Backend>(words: &Tensor<B, 2, Int>) {
    if TypeId::of::<B::IntTensorPrimitive>() != TypeId::of::<NdArrayTensor>() {
        return;
    }
    let words: Box<dyn Any> = Box::new(words.clone().into_primitive());
    if let Ok(NdArrayTensor::I32(storage)) = words.downcast().map(|words| *words) {
        storage.view().as_slice().into_iter().for_each(cpu::enlarge);
    }
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

#[cfg(test)]
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
