//! Attention of new tokens, one a sequence, over their cache: rotation, QK norm, temperature and the cache's new slots in the same launch. Keys
//! are split among cubes, whose parts a second launch joins.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::features::Plane;
use cubecl::prelude::*;

use super::args::{array, words};
use super::heads::{Steps, rotated, rounded};
use super::reduce::over_line;

/// Units of a plane, and planes of a cube.
const PLANE: usize = 32;
const PLANES: usize = 4;

/// Values of a key that a unit has, and elements of a vector.
const OWN: usize = 16;
const LINE: usize = 4;

/// Keys that a unit takes in one step.
const KEYS: usize = 4;

/// Where new tokens go, each behind the others of its row.
pub(in crate::ops) struct Places<'a, R: CubeRuntime> {
    /// Row and position of each, `I32`, `[tokens, 2]`.
    pub(in crate::ops) table: &'a CubeTensor<R>,
    /// Positions of a chunk, if a token sees no more than its chunk; a slot is then the place in the chunk.
    pub(in crate::ops) chunk: Option<usize>,
    /// Most keys that one of them sees, its own among them.
    pub(in crate::ops) most: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Plan {
    kv_heads: usize,
    /// Query heads of a key head.
    group: usize,
    width: usize,
    rotated: bool,
    normed: bool,
    tempered: bool,
}

impl Plan {
    /// Units that share a key.
    fn units(self) -> usize {
        self.width / OWN
    }
}

/// Queries, keys and values of new tokens, `[tokens, heads, head_dim]`, as they come from their projections.
pub(in crate::ops) struct Heads<'a, R: CubeRuntime> {
    pub(in crate::ops) queries: &'a CubeTensor<R>,
    pub(in crate::ops) keys: &'a CubeTensor<R>,
    pub(in crate::ops) values: &'a CubeTensor<R>,
}

/// `[tokens, heads, head_dim]`: attention over a cache, `[rows, kv_heads, slots, head_dim]`, to which the new keys and values are written
/// first. Keys take all steps but the temperature, which is the queries' alone. `None` where that is not this kernel's work.
pub(in crate::ops) fn decode_attention<R: CubeRuntime>(
    new: &Heads<'_, R>,
    steps: &Steps<'_, R>,
    scale: f64,
    [keys, values]: [&CubeTensor<R>; 2],
    places: &Places<'_, R>,
) -> Option<CubeTensor<R>> {
    let queries = new.queries;
    let ([tokens, heads, _], [_, kv_heads, slots, width]) = (dims(queries)?, dims(keys)?);
    let client = &queries.client;
    let (hardware, features) = (&client.properties().hardware, &client.properties().features);
    let dtype = queries.dtype;
    let fits = (1..=65_535).contains(&tokens)
        && places.most <= slots
        && places.table.dtype == DType::I32
        && heads > 0
        && heads.is_multiple_of(kv_heads)
        && heads / kv_heads <= 8
        && width.is_multiple_of(OWN)
        && PLANE.is_multiple_of(width / OWN)
        && width <= PLANE * LINE
        && [new.keys, new.values, keys, values].iter().all(|tensor| tensor.dtype == dtype)
        && hardware.plane_size_min == PLANE as u32
        && hardware.plane_size_max == PLANE as u32
        && features.plane.contains(Plane::Ops);
    if !fits {
        return None;
    }
    let plan = Plan {
        kv_heads,
        group: heads / kv_heads,
        width,
        rotated: steps.rotation.is_some(),
        normed: steps.norm.is_some(),
        tempered: steps.temperature.is_some(),
    };
    let cubes = (2 * hardware.num_streaming_multiprocessors.unwrap_or(64) as usize).div_ceil(kv_heads * tokens);
    let share = places.most.div_ceil(cubes).next_multiple_of(PLANES * PLANE / plan.units() * KEYS / 2);
    let splits = places.most.div_ceil(share);
    let empty = |shape, dtype| empty_device_dtype(client.clone(), queries.device.clone(), shape, dtype);
    let parts = empty(Shape::new([tokens * splits * heads, width + 2]), DType::F32);
    let output = empty(Shape::new([tokens, heads, width]), dtype);
    // Something to bind in the place of what is not there.
    let (cos, sin) = steps.rotation.unwrap_or((queries, queries));
    // SAFETY: the rows and positions of the table are those of the cache, whose slots hold `most` keys; all else is read and written below
    // the lengths of the tensors.
    let launched = unsafe {
        attend_kernel::launch_unchecked(
            client,
            CubeCount::Static(kv_heads as u32, splits as u32, tokens as u32),
            CubeDim::new_2d(PLANE as u32, PLANES as u32),
            array(queries, LINE),
            array(new.keys, LINE),
            array(new.values, LINE),
            words(cos, 1),
            words(sin, 1),
            words(steps.temperature.unwrap_or(queries), 1),
            array(places.table, 1),
            array(keys, LINE),
            array(values, LINE),
            array(&parts, 1),
            ScalarArg::new(slots),
            ScalarArg::new(places.chunk.unwrap_or(0)),
            ScalarArg::new(share),
            ScalarArg::new(steps.norm.unwrap_or(0.0) as f32),
            ScalarArg::new(scale as f32),
            plan,
            dtype.into(),
        )
    };
    // SAFETY: as above.
    let joined = launched.and_then(|()| unsafe {
        join_kernel::launch_unchecked(
            client,
            CubeCount::Static(heads as u32, tokens as u32, 1),
            CubeDim::new_1d(width as u32),
            array(&parts, 1),
            array(&output, 1),
            ScalarArg::new(splits),
            ScalarArg::new(heads),
            width,
            dtype.into(),
        )
    });
    super::ran("attention of new tokens", joined).then_some(output)
}

