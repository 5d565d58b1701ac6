use burn::config::Config;
use burn::module::Module;
use burn::nn::Initializer;
use burn::tensor::activation::{sigmoid, silu};
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Int, Tensor, TensorData};

use super::Routing;
use crate::nn::residual::residual_dtype;
use crate::ops::{self, RoutedExperts};
use crate::quant::Weight;

/// Elements that one tensor of experts may hold: 2³¹, since kernels index with 32 bits. Where a device binds less at once, groups are smaller.
pub(crate) const ELEMENTS_PER_TENSOR: usize = 1 << 31;

/// Configuration of [`Experts`].
#[derive(Config, Debug)]
pub struct ExpertsConfig {
    /// Width of input and output.
    pub hidden: usize,
    /// Width in between.
    pub intermediate: usize,
    /// Number of experts.
    pub experts: usize,
    /// Elements that one tensor may hold; experts are split into groups that stay below it (an expert itself is never split).
    #[config(default = "ELEMENTS_PER_TENSOR")]
    pub elements_per_tensor: usize,
}

impl ExpertsConfig {
    /// Number of experts in each group: as many as fit a tensor.
    pub fn group_sizes(&self) -> Vec<usize> {
        let fit = (self.elements_per_tensor / (2 * self.intermediate * self.hidden)).clamp(1, self.experts.max(1));
        (0..self.experts).step_by(fit).map(|first| fit.min(self.experts - first)).collect()
    }

    /// Experts with random weights.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Experts<B> {
        let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
        let groups = self
            .group_sizes()
            .into_iter()
            .map(|size| ExpertGroup {
                gate_up_proj: Weight::Float(normal.init([size, 2 * self.intermediate, self.hidden], device)),
                down_proj: Weight::Float(normal.init([size, self.hidden, self.intermediate], device)),
                experts: size,
            })
            .collect();
        Experts { groups }
    }
}

/// Consecutive experts, one tensor each for the two products.
///
/// Turned against Hugging Face's files, `[experts, in, out]` there: here an output is a contiguous row, as in every projection.
#[derive(Module, Debug)]
pub struct ExpertGroup<B: Backend> {
    /// `[experts, 2 * intermediate, hidden]`, the gate's rows first, then up's.
    pub(in crate::nn) gate_up_proj: Weight<B, 3>,
    /// `[experts, hidden, intermediate]`.
    pub(in crate::nn) down_proj: Weight<B, 3>,
    experts: usize,
}

/// The routed experts: `Expert_e(z) = D_e (silu(G_e z) · U_e z)`, each run only for the tokens that chose it.
#[derive(Module, Debug)]
pub struct Experts<B: Backend> {
    pub(in crate::nn) groups: Vec<ExpertGroup<B>>,
}

impl<B: Backend> Experts<B> {
    /// Sum over each token's chosen experts of `Expert_e(s_e · x)`.
    ///
    /// # Shapes
    /// - x: `[tokens, hidden]`
    /// - output: `[tokens, hidden]`, of the type of the residual stream
    pub fn forward(&self, x: Tensor<B, 2>, routing: &Routing<B>) -> Tensor<B, 2> {
        let [tokens, hidden] = x.dims();
        let top_k = routing.top_k;
        let device = x.device();
        let sorted = SortedTokens::new(&routing.experts, top_k);
        let index = |values: Vec<i32>| {
            let shape = [values.len()];
            Tensor::<B, 1, Int>::from_data(TensorData::new(values, shape), &device)
        };

        // Choices are numbered token by token: choice c is of token c / top_k.
        let dtype: FloatDType = x.dtype().into();
        let scores = routing.scores.clone().cast(dtype).reshape([tokens * top_k, 1]);
        let (x, scores) = if sorted.in_order {
            (x, scores)
        } else {
            (ops::select_rows(x, index(sorted.tokens)), ops::select_rows(scores, index(sorted.choices)))
        };
        let y = self.forward_sorted(x * scores, &sorted.experts);
        let y = if sorted.in_order { y } else { ops::select_rows(y, index(sorted.places)) };
        if top_k == 1 { y } else { y.reshape([tokens, top_k, hidden]).sum_dim(1).reshape([tokens, hidden]) }
    }

