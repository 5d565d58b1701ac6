//! What a layer does to its values between the products, each in one pass.

use super::lanes::{LANES, fold};
use super::level::{Level, at_levels};
use super::pool::Pool;
use super::share::Share;
use crate::exp::exp;

/// Values below which one thread is faster than several.
const VALUES_PER_TASK: usize = 1 << 14;

/// Run `work` on pieces of `y`, some whole rows of `width` each, with the index of the first row.
fn by_rows(pool: &Pool, y: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = y.len() / width;
    let per_task = (VALUES_PER_TASK / width).max(1);
    let y = Share::new(y);
    pool.run(rows.div_ceil(per_task), |task| {
        let first = task * per_task;
        let count = per_task.min(rows - first);
        // SAFETY: each task has rows of its own.
        work(first, unsafe { y.part(first * width, count * width) });
    });
}

/// `y = x / sqrt(mean(x²) + ε) · w` of each row.
pub(in crate::ops::cpu) fn rms_norm(pool: &Pool, level: Level, x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    let width = weight.len();
    assert!(width > 0 && x.len() == y.len() && x.len().is_multiple_of(width), "whole rows");
    by_rows(pool, y, width, |row, y| norm_rows(level, &x[row * width..][..y.len()], weight, epsilon, y));
}

at_levels! {
    pub(super) fn norm_rows(level: Level, x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(weight.len()).zip(y.chunks_exact_mut(weight.len())) {
            let factor = 1.0 / (mean_square(x) + epsilon).sqrt();
            for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                *y = x * factor * weight;
            }
        }
    }
}

#[inline(always)]
fn mean_square(x: &[f32]) -> f32 {
    let (lanes, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for x in lanes {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x * x;
        }
    }
    (fold(sums) + rest.iter().map(|x| x * x).sum::<f32>()) / x.len() as f32
}

/// Rows of `x` of the width, in the order of `ids`.
///
/// # Panics
/// If there is no such row.
pub(in crate::ops::cpu) fn select_rows(pool: &Pool, x: &[f32], ids: &[usize], width: usize, y: &mut [f32]) {
    assert!(width > 0 && y.len() == ids.len() * width, "a row for each");
    by_rows(pool, y, width, |first, y| {
        for (y, id) in y.chunks_exact_mut(width).zip(&ids[first..]) {
            y.copy_from_slice(&x[id * width..][..width]);
        }
    });
}

/// What becomes of queries or keys before they meet.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops::cpu) struct Heads<'a> {
    /// Heads of a token.
    pub(in crate::ops::cpu) heads: usize,
    /// Width of a head.
    pub(in crate::ops::cpu) head_dim: usize,
    /// Cosine and sine of each pair of a head, `[tokens, head_dim / 2]` each.
    pub(in crate::ops::cpu) rotation: Option<(&'a [f32], &'a [f32])>,
    /// Epsilon of the norm of each head.
    pub(in crate::ops::cpu) norm: Option<f32>,
    /// Factor of each token.
    pub(in crate::ops::cpu) scale: Option<&'a [f32]>,
}

/// Rotate pairs of neighbours, then divide each head by the root of its mean square, then scale; `x [tokens, heads, head_dim]`.
pub(in crate::ops::cpu) fn heads(pool: &Pool, level: Level, x: &[f32], work: Heads, y: &mut [f32]) {
    let width = work.heads * work.head_dim;
    assert!(
        width > 0 && work.head_dim.is_multiple_of(2) && x.len() == y.len() && x.len().is_multiple_of(width),
        "tokens"
    );
    by_rows(pool, y, width, |token, y| {
        for (token, (x, y)) in
            (token..).zip(x[token * width..][..y.len()].chunks_exact(width).zip(y.chunks_exact_mut(width)))
        {
            let pairs = work.head_dim / 2;
            let angles = token * pairs..(token + 1) * pairs;
            let rotation = work.rotation.map(|(cos, sin)| (&cos[angles.clone()], &sin[angles.clone()]));
            let scale = work.scale.map_or(1.0, |scale| scale[token]);
            heads_of_token(level, x, work.head_dim, rotation, work.norm, scale, y);
        }
    });
}

at_levels! {
    fn heads_of_token(level: Level, x: &[f32], head_dim: usize, rotation: Option<(&[f32], &[f32])>, norm: Option<f32>, scale: f32, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(head_dim).zip(y.chunks_exact_mut(head_dim)) {
            match rotation {
                Some((cos, sin)) => {
                    let pairs = y.as_chunks_mut::<2>().0.iter_mut().zip(x.as_chunks::<2>().0);
                    for ((y, [a, b]), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                        *y = [a * cos - b * sin, a * sin + b * cos];
                    }
                }
                None => y.copy_from_slice(x),
            }
            let factor = norm.map_or(1.0, |epsilon| 1.0 / (mean_square(y) + epsilon).sqrt());
            if norm.is_some() || scale != 1.0 {
                y.iter_mut().for_each(|y| *y = *y * factor * scale);
            }
        }
    }
}

