//! Stacked experts, `[experts, in, out]` in a file, are turned to `[experts, out, in]` and held in several groups.

use crate::Llama4Config;
use crate::nn::moe::{ELEMENTS_PER_TENSOR, ExpertsConfig};
use crate::quant::Packing;

/// A group of a layer's experts, as part of the file's stacked tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    /// First expert.
    pub(super) first: usize,
    /// Number of experts.
    pub(super) count: usize,
}

/// Most values of a tensor of experts where none may have more than `largest` bytes; `packings` are those of the experts' weights.
pub(super) fn elements(largest: Option<u64>, packings: impl IntoIterator<Item = Option<Packing>>) -> usize {
    // The widest float has four bytes. Scales have tensors of their own.
    let bits = packings.into_iter().map(|packing| packing.map_or(32, Packing::bits)).max().unwrap_or(32);
    let fit = largest.map_or(usize::MAX, |bytes| usize::try_from(bytes.saturating_mul(8)).unwrap_or(usize::MAX) / bits);
    fit.min(ELEMENTS_PER_TENSOR)
}

/// The groups in which a model of this configuration holds its experts, in tensors of at most `elements` values.
pub(super) fn groups(config: &Llama4Config, elements: usize) -> Vec<Group> {
    let experts = ExpertsConfig::new(config.hidden_size, config.intermediate_size, config.num_local_experts);
    consecutive(experts.with_elements_per_tensor(elements).group_sizes())
}

fn consecutive(sizes: Vec<usize>) -> Vec<Group> {
    let mut first = 0;
    let group = |count| {
        let group = Group { first, count };
        first += count;
        group
    };
    sizes.into_iter().map(group).collect()
}

/// Path in the model of group `index` of the experts that a file calls `name`.
pub(super) fn path(name: &str, index: usize) -> String {
    match name.rsplit_once('.') {
        Some((module, parameter)) => format!("{module}.groups.{index}.{parameter}"),
        None => format!("groups.{index}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_of_experts_have_as_many_values_as_their_bytes_allow() {
        assert_eq!(elements(None, [None]), ELEMENTS_PER_TENSOR);
        assert_eq!(elements(Some(1 << 20), [None]), 1 << 18);
        assert_eq!(elements(Some(1 << 20), [Some(Packing::Q4), Some(Packing::Q4)]), 1 << 21);
        assert_eq!(elements(Some(1 << 20), [Some(Packing::Q4), Some(Packing::Q8)]), 1 << 20);
        assert_eq!(elements(Some(1 << 40), [Some(Packing::Q4)]), ELEMENTS_PER_TENSOR, "kernels index with 32 bits");
    }

    #[test]
    fn groups_follow_each_other_and_have_paths_of_their_own() {
        let groups = consecutive(vec![2, 2, 1]);
        let group = |first, count| Group { first, count };
        assert_eq!(groups, [group(0, 2), group(2, 2), group(4, 1)]);
        assert_eq!(
            path("model.layers.3.feed_forward.experts.down_proj", 1),
            "model.layers.3.feed_forward.experts.groups.1.down_proj"
        );
    }
}
