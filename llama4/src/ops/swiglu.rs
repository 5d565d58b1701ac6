use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use burn::tensor::backend::Backend;

use super::dispatch;

/// `silu(gate) · up`.
///
/// # Shapes
/// - gate, up, output: `[tokens, width]`
pub fn swiglu<B: Backend>(gate: Tensor<B, 2>, up: Tensor<B, 2>) -> Tensor<B, 2> {
    match dispatch::swiglu(&gate, &up) {
        Some(y) => y,
        None => silu(gate) * up,
    }
}

/// The same where each row holds the gate and then up.
///
/// # Shapes
/// - gate_up: `[tokens, 2 * width]`
/// - output: `[tokens, width]`
pub fn swiglu_halves<B: Backend>(gate_up: Tensor<B, 2>) -> Tensor<B, 2> {
    match dispatch::swiglu_halves(&gate_up) {
        Some(y) => y,
        None => swiglu_halves_plain(gate_up),
    }
}

/// The definition of [`swiglu_halves`] in burn's own operations.
pub fn swiglu_halves_plain<B: Backend>(gate_up: Tensor<B, 2>) -> Tensor<B, 2> {
    let width = gate_up.dims()[1] / 2;
    silu(gate_up.clone().narrow(1, 0, width)) * gate_up.narrow(1, width, width)
}
