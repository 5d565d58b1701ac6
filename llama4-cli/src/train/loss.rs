use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use llama4::nn::Trace;
use llama4::nn::moe::Routing;

/// Mean negative log-likelihood of `targets`, in nats a token, `[1]`.
///
/// # Shapes
/// - logits: `[tokens, vocab]`
pub(super) fn cross_entropy<B: Backend>(logits: Tensor<B, 2>, targets: &[&[u32]]) -> Tensor<B, 1> {
    let ids: Vec<i32> = targets.iter().flat_map(|row| row.iter().map(|&id| id as i32)).collect();
    let shape = [ids.len(), 1];
    let ids = Tensor::<B, 2, Int>::from_data(TensorData::new(ids, shape), &logits.device());
    log_softmax(logits, 1).gather(1, ids).mean().neg()
}

/// Load-balancing loss of the Switch Transformer, summed over the mixture-of-experts layers: `experts · Σ f_e p_e`, with `f_e` the share
/// of tokens sent to expert `e` and `p_e` its mean router probability. 1 a layer when balanced. `None` in a model without experts.
pub(super) fn balance<B: Backend>(trace: &Trace<B>) -> Option<Tensor<B, 1>> {
    trace.routing.iter().flatten().map(layer_balance).reduce(|a, b| a + b)
}

fn layer_balance<B: Backend>(routing: &Routing<B>) -> Tensor<B, 1> {
    let experts = routing.logits.dims()[1];
    let mut shares = vec![0.0_f32; experts];
    for &expert in &routing.experts {
        shares[expert] += 1.0 / routing.experts.len() as f32;
    }
    let shares = Tensor::<B, 1>::from_floats(shares.as_slice(), &routing.logits.device());
    let probabilities = softmax(routing.logits.clone(), 1).mean_dim(0).reshape([experts]);
    (probabilities * shares).sum() * experts as f32
}