    /// The experts as [`ops::routed_experts`] takes them.
    pub(super) fn routed(&self) -> Vec<RoutedExperts<'_, B>> {
        let mut first = 0;
        let groups = self.groups.iter().map(|group| {
            let experts = first..first + group.experts;
            first = experts.end;
            RoutedExperts { experts, gate_up: &group.gate_up_proj, down: &group.down_proj }
        });
        groups.collect()
    }

    /// The same sum with every expert run on all tokens, its input zero where a token did not choose it: zero in, zero out.
    ///
    /// `experts / top_k` times the arithmetic, but no sorting, and no scattering of rows in the backward pass: for training where experts
    /// are few and the scatter is what takes the time.
    ///
    /// # Shapes
    /// - x: `[tokens, hidden]`
    /// - output: `[tokens, hidden]`, of the type of the residual stream
    pub fn forward_all(&self, x: Tensor<B, 2>, routing: &Routing<B>) -> Tensor<B, 2> {
        let dtype: FloatDType = x.dtype().into();
        let [tokens, count] = routing.logits.dims();
        let mut chosen = vec![0.0_f32; tokens * count];
        for (choice, expert) in routing.experts.iter().enumerate() {
            chosen[choice / routing.top_k * count + expert] = 1.0;
        }
        let chosen = TensorData::new(chosen, [tokens, count]);
        let chosen = Tensor::<B, 2>::from_data_dtype(chosen, &x.device(), routing.logits.dtype());
        let scores = (sigmoid(routing.logits.clone()) * chosen).cast(dtype);
        let mut first = 0;
        let outputs = self.groups.iter().map(|group| {
            let size = group.experts;
            let scores = scores.clone().narrow(1, first, size).swap_dims(0, 1).unsqueeze_dim::<3>(2);
            first += size;
            group.forward_all(x.clone().unsqueeze_dim::<3>(0) * scores)
        });
        let sum = outputs.reduce(|a, b| a + b);
        sum.unwrap_or_else(|| x.clone() * 0.0)
    }

    /// Run rows that stand in the order of their experts.
    fn forward_sorted(&self, x: Tensor<B, 2>, experts: &[usize]) -> Tensor<B, 2> {
        let (mut first, mut start) = (0, 0);
        let mut outputs = Vec::new();
        for group in &self.groups {
            let size = group.experts;
            let mut counts = vec![0; size];
            for &expert in &experts[start..] {
                if expert >= first + size {
                    break;
                }
                counts[expert - first] += 1;
            }
            let rows = counts.iter().sum();
            if rows > 0 {
                outputs.push(group.forward(x.clone().narrow(0, start, rows), &counts));
            }
            first += size;
            start += rows;
        }
        if outputs.len() == 1 { outputs.remove(0) } else { Tensor::cat(outputs, 0) }
    }
}

impl<B: Backend> ExpertGroup<B> {
    /// Each expert on its own `[rows, hidden]` of `x [experts, rows, hidden]`, summed over the experts.
    fn forward_all(&self, x: Tensor<B, 3>) -> Tensor<B, 2> {
        let [_, rows, hidden] = x.dims();
        let intermediate = self.down_proj.columns();
        let gate_up = stacked_linear(x, &self.gate_up_proj);
        let gate = gate_up.clone().narrow(2, 0, intermediate);
        let up = gate_up.narrow(2, intermediate, intermediate);
        let gated = silu(gate) * up;
        let dtype = residual_dtype(gated.dtype());
        let y = stacked_linear(gated.cast(dtype), &self.down_proj);
        y.sum_dim(0).reshape([rows, hidden])
    }

