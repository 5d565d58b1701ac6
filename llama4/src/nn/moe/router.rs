use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::activation::sigmoid;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use crate::ops;

/// Configuration of [`Router`].
#[derive(Config, Debug)]
pub struct RouterConfig {
    /// Width of the input.
    pub hidden: usize,
    /// Experts to choose from.
    pub experts: usize,
    /// Experts chosen for each token.
    pub top_k: usize,
}

impl RouterConfig {
    /// A router with random weight.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Router<B> {
        Router {
            weight: Initializer::Normal { mean: 0.0, std: 0.02 }.init([self.experts, self.hidden], device),
            top_k: self.top_k,
        }
    }
}

/// Top-k of `r = W x`, scored `sigmoid(r)` each: no softmax, no renormalisation. All in `f32`.
#[derive(Module, Debug)]
pub struct Router<B: Backend> {
    weight: Param<Tensor<B, 2>>,
    top_k: usize,
}

/// What a router chose for each token.
#[derive(Debug, Clone)]
pub struct Routing<B: Backend> {
    /// Router logits, `f32`, `[tokens, experts]`.
    pub logits: Tensor<B, 2>,
    /// Scores of the chosen experts, `f32`, `[tokens, top_k]`, highest first.
    pub scores: Tensor<B, 2>,
    /// Chosen experts, token by token, highest logit first; of equal logits the lower index.
    pub experts: Vec<usize>,
    /// Experts per token.
    pub top_k: usize,
}

impl<B: Backend> Router<B> {
    /// The weight, `[experts, hidden]`, if a token goes to one expert.
    pub(in crate::nn) fn of_one(&self) -> Option<Tensor<B, 2>> {
        self.chooses_one().then(|| self.weight.val())
    }

    /// # Shapes
    /// - x: `[tokens, hidden]`
    pub fn forward(&self, x: Tensor<B, 2>) -> Routing<B> {
        self.forward_during(x, || ()).0
    }

    /// The same, and what `work` gives. Tokens are sorted by expert on the host, which has to wait for the logits: so the device is given something
    /// to do meanwhile.
    pub fn forward_during<T>(&self, x: Tensor<B, 2>, work: impl FnOnce() -> T) -> (Routing<B>, T) {
        let logits = self.logits(x);
        let (host, done) = ops::read_during(&logits, work);
        (self.routing(logits, &host), done)
    }

    /// The logits of all experts, `f32`, `[tokens, experts]`.
    pub(super) fn logits(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        ops::linear_f32(x, self.weight.val())
    }

    /// Whether a token goes to one expert.
    pub(in crate::nn) fn chooses_one(&self) -> bool {
        self.top_k == 1
    }

    /// The choice that logits make.
    pub(super) fn choose(&self, logits: Tensor<B, 2>) -> Routing<B> {
        let (host, ()) = ops::read_during(&logits, || ());
        self.routing(logits, &host)
    }

    /// The same; `host` are the logits' values.
    fn routing(&self, logits: Tensor<B, 2>, host: &[f32]) -> Routing<B> {
        let [tokens, count] = logits.dims();
        let experts: Vec<usize> = host.chunks(count).flat_map(|row| top_k(row, self.top_k)).collect();
        let ids: Vec<i32> = experts.iter().map(|&expert| expert as i32).collect();
        let ids = Tensor::<B, 2, Int>::from_data(TensorData::new(ids, [tokens, self.top_k]), &logits.device());
        Routing { scores: sigmoid(ops::gather_columns(logits.clone(), ids)), logits, experts, top_k: self.top_k }
    }
}

/// Indices of the `k` largest values, largest first; of equal values the lower index.
fn top_k(row: &[f32], k: usize) -> Vec<usize> {
    if k == 1 {
        let better = |best: usize, at: usize| if row[at].total_cmp(&row[best]).is_gt() { at } else { best };
        return (0..row.len()).reduce(better).into_iter().collect();
    }
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    order.truncate(k);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lower_expert() {
        assert_eq!(top_k(&[0.5, 2.0, 2.0, 1.0], 2), [1, 2]);
        assert_eq!(top_k(&[0.5, 2.0, 2.0, 1.0], 1), [1]);
        assert_eq!(top_k(&[0.0, 0.0, 0.0], 1), [0]);
    }
}
