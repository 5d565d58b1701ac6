//! Grouped-query causal attention, block of keys by block of keys: scores are never held for more than a block.

use std::cell::RefCell;
use std::ops::Range;

use super::dot;
use super::lanes::{LANES, fold};
use super::level::{Level, at_levels};
use super::lines::Lines;
use super::matrix::Matrix;
use super::pool::Pool;
use super::share::Share;
use super::tile::{Ahead, FloatPanel, Form, MOST, Sums, WIDEST, float_tile, most, width};
use super::transpose::transpose;
use crate::exp::exp;

/// Keys of a block: with 128 values a head, its keys and values fit the second-level cache.
const KEYS: usize = 512;

/// Tiles of query rows that go through the keys together, so that a block is prepared once for all of them.
const TILES: usize = 8;

/// Least keys of a part when the keys of one query are shared among threads.
const KEYS_PER_PART: usize = 1024;

/// Keys and values, and how queries belong to them.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops::cpu) struct Stored<'a> {
    pub(in crate::ops::cpu) keys: &'a [f32],
    pub(in crate::ops::cpu) values: &'a [f32],
    /// Query heads.
    pub(in crate::ops::cpu) heads: usize,
    pub(in crate::ops::cpu) kv_heads: usize,
    pub(in crate::ops::cpu) head_dim: usize,
    /// Values from one kv head to the next, of the same key.
    pub(in crate::ops::cpu) head_stride: usize,
    /// Values from one key to the next, of the same head.
    pub(in crate::ops::cpu) key_stride: usize,
    /// Factor of the scores.
    pub(in crate::ops::cpu) scale: f32,
}

/// Consecutive queries of one sequence.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops::cpu) struct Queries {
    /// First token among the queries.
    pub(in crate::ops::cpu) offset: usize,
    /// Tokens.
    pub(in crate::ops::cpu) len: usize,
    /// Keys that the first query sees beside its own.
    pub(in crate::ops::cpu) past: usize,
    /// Where the keys of the first head begin.
    pub(in crate::ops::cpu) first_key: usize,
    /// First token in the output.
    pub(in crate::ops::cpu) output: usize,
}

/// Queries times keys of one kv head.
#[derive(Debug, Clone)]
struct Task {
    queries: Queries,
    kv_head: usize,
    /// Rows of queries, all heads of a group of each token: token `row / group`.
    rows: Range<usize>,
    /// Keys that it looks at.
    keys: Range<usize>,
    /// Where its sums go, if others have the rest of the keys.
    part: Option<usize>,
}

/// What a thread works with.
#[derive(Debug, Default)]
struct Room {
    panels: Lines,
    values: Lines,
    tiles: Lines,
    scores: Lines,
    weights: Lines,
    sums: Lines,
    state: Vec<State>,
}

/// What is known of a row after some keys.
#[derive(Debug, Clone, Copy)]
struct State {
    /// Largest score.
    largest: f32,
    /// Sum of the exponentials of the scores less the largest.
    sum: f32,
}

