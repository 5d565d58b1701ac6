//! Causal attention of many queries where there are no tensor cores that take it: units multiply, in `f32`, and all that they share goes through
//! shared memory.
//!
//! A cube has a block of queries of one head and goes through the keys they see, some at a time. A unit has products of some queries and keys,
//! then some values of the results of the same queries; in between, four units of a query turn its products into weights.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::Work;
use super::softmax::HIDDEN;
use super::table::Place;
use crate::ops::cube::args::{array, words};
use crate::ops::cube::values::{Encoding, LINE, four};

/// Queries of a cube.
pub(super) const QUERIES: usize = 32;

/// Units of a cube: so many beside each other, for neighbouring keys and values, and so many below, for queries that lie as far apart.
const UNITS: usize = 128;
const BESIDE: usize = 16;
const BELOW: usize = UNITS / BESIDE;

/// Queries of a unit.
const OWN: usize = QUERIES / BELOW;

/// Units that turn the scores of a query into weights.
const SHARING: usize = UNITS / QUERIES;

/// How a cube works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Block {
    encoding: Encoding,
    head_dim: usize,
    /// Keys of a step.
    keys: usize,
}

impl Block {
    /// Vectors of a head in shared memory.
    fn width(self) -> usize {
        self.head_dim / LINE
    }

    /// Vectors of a head in memory.
    fn vectors(self) -> usize {
        self.head_dim / self.encoding.values()
    }

    /// Vectors that a unit brings, of so many heads.
    fn loads(self, heads: usize) -> usize {
        (heads * self.vectors()).div_ceil(UNITS)
    }

    /// Vectors of a unit's results, of each of its queries.
    fn results(self) -> usize {
        self.width().div_ceil(BESIDE)
    }

    fn shared_bytes(self) -> usize {
        4 * ((QUERIES + self.keys) * self.head_dim + QUERIES * (self.keys + 1) + UNITS + QUERIES)
    }

    /// For these heads on this device, if there is room for them.
    pub(super) fn choose<R: CubeRuntime>(queries: &CubeTensor<R>, head_dim: usize) -> Option<Self> {
        let encoding = Encoding::of_floats(queries.dtype)?;
        let hardware = &queries.client.properties().hardware;
        // Rows of shared memory are whole groups of eight vectors, see `placed`.
        let whole = head_dim.is_multiple_of(8 * LINE) && UNITS <= hardware.max_units_per_cube as usize;
        let fits = |block: &Self| block.shared_bytes() <= hardware.max_shared_memory_size;
        let blocks = [2 * BESIDE, BESIDE].map(|keys| Self { encoding, head_dim, keys });
        blocks.into_iter().filter(|_| whole).find(fits)
    }

    /// Values of the vectors that strides and places are counted in.
    pub(super) fn values(self) -> usize {
        self.encoding.values()
    }
}

/// The blocks of queries that a table of so many entries names.
pub(super) fn launch<R: CubeRuntime>(work: &Work<'_, R>, block: Block, table: ArrayArg<'_, R>, count: usize) -> bool {
    let heads = work.queries.shape[1];
    // SAFETY: the table names queries, keys and rows of the output that exist; of others the kernel takes the last one that does.
    let launched = unsafe {
        unit_attention_kernel::launch_unchecked(
            &work.queries.client,
            crate::ops::cube::cube_count(count * heads),
            CubeDim::new_1d(UNITS as u32),
            words(work.queries, LINE),
            words(work.keys, LINE),
            words(work.values, LINE),
            table,
            array(work.output, LINE),
            ScalarArg::new(work.scale as f32),
            ScalarArg::new(heads),
            ScalarArg::new(work.group),
            ScalarArg::new(work.key_stride),
            ScalarArg::new(work.head_stride),
            ScalarArg::new(count),
            block,
            work.queries.dtype.into(),
        )
    };
    crate::ops::cube::ran("attention of many queries", launched)
}

