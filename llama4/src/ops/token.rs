//! What a decoded token goes through in a layer, with its neighbours in one operation each: there, a launch costs as much as the work.

use burn::tensor::activation::sigmoid;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, FloatDType, Tensor};

use super::{dispatch, linear, linear_f32, packed_linear, rms_norm, swiglu, swiglu_halves, unpack_rows};
use crate::quant::PackedTensor;

/// RMS norm of what goes into a product.
#[derive(Debug, Clone)]
pub struct InputNorm<B: Backend> {
    /// `[in]`, of the type of the activations.
    pub weight: Tensor<B, 1>,
    /// Added to the mean square.
    pub epsilon: f64,
}

/// The experts of a layer, of which a token goes to one.
#[derive(Debug, Clone, Copy)]
pub struct OneExpert<'a, B: Backend> {
    /// Their rows, one expert's after the other's.
    pub experts: &'a PackedTensor<B>,
    /// The router's logits, `f32`, `[1, experts]`. The highest chooses, of equal ones the first; its sigmoid scales the expert's input.
    pub logits: &'a Tensor<B, 2>,
}

/// Whether the operations of this module have kernels for weights like this one and activations of type `dtype`.
pub fn fuses_tokens<B: Backend>(weight: &PackedTensor<B>, dtype: DType) -> bool {
    dispatch::fuses_tokens(weight, dtype)
}

/// Products of the norm of `x` with up to three weights.
///
/// # Shapes
/// - x: `[1, in]`, of the type of the residual stream
/// - weights: `[out, in]` each
/// - output: `[1, out]` each, of the type of the norm's weight
pub fn normed_linears<B: Backend>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    weights: &[&PackedTensor<B>],
) -> Vec<Tensor<B, 2>> {
    match dispatch::normed_linears(x, norm, weights) {
        Some(y) => y,
        None => normed_linears_plain(x, norm, weights),
    }
}

/// [`normed_linears`] one after the other.
pub fn normed_linears_plain<B: Backend>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    weights: &[&PackedTensor<B>],
) -> Vec<Tensor<B, 2>> {
    let x = norm.apply(x);
    weights.iter().map(|weight| packed_linear(x.clone(), weight)).collect()
}

/// Logits of the experts of a layer, of the norm of `x`, in `f32`.
///
/// # Shapes
/// - x: `[tokens, in]`, of the type of the residual stream
/// - weight: `[experts, in]`
/// - output: `[tokens, experts]`
pub fn router_logits<B: Backend>(x: &Tensor<B, 2>, norm: &InputNorm<B>, weight: &Tensor<B, 2>) -> Tensor<B, 2> {
    match dispatch::router_logits(x, norm, weight) {
        Some(logits) => logits,
        None => router_logits_plain(x, norm, weight),
    }
}

/// [`router_logits`] by way of a norm and a product.
pub fn router_logits_plain<B: Backend>(x: &Tensor<B, 2>, norm: &InputNorm<B>, weight: &Tensor<B, 2>) -> Tensor<B, 2> {
    linear_f32(norm.apply(x), weight.clone())
}

/// `silu(gate) · up` of the norm of `x`: of an MLP, and behind it of the expert that the router chose.
///
/// # Shapes
/// - x: `[1, in]`, of the type of the residual stream
/// - gate, up: `[width, in]`
/// - experts: `[experts * 2 * intermediate, in]`, gate's rows of each first, then up's
/// - output: `[1, width + intermediate]`, of the type of the norm's weight
pub fn normed_swiglu<B: Backend>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    [gate, up]: [&PackedTensor<B>; 2],
    chosen: Option<&OneExpert<'_, B>>,
) -> Tensor<B, 2> {
    match dispatch::normed_swiglu(x, norm, [gate, up], chosen) {
        Some(y) => y,
        None => normed_swiglu_plain(x, norm, [gate, up], chosen),
    }
}

/// [`normed_swiglu`] one after the other; reads the logits.
pub fn normed_swiglu_plain<B: Backend>(
    x: &Tensor<B, 2>,
    norm: &InputNorm<B>,
    [gate, up]: [&PackedTensor<B>; 2],
    chosen: Option<&OneExpert<'_, B>>,
) -> Tensor<B, 2> {
    let x = norm.apply(x);
    let shared = swiglu(packed_linear(x.clone(), gate), packed_linear(x.clone(), up));
    let Some(chosen) = chosen else { return shared };
    let dtype: FloatDType = x.dtype().into();
    let expert = chosen.index();
    let score = sigmoid(chosen.logits.clone().narrow(1, expert, 1)).cast(dtype);
    Tensor::cat(vec![shared, swiglu_halves(chosen.product(x * score, expert))], 1)
}

/// `residual + x Wᵀ`, where `x` may have the chosen expert's input behind the weight's.
///
/// # Shapes
/// - residual: `[1, out]`
/// - x: `[1, in + intermediate]`, or `[1, in]` without experts
/// - weight: `[out, in]`
/// - experts: `[experts * out, intermediate]`
/// - output: as `residual`
pub fn add_linear<B: Backend>(
    residual: &Tensor<B, 2>,
    x: &Tensor<B, 2>,
    weight: &PackedTensor<B>,
    chosen: Option<&OneExpert<'_, B>>,
) -> Tensor<B, 2> {
    match dispatch::add_linear(residual, x, weight, chosen) {
        Some(y) => y,
        None => add_linear_plain(residual, x, weight, chosen),
    }
}

/// [`add_linear`] one after the other; reads the logits.
pub fn add_linear_plain<B: Backend>(
    residual: &Tensor<B, 2>,
    x: &Tensor<B, 2>,
    weight: &PackedTensor<B>,
    chosen: Option<&OneExpert<'_, B>>,
) -> Tensor<B, 2> {
    let dtype: FloatDType = residual.dtype().into();
    let x = x.clone().cast(dtype);
    let Some(chosen) = chosen else { return residual.clone() + packed_linear(x, weight) };
    let (width, inner) = (weight.columns(), chosen.experts.columns());
    let routed = chosen.product(x.clone().narrow(1, width, inner), chosen.index());
    residual.clone() + (packed_linear(x.narrow(1, 0, width), weight) + routed)
}

impl<B: Backend> InputNorm<B> {
    fn apply(&self, x: &Tensor<B, 2>) -> Tensor<B, 2> {
        rms_norm(x.clone(), self.weight.clone(), self.epsilon)
    }
}

impl<B: Backend> OneExpert<'_, B> {
    /// The expert that is chosen, read from the device.
    fn index(&self) -> usize {
        let logits: Vec<f32> = self.logits.to_data().iter::<f32>().collect();
        (1..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best })
    }

    /// `x` times its rows.
    fn product(&self, x: Tensor<B, 2>, expert: usize) -> Tensor<B, 2> {
        let rows = self.experts.rows() / self.logits.dims()[1];
        let dtype = x.dtype().into();
        linear(x, unpack_rows(self.experts, expert * rows..(expert + 1) * rows, dtype))
    }
}
