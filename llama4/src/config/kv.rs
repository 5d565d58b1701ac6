use burn::tensor::DType;

use super::words::words;
use crate::error::ConfigError;

/// Wishes about the cache of keys and values; MAX's `KVCacheConfig`, as far as a cache can have them that is one
/// preallocated block per layer. What belongs to a paged cache shared between requests is refused by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KvCacheConfig {
    /// Type of keys and values. `None` is the model's own type, and no other is supported.
    pub kv_cache_format: Option<DType>,
    /// Tokens in a page. Only `None`: the cache has no pages.
    pub kv_cache_page_size: Option<usize>,
    /// Reuse of common beginnings between requests. Only `false`: within one sequence, cut the cache to the common
    /// beginning instead ([`KvCache::truncate`](crate::cache::KvCache::truncate)).
    pub enable_prefix_caching: bool,
    /// Share of the free device memory that the cache takes. Only `None`: the cache is as large as
    /// [`KvCacheParams::bytes`] says, no larger.
    pub device_memory_utilization: Option<f64>,
    /// Where keys and values go that the device has no room for. Only [`KvConnector::Null`].
    pub kv_connector: KvConnector,
    /// How blocks are recognised for prefix caching. Only `None`: there are no blocks.
    pub kv_cache_hash_algo: Option<String>,
}

/// Storage beyond the device for keys and values; MAX's `kv_connector_config` types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvConnector {
    /// None.
    #[default]
    Null,
    /// Host memory, then disk.
    Tiered,
    /// A store shared between machines.
    Dkv,
}

words!(KvConnector, "kv_connector", { Null = "null", Tiered = "tiered", Dkv = "dkv" });

impl KvCacheConfig {
    /// # Errors
    /// When something is asked for that the cache does not have.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |field, value: String, supported| Err(ConfigError::unsupported(field, value, supported));
        if let Some(size) = self.kv_cache_page_size {
            return refuse("kv_cache_page_size", size.to_string(), "none, the cache has no pages");
        }
        if self.enable_prefix_caching {
            let supported = "false, a session reuses its own beginning by cutting its cache";
            return refuse("enable_prefix_caching", "true".into(), supported);
        }
        if let Some(share) = self.device_memory_utilization {
            let supported = "none, the cache takes what its length and rows need";
            return refuse("device_memory_utilization", share.to_string(), supported);
        }
        if self.kv_connector != KvConnector::Null {
            return refuse("kv_connector", self.kv_connector.to_string(), "null");
        }
        if let Some(algorithm) = &self.kv_cache_hash_algo {
            let supported = "none, the cache has no blocks";
            return refuse("kv_cache_hash_algo", format!("\"{algorithm}\""), supported);
        }
        Ok(())
    }
}

/// What decides the size of a cache of keys and values.
///
/// A layer with chunked attention holds at most one chunk, because no query looks back further; only layers with full
/// attention hold every position.
#[derive(Debug, Clone, PartialEq)]
pub struct KvCacheParams {
    /// Decoder layers.
    pub num_layers: usize,
    /// Key and value heads of a layer.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Type of keys and values.
    pub dtype: DType,
    /// Tokens that each sequence has room for.
    pub max_seq_len: usize,
    /// Sequences.
    pub max_batch_size: usize,
    /// Per layer: positions held at most (its chunk), or `None` for all.
    pub windows: Vec<Option<usize>>,
}

impl KvCacheParams {
    /// Bytes of the whole cache as it is allocated: all sequences at full length.
    pub fn bytes(&self) -> u64 {
        self.bytes_at(self.max_seq_len).saturating_mul(self.max_batch_size as u64)
    }

    /// Bytes of a cache for one sequence of `tokens`.
    pub fn bytes_at(&self, tokens: usize) -> u64 {
        let slots = self.windows.iter().map(|window| {
            let slots = window.map_or(tokens, |window| window.min(tokens));
            slots as u64
        });
        let slots = slots.fold(0, u64::saturating_add);
        slots.saturating_mul(self.bytes_per_slot())
    }