/// `keys` and `values` are the same vectors, `key_stride` and `head_stride` what lies between those of neighbouring keys and heads.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments, reason = "a kernel's buffers")]
fn unit_attention_kernel<X: Float>(
    queries: &Array<Line<u32>>,
    keys: &Array<Line<u32>>,
    values: &Array<Line<u32>>,
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
    let unit = UNIT_POS as usize;
    let (row, beside) = (unit / BESIDE, unit % BESIDE);
    let head = CUBE_POS % heads;
    let place = Place::read(table, CUBE_POS / heads);
    let seen = place.past + place.queries;
    let first_key = place.keys + head / group * head_stride;
    let first_query = (place.query * heads + head) * comptime!(block.vectors());
    let width = comptime!(block.width());

    let mut qs = SharedMemory::<u32>::new_lined(comptime!(QUERIES * block.width()), LINE);
    let mut ks = SharedMemory::<u32>::new_lined(comptime!(block.keys * block.width()), LINE);
    let mut weights = SharedMemory::<f32>::new(comptime!(QUERIES * (block.keys + 1)));
    let mut parts = SharedMemory::<f32>::new(UNITS);
    let mut factors = SharedMemory::<f32>::new(QUERIES);

    let mut of_queries = Heads::new(QUERIES, block);
    let own_queries = Source { first: first_query, stride: heads * comptime!(block.vectors()), count: place.queries };
    of_queries.load(queries, &own_queries, 0usize.runtime(), QUERIES, block);
    of_queries.put(&mut qs, QUERIES, block);
    let mut of_keys = Heads::new(block.keys, block);
    let mut of_values = Heads::new(block.keys, block);
    let source = Source { first: first_key, stride: key_stride, count: seen };
    of_keys.load(keys, &source, 0usize.runtime(), block.keys, block);

    // Of the query whose weights this unit makes with others: its largest score yet, and the sum of the unit's weights.
    let (own, share) = (unit / SHARING, unit % SHARING);
    let mut largest = HIDDEN.runtime();
    let mut total = 0.0_f32;
    let mut sums = Array::<Line<f32>>::lined(comptime!(OWN * block.results()), LINE);
    #[unroll]
    for i in 0..comptime!(OWN * block.results()) {
        sums[i] = Line::empty(LINE).fill(0.0);
    }

    let steps = (seen + comptime!(block.keys - 1)) / block.keys;
    for step in 0..steps {
        of_keys.put(&mut ks, block.keys, block);
        sync_cube();
        let first = step * block.keys;
        of_values.load(values, &source, first, block.keys, block);
        score(&mut weights, &qs, &ks, row, beside, block);
        sync_cube();
        // Values take the place of the keys.
        of_values.put(&mut ks, block.keys, block);

        let visible = (place.past + own + 1) as i32 - first as i32;
        let mut most = largest;
        #[unroll]
        for i in 0..comptime!(block.keys / SHARING) {
            let key = share + comptime!(i * SHARING);
            most = max(most, select((key as i32) < visible, weights[own * comptime!(block.keys + 1) + key], HIDDEN));
        }
        parts[unit] = most;
        sync_cube();
        #[unroll]
        for i in 0..SHARING {
            most = max(most, parts[own * SHARING + i]);
        }
        let factor = f32::exp((largest - most) * scale);
        total *= factor;
        #[unroll]
        for i in 0..comptime!(block.keys / SHARING) {
            let key = share + comptime!(i * SHARING);
            let at = own * comptime!(block.keys + 1) + key;
            let score = select((key as i32) < visible, weights[at], HIDDEN);
            let weight = f32::exp((score - most) * scale);
            weights[at] = weight;
            total += weight;
        }
        largest = most;
        if share == 0 {
            factors[own] = factor;
        }
        sync_cube();
        let next = select(step + 1 < steps, first + block.keys, first);
        of_keys.load(keys, &source, next, block.keys, block);
        add_values(&mut sums, &weights, &factors, &ks, row, beside, block);
        sync_cube();
    }

    parts[unit] = total;
    sync_cube();
    #[unroll]
    for i in 0..OWN {
        let query = row + comptime!(i * BELOW);
        let mut total = 0.0_f32;
        #[unroll]
        for part in 0..SHARING {
            total += parts[query * SHARING + part];
        }
        let at = ((place.output + query) * heads + head) * width;
        #[unroll]
        for j in 0..comptime!(block.results()) {
            let line = beside + comptime!(j * BESIDE);
            if query < place.queries && line < width {
                let result = sums[comptime!(i * block.results() + j)] / Line::empty(LINE).fill(total);
                y[at + line] = Line::cast_from(result);
            }
        }
    }
}

/// Heads of a tensor: the first vector of the first, vectors from one to the next, and how many there are.
#[derive(CubeType)]
struct Source {
    first: usize,
    stride: usize,
    count: usize,
}

/// Heads that a unit brings to shared memory, in registers.
#[derive(CubeType)]
struct Heads {
    vectors: Array<Line<u32>>,
}

#[cube]
impl Heads {
    fn new(#[comptime] heads: usize, #[comptime] block: Block) -> Heads {
        Heads { vectors: Array::<Line<u32>>::lined(comptime!(block.loads(heads)), LINE) }
    }

