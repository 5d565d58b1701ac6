use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

/// Scale all gradients of a model, in whatever sets they are, together so that their common norm is at most `limit`.
///
/// Unlike the clipping of burn's optimisers, which looks at one parameter at a time and so changes the direction of the step. The norm stays on
/// the device.
pub(super) fn clip_by_norm<B: AutodiffBackend, M: Module<B>>(
    model: &M,
    gradients: &mut [&mut GradientsParams],
    limit: f32,
) {
    let mut squares = Squares::<B::InnerBackend> { gradients, sum: None };
    model.visit(&mut squares);
    let Some(sum) = squares.sum else { return };
    // Never more than one: small gradients stay as they are.
    let scale = (sum.sqrt() + 1e-6).recip().mul_scalar(limit).clamp_max(1.0);
    model.visit(&mut Scale::<B::InnerBackend> { gradients, scale });
}

struct Squares<'a, 'g, B: Backend> {
    gradients: &'a [&'g mut GradientsParams],
    sum: Option<Tensor<B, 1>>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Squares<'_, '_, B::InnerBackend> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let mut sets = self.gradients.iter();
        let Some(gradient) = sets.find_map(|set| set.get::<B::InnerBackend, D>(param.id)) else { return };
        let square = sum_of_squares(gradient);
        self.sum = Some(match self.sum.take() {
            None => square,
            Some(sum) => sum + square,
        });
    }
}

/// In two steps of about the same length: a sum over everything at once is a single chain of additions on some devices.
fn sum_of_squares<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Tensor<B, 1> {
    let count = tensor.shape().num_elements();
    let wanted = (count as f64).sqrt() as usize;
    let width = (1..=wanted).rev().find(|width| count.is_multiple_of(*width)).unwrap_or(1);
    tensor.square().reshape([width, count / width]).sum_dim(0).reshape([count / width]).sum_dim(0)
}

struct Scale<'a, 'g, B: Backend> {
    gradients: &'a mut [&'g mut GradientsParams],
    scale: Tensor<B, 1>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Scale<'_, '_, B::InnerBackend> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        for set in self.gradients.iter_mut() {
            if let Some(gradient) = set.remove::<B::InnerBackend, D>(param.id) {
                let scaled = gradient * self.scale.clone().unsqueeze();
                set.register::<B::InnerBackend, D>(param.id, scaled);
            }
        }
    }
}

#[cfg(all(test, feature = "ndarray"))]
mod tests {
    use burn_autodiff::Autodiff;
    use burn_ndarray::NdArray;
    use llama4::nn::ProjectionConfig;

    use super::*;

    type B = Autodiff<NdArray<f32>>;

    /// Norm of all gradients after clipping those of `sum(factor * (x Wᵀ + b))` to `limit`.
    fn norm_after(factor: f32, limit: f32) -> f32 {
        let device = Default::default();
        let model = ProjectionConfig::new(6, 4).with_bias(true).init::<B>(&device);
        let x = Tensor::<B, 2>::from_floats([[1.0, -2.0, 0.5, 0.0, 3.0, 1.0]], &device);
        let loss = model.forward(x).mul_scalar(factor).sum();
        let mut gradients = GradientsParams::from_grads(loss.backward(), &model);
        clip_by_norm::<B, _>(&model, &mut [&mut gradients], limit);
        let mut squares = Squares::<NdArray<f32>> { gradients: &[&mut gradients], sum: None };
        Module::<B>::visit(&model, &mut squares);
        squares.sum.expect("gradients").into_scalar().sqrt()
    }

    #[test]
    fn large_gradients_are_scaled_together_and_small_ones_stay() {
        // Weight: four rows of x, whose square is 15.25; bias: four ones.
        let norm = (4.0_f32 * 15.25 + 4.0).sqrt();
        assert!((norm_after(1.0, 100.0) - norm).abs() < 1e-4);
        assert!((norm_after(0.1, 100.0) - 0.1 * norm).abs() < 1e-5);
        assert!((norm_after(1.0, 2.0) - 2.0).abs() < 1e-4);
    }
}
