use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::{dispatch, rms_normalize};

/// What becomes of queries or keys before they meet, in this order.
#[derive(Debug, Clone, Default)]
pub struct HeadSteps<B: Backend> {
    /// Cosine and sine by which pairs are turned, `f32`, `[tokens, 1, head_dim / 2]` each.
    pub rotation: Option<(Tensor<B, 3>, Tensor<B, 3>)>,
    /// Epsilon of a norm of each head, without weight.
    pub norm: Option<f64>,
    /// A factor for each token, `f32`, `[tokens, 1, 1]`.
    pub temperature: Option<Tensor<B, 3>>,
}

/// Rotate, normalise and scale heads, each where it is asked for.
///
/// # Shapes
/// - x: `[tokens, heads, head_dim]`
/// - output: same as `x`
pub fn position_heads<B: Backend>(x: Tensor<B, 3>, steps: &HeadSteps<B>) -> Tensor<B, 3> {
    if steps.rotation.is_none() && steps.norm.is_none() && steps.temperature.is_none() {
        return x;
    }
    match dispatch::position_heads(&x, steps) {
        Some(y) => y,
        None => position_heads_plain(x, steps),
    }
}

/// The definition of [`position_heads`] in burn's own operations.
pub fn position_heads_plain<B: Backend>(mut x: Tensor<B, 3>, steps: &HeadSteps<B>) -> Tensor<B, 3> {
    if let Some((cos, sin)) = &steps.rotation {
        x = rotate(x, cos.clone(), sin.clone());
    }
    if let Some(epsilon) = steps.norm {
        x = rms_normalize(x, epsilon);
    }
    if let Some(temperature) = &steps.temperature {
        let dtype: FloatDType = x.dtype().into();
        x = (x.cast(FloatDType::F32) * temperature.clone()).cast(dtype);
    }
    x
}

/// Turn each pair `(x[2j], x[2j+1])` of a head by its angle: a complex product. In `f32`, cast back.
///
/// # Shapes
/// - x: `[tokens, heads, head_dim]`
/// - cos, sin: `f32`, `[tokens, 1, head_dim / 2]`
/// - output: same as `x`
pub fn rotate<B: Backend>(x: Tensor<B, 3>, cos: Tensor<B, 3>, sin: Tensor<B, 3>) -> Tensor<B, 3> {
    let dtype: FloatDType = x.dtype().into();
    let [tokens, heads, head_dim] = x.dims();
    let pairs = x.cast(FloatDType::F32).reshape([tokens, heads, head_dim / 2, 2]);
    let part =
        |index: usize| -> Tensor<B, 3> { pairs.clone().narrow(3, index, 1).reshape([tokens, heads, head_dim / 2]) };
    let (a, b) = (part(0), part(1));
    let real = a.clone() * cos.clone() - b.clone() * sin.clone();
    let imaginary = a * sin + b * cos;
    Tensor::stack::<4>(vec![real, imaginary], 3).reshape([tokens, heads, head_dim]).cast(dtype)
}
