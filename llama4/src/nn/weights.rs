use burn::module::{Module, ModuleVisitor};
use burn::tensor::backend::Backend;

use super::moe::ExpertsConfig;
use super::{FeedForward, Llama4ForCausalLM, Mlp, Projection};
use crate::quant::{PackedTensor, Weight};

/// A weight that can be packed, where it is.
pub(crate) enum WeightSlot<'a, B: Backend> {
    /// The embedding.
    Embedding(&'a mut Weight<B, 2>),
    /// A projection, or the head.
    Projection(&'a mut Projection<B>),
    /// One product of a group of experts.
    Experts(&'a mut Weight<B, 3>),
}

impl<B: Backend> WeightSlot<'_, B> {
    /// The weight, where it is one matrix.
    pub(crate) fn matrix(&mut self) -> Option<&mut Weight<B, 2>> {
        match self {
            Self::Embedding(weight) => Some(weight),
            Self::Projection(projection) => Some(projection.weight_mut()),
            Self::Experts(_) => None,
        }
    }

    /// The packed rows, if that is what the weight is.
    #[cfg(test)]
    pub(crate) fn packed(&mut self) -> Option<&PackedTensor<B>> {
        match self {
            Self::Experts(weight) => weight.packed(),
            slot => slot.matrix()?.packed(),
        }
    }

    /// Shape of the weight, where it is floats in one tensor; does not draw them.
    pub(crate) fn float_shape(&mut self) -> Option<Vec<usize>> {
        match self {
            Self::Experts(Weight::Float(weight)) => Some(weight.lazy_shape().to_vec()),
            slot => match slot.matrix()? {
                Weight::Float(weight) => Some(weight.lazy_shape().to_vec()),
                _ => None,
            },
        }
    }

    /// Replace the weight by packed rows.
    pub(crate) fn set_packed(&mut self, packed: PackedTensor<B>) {
        match self {
            Self::Embedding(weight) => **weight = Weight::Packed(packed),
            Self::Projection(projection) => *projection.weight_mut() = Weight::Packed(packed),
            Self::Experts(weight) => **weight = Weight::Packed(packed),
        }
    }
}

/// Counts modules of a type, by a field that each has.
struct Modules {
    container: &'static str,
    field: &'static str,
    count: usize,
}

impl<B: Backend> ModuleVisitor<B> for Modules {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.count += usize::from(container_type == self.container && name == self.field);
    }
}

impl<B: Backend> Llama4ForCausalLM<B> {
    /// Number of weights that are packed.
    pub fn packed_weights(&self) -> usize {
        self.modules("Struct:PackedTensor", "words")
    }

    /// Number of weights that are held in several tensors.
    pub(crate) fn split_weights(&self) -> usize {
        self.modules("Enum:Weight", "Split")
    }

    fn modules(&self, container: &'static str, field: &'static str) -> usize {
        let mut modules = Modules { container, field, count: 0 };
        self.visit(&mut modules);
        modules.count
    }

    /// Hold experts in tensors of at most `elements` values. They get fresh random weights, drawn on first use.
    pub(crate) fn regroup_experts(&mut self, elements: usize) {
        let config = self.config().clone();
        let experts = ExpertsConfig::new(config.hidden_size, config.intermediate_size, config.num_local_experts)
            .with_elements_per_tensor(elements);
        let device = self.device();
        for layer in &mut self.model.layers {
            if let FeedForward::Moe(moe) = &mut layer.feed_forward {
                moe.experts = experts.init(&device);
            }
        }
    }

    /// Every weight that can be packed, by its path in the model, in the model's order.
    pub(crate) fn weight_slots(&mut self) -> Vec<(String, WeightSlot<'_, B>)> {
        let mut slots =
            vec![("model.embed_tokens.weight".to_string(), WeightSlot::Embedding(&mut self.model.embed_tokens.weight))];
        for (index, layer) in self.model.layers.iter_mut().enumerate() {
            let layer_name = format!("model.layers.{index}");
            let attention = &mut layer.self_attn;
            for (name, projection) in [
                ("q_proj", &mut attention.q_proj),
                ("k_proj", &mut attention.k_proj),
                ("v_proj", &mut attention.v_proj),
                ("o_proj", &mut attention.o_proj),
            ] {
                let name = format!("{layer_name}.self_attn.{name}.weight");
                slots.push((name, WeightSlot::Projection(projection)));
            }
            let feed_forward = format!("{layer_name}.feed_forward");
            match &mut layer.feed_forward {
                FeedForward::Dense(mlp) => add_mlp(&mut slots, &feed_forward, mlp),
                FeedForward::Moe(moe) => {
                    for (group, experts) in moe.experts.groups.iter_mut().enumerate() {
                        let group = format!("{feed_forward}.experts.groups.{group}");
                        let gate_up = WeightSlot::Experts(&mut experts.gate_up_proj);
                        slots.push((format!("{group}.gate_up_proj"), gate_up));
                        slots.push((format!("{group}.down_proj"), WeightSlot::Experts(&mut experts.down_proj)));
                    }
                    add_mlp(&mut slots, &format!("{feed_forward}.shared_expert"), &mut moe.shared_expert);
                }
            }
        }
        if let Some(head) = &mut self.lm_head {
            slots.push(("lm_head.weight".to_string(), WeightSlot::Projection(head)));
        }
        slots
    }
}

fn add_mlp<'a, B: Backend>(slots: &mut Vec<(String, WeightSlot<'a, B>)>, module: &str, mlp: &'a mut Mlp<B>) {
    for (name, projection) in
        [("gate_proj", &mut mlp.gate_proj), ("up_proj", &mut mlp.up_proj), ("down_proj", &mut mlp.down_proj)]
    {
        slots.push((format!("{module}.{name}.weight"), WeightSlot::Projection(projection)));
    }
}
