//! Operations with more than one implementation.
//!
//! `<op>.rs` holds an operation's signature and its plain burn definition: what autodiff differentiates, what an unknown
//! backend runs, and what every kernel is held to. `cpu` has the kernels for burn-ndarray, `cube` those for burn's CubeCL backends
//! (CUDA, wgpu); `dispatch` alone looks at which backend it is on, by the type of a tensor's primitive.

mod argmax;
mod attention;
mod bands;
#[cfg(feature = "ndarray")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod decode_attention;
mod dispatch;
mod grouped_linear;
mod heads;
mod linear;
mod norm;
mod packed;
mod partial_sums;
mod pick;
mod product;
mod read;
mod routed;
mod swiglu;
mod token;

pub use argmax::argmax;
pub(crate) use attention::SCORES_AT_ONCE;
pub use attention::{cached_attention, cached_attention_plain, fresh_attention, fresh_attention_plain};
pub(crate) use bands::UNPACKED_AT_ONCE;
pub use decode_attention::{NewHeads, Places, decode_attention, decode_attention_plain};
pub use dispatch::{
    ActiveKernels, active_kernels, computes_in, rounds_activations, with_exact_activations, with_plain_definitions,
};
pub(crate) use dispatch::{enlarge, shared};
pub use grouped_linear::{grouped_linear, grouped_linear_into, grouped_linear_plain};
pub use heads::{HeadSteps, position_heads, position_heads_plain, rotate};
pub use linear::{linear, linear_f32, linear_f32_plain, linear_into, linear_plain};
pub use norm::{rms_norm, rms_norm_plain, rms_normalize};
pub use packed::{
    packed_grouped_linear, packed_grouped_linear_into, packed_grouped_linear_plain, packed_linear, packed_linear_into,
    packed_select, packed_select_plain, unpack_rows, unpack_rows_plain,
};
pub use partial_sums::partial_sums;
pub use pick::{gather_columns, select_rows};
pub use product::{product, product_into};
pub(crate) use read::is_ahead;
pub use read::{queues, read_during, read_ids_during, rows_at_once, submit};
pub use routed::{RoutedExperts, routed_experts};
pub use swiglu::{swiglu, swiglu_halves, swiglu_halves_plain};
pub use token::{
    InputNorm, OneExpert, add_linear, add_linear_plain, fuses_tokens, normed_linears, normed_linears_plain,
    normed_swiglu, normed_swiglu_plain, router_logits, router_logits_plain,
};
