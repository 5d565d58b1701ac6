use serde_json::Value;

use super::section::Section;
use crate::config::Llama3RopeScalingParams;
use crate::error::ConfigError;

/// Hugging Face's default where a file has no `rope_theta`.
const DEFAULT_THETA: f64 = 500_000.0;

/// Base and scaling of the rotary frequencies.
///
/// transformers 4.5x writes `rope_theta` beside `rope_scaling` (null or an object whose kind is `rope_type`, earlier
/// `type`); 5.x writes one object `rope_parameters` with the theta inside.
pub(super) fn read(text: &Section) -> Result<(f64, Option<Llama3RopeScalingParams>), ConfigError> {
    let parameters = block(text, "rope_parameters")?;
    let scaling = block(text, "rope_scaling")?;
    if let (Some(new), Some(old)) = (&parameters, &scaling)
        && new.scaling != old.scaling
    {
        let value = text.get("rope_scaling").unwrap_or(&Value::Null);
        let rule = "`rope_parameters` beside it says something else; keep one of the two";
        return Err(text.invalid("rope_scaling", value, rule));
    }
    let theta = [&parameters, &scaling].into_iter().find_map(|block| block.as_ref()?.theta);
    let theta = match theta {
        Some(theta) => theta,
        None => text.number("rope_theta")?.unwrap_or(DEFAULT_THETA),
    };
    let scaling = parameters.or(scaling).and_then(|block| block.scaling);
    Ok((theta, scaling))
}

struct Block {
    theta: Option<f64>,
    scaling: Option<Llama3RopeScalingParams>,
}

fn block(text: &Section, key: &str) -> Result<Option<Block>, ConfigError> {
    let Some(map) = text.object(key)?.filter(|map| !map.is_empty()) else {
        return Ok(None);
    };
    let prefix = format!("{}.", text.path(key));
    let rope = Section::new(&prefix, map);

    let kind_key = match rope.get("rope_type") {
        Some(_) => "rope_type",
        None => "type",
    };
    let scaling = match rope.text(kind_key)? {
        Some("llama3") => Some(llama3(&rope)?),
        Some("default") => None,
        Some(kind) => {
            let kind = Value::from(kind);
            return Err(rope.unsupported(kind_key, &kind, "llama3, default"));
        }
        // Without a kind, nothing but a theta may be there: a `factor` of an unknown kind must not become plain RoPE.
        None if map.keys().all(|key| key == "rope_theta" || rope.get(key).is_none()) => None,
        None => return Err(rope.missing("rope_type")),
    };
    if let Some(part) = rope.number("partial_rotary_factor")?
        && part != 1.0
    {
        let part = Value::from(part);
        return Err(rope.unsupported("partial_rotary_factor", &part, "1, the whole head"));
    }
    let theta = rope.number("rope_theta")?;
    Ok(Some(Block { theta, scaling }))
}

fn llama3(rope: &Section) -> Result<Llama3RopeScalingParams, ConfigError> {
    let number = |key| rope.number(key)?.ok_or_else(|| rope.missing(key));
    Ok(Llama3RopeScalingParams {
        factor: number("factor")?,
        low_freq_factor: number("low_freq_factor")?,
        high_freq_factor: number("high_freq_factor")?,
        orig_max_position: rope.required_count("original_max_position_embeddings")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rope(text: Value) -> Result<(f64, Option<Llama3RopeScalingParams>), String> {
        let map = text.as_object().unwrap();
        read(&Section::new("", map)).map_err(|error| error.to_string())
    }

    fn scout() -> Option<Llama3RopeScalingParams> {
        Some(Llama3RopeScalingParams {
            factor: 16.0,
            low_freq_factor: 1.0,
            high_freq_factor: 1.0,
            orig_max_position: 8192,
        })
    }

    #[test]
    fn both_spellings_and_both_names_of_the_kind_mean_the_same() {
        let block = |kind: &str| json!({kind: "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1, "original_max_position_embeddings": 8192});
        for kind in ["rope_type", "type"] {
            let old = json!({"rope_theta": 10000.0, "rope_scaling": block(kind)});
            assert_eq!(rope(old), Ok((10000.0, scout())));
            let mut new = block(kind);
            new["rope_theta"] = json!(10000);
            assert_eq!(rope(json!({"rope_parameters": new})), Ok((10000.0, scout())));
        }
        // transformers 4.4x wrote both names, the old one possibly null.
        let mut both = block("rope_type");
        both["type"] = json!("llama3");
        assert_eq!(rope(json!({"rope_scaling": both})), Ok((5e5, scout())));
    }

    #[test]
    fn plain_rope_has_many_spellings() {
        for text in [
            json!({}),
            json!({"rope_scaling": null}),
            json!({"rope_scaling": {}}),
            json!({"rope_parameters": null, "rope_scaling": null}),
            json!({"rope_scaling": {"rope_type": "default"}}),
            json!({"rope_parameters": {"rope_theta": 5e5}}),
            json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "rope_theta": 1.0}),
        ] {
            assert_eq!(rope(text), Ok((5e5, None)));
        }
    }

    #[test]
    fn what_is_not_known_is_not_taken_for_plain_rope() {
        for (text, part) in [
            (json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}), "`rope_scaling.rope_type` is \"yarn\""),
            (json!({"rope_scaling": {"type": "linear", "factor": 4.0}}), "`rope_scaling.type` is \"linear\""),
            (json!({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}}), "\"dynamic\""),
            (json!({"rope_scaling": {"factor": 4.0}}), "`rope_scaling.rope_type` is missing"),
            (json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}), "rope_type"),
            (
                json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
                "`rope_scaling.low_freq_factor` is missing",
            ),
            (
                json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
                "partial_rotary_factor",
            ),
            (json!({"rope_scaling": "llama3"}), "`rope_scaling` is \"llama3\""),
            (json!({"rope_theta": "big"}), "`rope_theta` is \"big\""),
        ] {
            let error = rope(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn two_blocks_that_disagree_are_an_error() {
        let llama3 = json!({"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
            "original_max_position_embeddings": 8192});
        let plain = json!({"rope_type": "default", "rope_theta": 5e5});
        let error = rope(json!({"rope_parameters": plain, "rope_scaling": llama3.clone()})).unwrap_err();
        assert!(error.contains("rope_parameters"), "{error}");
        let same = json!({"rope_parameters": llama3.clone(), "rope_scaling": llama3});
        assert_eq!(rope(same), Ok((5e5, scout())));
    }
}
