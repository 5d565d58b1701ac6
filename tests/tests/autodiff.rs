//! The forward pass under autodiff: the same values, and gradients that are slopes.

use burn::module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Distribution, Tensor};
use burn_autodiff::Autodiff;
use burn_ndarray::NdArray;
use llama4::Llama4ForCausalLM;
use llama4::nn::{ForwardOptions, TokenBatch};
use llama4_tests::models::{tiny, tiny_config};

type Differentiated = Autodiff<NdArray<f32>>;

llama4_tests::suite!(crate::Differentiated, goldens: prompt_logits_and_hidden_states, greedy_continuations);

/// Adds a multiple of a fixed random direction to every parameter.
struct Step(f64);

/// The direction at a parameter of this shape, always the same.
fn direction<B: Backend, const D: usize>(like: &Tensor<B, D>) -> Tensor<B, D> {
    let device = like.device();
    B::seed(&device, like.shape().num_elements() as u64);
    Tensor::random(like.shape(), Distribution::Normal(0.0, 1.0), &device)
}

impl<B: Backend> ModuleMapper<B> for Step {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        param.map(|tensor| {
            let step = direction(&tensor) * self.0;
            tensor + step
        })
    }
}

/// Sums the products of gradients and direction, and counts the parameters that have a gradient.
struct Slope<'a, B: AutodiffBackend> {
    gradients: &'a B::Gradients,
    slope: f64,
    with_gradient: usize,
    parameters: usize,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Slope<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.parameters += 1;
        if let Some(gradient) = param.val().grad(self.gradients) {
            self.with_gradient += 1;
            let along = gradient.clone() * direction(&gradient);
            self.slope += along.into_data().iter::<f32>().map(f64::from).sum::<f64>();
        }
    }
}

/// A sum of the logits with changing signs, over two chunks of one sequence and one of another.
fn objective<B: Backend>(model: &Llama4ForCausalLM<B>) -> Tensor<B, 1> {
    let batch = TokenBatch::new(&[(0, vec![3, 1, 4, 1, 5, 9, 2, 6]), (1, vec![5, 3])], &model.device());
    let mut cache = model.new_cache(2, 8);
    let output = model.forward(&batch, &mut cache, &ForwardOptions::all_logits()).expect("room");
    let logits = output.logits.expect("all logits");
    let weights = direction(&logits.clone().detach());
    (logits * weights).mean()
}

#[test]
fn gradients_are_slopes_of_every_parameter() {
    let model = tiny::<Differentiated>(&tiny_config(), 6);
    let gradients = objective(&model).backward();
    let mut slope = Slope::<Differentiated> { gradients: &gradients, slope: 0.0, with_gradient: 0, parameters: 0 };
    model.visit(&mut slope);
    assert_eq!(slope.with_gradient, slope.parameters, "parameters without a gradient");

    let plain = model.valid();
    let value = |step: f64| -> f64 {
        let moved = Module::<NdArray<f32>>::map(plain.clone(), &mut Step(step));
        f64::from(objective(&moved).into_scalar())
    };
    let step = 2e-4;
    let expected = (value(step) - value(-step)) / (2.0 * step);
    let off = (slope.slope - expected).abs() / expected.abs();
    assert!(off < 0.02, "the gradient says {}, the slope is {expected}", slope.slope);
}
