//! A cube's share of the attention of new tokens, for every kernel that needs it.

use cubecl::prelude::*;

use crate::ops::cube::heads::{rotated, rounded};
use crate::ops::cube::reduce::over_line;

/// Units of a plane.
pub(super) const PLANE: usize = 32;

/// Values of a key that a unit has, and elements of a vector.
pub(super) const OWN: usize = 16;
pub(super) const LINE: usize = 4;

/// Parts that are loaded together to be joined.
const TOGETHER: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Plan {
    pub(super) kv_heads: usize,
    /// Query heads of a key head.
    pub(super) group: usize,
    pub(super) width: usize,
    pub(super) rotated: bool,
    pub(super) normed: bool,
    pub(super) tempered: bool,
    /// Planes of a cube that take part.
    pub(super) planes: usize,
    /// Keys that a unit takes in one step: few where there are few, so that no plane is left without.
    pub(super) keys: usize,
}

impl Plan {
    /// Units that share a key.
    pub(super) fn units(self) -> usize {
        self.width / OWN
    }

    /// Keys that a plane takes in one step.
    pub(super) fn step(self) -> usize {
        PLANE / self.units() * self.keys
    }

    /// Vectors of a head.
    pub(super) fn lines(self) -> usize {
        self.width / LINE
    }

    /// Vectors of a part of a head's result: its sums, then one with the highest score and the sum of the weights.
    pub(super) fn part_lines(self) -> usize {
        self.lines() + 1
    }

    /// Vectors that the planes of a cube join their parts in.
    pub(super) fn joined_lines(self) -> usize {
        self.planes * self.group * self.part_lines()
    }
}

/// Which keys of which head a cube has.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Share {
    pub(super) kv_head: usize,
    pub(super) token: usize,
    /// Number of the share among those of a token, and how many there are.
    pub(super) split: usize,
    pub(super) splits: usize,
    /// Keys of a share.
    pub(super) keys: usize,
}

/// Numbers that all heads have in common.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Numbers {
    /// Keys that a row of the cache has room for.
    pub(super) slots: usize,
    /// Positions of a chunk; zero where there are none.
    pub(super) chunk: usize,
    /// Of the norm of heads.
    pub(super) epsilon: f32,
    /// Of the scores.
    pub(super) scale: f32,
}

