//! Attention of one new token over its cache: rotation, QK norm, temperature and the cache's new slot in the same launch. Keys are split
//! among cubes, whose parts a second launch joins.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::features::Plane;
use cubecl::prelude::*;

use super::row_product::array;

/// Units of a plane, and planes of a cube.
const PLANE: usize = 32;
const PLANES: usize = 4;

/// Values of a key that a unit has, and elements of a vector.
const OWN: usize = 16;
const LINE: usize = 4;

/// Keys that a unit takes in one step.
const KEYS: usize = 4;

/// What is done to queries and keys, and where the token goes.
pub(in crate::ops) struct Token<'a, R: CubeRuntime> {
    /// Cosine and sine of every pair, `F32`, `[head_dim / 2]` each; `None` on layers without rotation.
    pub(in crate::ops) rotary: Option<(&'a CubeTensor<R>, &'a CubeTensor<R>)>,
    /// Epsilon of the norm of queries and keys, on layers that have it.
    pub(in crate::ops) qk_norm: Option<f64>,
    /// What queries are multiplied with after that, for their position.
    pub(in crate::ops) temperature: Option<f32>,
    pub(in crate::ops) scale: f64,
    /// Row of the cache, and keys that it has already.
    pub(in crate::ops) row: usize,
    pub(in crate::ops) past: usize,
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

/// `[1, heads * head_dim]`: attention of the queries in `qkv`, `[1, (heads + 2 kv_heads) * head_dim]`, over the keys of a cache,
/// `[rows, kv_heads, slots, head_dim]`, to which the new key and value are written first. `None` where that is not this kernel's work.
pub(in crate::ops) fn decode_attention<R: CubeRuntime>(
    qkv: &CubeTensor<R>,
    keys: &CubeTensor<R>,
    values: &CubeTensor<R>,
    token: &Token<'_, R>,
) -> Option<CubeTensor<R>> {
    let [rows, kv_heads, slots, width] = *keys.shape.dims.as_slice() else { return None };
    let heads = (qkv.shape.num_elements() / width).checked_sub(2 * kv_heads)?;
    let client = &qkv.client;
    let (hardware, features) = (&client.properties().hardware, &client.properties().features);
    let fits = token.row < rows
        && token.past < slots
        && heads > 0
        && heads.is_multiple_of(kv_heads)
        && heads / kv_heads <= 8
        && width.is_multiple_of(OWN)
        && PLANE.is_multiple_of(width / OWN)
        && width <= PLANE * LINE
        && qkv.dtype == keys.dtype
        && keys.dtype == values.dtype
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
        rotated: token.rotary.is_some(),
        normed: token.qk_norm.is_some(),
        tempered: token.temperature.is_some(),
    };
    let count = token.past + 1;
    let cubes = (2 * hardware.num_streaming_multiprocessors.unwrap_or(64) as usize).div_ceil(kv_heads);
    let share = count.div_ceil(cubes).next_multiple_of(PLANES * PLANE / plan.units() * KEYS / 2);
    let splits = count.div_ceil(share);
    let empty = |shape, dtype| empty_device_dtype(client.clone(), qkv.device.clone(), shape, dtype);
    let parts = empty(Shape::new([splits * heads, width + 2]), DType::F32);
    let output = empty(Shape::new([1, heads * width]), qkv.dtype);
    let (cos, sin) = token.rotary.unwrap_or((qkv, qkv));
    let words = |tensor: &CubeTensor<R>| tensor.shape.num_elements() * tensor.dtype.size() / 4;
    // SAFETY: reads and writes stay below the lengths, which are those of the tensors: row and slot exist.
    let launched = unsafe {
        attend_kernel::launch_unchecked(
            client,
            CubeCount::Static(kv_heads as u32, splits as u32, 1),
            CubeDim::new_2d(PLANE as u32, PLANES as u32),
            array(qkv, LINE),
            ArrayArg::from_raw_parts_and_size(&cos.handle, words(cos), 1, 4),
            ArrayArg::from_raw_parts_and_size(&sin.handle, words(sin), 1, 4),
            array(keys, LINE),
            array(values, LINE),
            array(&parts, 1),
            ScalarArg::new(token.row),
            ScalarArg::new(slots),
            ScalarArg::new(token.past),
            ScalarArg::new(share),
            ScalarArg::new(token.qk_norm.unwrap_or(0.0) as f32),
            ScalarArg::new(token.temperature.unwrap_or(1.0)),
            ScalarArg::new(token.scale as f32),
            plan,
            qkv.dtype.into(),
        )
    };
    // SAFETY: as above.
    let joined = launched.is_ok()
        && unsafe {
            join_kernel::launch_unchecked(
                client,
                CubeCount::Static(heads as u32, 1, 1),
                CubeDim::new_1d(width as u32),
                array(&parts, 1),
                array(&output, 1),
                ScalarArg::new(splits),
                ScalarArg::new(heads),
                width,
                qkv.dtype.into(),
            )
        }
        .is_ok();
    super::ran("attention of a token", joined).then_some(output)
}

