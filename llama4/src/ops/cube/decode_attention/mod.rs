//! Attention of new tokens, one a sequence, over their cache: rotation, QK norm, temperature and the cache's new slots in the same launch. Keys
//! are split among cubes, whose parts a second launch joins.

mod share;

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::features::Plane;
use cubecl::prelude::*;

use super::args::empty;
use super::heads::Steps;
use super::launch::Launch;
use share::{LINE, Numbers, OWN, PLANE, Plan, Share, attend, join_shares};

/// Planes of a cube.
const PLANES: usize = 4;

/// Where new tokens go, each behind the others of its row.
pub(in crate::ops) struct Places<'a, R: CubeRuntime> {
    /// Row and position of each, `I32`, `[tokens, 2]`.
    pub(in crate::ops) table: &'a CubeTensor<R>,
    /// Positions of a chunk, if a token sees no more than its chunk; a slot is then the place in the chunk.
    pub(in crate::ops) chunk: Option<usize>,
    /// Most keys that one of them sees, its own among them.
    pub(in crate::ops) most: usize,
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
        && heads_fit([heads, kv_heads, width])
        && [new.keys, new.values, keys, values].iter().all(|tensor| tensor.dtype == dtype)
        && hardware.plane_size_min == PLANE as u32
        && hardware.plane_size_max == PLANE as u32
        && features.plane.contains(Plane::Ops);
    if !fits {
        return None;
    }
    let plan = |keys| Plan {
        kv_heads,
        group: heads / kv_heads,
        width,
        rotated: steps.rotation.is_some(),
        normed: steps.norm.is_some(),
        tempered: steps.temperature.is_some(),
        planes: PLANES,
        keys,
    };
    let cubes = (2 * super::processors(client)).div_ceil(kv_heads * tokens);
    let (few, many) = (plan(2), plan(4));
    let (own, step) = (places.most.div_ceil(cubes), |plan: Plan| PLANES * plan.step());
    let (plan, share) = if own <= step(few) { (few, step(few)) } else { (many, own.next_multiple_of(step(many) / 2)) };
    let splits = places.most.div_ceil(share);
    let fresh = |shape, dtype| empty(client.clone(), queries.device.clone(), shape, dtype);
    let parts = fresh(Shape::new([tokens * splits * heads, plan.part_lines() * LINE]), DType::F32);
    let output = fresh(Shape::new([tokens, heads, width]), dtype);
    // Something to bind in the place of what is not there.
    let (cos, sin) = steps.rotation.unwrap_or((queries, queries));
    let mut launch = Launch::new(queries);
    let (settings, own_client) = launch.kernel(CubeDim::new_2d(PLANE as u32, PLANES as u32));
    let kernel = attend_kernel::AttendKernel::new(
        settings,
        own_client,
        launch.array(queries, LINE),
        launch.array(new.keys, LINE),
        launch.array(new.values, LINE),
        launch.words(cos, 1),
        launch.words(sin, 1),
        launch.words(steps.temperature.unwrap_or(queries), 1),
        launch.array(places.table, 1),
        launch.number(slots),
        launch.number(places.chunk.unwrap_or(0)),
        launch.number(share),
        launch.array(keys, LINE),
        launch.array(values, LINE),
        launch.array(&parts, LINE),
        (steps.norm.unwrap_or(0.0) as f32).to_bits(),
        (scale as f32).to_bits(),
        plan,
        dtype.into(),
    );
    // SAFETY: the rows and positions of the table are those of the cache, whose slots hold `most` keys; all else is read and written below
    // the lengths of the tensors.
    let launched = unsafe { launch.run(CubeCount::Static(kv_heads as u32, splits as u32, tokens as u32), kernel) };
    let mut launch = Launch::new(queries);
    let (settings, own_client) = launch.kernel(CubeDim::new_1d(plan.lines() as u32));
    let kernel = join_kernel::JoinKernel::new(
        settings,
        own_client,
        launch.array(&parts, LINE),
        launch.array(&output, LINE),
        plan.part_lines(),
        dtype.into(),
    );
    // SAFETY: as above.
    let joined =
        launched.and_then(|()| unsafe { launch.run(CubeCount::Static(heads as u32, tokens as u32, 1), kernel) });
    super::ran("attention of new tokens", joined).then_some(output)
}

/// Whether the kernels can divide heads like these among units: so many query heads, key heads, and values of each.
fn heads_fit([heads, kv_heads, width]: [usize; 3]) -> bool {
    heads > 0
        && kv_heads > 0
        && heads.is_multiple_of(kv_heads)
        && heads / kv_heads <= 8
        && width.is_multiple_of(OWN)
        && PLANE.is_multiple_of(width / OWN)
        && width <= PLANE * LINE
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
    parts: &mut Array<Line<f32>>,
    slots: usize,
    chunk: usize,
    share: usize,
    #[comptime] epsilon: u32,
    #[comptime] scale: u32,
    #[comptime] plan: Plan,
    #[define(X)] _dtype: StorageType,
) {
    let mut queries = SharedMemory::<f32>::new_lined(comptime!((plan.group + 1) * plan.lines()), LINE);
    let mut joined = SharedMemory::<u32>::new_lined(comptime!(plan.joined_lines()), LINE);
    let share = Share {
        kv_head: CUBE_POS_X as usize,
        token: CUBE_POS_Z as usize,
        split: CUBE_POS_Y as usize,
        splits: CUBE_COUNT_Y as usize,
        keys: share,
    };
    attend::<X>(
        new_queries,
        new_keys,
        new_values,
        cos,
        sin,
        temperature,
        places,
        keys,
        values,
        parts,
        &mut queries,
        &mut joined,
        share,
        Numbers {
            slots,
            chunk,
            epsilon: comptime!(f32::from_bits(epsilon)).runtime(),
            scale: comptime!(f32::from_bits(scale)).runtime(),
        },
        plan,
    );
}

/// The parts of a token's head joined, by a cube of as many units as the head has vectors.
#[cube(launch_unchecked)]
fn join_kernel<X: Float>(
    parts: &Array<Line<f32>>,
    output: &mut Array<Line<X>>,
    #[comptime] part_lines: usize,
    #[define(X)] _dtype: StorageType,
) {
    let (head, token, line) = (CUBE_POS_X as usize, CUBE_POS_Y as usize, UNIT_POS as usize);
    let heads = CUBE_COUNT_X as usize;
    let splits = parts.len() / (CUBE_COUNT_Y as usize * heads * part_lines);
    let joined = join_shares(parts, token, head, line, splits, heads, part_lines);
    output[(token * heads + head) * comptime!(part_lines - 1) + line] = Line::cast_from(joined);
}