/// Write the new key and value of a head where they belong, and attend from its queries over a share of the keys. The result is a part, to be
/// joined with those of the other shares.
///
/// `queries` has room for the group's heads and the new key, `joined` for [`Plan::joined_lines`].
#[cube]
#[allow(clippy::too_many_arguments, reason = "of a kernel")]
pub(super) fn attend<X: Float>(
    new_queries: &Array<Line<X>>,
    new_keys: &Array<Line<X>>,
    new_values: &Array<Line<X>>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    temperature: &Array<f32>,
    places: &Array<i32>,
    keys: &mut Array<Line<X>>,
    values: &mut Array<Line<X>>,
    parts: &mut Array<Line<f32>>,
    queries: &mut SharedMemory<Line<f32>>,
    joined: &mut SharedMemory<Line<u32>>,
    share: Share,
    numbers: Numbers,
    #[comptime] plan: Plan,
) {
    let (lane, plane) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let (group, lines) = comptime!((plan.group, plan.lines()));
    let (kv_head, token) = (share.kv_head, share.token);
    let row = usize::cast_from(places[2 * token]);
    let mut past = usize::cast_from(places[2 * token + 1]);
    if numbers.chunk > 0 {
        past %= numbers.chunk;
    }
    let first = share.split * share.keys;
    let has_new = first <= past && past < first + share.keys;
    // Old keys alone. Nothing is left for the last cubes of a sequence that is shorter than others.
    let last = select(first + share.keys < past, first + share.keys, past);
    let base = (row * plan.kv_heads + kv_head) * numbers.slots * lines;

    // Queries of this key head, then the new key, a plane each.
    let mut head = plane;
    while head < group + 1 {
        let is_key = head == group;
        let inside = lane < lines;
        let at = select(inside, lane, 0);
        let own_key = (token * plan.kv_heads + kv_head) * lines;
        let query = (token * plan.kv_heads + kv_head) * group + select(is_key, 0, head);
        let mut four = Line::<f32>::cast_from(new_queries[query * lines + at]);
        if is_key {
            four = Line::<f32>::cast_from(new_keys[own_key + at]);
        }
        if comptime!(plan.rotated) {
            four = rotated::<X>(four, cos, sin, token * comptime!(plan.width / 2) + 2 * at);
        }
        if comptime!(plan.normed) {
            let own = select(inside, over_line(four * four), 0.0);
            let mean = plane_sum(own) / comptime!(plan.width as f32);
            four = rounded::<X>(four * Line::empty(LINE).fill(1.0 / f32::sqrt(mean + numbers.epsilon)));
        }
        if is_key {
            if inside {
                queries[group * lines + lane] = four;
                if has_new {
                    keys[base + past * lines + lane] = Line::cast_from(four);
                    values[base + past * lines + lane] = new_values[own_key + lane];
                }
            }
        } else {
            if comptime!(plan.tempered) {
                four = rounded::<X>(four * Line::empty(LINE).fill(temperature[token]));
            }
            if inside {
                queries[head * lines + lane] = four * Line::empty(LINE).fill(numbers.scale);
            }
        }
        head += CUBE_DIM_Y as usize;
    }
    sync_cube();

    // Units that share a key, and this unit's.
    let units = comptime!(plan.units());
    let (own, key) = (lane % units, lane / units);
    let mut sums = Array::<Line<f32>>::lined(comptime!(plan.group * OWN / LINE), LINE);
    let mut highest = Array::<f32>::new(plan.group);
    let mut weight = Array::<f32>::new(plan.group);
    #[unroll]
    for h in 0..plan.group {
        highest[h] = -1e30;
        weight[h] = 0.0;
        #[unroll]
        for i in 0..comptime!(OWN / LINE) {
            sums[comptime!(h * (OWN / LINE) + i)] = Line::empty(LINE).fill(0.0);
        }
    }
    if has_new && plane == 0 {
        // Not from the cache, where it would have to arrive first.
        let value = (token * plan.kv_heads + kv_head) * lines + own * comptime!(OWN / LINE);
        #[unroll]
        for h in 0..plan.group {
            let mut products = Line::<f32>::empty(LINE).fill(0.0);
            #[unroll]
            for i in 0..comptime!(OWN / LINE) {
                let at = own * comptime!(OWN / LINE) + i;
                products += queries[comptime!(h * plan.lines()) + at] * queries[group * lines + at];
            }
            let score = over_units(over_line(products), plan);
            if key == 0 {
                highest[h] = score;
                weight[h] = 1.0;
                #[unroll]
                for i in 0..comptime!(OWN / LINE) {
                    sums[comptime!(h * (OWN / LINE) + i)] = Line::cast_from(new_values[value + i]);
                }
            }
        }
    }
    let step = comptime!(plan.planes * plan.step());
    // Planes that do not take part have no keys.
    let mut start = select(plane < plan.planes, first + plane * comptime!(plan.step()), last);
    while start < last {
        let mut scores = Array::<f32>::new(comptime!(plan.group * plan.keys));
        let mut kept = Array::<Line<X>>::lined(comptime!(plan.keys * OWN / LINE), LINE);
        #[unroll]
        for k in 0..plan.keys {
            let index = start + comptime!(k * (PLANE / plan.units())) + key;
            let from = base + select(index < last, index, last - 1) * lines + own * comptime!(OWN / LINE);
            #[unroll]
            for i in 0..comptime!(OWN / LINE) {
                kept[comptime!(k * (OWN / LINE) + i)] = keys[from + i];
            }
        }
        #[unroll]
        for h in 0..plan.group {
            let mut products = Array::<Line<f32>>::lined(plan.keys, LINE);
            #[unroll]
            for k in 0..plan.keys {
                products[k] = Line::empty(LINE).fill(0.0);
            }
            #[unroll]
            for i in 0..comptime!(OWN / LINE) {
                let query = queries[comptime!(h * plan.width / LINE) + own * comptime!(OWN / LINE) + i];
                #[unroll]
                for k in 0..plan.keys {
                    products[k] += query * Line::<f32>::cast_from(kept[comptime!(k * (OWN / LINE) + i)]);
                }
            }
            #[unroll]
            for k in 0..plan.keys {
                let score = over_units(over_line(products[k]), plan);
                let index = start + comptime!(k * (PLANE / plan.units())) + key;
                scores[comptime!(h * plan.keys + k)] = select(index < last, score, -1e30);
            }
        }
        // The values take the keys' place.
        #[unroll]
        for k in 0..plan.keys {
            let index = start + comptime!(k * (PLANE / plan.units())) + key;
            let from = base + select(index < last, index, last - 1) * lines + own * comptime!(OWN / LINE);
            #[unroll]
            for i in 0..comptime!(OWN / LINE) {
                kept[comptime!(k * (OWN / LINE) + i)] = values[from + i];
            }
        }
        #[unroll]
        for h in 0..plan.group {
            let mut most = highest[h];
            #[unroll]
            for k in 0..plan.keys {
                most = max(most, scores[comptime!(h * plan.keys + k)]);
            }
            let shrink = f32::exp(highest[h] - most);
            highest[h] = most;
            let mut total = weight[h] * shrink;
            #[unroll]
            for i in 0..comptime!(OWN / LINE) {
                let slot = comptime!(h * (OWN / LINE) + i);
                sums[slot] = sums[slot] * Line::empty(LINE).fill(shrink);
            }
            #[unroll]
            for k in 0..plan.keys {
                let index = start + comptime!(k * (PLANE / plan.units())) + key;
                let share = select(index < last, f32::exp(scores[comptime!(h * plan.keys + k)] - most), 0.0);
                total += share;
                #[unroll]
                for i in 0..comptime!(OWN / LINE) {
                    let slot = comptime!(h * (OWN / LINE) + i);
                    sums[slot] +=
                        Line::<f32>::cast_from(kept[comptime!(k * (OWN / LINE) + i)]) * Line::empty(LINE).fill(share);
                }
            }
            weight[h] = total;
        }
        start += step;
    }
    join_planes(parts, joined, &mut sums, &highest, &weight, share, plan);
}

