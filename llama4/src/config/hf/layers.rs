use serde_json::Value;

use super::section::{Section, whole};
use crate::error::ConfigError;

/// `layer_types`' word for attention within a chunk.
pub(super) const CHUNKED: &str = "chunked_attention";
/// `layer_types`' word for attention over everything.
pub(super) const FULL: &str = "full_attention";

/// Per layer: rotary embedding or none.
///
/// `no_rope_layers` says 1 for "uses RoPE". The real files leave it empty or out: then every
/// `no_rope_layer_interval`-th layer (4) goes without. A list may be longer than the model is deep.
pub(super) fn uses_rope(text: &Section, layers: usize) -> Result<Vec<bool>, ConfigError> {
    const KEY: &str = "no_rope_layers";
    if let Some(marks) = text.list(KEY)?.filter(|marks| !marks.is_empty()) {
        let marks = long_enough(text, KEY, marks, layers)?;
        return marks
            .iter()
            .map(|mark| match mark {
                Value::Bool(uses_rope) => Ok(*uses_rope),
                _ => match mark.as_u64() {
                    Some(1) => Ok(true),
                    Some(0) => Ok(false),
                    _ => Err(text.invalid(KEY, mark, "it holds 1 (RoPE) or 0 (none) per layer")),
                },
            })
            .collect();
    }
    let interval = text.count("no_rope_layer_interval")?.unwrap_or(4);
    if interval == 0 {
        let rule = "every how many layers one goes without RoPE must be 1 or more";
        return Err(text.invalid("no_rope_layer_interval", &Value::from(0), rule));
    }
    Ok((1..=layers).map(|number| number % interval != 0).collect())
}

/// Per layer: attention within a chunk, or over everything. Without `layer_types`, RoPE layers are chunked.
pub(super) fn uses_chunked_attention(text: &Section, uses_rope: &[bool]) -> Result<Vec<bool>, ConfigError> {
    const KEY: &str = "layer_types";
    let Some(types) = text.list(KEY)?.filter(|types| !types.is_empty()) else {
        return Ok(uses_rope.to_vec());
    };
    long_enough(text, KEY, types, uses_rope.len())?
        .iter()
        .map(|kind| match kind.as_str() {
            Some(CHUNKED) => Ok(true),
            Some(FULL) => Ok(false),
            _ => Err(text.unsupported(KEY, kind, format!("{CHUNKED}, {FULL}"))),
        })
        .collect()
}

/// Indices of the mixture-of-experts layers. An empty `moe_layers` is a value: there are none. Absent or null means
/// every `interleave_moe_layer_step`-th layer, and a step of 0, which Guard 4 has, means none.
pub(super) fn moe_layers(text: &Section, layers: usize) -> Result<Vec<usize>, ConfigError> {
    const KEY: &str = "moe_layers";
    if let Some(indices) = text.list(KEY)? {
        let index = |value| whole(value).ok_or_else(|| text.invalid(KEY, value, "it holds indices of layers"));
        return indices.iter().map(index).collect();
    }
    Ok(match text.count("interleave_moe_layer_step")?.unwrap_or(1) {
        0 => Vec::new(),
        step => (step - 1..layers).step_by(step).collect(),
    })
}

fn long_enough<'a>(text: &Section, key: &str, list: &'a [Value], layers: usize) -> Result<&'a [Value], ConfigError> {
    list.get(..layers).ok_or_else(|| {
        let rule = format!("it must have an entry for each of the {layers} layers and has {}", list.len());
        text.invalid(key, &Value::from(list), rule)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with<T>(text: Value, read: impl Fn(&Section) -> Result<T, ConfigError>) -> Result<T, String> {
        read(&Section::new("", text.as_object().unwrap())).map_err(|error| error.to_string())
    }

    #[test]
    fn no_rope_layers_absent_null_or_empty_follow_the_interval() {
        for text in [json!({}), json!({"no_rope_layers": null}), json!({"no_rope_layers": []})] {
            let rope = with(text, |text| uses_rope(text, 8)).unwrap();
            assert_eq!(rope, [true, true, true, false, true, true, true, false]);
        }
        let rope = with(json!({"no_rope_layers": [], "no_rope_layer_interval": 3}), |text| uses_rope(text, 4));
        assert_eq!(rope.unwrap(), [true, true, false, true]);
        let rope = with(json!({"no_rope_layer_interval": 1}), |text| uses_rope(text, 2));
        assert_eq!(rope.unwrap(), [false, false]);
    }

    #[test]
    fn one_means_rope_and_a_longer_list_is_cut() {
        let text = json!({"no_rope_layers": [1, 0, true, 0, 1, 1], "no_rope_layer_interval": 0});
        assert_eq!(with(text, |text| uses_rope(text, 4)).unwrap(), [true, false, true, false]);
    }

    #[test]
    fn a_bad_pattern_is_named() {
        for (text, part) in [
            (json!({"no_rope_layers": [1, 0]}), "each of the 4 layers and has 2"),
            (json!({"no_rope_layers": [1, 0, 2, 1]}), "`no_rope_layers` is 2"),
            (json!({"no_rope_layers": 4}), "a list is wanted"),
            (json!({"no_rope_layer_interval": 0}), "`no_rope_layer_interval` is 0"),
        ] {
            let error = with(text, |text| uses_rope(text, 4)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let text = json!({"layer_types": ["full_attention", "sliding_attention"]});
        let error = with(text, |text| uses_chunked_attention(text, &[true, true])).unwrap_err();
        assert!(error.contains("sliding_attention"), "{error}");
    }

    #[test]
    fn layer_types_win_over_the_rope_pattern() {
        let rope = [true, false];
        for text in [json!({}), json!({"layer_types": null}), json!({"layer_types": []})] {
            assert_eq!(with(text, |text| uses_chunked_attention(text, &rope)).unwrap(), rope);
        }
        let text = json!({"layer_types": ["full_attention", "chunked_attention", "full_attention"]});
        assert_eq!(with(text, |text| uses_chunked_attention(text, &rope)).unwrap(), [false, true]);
    }

    #[test]
    fn moe_layers_empty_is_none_and_absent_follows_the_step() {
        const NONE: [usize; 0] = [];
        let layers = |text| with(text, |text| moe_layers(text, 5)).unwrap();
        assert_eq!(layers(json!({})), [0, 1, 2, 3, 4]);
        assert_eq!(layers(json!({"moe_layers": [], "interleave_moe_layer_step": 0})), NONE);
        assert_eq!(layers(json!({"moe_layers": []})), NONE);
        assert_eq!(layers(json!({"interleave_moe_layer_step": 0})), NONE);
        assert_eq!(layers(json!({"moe_layers": null, "interleave_moe_layer_step": 2})), [1, 3]);
        assert_eq!(layers(json!({"interleave_moe_layer_step": 9})), NONE);
        assert_eq!(layers(json!({"moe_layers": [4, 0], "interleave_moe_layer_step": 2})), [4, 0]);
    }
}