    /// Load heads `from ..`. Those beyond the last are the last.
    fn load(
        &mut self,
        tensor: &Array<Line<u32>>,
        source: &Source,
        from: usize,
        #[comptime] heads: usize,
        #[comptime] block: Block,
    ) {
        let vectors = comptime!(block.vectors());
        #[unroll]
        for i in 0..comptime!(block.loads(heads)) {
            let at = UNIT_POS as usize + comptime!(i * UNITS);
            let number = from + at / vectors;
            let number = select(number < source.count, number, source.count - 1);
            self.vectors[i] = tensor[source.first + number * source.stride + at % vectors];
        }
    }

    /// Put them where all units of the cube find them, as `f32`.
    fn put(&self, shared: &mut SharedMemory<Line<u32>>, #[comptime] heads: usize, #[comptime] block: Block) {
        let (vectors, lines) = comptime!((block.vectors(), block.encoding.values() / LINE));
        #[unroll]
        for i in 0..comptime!(block.loads(heads)) {
            let at = UNIT_POS as usize + comptime!(i * UNITS);
            if comptime!((heads * block.vectors()).is_multiple_of(UNITS)) || at < comptime!(heads * block.vectors()) {
                #[unroll]
                for line in 0..lines {
                    let place = placed(at / vectors, at % vectors * lines + line, block);
                    shared[place] = four(self.vectors[i], 0u32.runtime(), line, block.encoding);
                }
            }
        }
    }
}

/// Where vector `line` of a head stands in shared memory. Units that read at once read neighbouring heads, in different banks.
#[cube]
fn placed(head: usize, line: usize, #[comptime] block: Block) -> usize {
    head * comptime!(block.width()) + (line ^ (head % 8))
}

/// The products of a unit's queries and keys.
#[cube]
fn score(
    scores: &mut SharedMemory<f32>,
    queries: &SharedMemory<Line<u32>>,
    keys: &SharedMemory<Line<u32>>,
    row: usize,
    beside: usize,
    #[comptime] block: Block,
) {
    let count = comptime!(block.keys / BESIDE);
    let mut sums = Array::<f32>::new(comptime!(OWN * block.keys / BESIDE));
    #[unroll]
    for i in 0..comptime!(OWN * block.keys / BESIDE) {
        sums[i] = 0.0;
    }
    for line in 0..comptime!(block.width()).runtime() {
        let mut own = Array::<Line<u32>>::lined(count, LINE);
        #[unroll]
        for k in 0..count {
            own[k] = keys[placed(beside + comptime!(k * BESIDE), line, block)];
        }
        #[unroll]
        for q in 0..OWN {
            let query = queries[placed(row + comptime!(q * BELOW), line, block)];
            #[unroll]
            for k in 0..count {
                let at = comptime!(q * (block.keys / BESIDE) + k);
                let mut sum = sums[at];
                #[unroll]
                for value in 0..LINE {
                    sum = fma(f32::reinterpret(query[value]), f32::reinterpret(own[k][value]), sum);
                }
                sums[at] = sum;
            }
        }
    }
    #[unroll]
    for q in 0..OWN {
        #[unroll]
        for k in 0..count {
            let at = (row + comptime!(q * BELOW)) * comptime!(block.keys + 1) + beside + comptime!(k * BESIDE);
            scores[at] = sums[comptime!(q * (block.keys / BESIDE) + k)];
        }
    }
}

/// Add the values of a step's keys to a unit's results, weighted, after what there is so far has been scaled.
#[cube]
fn add_values(
    sums: &mut Array<Line<f32>>,
    weights: &SharedMemory<f32>,
    factors: &SharedMemory<f32>,
    values: &SharedMemory<Line<u32>>,
    row: usize,
    beside: usize,
    #[comptime] block: Block,
) {
    let results = comptime!(block.results());
    #[unroll]
    for q in 0..OWN {
        let factor = Line::empty(LINE).fill(factors[row + comptime!(q * BELOW)]);
        #[unroll]
        for j in 0..results {
            sums[comptime!(q * block.results() + j)] *= factor;
        }
    }
    for key in 0..comptime!(block.keys).runtime() {
        let mut own = Array::<Line<f32>>::lined(results, LINE);
        #[unroll]
        for j in 0..results {
            // Units beyond the width of a head read what they do not need.
            let line = beside + comptime!(j * BESIDE);
            let line = select(line < comptime!(block.width()), line, 0);
            own[j] = Line::<f32>::reinterpret(values[placed(key, line, block)]);
        }
        #[unroll]
        for q in 0..OWN {
            let weight =
                Line::empty(LINE).fill(weights[(row + comptime!(q * BELOW)) * comptime!(block.keys + 1) + key]);
            #[unroll]
            for j in 0..results {
                let at = comptime!(q * block.results() + j);
                sums[at] = fma(weight, own[j], sums[at]);
            }
        }
    }
}
