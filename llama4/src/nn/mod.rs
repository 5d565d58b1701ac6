//! nn
/// placeholder
pub struct Llama4ForCausalLM;
