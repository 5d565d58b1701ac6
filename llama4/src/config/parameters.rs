use super::Llama4Config;

/// How many numbers a model learns, by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterCount {
    /// Token embedding.
    pub embedding: u64,
    /// Head; 0 where it shares the embedding's weight.
    pub head: u64,
    /// Projections of the attention, biases included.
    pub attention: u64,
    /// MLPs of the dense layers.
    pub dense_mlp: u64,
    /// Shared experts.
    pub shared_experts: u64,
    /// Routed experts.
    pub routed_experts: u64,
    /// Those of the routed experts that one token meets.
    pub routed_experts_active: u64,
    /// Routers.
    pub routers: u64,
    /// Norm weights.
    pub norms: u64,
}

impl ParameterCount {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.without_routed_experts().saturating_add(self.routed_experts)
    }

    /// Those that one token meets: all but the routed experts it is not sent to, and of the embedding the whole (so that
    /// the number compares with the published ones).
    pub fn active(&self) -> u64 {
        self.without_routed_experts().saturating_add(self.routed_experts_active)
    }

    fn without_routed_experts(&self) -> u64 {
        [self.embedding, self.head, self.attention, self.dense_mlp, self.shared_experts, self.routers, self.norms]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

impl Llama4Config {
    /// How many parameters the model has. Sizes beyond any real model saturate.
    pub fn parameter_count(&self) -> ParameterCount {
        let layers = self.num_hidden_layers;
        let moe = self.moe_layers.len();
        let hidden = self.hidden_size;
        let queries = product(&[self.num_attention_heads, self.head_dim]);
        let keys = product(&[self.num_key_value_heads, self.head_dim]);
        // Query and output are `[queries, hidden]`, key and value `[keys, hidden]`, and each projection may have a bias.
        let weights = product(&[2, hidden]).saturating_mul(queries.saturating_add(keys));
        let biases = match self.attention_bias {
            true => queries.saturating_add(keys.saturating_mul(2)).saturating_add(hidden as u128),
            false => 0,
        };
        let embedding = product(&[self.vocab_size, hidden]);
        let expert = product(&[3, hidden, self.intermediate_size]);
        let dense = product(&[3, hidden, self.intermediate_size_mlp]);
        let experts = |each: usize| clamp(product(&[moe, each]).saturating_mul(expert));
        ParameterCount {
            embedding: clamp(embedding),
            head: if self.tie_word_embeddings { 0 } else { clamp(embedding) },
            attention: clamp(weights.saturating_add(biases).saturating_mul(layers as u128)),
            dense_mlp: clamp(product(&[layers.saturating_sub(moe)]).saturating_mul(dense)),
            shared_experts: experts(1),
            routed_experts: experts(self.num_local_experts),
            routed_experts_active: experts(self.num_experts_per_tok),
            routers: clamp(product(&[moe, self.num_local_experts, hidden])),
            norms: clamp((2 * layers as u128 + 1).saturating_mul(hidden as u128)),
        }
    }
}

fn product(sizes: &[usize]) -> u128 {
    sizes.iter().fold(1, |product: u128, &size| product.saturating_mul(size as u128))
}

fn clamp(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_tensor_by_tensor() {
        let mut config = Llama4Config::tiny_dense_and_moe();
        config.attention_bias = true;
        let count = config.parameter_count();
        // vocab 64, hidden 32, 4 heads and 2 kv heads of 8, experts 48 wide, dense 64 wide, layers 1 and 3 of 4 with experts.
        assert_eq!(count.embedding, 64 * 32);
        assert_eq!(count.head, 64 * 32);
        let (q, k, v, o) = (32 * 32 + 32, 16 * 32 + 16, 16 * 32 + 16, 32 * 32 + 32);
        assert_eq!(count.attention, 4 * (q + k + v + o));
        assert_eq!(count.dense_mlp, 2 * 3 * 32 * 64);
        assert_eq!(count.shared_experts, 2 * 3 * 32 * 48);
        assert_eq!(count.routed_experts, 2 * 4 * 3 * 32 * 48);
        assert_eq!(count.routed_experts_active, 2 * 3 * 32 * 48);
        assert_eq!(count.routers, 2 * 4 * 32);
        assert_eq!(count.norms, (2 * 4 + 1) * 32);
        config.tie_word_embeddings = true;
        let tied = config.parameter_count();
        assert_eq!(tied.head, 0);
        assert_eq!(tied.total(), count.total() - 64 * 32);
    }
}
