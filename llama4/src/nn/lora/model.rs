use burn::module::{Ignored, Module, ModuleVisitor, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor};

use super::{LoraAdapter, LoraConfig, LoraTarget};
use crate::error::LoraError;
use crate::nn::{Llama4ForCausalLM, Projection, WeightSlot};
use crate::quant::{Rows, Weight};

/// What burn calls the module on the way.
const ADAPTER: &str = "Struct:LoraAdapter";

impl<B: Backend> Llama4ForCausalLM<B> {
    /// The model with a fresh adapter at every projection that `config` names, which changes nothing yet; and with all other parameters
    /// [frozen](Module::no_grad), so that an optimiser under autodiff trains the adapters alone.
    ///
    /// Weights may be packed (QLoRA): gradients go through what is unpacked of them.
    ///
    /// # Errors
    /// When `config` is not valid, or the model has adapters.
    pub fn with_lora(self, config: &LoraConfig) -> Result<Self, LoraError> {
        config.validate()?;
        if self.lora().is_some() {
            return Err(LoraError::Adapted);
        }
        let device = self.device();
        let mut model = self.no_grad();
        for (_, target, projection) in model.lora_targets() {
            if config.targets.contains(&target) {
                let [output, input] = projection.dims();
                projection.lora = Some(LoraAdapter::new(config, input, output, &device));
            }
        }
        model.lora = Ignored(Some(config.clone()));
        Ok(model)
    }

    /// How the model is adapted; `None` where it is not.
    pub fn lora(&self) -> Option<&LoraConfig> {
        self.lora.0.as_ref()
    }

    /// Number of values in the adapters: what is trained.
    pub fn lora_parameters(&self) -> usize {
        let mut parameters = AdapterParameters { inside: false, count: 0 };
        self.visit(&mut parameters);
        parameters.count
    }

    /// The model without its adapters, as it was. Its parameters stay frozen.
    pub fn without_lora(mut self) -> Self {
        self.lora = Ignored(None);
        self.lora_targets().into_iter().for_each(|(_, _, projection)| projection.lora = None);
        self
    }

    /// The model with its adapters added to the weights, `W + scale · B A`, and gone: it computes the same (up to the rounding of W's
    /// type) at the speed of a model without. Its parameters stay frozen.
    ///
    /// # Errors
    /// When the model has no adapters, or a weight with an adapter is packed: packing the sum again would lose part of what was trained.
    /// Load the model in floats, and the adapters with it, to merge them.
    pub fn merge_lora(mut self) -> Result<Self, LoraError> {
        if self.lora().is_none() {
            return Err(LoraError::NotAdapted);
        }
        for (name, _, projection) in self.lora_targets() {
            let Some(adapter) = projection.lora.take() else { continue };
            match &mut projection.weight {
                Weight::Float(weight) => {
                    *weight = weight.clone().map(|weight| sum(weight, adapter.delta()));
                }
                Weight::Packed(packed) => return Err(LoraError::Packed { name, packing: packed.packing() }),
                Weight::Split(parts) => {
                    let mut first = 0;
                    for rows in parts {
                        let count = rows.count();
                        let delta = adapter.delta().narrow(0, first, count);
                        first += count;
                        match rows {
                            Rows::Float(weight) => *weight = weight.clone().map(|weight| sum(weight, delta)),
                            Rows::Packed(packed) => {
                                return Err(LoraError::Packed { name, packing: packed.packing() });
                            }
                        }
                    }
                }
            }
        }
        self.lora = Ignored(None);
        Ok(self)
    }

    /// Every projection that could have an adapter, by the path of the projection in the model.
    fn lora_targets(&mut self) -> Vec<(String, LoraTarget, &mut Projection<B>)> {
        let targets = self.weight_slots().into_iter().filter_map(|(path, slot)| {
            let WeightSlot::Projection(projection) = slot else { return None };
            let name = path.strip_suffix(".weight")?;
            let target = name.rsplit('.').next()?.parse().ok()?;
            Some((name.to_string(), target, projection))
        });
        targets.collect()
    }

    /// Every adapter, by the path of its projection in the model, in the model's order.
    pub(crate) fn lora_adapters(&mut self) -> Vec<(String, &mut LoraAdapter<B>)> {
        let adapters = self.lora_targets().into_iter().filter_map(|(name, _, projection)| {
            let adapter = projection.lora.as_mut()?;
            Some((name, adapter))
        });
        adapters.collect()
    }
}

/// Counts the values in adapters, without drawing any.
struct AdapterParameters {
    inside: bool,
    count: usize,
}

impl<B: Backend> ModuleVisitor<B> for AdapterParameters {
    fn enter_module(&mut self, _name: &str, container_type: &str) {
        self.inside |= container_type == ADAPTER;
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.inside &= container_type != ADAPTER;
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if self.inside {
            self.count += param.lazy_shape().num_elements();
        }
    }
}

/// In the adapter's type, and back in the weight's; as constant, as a frozen weight is.
fn sum<B: Backend>(weight: Tensor<B, 2>, delta: Tensor<B, 2>) -> Tensor<B, 2> {
    let (own, wide): (FloatDType, FloatDType) = (weight.dtype().into(), delta.dtype().into());
    (weight.cast(wide) + delta).cast(own).detach()
}