/// The sum of what the units that share a key have.
#[cube]
fn over_units(own: f32, #[comptime] plan: Plan) -> f32 {
    let mut sum = own;
    let rounds = comptime!(plan.units().trailing_zeros());
    #[unroll]
    for bit in 0..rounds {
        sum += plane_shuffle_xor(sum, comptime!(1u32 << bit));
    }
    sum
}

/// Join what the units of a plane have, then what its planes have.
#[cube]
fn join_planes(
    parts: &mut Array<Line<f32>>,
    joined: &mut SharedMemory<Line<u32>>,
    sums: &mut Array<Line<f32>>,
    highest: &Array<f32>,
    weight: &Array<f32>,
    share: Share,
    #[comptime] plan: Plan,
) {
    let (lane, plane) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let units = comptime!(plan.units());
    let (own, key) = (lane % units, lane / units);
    let (group, stride) = comptime!((plan.group, plan.part_lines()));
    let rounds = comptime!((PLANE / plan.units()).trailing_zeros());
    #[unroll]
    for h in 0..plan.group {
        let mut most = highest[h];
        #[unroll]
        for bit in 0..rounds {
            most = max(most, plane_shuffle_xor(most, comptime!((plan.units() as u32) << bit)));
        }
        let shrink = f32::exp(highest[h] - most);
        let mut total = weight[h] * shrink;
        #[unroll]
        for bit in 0..rounds {
            total += plane_shuffle_xor(total, comptime!((plan.units() as u32) << bit));
        }
        let place = (plane * group + h) * stride;
        #[unroll]
        for i in 0..comptime!(OWN / LINE) {
            let mut four = sums[comptime!(h * (OWN / LINE) + i)] * Line::empty(LINE).fill(shrink);
            #[unroll]
            for v in 0..LINE {
                let mut sum = four[v];
                #[unroll]
                for bit in 0..rounds {
                    sum += plane_shuffle_xor(sum, comptime!((plan.units() as u32) << bit));
                }
                four[v] = sum;
            }
            if key == 0 && plane < plan.planes {
                joined[place + own * comptime!(OWN / LINE) + i] = Line::reinterpret(four);
            }
        }
        if lane == 0 && plane < plan.planes {
            let mut last = Line::<f32>::empty(LINE).fill(0.0);
            last[0] = most;
            last[1] = total;
            joined[place + comptime!(plan.lines())] = Line::reinterpret(last);
        }
    }
    sync_cube();
    let mut at = UNIT_POS as usize;
    while at < comptime!(plan.group * plan.part_lines()) {
        let (h, within) = (at / stride, at % stride);
        let own = Line::<f32>::reinterpret(joined[h * stride + comptime!(plan.lines())]);
        let mut most = own[0];
        #[unroll]
        for p in 1..plan.planes {
            let last =
                Line::<f32>::reinterpret(joined[(comptime!(p * plan.group) + h) * stride + comptime!(plan.lines())]);
            most = max(most, last[0]);
        }
        let mut sum = Line::<f32>::empty(LINE).fill(0.0);
        #[unroll]
        for p in 0..plan.planes {
            let place = (comptime!(p * plan.group) + h) * stride;
            let last = Line::<f32>::reinterpret(joined[place + comptime!(plan.lines())]);
            let part = Line::<f32>::reinterpret(joined[place + within]);
            sum += part * Line::empty(LINE).fill(f32::exp(last[0] - most));
        }
        if within == comptime!(plan.lines()) {
            sum[0] = most;
        }
        let head = share.kv_head * group + h;
        let heads = comptime!(plan.group * plan.kv_heads);
        parts[((share.token * share.splits + share.split) * heads + head) * stride + within] = sum;
        at += CUBE_DIM as usize;
    }
}