    /// Bytes of the largest tensor of the cache: one layer's keys of all sequences, or its values.
    pub fn largest_tensor(&self) -> u64 {
        self.tensors().max().unwrap_or(0)
    }

    /// Bytes of each layer's keys of all sequences, which are those of its values too.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = u64> {
        self.windows.iter().map(|window| {
            let slots = window.map_or(self.max_seq_len, |window| window.min(self.max_seq_len));
            let rows = (self.max_batch_size as u64).saturating_mul(slots as u64);
            rows.saturating_mul(self.bytes_per_slot() / 2)
        })
    }

    /// Bytes that one token takes while every layer still grows: within its first chunk.
    pub fn bytes_per_token(&self) -> u64 {
        (self.windows.len() as u64).saturating_mul(self.bytes_per_slot())
    }

    /// Bytes that one more token takes once the chunked layers are full, in the layers that hold everything.
    pub fn bytes_per_token_past_windows(&self) -> u64 {
        let full = self.windows.iter().filter(|window| window.is_none());
        (full.count() as u64).saturating_mul(self.bytes_per_slot())
    }

    /// Key and value of one position in one layer.
    fn bytes_per_slot(&self) -> u64 {
        [self.n_kv_heads, self.head_dim, self.dtype.size()]
            .into_iter()
            .fold(2, |bytes: u64, factor| bytes.saturating_mul(factor as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Llama4Config, PipelineConfig};

    const GIB: f64 = (1u64 << 30) as f64;

    fn scout(max_seq_len: usize) -> KvCacheParams {
        let pipeline = PipelineConfig { max_seq_len: Some(max_seq_len), ..PipelineConfig::default() };
        let scout = Llama4Config::scout();
        scout.construct_kv_params(&pipeline, DType::BF16).unwrap()
    }

    #[test]
    fn chunked_layers_hold_one_chunk() {
        assert_eq!(scout(1).bytes_per_token(), 192 << 10);
        assert_eq!(scout(1).bytes_per_token_past_windows(), 48 << 10);
        // All 48 layers within the chunk; beyond it 12 grow.
        assert_eq!(scout(8192).bytes(), 8192 * (192 << 10));
        assert_eq!(scout(8193).bytes() - scout(8192).bytes(), 48 << 10);
        for (tokens, gib) in [(8192, 1.5), (32_768, 2.625), (131_072, 7.125), (1 << 20, 49.125)] {
            assert_eq!(scout(tokens).bytes() as f64 / GIB, gib, "{tokens}");
        }
    }

    #[test]
    fn rows_multiply() {
        let mut params = scout(100);
        let one = params.bytes();
        params.max_batch_size = 3;
        assert_eq!(params.bytes(), 3 * one);
    }

    #[test]
    fn a_dense_model_without_chunks_holds_everything() {
        let guard = Llama4Config::guard4();
        let params = guard.construct_kv_params(&PipelineConfig::default(), DType::F32).unwrap();
        assert_eq!(params.max_seq_len, 163_840);
        assert_eq!(params.bytes(), 163_840 * params.bytes_per_token());
        assert_eq!(params.bytes_per_token(), params.bytes_per_token_past_windows());
    }

    #[test]
    fn what_a_paged_cache_has_is_refused_by_name() {
        type Break = fn(&mut KvCacheConfig);
        let cases: &[(Break, &str)] = &[
            (|kv| kv.kv_cache_page_size = Some(128), "`kv_cache_page_size` is 128"),
            (|kv| kv.enable_prefix_caching = true, "`enable_prefix_caching` is true"),
            (|kv| kv.device_memory_utilization = Some(0.9), "`device_memory_utilization` is 0.9"),
            (|kv| kv.kv_connector = KvConnector::Tiered, "`kv_connector` is tiered"),
            (|kv| kv.kv_cache_hash_algo = Some("sha256".into()), "`kv_cache_hash_algo` is \"sha256\""),
        ];
        KvCacheConfig::default().validate().unwrap();
        for (break_it, message) in cases {
            let mut kv = KvCacheConfig::default();
            break_it(&mut kv);
            let error = kv.validate().expect_err(message).to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
