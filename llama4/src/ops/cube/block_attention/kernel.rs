use cubecl::cmma;
use cubecl::cmma::MatrixIdent;
use cubecl::prelude::barrier::{Barrier, copy_async};
use cubecl::prelude::*;

use super::block::{Block, CHUNK, KEYS, LINE, PLANE, QUERIES, placed_key, placed_value};
use super::softmax::Softmax;
use super::table::Place;

/// A cube has a block of queries of one head. `keys` and `values` are the same vectors, `key_stride` and `head_stride` what lies between those of
/// neighbouring keys and heads.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a kernel's buffers")]
pub(super) fn block_attention_kernel<X: Float>(
    queries: &Array<Line<u32>>,
    keys: &Array<Line<u32>>,
    values: &Array<Line<X>>,
    table: &Array<Line<u32>>,
    y: &mut Array<Line<X>>,
    scale: f32,
    heads: usize,
    group: usize,
    key_stride: usize,
    head_stride: usize,
    blocks: usize,
    #[comptime] block: Block,
    #[define(X)] _dtype: StorageType,
) {
    // A grid of two axes may have cubes too many.
    if CUBE_POS >= blocks * heads {
        terminate!();
    }
    // The remainder tells the compiler which bits there are, so that what a unit reads of shared memory lies where an instruction can add it.
    let (lane, plane) = (UNIT_POS_X as usize % PLANE, UNIT_POS_Y as usize);
    let (row, quarter) = (lane / 4, lane % 4);
    let head = CUBE_POS % heads;
    let place = Place::read(table, CUBE_POS / heads);
    let first_key = place.keys + head / group * head_stride;
    let seen = place.past + place.queries;

    let mut shared_keys = SharedMemory::<u32>::new_lined(comptime!(block.stages * block.stage_lines()), LINE);
    let mut shared_values = SharedMemory::<X>::new_lined(comptime!(block.stages * block.stage_lines()), CHUNK);
    let mut arrived = Sequence::<Shared<Barrier>>::new();
    #[unroll]
    for _ in 0..block.stages {
        arrived.push(Barrier::shared(CUBE_DIM, UNIT_POS == 0));
    }
    let steps = (seen + comptime!(KEYS - 1)) / KEYS;
    let fetch = Fetch::new(first_key, key_stride, seen, block);
    #[unroll]
    for s in 0..comptime!(block.stages - 1) {
        if s < steps {
            fetch.step::<X>(keys, values, &mut shared_keys, &mut shared_values, &arrived, s, s.runtime(), block);
        }
    }

    // By way of another unit, so that the compiler keeps it: it would read the plane's number, which is slow, in every step.
    let first_query = plane_broadcast(plane * QUERIES, 0u32);
    let fragments = query_fragments::<X>(queries, &place, first_query + row, quarter, heads, head, block);
    let mut softmax = Softmax::new();
    let pairs = comptime!(2 * block.width());
    let mut sums = Array::<Line<f32>>::lined(pairs, 2usize);
    #[unroll]
    for i in 0..pairs {
        sums[i] = Line::empty(2usize).fill(0.0);
    }

    for step in 0..steps {
        let slot = step % block.stages;
        let turn = (step / block.stages % 2) as u32;
        #[unroll]
        for s in 0..block.stages {
            if slot == s {
                arrived[s].wait_parity(turn);
            }
        }
        // All have done with the step before, whose place is now free.
        sync_cube();
        let ahead = step + comptime!(block.stages - 1);
        if ahead < steps {
            let place = ahead % block.stages;
            fetch.step::<X>(keys, values, &mut shared_keys, &mut shared_values, &arrived, ahead, place, block);
        }
        // Whether the plane's last query sees any of these keys.
        let first = step * KEYS;
        if first <= place.past + first_query + comptime!(QUERIES - 1) {
            let start = slot * block.stage_lines();
            let mut scores = score::<X>(&shared_keys, &fragments, start, row, quarter, block);
            let mut factors = Array::<f32>::new(2usize);
            if first + KEYS > place.past + first_query + 1 {
                let position = place.past + first_query + row;
                let visible = position as i32 + 1 - (first + quarter * 2) as i32;
                let masked = softmax.step(&mut scores, scale, visible, true);
                factors[0] = masked[0];
                factors[1] = masked[1];
            } else {
                let all = softmax.step(&mut scores, scale, 0, false);
                factors[0] = all[0];
                factors[1] = all[1];
            }
            // Later steps seldom have a larger score.
            if plane_any(factors[0] < 1.0 || factors[1] < 1.0) {
                #[unroll]
                for i in 0..pairs {
                    sums[i] = sums[i] * Line::empty(2usize).fill(factors[comptime!(i % 2)]);
                }
            }
            add_values::<X>(&mut sums, &scores, &shared_values, start, lane, block);
        }
    }

    let factors = softmax.finish();
    #[unroll]
    for half in 0..2usize {
        let query = first_query + row + comptime!(half * QUERIES / 2);
        if query < place.queries {
            let at = ((place.output + query) * heads + head) * comptime!(block.head_dim / 2) + quarter;
            #[unroll]
            for i in 0..comptime!(block.width()) {
                let result = sums[comptime!(2 * i + half)] * Line::empty(2usize).fill(factors[half]);
                y[at + comptime!(4 * i)] = Line::<X>::cast_from(result);
            }
        }
    }
}