    /// `x [rows, hidden]`, sorted by expert, `counts` rows for each.
    fn forward(&self, x: Tensor<B, 2>, counts: &[usize]) -> Tensor<B, 2> {
        let dtype = x.dtype();
        let gate_up = grouped_linear(x, &self.gate_up_proj, counts, dtype.into());
        grouped_linear(ops::swiglu_halves(gate_up), &self.down_proj, counts, residual_dtype(dtype))
    }
}

/// Each group's rows of `x [rows, in]` with its own weight, the sums of type `dtype`.
fn grouped_linear<B: Backend>(
    x: Tensor<B, 2>,
    weight: &Weight<B, 3>,
    counts: &[usize],
    dtype: FloatDType,
) -> Tensor<B, 2> {
    match weight {
        Weight::Float(weight) => ops::grouped_linear_into(x, weight.val(), counts, dtype),
        Weight::Packed(packed) => ops::packed_grouped_linear_into(x, packed, counts, dtype),
        Weight::Split(_) => unreachable!("experts are held in groups, which are not split"),
    }
}

/// Every expert on its own `[rows, in]` of `x [experts, rows, in]`.
fn stacked_linear<B: Backend>(x: Tensor<B, 3>, weight: &Weight<B, 3>) -> Tensor<B, 3> {
    match weight {
        Weight::Float(weight) => {
            let dtype: FloatDType = x.dtype().into();
            x.matmul(weight.val().cast(dtype).swap_dims(1, 2))
        }
        Weight::Packed(packed) => {
            let [experts, rows, input] = x.dims();
            let y = ops::packed_grouped_linear(x.reshape([experts * rows, input]), packed, &vec![rows; experts]);
            y.reshape([experts, rows, packed.rows() / experts])
        }
        Weight::Split(_) => unreachable!("experts are held in groups, which are not split"),
    }
}

/// Tokens' choices sorted by expert, stably.
struct SortedTokens {
    /// Expert of each sorted row.
    experts: Vec<usize>,
    /// Choice that each sorted row is.
    choices: Vec<i32>,
    /// Token of each sorted row.
    tokens: Vec<i32>,
    /// Sorted row of each choice.
    places: Vec<i32>,
    /// Whether sorting changed nothing (a single token, or all to one expert).
    in_order: bool,
}

impl SortedTokens {
    fn new(chosen: &[usize], top_k: usize) -> Self {
        let mut choices: Vec<usize> = (0..chosen.len()).collect();
        choices.sort_by_key(|&choice| chosen[choice]);
        let mut places = vec![0; choices.len()];
        for (place, &choice) in choices.iter().enumerate() {
            places[choice] = place as i32;
        }
        Self {
            experts: choices.iter().map(|&choice| chosen[choice]).collect(),
            tokens: choices.iter().map(|&choice| (choice / top_k) as i32).collect(),
            in_order: top_k == 1 && choices.is_sorted(),
            choices: choices.into_iter().map(|choice| choice as i32).collect(),
            places,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stay_below_the_tensor_limit() {
        let config = ExpertsConfig::new(8, 4, 5).with_elements_per_tensor(2 * 64);
        assert_eq!(config.group_sizes(), [2, 2, 1]);
        assert_eq!(config.with_elements_per_tensor(1).group_sizes(), [1; 5]);
        assert_eq!(ExpertsConfig::new(5120, 8192, 16).group_sizes(), [16]);
        assert_eq!(ExpertsConfig::new(5120, 8192, 128).group_sizes(), [25, 25, 25, 25, 25, 3]);
    }

    #[test]
    fn sorting_is_undone_by_places() {
        let sorted = SortedTokens::new(&[2, 0, 1, 2, 0, 1], 2);
        assert_eq!(sorted.experts, [0, 0, 1, 1, 2, 2]);
        assert_eq!(sorted.tokens, [0, 2, 1, 2, 0, 1]);
        assert_eq!(sorted.places, [4, 0, 2, 5, 1, 3]);
    }
}
