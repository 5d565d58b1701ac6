//! The kinds of layers that a Llama 4 is made of.

use std::fmt;

use llama4::Llama4Config;

/// What tells a layer from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LayerKind {
    pub(crate) rope: bool,
    /// Positions in a chunk; `None` looks back over everything.
    pub(crate) chunk: Option<usize>,
    pub(crate) moe: bool,
}

impl LayerKind {
    pub(crate) fn of(config: &Llama4Config, layer: usize) -> Self {
        Self {
            rope: config.uses_rope.get(layer).copied().unwrap_or(true),
            chunk: config.chunk_size(layer),
            moe: config.is_moe(layer),
        }
    }

    /// The kinds that a model has, in the order of their first layers, with their layers.
    pub(crate) fn groups(config: &Llama4Config) -> Vec<(Self, Vec<usize>)> {
        let mut groups: Vec<(Self, Vec<usize>)> = Vec::new();
        for layer in 0..config.num_hidden_layers {
            let kind = Self::of(config, layer);
            match groups.iter_mut().find(|(other, _)| *other == kind) {
                Some((_, layers)) => layers.push(layer),
                None => groups.push((kind, vec![layer])),
            }
        }
        groups
    }
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.rope { "RoPE, " } else { "NoPE, " })?;
        match self.chunk {
            Some(chunk) => write!(f, "chunks of {chunk}, ")?,
            None => f.write_str("full attention, ")?,
        }
        f.write_str(if self.moe { "MoE" } else { "dense" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maverick_has_four_kinds_at_most() {
        let groups = LayerKind::groups(&Llama4Config::maverick());
        let named: Vec<(String, usize)> =
            groups.iter().map(|(kind, layers)| (kind.to_string(), layers.len())).collect();
        // Every fourth layer is NoPE, every second a mixture, and the NoPE ones are among those.
        let expected =
            [("RoPE, chunks of 8192, dense", 24), ("RoPE, chunks of 8192, MoE", 12), ("NoPE, full attention, MoE", 12)];
        assert_eq!(named, expected.map(|(name, count)| (name.to_owned(), count)));
    }
}
