use std::collections::HashMap;

use super::file::GgufTensor;
use super::kind::GgmlType;
use crate::error::ImportError;

/// Divisors of the rotary frequencies, which the configuration takes up.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// The head; without it the embedding is used.
pub(super) const HEAD: &str = "output.weight";

/// The embedding.
pub(super) const EMBEDDING: &str = "token_embd.weight";

/// A bias that only models with `attention_bias` have.
pub(super) const QUERY_BIAS: &str = "blk.0.attn_q.bias";

/// Hugging Face's name of all experts' gate and up projections, below their layer.
const GATE_UP: &str = "feed_forward.experts.gate_up_proj";

/// A parameter under Hugging Face's name.
#[derive(Debug, Clone)]
pub(in crate::import) struct NamedTensor {
    pub(in crate::import) name: String,
    pub(in crate::import) values: Values,
}

/// Where a parameter's values are. They are in the model's own order: unlike Hugging Face, ggml has experts as
/// `[experts, out, in]`.
#[derive(Debug, Clone)]
pub(in crate::import) enum Values {
    /// In one tensor.
    One(GgufTensor),
    /// In two, which may be of different types: for each expert the rows of `gate`, then those of `up`.
    GateUp { gate: GgufTensor, up: GgufTensor },
}

impl Values {
    /// Shape of the parameter.
    pub(in crate::import) fn shape(&self) -> Vec<usize> {
        match self {
            Self::One(tensor) => tensor.shape.clone(),
            Self::GateUp { gate, .. } => {
                let mut shape = gate.shape.clone();
                // Half of it was seen to have this size.
                if let Some(rows) = shape.get_mut(1) {
                    *rows = rows.saturating_mul(2);
                }
                shape
            }
        }
    }

    /// The tensors, in the order in which they are read.
    pub(in crate::import) fn tensors(&self) -> Vec<&GgufTensor> {
        match self {
            Self::One(tensor) => vec![tensor],
            Self::GateUp { gate, up } => vec![gate, up],
        }
    }
}

/// A file's tensors under Hugging Face's names, in its order.
#[derive(Debug)]
pub(in crate::import) struct Named {
    pub(in crate::import) tensors: Vec<NamedTensor>,
    /// ggml's names of the tensors that are no parameter of a Llama 4.
    pub(in crate::import) unknown: Vec<String>,
}

/// What a tensor is.
enum Role {
    /// Holds a whole parameter.
    Parameter(String),
    /// Holds the first or the second part of the parameter.
    Gate(String),
    Up(String),
    /// Not a weight.
    Config,
    Unknown,
}

/// Give tensors Hugging Face's names.
///
/// # Errors
/// When one is of a type whose values are not read, when gate and up of a layer's experts differ in shape, or when they are there both
/// apart and together.
pub(in crate::import) fn named(tensors: &[GgufTensor]) -> Result<Named, ImportError> {
    let mut named = Named { tensors: Vec::new(), unknown: Vec::new() };
    let mut gates: Vec<(String, &GgufTensor)> = Vec::new();
    let mut ups: HashMap<String, &GgufTensor> = HashMap::new();
    let mut stacked: HashMap<String, &GgufTensor> = HashMap::new();
    let mut weights = Vec::new();
    for tensor in tensors {
        match role(&tensor.name) {
            Role::Parameter(name) => {
                if name.ends_with(GATE_UP) {
                    stacked.insert(name.clone(), tensor);
                }
                named.tensors.push(NamedTensor { name, values: Values::One(tensor.clone()) });
                weights.push(tensor);
            }
            Role::Gate(name) => gates.push((name, tensor)),
            Role::Up(name) => drop(ups.insert(name, tensor)),
            Role::Config => {}
            Role::Unknown => named.unknown.push(tensor.name.clone()),
        }
    }
    for (name, gate) in gates {
        let Some(up) = ups.remove(&name) else {
            named.unknown.push(gate.name.clone());
            continue;
        };
        if gate.shape != up.shape || gate.shape.len() != 3 {
            return Err(ImportError::Shape {
                name: up.name.clone(),
                expected: gate.shape.clone(),
                found: up.shape.clone(),
                file: up.file.to_path_buf(),
                more: 0,
            });
        }
        if let Some(&whole) = stacked.get(&name) {
            let place = |tensor: &GgufTensor| (tensor.name.clone(), tensor.file.to_path_buf());
            return Err(ImportError::Twice { name, first: place(whole), second: place(gate) });
        }
        weights.extend([gate, up]);
        named.tensors.push(NamedTensor { name, values: Values::GateUp { gate: gate.clone(), up: up.clone() } });
    }
    named.unknown.extend(ups.into_values().map(|up| up.name.clone()));
    named.unknown.sort();
    check_types(&weights)?;
    Ok(named)
}

