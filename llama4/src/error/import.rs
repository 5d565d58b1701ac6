/// Errors of `import`.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {}