/// Its shape, if it has so many axes.
fn dims<R: CubeRuntime, const D: usize>(tensor: &CubeTensor<R>) -> Option<[usize; D]> {
    tensor.shape.dims.as_slice().try_into().ok()
}

#[cube(launch_unchecked)]
fn attend_kernel<X: Float>(
    new_queries: &Array<Line<X>>,
    new_keys: &Array<Line<X>>,
    new_values: &Array<Line<X>>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    temperature: &Array<f32>,
    places: &Array<i32>,
    keys: &mut Array<Line<X>>,
    values: &mut Array<Line<X>>,
    parts: &mut Array<f32>,
    slots: usize,
    chunk: usize,
    share: usize,
    epsilon: f32,
    scale: f32,
    #[comptime] plan: Plan,
    #[define(X)] _dtype: StorageType,
) {
    let (lane, plane) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let (kv_head, split, token) = (CUBE_POS_X as usize, CUBE_POS_Y as usize, CUBE_POS_Z as usize);
    let (group, lines) = comptime!((plan.group, plan.width / LINE));
    let row = usize::cast_from(places[2 * token]);
    let mut past = usize::cast_from(places[2 * token + 1]);
    if chunk > 0 {
        past %= chunk;
    }
    let first = split * share;
    // Nothing is left for the last cubes of a sequence that is shorter than others.
    let last = select(first + share < past + 1, first + share, past + 1);
    let base = (row * plan.kv_heads + kv_head) * slots * lines;

    // Queries of this key head, then the new key, a plane each.
    let mut queries = SharedMemory::<f32>::new_lined(comptime!(plan.group * plan.width / LINE), LINE);
    let mut head = plane;
    while head < group + 1 {
        let is_key = head == group;
        let inside = lane < lines;
        let at = select(inside, lane, 0);
        let query = (token * plan.kv_heads + kv_head) * group + select(is_key, 0, head);
        let mut four = Line::<f32>::cast_from(new_queries[query * lines + at]);
        if is_key {
            four = Line::<f32>::cast_from(new_keys[(token * plan.kv_heads + kv_head) * lines + at]);
        }
        if comptime!(plan.rotated) {
            four = rotated::<X>(four, cos, sin, token * comptime!(plan.width / 2) + 2 * at);
        }
        if comptime!(plan.normed) {
            let own = select(inside, over_line(four * four), 0.0);
            let mean = plane_sum(own) / comptime!(plan.width as f32);
            four = rounded::<X>(four * Line::empty(LINE).fill(1.0 / f32::sqrt(mean + epsilon)));
        }
        if is_key {
            // The cube that has the last keys writes the new one, and reads it with the others.
            if first <= past && past < first + share && inside {
                keys[base + past * lines + lane] = Line::cast_from(four);
                values[base + past * lines + lane] = new_values[(token * plan.kv_heads + kv_head) * lines + lane];
            }
        } else {
            if comptime!(plan.tempered) {
                four = rounded::<X>(four * Line::empty(LINE).fill(temperature[token]));
            }
            if inside {
                queries[head * lines + lane] = four * Line::empty(LINE).fill(scale);
            }
        }
        head += PLANES;
    }
    sync_cube();
    sync_storage();

    // Units that share a key, keys that a plane has at once, and this unit's.
    let (units, at_once) = comptime!((plan.units(), PLANE / plan.units()));
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
    let step = comptime!(PLANES * (PLANE / plan.units()) * KEYS);
    let mut start = first + plane * comptime!(PLANE / plan.units() * KEYS);
    while start < last {
        let mut scores = Array::<f32>::new(comptime!(plan.group * KEYS));
        let mut kept = Array::<Line<X>>::lined(comptime!(KEYS * OWN / LINE), LINE);
        #[unroll]
        for k in 0..KEYS {
            let index = start + comptime!(k * (PLANE / plan.units())) + key;
            let from = base + select(index < last, index, last - 1) * lines + own * comptime!(OWN / LINE);
            #[unroll]
            for i in 0..comptime!(OWN / LINE) {
                kept[comptime!(k * (OWN / LINE) + i)] = keys[from + i];
            }
        }
        #[unroll]
        for h in 0..plan.group {
            let mut products = Array::<Line<f32>>::lined(KEYS, LINE);
            #[unroll]
            for k in 0..KEYS {
                products[k] = Line::empty(LINE).fill(0.0);
            }
            #[unroll]
            for i in 0..comptime!(OWN / LINE) {
                let query = queries[comptime!(h * plan.width / LINE) + own * comptime!(OWN / LINE) + i];
                #[unroll]
                for k in 0..KEYS {
                    products[k] += query * Line::<f32>::cast_from(kept[comptime!(k * (OWN / LINE) + i)]);
                }
            }
            #[unroll]
            for k in 0..KEYS {
                let product = products[k];
                let mut score = (product[0] + product[1]) + (product[2] + product[3]);
                let rounds = comptime!(plan.units().trailing_zeros());
                #[unroll]
                for bit in 0..rounds {
                    score += plane_shuffle_xor(score, comptime!(1u32 << bit));
                }
                let index = start + comptime!(k * (PLANE / plan.units())) + key;
                scores[comptime!(h * KEYS + k)] = select(index < last, score, -1e30);
            }
        }
        // The values take the keys' place.
        #[unroll]
        for k in 0..KEYS {
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
            for k in 0..KEYS {
                most = max(most, scores[comptime!(h * KEYS + k)]);
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
            for k in 0..KEYS {
                let index = start + comptime!(k * (PLANE / plan.units())) + key;
                let share = select(index < last, f32::exp(scores[comptime!(h * KEYS + k)] - most), 0.0);
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

    // Join the keys of a plane, then the planes.
    let mut shared = SharedMemory::<f32>::new(comptime!(PLANES * plan.group * (plan.width + 2)));
    #[unroll]
    for h in 0..plan.group {
        let mut most = highest[h];
        let rounds = comptime!((PLANE / plan.units()).trailing_zeros());
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
        let place = (plane * group + h) * comptime!(plan.width + 2);
        #[unroll]
        for i in 0..comptime!(OWN / LINE) {
            #[unroll]
            for v in 0..LINE {
                let mut sum = sums[comptime!(h * (OWN / LINE) + i)][v] * shrink;
                #[unroll]
                for bit in 0..rounds {
                    sum += plane_shuffle_xor(sum, comptime!((plan.units() as u32) << bit));
                }
                if key == 0 {
                    shared[place + own * OWN + comptime!(i * LINE + v)] = sum;
                }
            }
        }
        if lane == 0 {
            shared[place + comptime!(plan.width)] = most;
            shared[place + comptime!(plan.width + 1)] = total;
        }
    }
    sync_cube();
    let _ = at_once;
    let stride = comptime!(plan.width + 2);
    let mut at = UNIT_POS as usize;
    while at < comptime!(plan.group * (plan.width + 2)) {
        let (h, within) = (at / stride, at % stride);
        let mut most = shared[h * stride + comptime!(plan.width)];
        #[unroll]
        for p in 0..PLANES {
            most = max(most, shared[(comptime!(p * plan.group) + h) * stride + comptime!(plan.width)]);
        }
        let mut sum = 0.0_f32;
        #[unroll]
        for p in 0..PLANES {
            let place = (comptime!(p * plan.group) + h) * stride;
            sum += shared[place + within] * f32::exp(shared[place + comptime!(plan.width)] - most);
        }
        let target =
            ((token * (CUBE_COUNT_Y as usize) + split) * comptime!(plan.group * plan.kv_heads) + kv_head * group + h)
                * stride;
        parts[target + within] = select(within == comptime!(plan.width), most, sum);
        at += comptime!(PLANE * PLANES);
    }
}

/// The parts of a token's head joined, by a cube of as many units as the head has values.
#[cube(launch_unchecked)]
fn join_kernel<X: Float>(
    parts: &Array<f32>,
    output: &mut Array<X>,
    splits: usize,
    heads: usize,
    #[comptime] width: usize,
    #[define(X)] _dtype: StorageType,
) {
    let (head, token, at) = (CUBE_POS_X as usize, CUBE_POS_Y as usize, UNIT_POS as usize);
    let stride = comptime!(width + 2);
    let own = (token * splits * heads + head) * stride;
    let mut most = parts[own + comptime!(width)];
    for split in 1..splits {
        most = max(most, parts[own + split * heads * stride + comptime!(width)]);
    }
    let mut sum = 0.0_f32;
    let mut total = 0.0_f32;
    for split in 0..splits {
        let place = own + split * heads * stride;
        let share = f32::exp(parts[place + comptime!(width)] - most);
        sum += parts[place + at] * share;
        total += parts[place + comptime!(width + 1)] * share;
    }
    output[(token * heads + head) * width + at] = X::cast_from(sum / total);
}
