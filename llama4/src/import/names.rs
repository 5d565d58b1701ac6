use std::collections::HashSet;

use crate::Llama4Config;
use crate::quant::WeightKind;

/// Prefixes of the tensors that belong to the vision half of a multimodal checkpoint. Matched at the start of a name only:
/// `vision_model.model.layers.0.self_attn.q_proj.weight` also contains a text parameter's name.
const VISION: [&str; 4] =
    ["vision_model.", "multi_modal_projector.", "model.vision_model.", "model.multi_modal_projector."];

/// How a parameter's values stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As in the model.
    Same,
    /// Experts, `[experts, in, out]` in the file, `[experts, out, in]` in the model and there in several groups.
    TurnedExperts,
}

/// A parameter that a checkpoint must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedTensor {
    /// Hugging Face's name, without the prefix that multimodal checkpoints put in front.
    pub name: String,
    /// Shape in the file.
    pub shape: Vec<usize>,
    /// How the file's values become the model's.
    pub layout: Layout,
    /// What it is, which decides whether it may be packed.
    pub kind: WeightKind,
}

impl ExpectedTensor {
    /// Shape of its matrices in the model: how many there are, `out`, `in`. A vector is a matrix of one row.
    pub fn matrices(&self) -> [usize; 3] {
        match (self.layout, self.shape.as_slice()) {
            (Layout::TurnedExperts, &[experts, input, output]) => [experts, output, input],
            (_, &[output, input]) => [1, output, input],
            (_, shape) => [1, 1, shape.iter().product()],
        }
    }
}

/// Everything that a checkpoint of this configuration holds, in the model's order: no more and no less may be in it.
///
/// Where the head is tied to the embedding there is no `lm_head.weight`.
pub fn expected_tensors(config: &Llama4Config) -> Vec<ExpectedTensor> {
    let mut list = List(Vec::new());
    let hidden = config.hidden_size;
    let (vocab, experts) = (config.vocab_size, config.num_local_experts);
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let moe_layers: HashSet<usize> = config.moe_layers.iter().copied().collect();

    list.matrix("model.embed_tokens", [vocab, hidden], WeightKind::Embedding);
    for index in 0..config.num_hidden_layers {
        let layer = format!("model.layers.{index}");
        list.weight(&format!("{layer}.input_layernorm"), &[hidden]);
        for (projection, output, input) in
            [("q", queries, hidden), ("k", keys, hidden), ("v", keys, hidden), ("o", hidden, queries)]
        {
            let name = format!("{layer}.self_attn.{projection}_proj");
            list.matrix(&name, [output, input], WeightKind::Projection);
            if config.attention_bias {
                list.push(format!("{name}.bias"), &[output], Layout::Same, WeightKind::Float);
            }
        }
        list.weight(&format!("{layer}.post_attention_layernorm"), &[hidden]);
        let feed_forward = format!("{layer}.feed_forward");
        if moe_layers.contains(&index) {
            let width = config.intermediate_size;
            list.weight(&format!("{feed_forward}.router"), &[experts, hidden]);
            let stacked = format!("{feed_forward}.experts");
            list.push(
                format!("{stacked}.gate_up_proj"),
                &[experts, hidden, 2 * width],
                Layout::TurnedExperts,
                WeightKind::Experts,
            );
            list.push(
                format!("{stacked}.down_proj"),
                &[experts, width, hidden],
                Layout::TurnedExperts,
                WeightKind::Experts,
            );
            list.mlp(&format!("{feed_forward}.shared_expert"), hidden, width);
        } else {
            list.mlp(&feed_forward, hidden, config.intermediate_size_mlp);
        }
    }
    list.weight("model.norm", &[hidden]);
    if !config.tie_word_embeddings {
        list.matrix("lm_head", [vocab, hidden], WeightKind::Head);
    }
    list.0
}

struct List(Vec<ExpectedTensor>);

impl List {
    fn push(&mut self, name: String, shape: &[usize], layout: Layout, kind: WeightKind) {
        self.0.push(ExpectedTensor { name, shape: shape.to_vec(), layout, kind });
    }

    /// A weight that stays float.
    fn weight(&mut self, module: &str, shape: &[usize]) {
        self.push(format!("{module}.weight"), shape, Layout::Same, WeightKind::Float);
    }

    fn matrix(&mut self, module: &str, shape: [usize; 2], kind: WeightKind) {
        self.push(format!("{module}.weight"), &shape, Layout::Same, kind);
    }

    fn mlp(&mut self, module: &str, hidden: usize, width: usize) {
        self.matrix(&format!("{module}.gate_proj"), [width, hidden], WeightKind::Projection);
        self.matrix(&format!("{module}.up_proj"), [width, hidden], WeightKind::Projection);
        self.matrix(&format!("{module}.down_proj"), [hidden, width], WeightKind::Projection);
    }
}

/// Whether a tensor belongs to the vision half, which is skipped.
pub(super) fn is_vision(name: &str) -> bool {
    VISION.iter().any(|prefix| name.starts_with(prefix))
}

/// A text tensor's name without the prefix of multimodal checkpoints: `language_model.` in front, as Llama 4's own files have it
/// (`language_model.model.layers…`, `language_model.lm_head…`), or the newer order that other multimodal models use
/// (`model.language_model.layers…` beside `lm_head…`).
pub(super) fn text_name(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("language_model.") {
        return rest.to_string();
    }
    match name.strip_prefix("model.language_model.") {
        Some(rest) if rest.starts_with("model.") || rest.starts_with("lm_head.") => rest.to_string(),
        Some(rest) => format!("model.{rest}"),
        None => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vision_is_told_by_its_prefix_alone() {
        assert!(is_vision("vision_model.model.layers.0.self_attn.q_proj.weight"));
        assert!(is_vision("multi_modal_projector.linear_1.weight"));
        assert!(is_vision("model.vision_model.patch_embedding.linear.weight"));
        assert!(!is_vision("language_model.model.layers.0.self_attn.q_proj.weight"));
        assert!(!is_vision("model.layers.0.vision_model.weight"));
    }

    #[test]
    fn both_orders_of_the_prefix_lead_to_the_same_name() {
        for name in [
            "model.layers.3.input_layernorm.weight",
            "language_model.model.layers.3.input_layernorm.weight",
            "model.language_model.layers.3.input_layernorm.weight",
            "model.language_model.model.layers.3.input_layernorm.weight",
        ] {
            assert_eq!(text_name(name), "model.layers.3.input_layernorm.weight", "{name}");
        }
        assert_eq!(text_name("language_model.lm_head.weight"), "lm_head.weight");
        assert_eq!(text_name("lm_head.weight"), "lm_head.weight");
    }
}
