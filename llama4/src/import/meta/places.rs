use super::super::names::{ExpectedTensor, Layout};
use crate::Llama4Config;

/// A tensor that every rank holds: its name, and its shape in each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
}

/// Where the values of a parameter are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// All of them in every rank.
    Copied(Part),
    /// The same, with inputs and outputs exchanged.
    CopiedTurned(Part),
    /// Some of the rows of every rank's tensor, one rank's below the other's.
    Rows {
        part: Part,
        /// The first of them in each rank, and how many.
        first: usize,
        rows: usize,
    },
    /// The columns of every rank's tensor, one rank's beside the other's.
    Columns(Part),
    /// Experts' gate and up projections, `[experts · in, out / ranks]` each.
    GateUp([Part; 2]),
    /// Experts' down projections, `[experts · in / ranks, out]`.
    Down(Part),
}

impl Place {
    /// The tensors that hold the parameter.
    pub(super) fn parts(&self) -> &[Part] {
        match self {
            Self::Copied(part) | Self::CopiedTurned(part) | Self::Columns(part) | Self::Down(part) => {
                std::slice::from_ref(part)
            }
            Self::Rows { part, .. } => std::slice::from_ref(part),
            Self::GateUp(parts) => parts,
        }
    }
}

/// Where a parameter is among so many ranks, each of which holds an equal part; `None` for one that Meta's models do not have.
pub(super) fn place(config: &Llama4Config, expected: &ExpectedTensor, ranks: usize) -> Option<Place> {
    let shape = expected.shape.as_slice();
    let part = |name: String, shape: &[usize]| Part { name, shape: shape.to_vec() };
    let copied = |name: String| Place::Copied(part(name, shape));
    // Rows `first..first + rows` of the `held` that a rank has.
    let rows = |name: String, held: usize, first: usize, rows: usize| {
        Some(Place::Rows { part: part(name, &[held, *shape.last()?]), first, rows })
    };
    let all_rows = |name: &str| rows(name.to_string(), shape[0] / ranks, 0, shape[0] / ranks);
    let columns = |name: String| match *shape {
        [output, input] => Some(Place::Columns(part(name, &[output, input / ranks]))),
        _ => None,
    };
    match expected.name.as_str() {
        "model.embed_tokens.weight" => return all_rows("tok_embeddings.weight"),
        "lm_head.weight" => return all_rows("output.weight"),
        "model.norm.weight" => return Some(copied("norm.weight".to_string())),
        _ => {}
    }

    let (index, name) = expected.name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer = format!("layers.{index}");
    let (attention, feed_forward) = (format!("{layer}.attention"), format!("{layer}.feed_forward"));
    let queries = config.num_attention_heads * config.head_dim / ranks;
    let keys = config.num_key_value_heads * config.head_dim / ranks;
    let in_qkv =
        |first: usize, count: usize| rows(format!("{attention}.wqkv.weight"), queries + 2 * keys, first, count);
    match name {
        "input_layernorm.weight" => Some(copied(format!("{attention}.wqkv.layer_norm_weight"))),
        "self_attn.q_proj.weight" => in_qkv(0, queries),
        "self_attn.k_proj.weight" => in_qkv(queries, keys),
        "self_attn.v_proj.weight" => in_qkv(queries + keys, keys),
        "self_attn.o_proj.weight" => columns(format!("{attention}.wo.weight")),
        "post_attention_layernorm.weight" if config.is_moe(index.parse().ok()?) => {
            Some(copied(format!("{feed_forward}.norm.weight")))
        }
        "post_attention_layernorm.weight" => Some(copied(format!("{feed_forward}.mlp.layer_norm_weight"))),
        "feed_forward.gate_proj.weight" | "feed_forward.up_proj.weight" => {
            let width = shape[0] / ranks;
            let first = if name.contains("gate") { 0 } else { width };
            rows(format!("{feed_forward}.mlp.fc1_weight"), 2 * width, first, width)
        }
        "feed_forward.down_proj.weight" => columns(format!("{feed_forward}.mlp.fc2_weight")),
        "feed_forward.router.weight" => match *shape {
            [experts, hidden] => {
                Some(Place::CopiedTurned(part(format!("{feed_forward}.router_DE"), &[hidden, experts])))
            }
            _ => None,
        },
        "feed_forward.shared_expert.gate_proj.weight" => all_rows(&format!("{feed_forward}.w_in_shared_FD.weight")),
        "feed_forward.shared_expert.up_proj.weight" => all_rows(&format!("{feed_forward}.w_swiglu_FD.weight")),
        "feed_forward.shared_expert.down_proj.weight" => columns(format!("{feed_forward}.w_out_shared_DF.weight")),
        "feed_forward.experts.gate_up_proj" | "feed_forward.experts.down_proj" => {
            let (Layout::TurnedExperts, [experts, input, output]) = (expected.layout, shape) else { return None };
            let experts_part = |name: &str, shape: [usize; 2]| part(format!("{feed_forward}.experts.{name}"), &shape);
            Some(if name.ends_with("gate_up_proj") {
                let shape = [experts * input, output / 2 / ranks];
                Place::GateUp(["moe_w_in_eD_F", "moe_w_swiglu_eD_F"].map(|name| experts_part(name, shape)))
            } else {
                Place::Down(experts_part("moe_w_out_eF_D", [experts * (input / ranks), *output]))
            })
        }
        _ => None,
    }
}

/// The widths that ranks share, with a word for each.
pub(super) fn shared_widths(config: &Llama4Config) -> Vec<(&'static str, usize)> {
    let mut widths = vec![
        ("words", config.vocab_size),
        ("rows of queries", config.num_attention_heads * config.head_dim),
        ("rows of keys", config.num_key_value_heads * config.head_dim),
    ];
    if !config.moe_layers.is_empty() {
        widths.push(("rows of an expert", config.intermediate_size));
    }
    if config.moe_layers.len() < config.num_hidden_layers {
        widths.push(("rows of a dense layer", config.intermediate_size_mlp));
    }
    widths
}
