//! Stacked experts, `[experts, in, out]` in a file, are turned to `[experts, out, in]` and held in several groups.

use crate::Llama4Config;
use crate::nn::moe::ExpertsConfig;

/// A group of a layer's experts, as part of the file's stacked tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    /// First expert.
    pub(super) first: usize,
    /// Number of experts.
    pub(super) count: usize,
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