/// Vector `line` of the attention of a head, from the parts of all shares.
#[cube]
pub(super) fn join_shares(
    parts: &Array<Line<f32>>,
    token: usize,
    head: usize,
    line: usize,
    splits: usize,
    heads: usize,
    #[comptime] part_lines: usize,
) -> Line<f32> {
    let own = (token * splits * heads + head) * part_lines;
    let step = heads * part_lines;
    let last = comptime!(part_lines - 1);
    let mut most = -1e30_f32.runtime();
    let mut sum = Line::<f32>::empty(LINE).fill(0.0);
    let mut total = 0.0_f32;
    let mut first = 0usize.runtime();
    while first < splits {
        // Together, or each would wait for the one before it.
        let mut weights = Array::<Line<f32>>::lined(TOGETHER, LINE);
        let mut values = Array::<Line<f32>>::lined(TOGETHER, LINE);
        #[unroll]
        for i in 0..TOGETHER {
            let place = own + select(first + i < splits, first + i, splits - 1) * step;
            weights[i] = parts[place + last];
            values[i] = parts[place + line];
        }
        let mut highest = most;
        #[unroll]
        for i in 0..TOGETHER {
            highest = max(highest, weights[i][0]);
        }
        let shrink = f32::exp(most - highest);
        most = highest;
        sum *= Line::empty(LINE).fill(shrink);
        total *= shrink;
        #[unroll]
        for i in 0..TOGETHER {
            let share = select(first + i < splits, f32::exp(weights[i][0] - most), 0.0);
            sum += values[i] * Line::empty(LINE).fill(share);
            total += weights[i][1] * share;
        }
        first += TOGETHER;
    }
    sum / Line::empty(LINE).fill(total)
}
