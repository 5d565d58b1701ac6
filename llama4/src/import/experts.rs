//! Stacked experts, `[experts, in, out]` in a file, are turned to `[experts, out, in]` and held in several groups.

use super::values::Part;
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

/// The groups in which a model of this configuration holds its experts.
pub(super) fn groups(config: &Llama4Config) -> Vec<Group> {
    consecutive(
        ExpertsConfig::new(config.hidden_size, config.intermediate_size, config.num_local_experts).group_sizes(),
    )
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

/// Path in the model of one group of the experts that a file calls `name`, its shape, and what it is of the file's tensor.
pub(super) fn part(name: &str, shape: [usize; 3], index: usize, group: Group) -> (String, Vec<usize>, Part) {
    let [_, rows, columns] = shape;
    let Group { first, count } = group;
    (path(name, index), vec![count, columns, rows], Part::Turned { first, count, rows, columns })
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
    fn groups_follow_each_other_and_keep_their_place_in_the_file() {
        let groups = consecutive(vec![2, 2, 1]);
        let parts: Vec<_> = groups
            .into_iter()
            .enumerate()
            .map(|(index, group)| part("experts.down_proj", [5, 3, 7], index, group))
            .collect();
        let turned = |first, count| Part::Turned { first, count, rows: 3, columns: 7 };
        assert_eq!(
            parts,
            [
                ("experts.groups.0.down_proj".to_string(), vec![2, 7, 3], turned(0, 2)),
                ("experts.groups.1.down_proj".to_string(), vec![2, 7, 3], turned(2, 2)),
                ("experts.groups.2.down_proj".to_string(), vec![1, 7, 3], turned(4, 1)),
            ]
        );
    }
}