fn check_types(weights: &[&GgufTensor]) -> Result<(), ImportError> {
    let mut other = weights.iter().filter(|tensor| !tensor.kind.is_read());
    let Some(first) = other.next() else { return Ok(()) };
    let more = match other.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let read: Vec<String> = GgmlType::READ.iter().map(ToString::to_string).collect();
    Err(ImportError::Unsupported {
        place: first.file.to_path_buf(),
        what: format!("ggml's {} ({}{more}; {} can)", first.kind, first.name, read.join(", ")),
    })
}

/// The role of a tensor, by ggml's name.
fn role(name: &str) -> Role {
    let whole = match name {
        EMBEDDING => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        HEAD => "lm_head.weight",
        ROPE_FREQS => return Role::Config,
        _ => return layer_role(name).unwrap_or(Role::Unknown),
    };
    Role::Parameter(whole.to_string())
}

/// The role of a layer's tensor, `blk.N.KIND.weight` or `blk.N.KIND.bias`.
fn layer_role(name: &str) -> Option<Role> {
    let (layer, kind) = name.strip_prefix("blk.")?.split_once('.')?;
    // The number as it is usually written: `+1` and `01` would be the same layer again.
    let index: usize = layer.parse().ok()?;
    if index.to_string() != layer {
        return None;
    }
    let below = |parameter: &str| format!("model.layers.{index}.{parameter}");
    match kind {
        "ffn_gate_exps.weight" => return Some(Role::Gate(below(GATE_UP))),
        "ffn_up_exps.weight" => return Some(Role::Up(below(GATE_UP))),
        _ => {}
    }
    Some(Role::Parameter(below(match kind {
        "attn_norm.weight" => "input_layernorm.weight",
        "attn_q.weight" => "self_attn.q_proj.weight",
        "attn_k.weight" => "self_attn.k_proj.weight",
        "attn_v.weight" => "self_attn.v_proj.weight",
        "attn_output.weight" => "self_attn.o_proj.weight",
        "attn_q.bias" => "self_attn.q_proj.bias",
        "attn_k.bias" => "self_attn.k_proj.bias",
        "attn_v.bias" => "self_attn.v_proj.bias",
        "attn_output.bias" => "self_attn.o_proj.bias",
        "ffn_norm.weight" => "post_attention_layernorm.weight",
        "ffn_gate.weight" => "feed_forward.gate_proj.weight",
        "ffn_up.weight" => "feed_forward.up_proj.weight",
        "ffn_down.weight" => "feed_forward.down_proj.weight",
        "ffn_gate_inp.weight" => "feed_forward.router.weight",
        "ffn_gate_up_exps.weight" => GATE_UP,
        "ffn_down_exps.weight" => "feed_forward.experts.down_proj",
        "ffn_gate_shexp.weight" => "feed_forward.shared_expert.gate_proj.weight",
        "ffn_up_shexp.weight" => "feed_forward.shared_expert.up_proj.weight",
        "ffn_down_shexp.weight" => "feed_forward.shared_expert.down_proj.weight",
        _ => return None,
    })))
}