/// `y = silu(gate) · up`; rows of gate and up are `stride` values apart, rows of `y` `width`.
pub(in crate::ops::cpu) fn swiglu(
    pool: &Pool,
    level: Level,
    gate: &[f32],
    up: &[f32],
    stride: usize,
    width: usize,
    y: &mut [f32],
) {
    assert!(width > 0 && width <= stride && y.len().is_multiple_of(width), "whole rows");
    by_rows(pool, y, width, |first, y| {
        for (row, y) in (first..).zip(y.chunks_exact_mut(width)) {
            let row = row * stride..row * stride + width;
            swiglu_row(level, &gate[row.clone()], &up[row], y);
        }
    });
}

at_levels! {
    pub(super) fn swiglu_row(level: Level, gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate / (1.0 + exp(-gate)) * up;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|index| (index as f32 * 0.37).sin() * 3.0).collect()
    }

    fn close(found: &[f32], expected: impl IntoIterator<Item = f64>, what: &str) {
        let mut count = 0;
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 2e-6 * (1.0 + expected.abs()),
                "{what}: {found} for {expected}"
            );
            count += 1;
        }
        assert_eq!(count, found.len());
    }

    #[test]
    fn rows_are_selected_in_the_order_asked_for() {
        for width in [1, 7, 5000] {
            let x = numbers(6 * width);
            let ids = [4, 0, 5, 4, 3, 1, 1];
            let mut y = vec![f32::NAN; ids.len() * width];
            select_rows(Pool::global(), &x, &ids, width, &mut y);
            let expected: Vec<f32> = ids.iter().flat_map(|id| x[id * width..][..width].to_vec()).collect();
            assert_eq!(y, expected, "{width}");
        }
    }

    #[test]
    fn every_level_normalises_rotates_and_gates() {
        let pool = Pool::global();
        for (level, width) in
            Level::available().into_iter().flat_map(|level| [6, 64, 100, 1024].map(|width| (level, width)))
        {
            let rows = 40;
            let (x, weight) = (numbers(rows * width), numbers(width));
            let mut y = vec![f32::NAN; x.len()];
            rms_norm(pool, level, &x, &weight, 1e-5, &mut y);
            let root = |x: &[f32]| (x.iter().map(|x| f64::from(x * x)).sum::<f64>() / x.len() as f64 + 1e-5).sqrt();
            let expected = x.chunks(width).flat_map(|x| {
                let root = root(x);
                x.iter().zip(&weight).map(move |(x, weight)| f64::from(*x) / root * f64::from(*weight))
            });
            close(&y, expected, "norm");

            // Three tokens' gates and ups side by side.
            let both = numbers(rows * 2 * width);
            swiglu(pool, level, &both, &both[width..], 2 * width, width, &mut y);
            let expected = both.chunks(2 * width).flat_map(|both| {
                let (gate, up) = both.split_at(width);
                gate.iter().zip(up).map(|(gate, up)| {
                    let gate = f64::from(*gate);
                    gate / (1.0 + (-gate).exp()) * f64::from(*up)
                })
            });
            close(&y, expected, "gate");

            let (tokens, head_dim) = (rows / 4, width);
            let angles: Vec<f32> = numbers(tokens * head_dim / 2);
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|angle| (angle.cos(), angle.sin())).unzip();
            let scale = numbers(tokens);
            let rotated = |token: usize, x: &[f32]| -> Vec<f64> {
                let pairs = x.chunks(2).zip(&angles[token * head_dim / 2..]);
                let turn = |(pair, _angle): (&[f32], &f32), cos: f64, sin: f64| {
                    let (a, b) = (f64::from(pair[0]), f64::from(pair[1]));
                    [a * cos - b * sin, a * sin + b * cos]
                };
                let tables = cos[token * head_dim / 2..].iter().zip(&sin[token * head_dim / 2..]);
                pairs.zip(tables).flat_map(|(pair, (c, s))| turn(pair, f64::from(*c), f64::from(*s))).collect()
            };
            let work =
                Heads { heads: 4, head_dim, rotation: Some((&cos, &sin)), norm: Some(1e-5), scale: Some(&scale) };
            heads(pool, level, &x, work, &mut y);
            let expected = x.chunks(head_dim).enumerate().flat_map(|(head, x)| {
                let turned = rotated(head / 4, x);
                let square: f64 = turned.iter().map(|x| x * x).sum::<f64>() / head_dim as f64;
                let factor = f64::from(scale[head / 4]) / (square + 1e-5).sqrt();
                turned.into_iter().map(move |x| x * factor)
            });
            close(&y, expected, "heads");
        }
    }
}