/// The plane's queries as the product takes them; beyond the last they are the last.
///
/// A product may take the values of a head in any order, if both sides have the same: a unit has whole vectors, as of the keys.
#[cube]
fn query_fragments<X: Float>(
    queries: &Array<Line<u32>>,
    place: &Place,
    row: usize,
    quarter: usize,
    heads: usize,
    head: usize,
    #[comptime] block: Block,
) -> Sequence<Array<Line<X>>> {
    let last = place.queries - 1;
    let upper = ((place.query + select(row < last, row, last)) * heads + head) * comptime!(block.width()) + quarter;
    let lower = row + comptime!(QUERIES / 2);
    let lower = ((place.query + select(lower < last, lower, last)) * heads + head) * comptime!(block.width()) + quarter;
    // Each word is the unit's own, by way of an exchange, so that the compiler keeps it: it would gather the fragments anew in every step.
    let own = UNIT_POS_PLANE;
    let mut fragments = Sequence::<Array<Line<X>>>::new();
    #[unroll]
    for four in 0..comptime!(block.width() / 4) {
        let (upper, lower) = (queries[upper + comptime!(4 * four)], queries[lower + comptime!(4 * four)]);
        #[unroll]
        for half in 0..2usize {
            let mut fragment = Array::<Line<X>>::lined(4usize, 2usize);
            #[unroll]
            for pair in 0..2usize {
                let (above, below) = (upper[comptime!(2 * half + pair)], lower[comptime!(2 * half + pair)]);
                fragment[comptime!(2 * pair)] = Line::<X>::reinterpret(plane_shuffle(above, own));
                fragment[comptime!(2 * pair + 1)] = Line::<X>::reinterpret(plane_shuffle(below, own));
            }
            fragments.push(fragment);
        }
    }
    fragments
}

/// Products of the plane's queries with the keys of a step: of a unit, for each eight keys, two of both its queries.
#[cube]
fn score<X: Float>(
    keys: &SharedMemory<Line<u32>>,
    queries: &Sequence<Array<Line<X>>>,
    start: usize,
    row: usize,
    quarter: usize,
    #[comptime] block: Block,
) -> Array<Line<f32>> {
    let definition = cmma::MmaDefinition::<X, X, f32>::new(16usize, 8usize, 16usize);
    let mut scores = Array::<Line<f32>>::lined(comptime!(KEYS / 4), 2usize);
    #[unroll]
    for i in 0..comptime!(KEYS / 4) {
        scores[i] = Line::empty(2usize).fill(0.0);
    }
    // Keys and steps begin at powers of two, so what places the other vectors turns bits of the first.
    let first = start + row * comptime!(block.width()) + placed_key(row, quarter);
    #[unroll]
    for four in 0..comptime!(block.width() / 4) {
        let at = first ^ comptime!(4 * four);
        #[unroll]
        for j in 0..comptime!(KEYS / 8) {
            let values = keys[at + comptime!(8 * j * block.width())];
            #[unroll]
            for half in 0..2usize {
                let mut b = Array::<Line<X>>::lined(2usize, 2usize);
                b[0] = Line::<X>::reinterpret(values[comptime!(2 * half)]);
                b[1] = Line::<X>::reinterpret(values[comptime!(2 * half + 1)]);
                let mut c = Array::<Line<f32>>::lined(2usize, 2usize);
                c[0] = scores[comptime!(2 * j)];
                c[1] = scores[comptime!(2 * j + 1)];
                let d = definition.execute(queries.index(comptime!(2 * four + half)), &b, &c);
                scores[comptime!(2 * j)] = d[0];
                scores[comptime!(2 * j + 1)] = d[1];
            }
        }
    }
    scores
}

