//! placeholder until the config room lands
/// Which logits
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReturnLogits {
    /// a
    LastToken,
    /// b
    Variable(usize),
    /// c
    All,
}
/// Which hidden states
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReturnHiddenStates {
    /// a
    None,
    /// b
    Last,
    /// c
    LastPerDevice,
    /// d
    All,
    /// e
    AllNormalized,
    /// f
    SelectedLayers(Vec<usize>),
}