#[cube(launch_unchecked)]
fn attend_kernel<X: Float>(
    qkv: &Array<Line<X>>,
    cos: &Array<f32>,
    sin: &Array<f32>,
    keys: &mut Array<Line<X>>,
    values: &mut Array<Line<X>>,
    parts: &mut Array<f32>,
    row: usize,
    slots: usize,
    past: usize,
    share: usize,
    epsilon: f32,
    temperature: f32,
    scale: f32,
    #[comptime] plan: Plan,
    #[define(X)] _dtype: StorageType,
) {
    let (lane, plane) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let (kv_head, split) = (CUBE_POS_X as usize, CUBE_POS_Y as usize);
    let (group, lines) = comptime!((plan.group, plan.width / LINE));
    let first = split * share;
    let last = select(first + share < past + 1, first + share, past + 1);
    let base = (row * plan.kv_heads + kv_head) * slots * lines;

    // Queries of this key head, then the new key, a plane each.
    let mut queries = SharedMemory::<f32>::new_lined(comptime!(plan.group * plan.width / LINE), LINE);
    let mut head = plane;
    while head < group + 1 {
        let is_key = head == group;
        let source = select(is_key, comptime!(plan.group * plan.kv_heads) + kv_head, kv_head * group + head);
        let inside = lane < lines;
        let at = select(inside, lane, 0);
        let mut four = Line::<f32>::cast_from(qkv[source * lines + at]);
        if comptime!(plan.rotated) {
            let mut turned = Line::<f32>::empty(LINE);
            #[unroll]
            for pair in 0..2usize {
                let (c, s) = (cos[at * 2 + pair], sin[at * 2 + pair]);
                let (a, b) = (four[comptime!(2 * pair)], four[comptime!(2 * pair + 1)]);
                turned[comptime!(2 * pair)] = a * c - b * s;
                turned[comptime!(2 * pair + 1)] = a * s + b * c;
            }
            four = Line::cast_from(Line::<X>::cast_from(turned));
        }
        if comptime!(plan.normed) {
            let squares = four * four;
            let own = select(inside, (squares[0] + squares[1]) + (squares[2] + squares[3]), 0.0);
            let mean = plane_sum(own) / comptime!(plan.width as f32);
            let factor = 1.0 / f32::sqrt(mean + epsilon);
            four = Line::cast_from(Line::<X>::cast_from(four * Line::empty(LINE).fill(factor)));
        }
        if is_key {
            // The cube that has the last keys writes the new one, and reads it with the others.
            if last == past + 1 && inside {
                let value = comptime!((plan.group + 1) * plan.kv_heads) + kv_head;
                keys[base + past * lines + lane] = Line::cast_from(four);
                values[base + past * lines + lane] = qkv[value * lines + lane];
            }
        } else {
            if comptime!(plan.tempered) {
                four = Line::cast_from(Line::<X>::cast_from(four * Line::empty(LINE).fill(temperature)));
            }
            if inside {
                queries[head * lines + lane] = four * Line::empty(LINE).fill(scale);
            }
        }
        head += PLANES;
    }
    sync_cube();

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
        let target = (split * comptime!(plan.group * plan.kv_heads) + kv_head * group + h) * stride;
        parts[target + within] = select(within == comptime!(plan.width), most, sum);
        at += comptime!(PLANE * PLANES);
    }
}

/// The parts of a head joined, by a cube of as many units as the head has values.
#[cube(launch_unchecked)]
fn join_kernel<X: Float>(
    parts: &Array<f32>,
    output: &mut Array<X>,
    splits: usize,
    heads: usize,
    #[comptime] width: usize,
    #[define(X)] _dtype: StorageType,
) {
    let (head, at) = (CUBE_POS, UNIT_POS as usize);
    let stride = comptime!(width + 2);
    let mut most = parts[head * stride + comptime!(width)];
    for split in 0..splits {
        most = max(most, parts[(split * heads + head) * stride + comptime!(width)]);
    }
    let mut sum = 0.0_f32;
    let mut total = 0.0_f32;
    for split in 0..splits {
        let place = (split * heads + head) * stride;
        let share = f32::exp(parts[place + comptime!(width)] - most);
        sum += parts[place + at] * share;
        total += parts[place + comptime!(width + 1)] * share;
    }
    output[head * width + at] = X::cast_from(sum / total);
}