/// Add the values of a step's keys, weighted.
#[cube]
fn add_values<X: Float>(
    sums: &mut Array<Line<f32>>,
    weights: &Array<Line<f32>>,
    values: &SharedMemory<Line<X>>,
    start: usize,
    lane: usize,
    #[comptime] block: Block,
) {
    let definition = cmma::MmaDefinition::<X, X, f32>::new(16usize, 8usize, 16usize);
    // Of four matrices of eight keys and eight values, two below each other and two beside them, the row that this unit names.
    let key = lane % 16;
    let first = start + key * comptime!(block.width()) + placed_value(key, lane / 16);
    #[unroll]
    for sixteen in 0..comptime!(KEYS / 16) {
        let mut a = Array::<Line<X>>::lined(4usize, 2usize);
        #[unroll]
        for i in 0..4usize {
            a[i] = Line::<X>::cast_from(weights[comptime!(4 * sixteen + i)]);
        }
        #[unroll]
        for pair in 0..comptime!(block.width() / 2) {
            let at = (first ^ comptime!(2 * pair)) + comptime!(16 * sixteen * block.width());
            let matrices = definition.load_matrix::<X>(&values.slice(at, at + 1), MatrixIdent::B, 4usize, true);
            #[unroll]
            for side in 0..2usize {
                let mut b = Array::<Line<X>>::lined(2usize, 2usize);
                b[0] = matrices[comptime!(2 * side)];
                b[1] = matrices[comptime!(2 * side + 1)];
                let at = comptime!(2 * (2 * pair + side));
                let mut c = Array::<Line<f32>>::lined(2usize, 2usize);
                c[0] = sums[at];
                c[1] = sums[comptime!(at + 1)];
                let d = definition.execute(&a, &b, &c);
                sums[at] = d[0];
                sums[comptime!(at + 1)] = d[1];
            }
        }
    }
}

/// What a unit brings to shared memory: of some keys of each step, and of their values, one vector each.
#[derive(CubeType)]
struct Fetch {
    /// Where the first key of all has it.
    source: usize,
    /// The first of its keys.
    key: usize,
    key_stride: usize,
    /// The last key there is.
    last: usize,
    to_key: usize,
    to_value: usize,
}

#[cube]
impl Fetch {
    fn new(first_key: usize, key_stride: usize, seen: usize, #[comptime] block: Block) -> Fetch {
        let width = comptime!(block.width());
        let (key, line) = (UNIT_POS as usize / width, UNIT_POS as usize % width);
        Fetch {
            source: first_key + line,
            key,
            key_stride,
            last: seen - 1,
            to_key: key * width + placed_key(key, line),
            to_value: key * width + placed_value(key, line),
        }
    }

    /// Have the keys and values of a step brought to their places; beyond the last they are the last.
    #[allow(clippy::too_many_arguments, reason = "of a kernel")]
    fn step<X: Float>(
        &self,
        keys: &Array<Line<u32>>,
        values: &Array<Line<X>>,
        shared_keys: &mut SharedMemory<Line<u32>>,
        shared_values: &mut SharedMemory<Line<X>>,
        arrived: &Sequence<Shared<Barrier>>,
        step: usize,
        slot: usize,
        #[comptime] block: Block,
    ) {
        let first = step * KEYS + self.key;
        let (to_key, to_value) = (slot * block.stage_lines() + self.to_key, slot * block.stage_lines() + self.to_value);
        #[unroll]
        for i in 0..comptime!(block.stage_lines() / block.units()) {
            // What lies between keys of a unit is in bits that the number of the first does not have, so it turns those that place them.
            let between = comptime!(i * block.units() / block.width());
            let number = first + between;
            let source = self.source + min(number, self.last) * self.key_stride;
            let at = (to_key ^ comptime!(between % 2 * 4)) + comptime!(i * block.units());
            let to = (to_value ^ comptime!(between % 8)) + comptime!(i * block.units());
            copy_async(&keys.slice(source, source + 1), &mut shared_keys.slice_mut(at, at + 1), 4u32);
            copy_async(&values.slice(source, source + 1), &mut shared_values.slice_mut(to, to + 1), 8u32);
        }
        #[unroll]
        for s in 0..block.stages {
            if slot == s {
                arrived[s].commit_copy_async();
                arrived[s].arrive();
            }
        }
    }
}