const NOTHING: State = State { largest: f32::NEG_INFINITY, sum: 0.0 };

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// `y[query, head] = softmax(scale · q kᵀ) v` of each sequence, query `i` over its first `past + i + 1` keys.
///
/// `x [tokens, heads, head_dim]`, `y [tokens, heads, head_dim]` in the order of `queries`.
pub(in crate::ops::cpu) fn attention(
    pool: &Pool,
    level: Level,
    x: &[f32],
    stored: &Stored,
    queries: &[Queries],
    y: &mut [f32],
) {
    let Stored { heads, kv_heads, head_dim, .. } = *stored;
    let group = heads / kv_heads;
    let mut tasks = Vec::new();
    let mut parts = Vec::new();
    // Sequences whose queries are few are shared by their keys.
    let few = |queries: &Queries| queries.len * group <= dot::MOST * 2;
    let alone = queries.iter().filter(|queries| few(queries)).count() * kv_heads;
    for &queries in queries {
        let rows = queries.len * group;
        let keys = queries.past + queries.len;
        for kv_head in 0..kv_heads {
            let share = (2 * pool.threads()).div_ceil(alone.max(1)).min(keys / KEYS_PER_PART).max(1);
            if few(&queries) && share > 1 {
                for part in 0..share {
                    let keys = keys * part / share..keys * (part + 1) / share;
                    tasks.push(Task { queries, kv_head, rows: 0..rows, keys, part: Some(parts.len()) });
                    parts.push((queries, kv_head));
                }
                continue;
            }
            let block = TILES * most(level, Form::Floats);
            // Late queries see most keys: they come first.
            for first in (0..rows).step_by(block).rev() {
                let rows = first..(first + block).min(rows);
                let keys = 0..queries.past + (rows.end - 1) / group + 1;
                tasks.push(Task { queries, kv_head, rows, keys, part: None });
            }
        }
    }
    let out = Share::new(y);
    let put = |queries: &Queries, kv_head: usize, row: usize, sums: &[f32], factor: f32| {
        let token = queries.output + row / group;
        let at = (token * heads + kv_head * group + row % group) * head_dim;
        // SAFETY: a row is one task's, or is joined after all.
        let y = unsafe { out.part(at, head_dim) };
        y.iter_mut().zip(sums).for_each(|(y, sum)| *y = sum * factor);
    };
    // Of each part: sums of every row, then largest and sum of every row.
    let part_rows = dot::MOST * 2;
    let part_width = part_rows * (head_dim + 2);
    let mut partial = vec![0.0_f32; parts.len() * part_width];
    let shared = Share::new(&mut partial);
    pool.run(tasks.len(), |task| {
        let task = &tasks[task];
        ROOM.with_borrow_mut(|room| {
            run(level, x, stored, task, room);
            let sums: &[f32] = bytemuck::cast_slice(room.sums.held());
            for (index, (row, state)) in task.rows.clone().zip(&room.state).enumerate() {
                let sums = &sums[index * head_dim..][..head_dim];
                match task.part {
                    None => put(&task.queries, task.kv_head, row, sums, 1.0 / state.sum),
                    Some(part) => {
                        // SAFETY: a part is one task's.
                        let part = unsafe { shared.part(part * part_width, part_width) };
                        part[row * (head_dim + 2)..][..head_dim].copy_from_slice(sums);
                        part[row * (head_dim + 2) + head_dim..][..2].copy_from_slice(&[state.largest, state.sum]);
                    }
                }
            }
        });
    });
    let same = |a: &(Queries, usize), b: &(Queries, usize)| a.0.offset == b.0.offset && a.1 == b.1;
    let mut first = 0;
    for parts in parts.chunk_by(same) {
        let (queries, kv_head) = &parts[0];
        let own = &partial[first * part_width..][..parts.len() * part_width];
        for row in 0..queries.len * group {
            let of_part = |part: &'_ [f32]| -> (f32, f32) {
                let state = &part[row * (head_dim + 2) + head_dim..];
                (state[0], state[1])
            };
            let largest = own.chunks_exact(part_width).map(|part| of_part(part).0).fold(f32::NEG_INFINITY, f32::max);
            let mut sums = vec![0.0_f32; head_dim];
            let mut whole = 0.0;
            for part in own.chunks_exact(part_width) {
                let (part_largest, sum) = of_part(part);
                let factor = exp(part_largest - largest);
                whole += sum * factor;
                let values = &part[row * (head_dim + 2)..][..head_dim];
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value * factor);
            }
            put(queries, *kv_head, row, &sums, 1.0 / whole);
        }
        first += parts.len();
    }
}

