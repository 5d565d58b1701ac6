//! The forward pass under autodiff: the same values.

llama4_tests::suite!(
    burn_autodiff::Autodiff<burn_ndarray::NdArray<f32>>,
    goldens: prompt_logits_and_hidden_states, greedy_continuations
);
