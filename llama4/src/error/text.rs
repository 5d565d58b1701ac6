/// Errors of `text`.
#[derive(Debug, thiserror::Error)]
pub enum TextError {}