/// Leaves each row's weighted values, not yet divided, in `room.sums` and what they are to be divided by in `room.state`.
fn run(level: Level, x: &[f32], stored: &Stored, task: &Task, room: &mut Room) {
    let Stored { heads, kv_heads, head_dim, .. } = *stored;
    let group = heads / kv_heads;
    let count = task.rows.len();
    let row_of = |row: usize| {
        let at = ((task.queries.offset + row / group) * heads + task.kv_head * group + row % group) * head_dim;
        &x[at..at + head_dim]
    };
    room.state.clear();
    room.state.resize(count, NOTHING);
    room.sums.words(count * head_dim).fill(0);
    let tile_rows = most(level, Form::Floats);
    let tiles: Vec<Range<usize>> =
        (0..count).step_by(tile_rows).map(|first| first..(first + tile_rows).min(count)).collect();
    // Few rows read the keys where they are; more have them turned into panels.
    let rowwise = count <= dot::MOST * 2 && stored.key_stride == head_dim;
    let width = width(level);
    let queries = room.tiles.words(count * head_dim);
    let queries: &mut [f32] = bytemuck::cast_slice_mut(queries);
    if rowwise {
        for (row, values) in task.rows.clone().zip(queries.chunks_exact_mut(head_dim)) {
            values.copy_from_slice(row_of(row));
        }
    } else {
        for tile in &tiles {
            let values = &mut queries[tile.start * head_dim..tile.end * head_dim];
            for (index, row) in tile.clone().enumerate() {
                let row = row_of(task.rows.start + row);
                values[index..].iter_mut().step_by(tile.len()).zip(row).for_each(|(value, x)| *value = *x);
            }
        }
    }
    let queries = &*queries;
    let base = task.queries.first_key + task.kv_head * stored.head_stride;
    let padded = head_dim.next_multiple_of(width);
    for block in task.keys.clone().step_by(KEYS) {
        let keys = block..(block + KEYS).min(task.keys.end);
        let first = base + keys.start * stored.key_stride;
        let span = (keys.len() - 1) * stored.key_stride + head_dim;
        let (key_rows, value_rows) = (&stored.keys[first..first + span], &stored.values[first..first + span]);
        let panels = room.panels.words(if rowwise { 0 } else { keys.len().div_ceil(width) * width * head_dim });
        if !rowwise {
            for (panel, first) in panels.chunks_exact_mut(width * head_dim).zip((0..keys.len()).step_by(width)) {
                let rows = width.min(keys.len() - first);
                let from = bytemuck::cast_slice(&key_rows[first * stored.key_stride..]);
                transpose(level, from, stored.key_stride, rows, head_dim, panel, width);
            }
        }
        let panels: &[f32] = bytemuck::cast_slice(panels);
        let (value_panel, value_stride) = if padded == head_dim {
            (value_rows, stored.key_stride)
        } else {
            let copy: &mut [f32] = bytemuck::cast_slice_mut(room.values.words(keys.len() * padded));
            for (key, copy) in copy.chunks_exact_mut(padded).enumerate() {
                copy[..head_dim].copy_from_slice(&value_rows[key * stored.key_stride..][..head_dim]);
                copy[head_dim..].fill(0.0);
            }
            (&*copy, padded)
        };
        for tile in &tiles {
            let visible = |row: usize| {
                let end = task.queries.past + (task.rows.start + row) / group + 1;
                end.min(keys.end).saturating_sub(keys.start)
            };
            let seen = visible(tile.end - 1);
            if seen == 0 {
                continue;
            }
            let stride = seen.next_multiple_of(width);
            let scores: &mut [f32] = bytemuck::cast_slice_mut(room.scores.words(tile.len() * stride));
            if rowwise {
                let rows = Matrix::floats(&key_rows[..seen * head_dim], head_dim);
                for some in (0..tile.len()).step_by(dot::MOST) {
                    let count = dot::MOST.min(tile.len() - some);
                    let x = &queries[(tile.start + some) * head_dim..][..count * head_dim];
                    dot::dots(level, &rows, x, true, |key, row, sum| {
                        scores[(some + row) * stride + key] = sum;
                        if some + row == 0 {
                            // The key's value is read next.
                            let value = &value_rows[key * head_dim..][..head_dim];
                            Ahead::new(bytemuck::cast_slice(value)).ask(0, 1);
                        }
                    });
                }
            } else {
                let x = &queries[tile.start * head_dim..tile.end * head_dim];
                let mut sums: Sums = [[0.0; WIDEST]; MOST];
                for (panel, first) in panels.chunks_exact(width * head_dim).zip((0..seen).step_by(width)) {
                    let panel = FloatPanel { values: panel, stride: width, depth: head_dim };
                    float_tile(level, panel, x, tile.len(), &mut sums);
                    for (scores, sums) in scores.chunks_exact_mut(stride).zip(&sums) {
                        scores[first..first + width].copy_from_slice(&sums[..width]);
                    }
                }
            }
            let weights: &mut [f32] = bytemuck::cast_slice_mut(room.weights.words(seen * tile.len()));
            let sums: &mut [f32] = bytemuck::cast_slice_mut(room.sums.words(count * head_dim));
            for (index, row) in tile.clone().enumerate() {
                let scores = &mut scores[index * stride..][..seen];
                let own = visible(row);
                let state = &mut room.state[row];
                let before = *state;
                *state = soften(level, &mut scores[..own], stored.scale, before);
                let factor = exp(before.largest - state.largest);
                if factor != 1.0 {
                    sums[row * head_dim..][..head_dim].iter_mut().for_each(|sum| *sum *= factor);
                }
                scores[own..].fill(0.0);
                weights[index..]
                    .iter_mut()
                    .step_by(tile.len())
                    .zip(scores)
                    .for_each(|(weight, score)| *weight = *score);
            }
            let mut products: Sums = [[0.0; WIDEST]; MOST];
            for first in (0..padded).step_by(width) {
                let panel = FloatPanel { values: &value_panel[first..], stride: value_stride, depth: seen };
                float_tile(level, panel, weights, tile.len(), &mut products);
                let columns = width.min(head_dim - first);
                for (row, products) in tile.clone().zip(&products) {
                    let sums = &mut sums[row * head_dim + first..][..columns];
                    sums.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
                }
            }
        }
    }
}

at_levels! {
    /// Scores become `exp(scale · score - largest)`, and the state that of these keys too.
    fn soften(level: Level, scores: &mut [f32], scale: f32, before: State) -> State {
        let mut lanes = [before.largest; LANES];
        let (whole, rest) = scores.as_chunks_mut::<LANES>();
        for scores in whole.iter_mut() {
            for (largest, score) in lanes.iter_mut().zip(scores) {
                *score *= scale;
                *largest = if *score > *largest { *score } else { *largest };
            }
        }
        for score in rest.iter_mut() {
            *score *= scale;
            lanes[0] = if *score > lanes[0] { *score } else { lanes[0] };
        }
        let largest = lanes.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        let mut sums = [0.0_f32; LANES];
        for scores in whole.iter_mut() {
            for (sum, score) in sums.iter_mut().zip(scores) {
                *score = exp(*score - largest);
                *sum += *score;
            }
        }
        let mut sum = fold(sums);
        for score in rest.iter_mut() {
            *score = exp(*score - largest);
            sum += *score;
        }
        State { largest, sum: before.sum * exp(before.largest - largest) + sum }
    }
}

#[cfg(test)]
mod tests;
