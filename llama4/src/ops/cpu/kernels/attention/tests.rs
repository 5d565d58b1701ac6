use super::*;

fn numbers(count: usize, step: f32) -> Vec<f32> {
    (0..count).map(|index| (index as f32 * step + step).sin() * 2.0).collect()
}

/// One query's head over its keys, in `f64`.
fn reference(q: &[f32], stored: &Stored, first: usize, keys: usize) -> Vec<f64> {
    let of_key = |values: &[f32], key: usize| values[first + key * stored.key_stride..][..stored.head_dim].to_vec();
    let scores: Vec<f64> = (0..keys)
        .map(|key| q.iter().zip(of_key(stored.keys, key)).map(|(q, k)| f64::from(*q) * f64::from(k)).sum::<f64>())
        .map(|score| score * f64::from(stored.scale))
        .collect();
    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
    let whole: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    let mut y = vec![0.0; stored.head_dim];
    for (key, score) in scores.iter().enumerate() {
        let weight = (score - largest).exp() / whole;
        y.iter_mut().zip(of_key(stored.values, key)).for_each(|(y, v)| *y += weight * f64::from(v));
    }
    y
}

#[test]
fn every_level_attends_as_the_definition_says() {
    let pool = Pool::global();
    // heads, kv heads, width; slots; queries as (length, past).
    let cases = [
        (4, 2, 8, 40, vec![(1, 0), (1, 39)]),
        (4, 1, 64, 600, vec![(1, 530), (2, 511), (3, 0)]),
        (10, 2, 32, 1200, vec![(1, 1100), (40, 1000), (33, 0)]),
        (8, 8, 16, 3000, vec![(1, 2999), (7, 2100)]),
        (6, 3, 20, 90, vec![(90, 0)]),
    ];
    for (heads, kv_heads, head_dim, slots, sequences) in cases {
        for by_token in [false, true] {
            // As a cache holds them, head by head, or as they come, token by token.
            let (head_stride, key_stride) =
                if by_token { (head_dim, kv_heads * head_dim) } else { (slots * head_dim, head_dim) };
            let size = kv_heads * slots * head_dim;
            let (keys, values) = (numbers(sequences.len() * size, 0.7), numbers(sequences.len() * size, 0.3));
            let scale = 1.0 / (head_dim as f32).sqrt();
            let stored =
                Stored { keys: &keys, values: &values, heads, kv_heads, head_dim, head_stride, key_stride, scale };
            let mut queries = Vec::new();
            let mut tokens = 0;
            for (row, &(len, past)) in sequences.iter().enumerate() {
                queries.push(Queries { offset: tokens, len, past, first_key: row * size, output: tokens });
                tokens += len;
            }
            let x = numbers(tokens * heads * head_dim, 0.11);
            for level in Level::available() {
                let mut y = vec![f32::NAN; x.len()];
                attention(pool, level, &x, &stored, &queries, &mut y);
                for queries in &queries {
                    for (query, head) in (0..queries.len).flat_map(|query| (0..heads).map(move |head| (query, head))) {
                        let at = ((queries.offset + query) * heads + head) * head_dim;
                        let first = queries.first_key + head / (heads / kv_heads) * head_stride;
                        let expected = reference(&x[at..at + head_dim], &stored, first, queries.past + query + 1);
                        for (found, expected) in y[at..at + head_dim].iter().zip(expected) {
                            let error = (f64::from(*found) - expected).abs();
                            assert!(error < 2e-5, "{level}, {heads} heads, query {query}: {found} for {expected}");
                        }
                    }
                }
            }
        }
    }
}
