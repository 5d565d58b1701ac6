//! The forward pass under autodiff: the same values, and gradients that are slopes.

use burn::tensor::Tensor;
use burn_autodiff::Autodiff;
use burn_ndarray::NdArray;

type Inner = NdArray<f32>;

llama4_tests::suite!(Autodiff<Inner>, goldens: prompt_logits_and_hidden_states, greedy_continuations);
