/// Errors of `config`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {}
