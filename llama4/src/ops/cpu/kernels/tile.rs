//! The innermost product: a panel of weight rows side by side times a few rows of activations.

mod ahead;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod float;
mod portable;

pub(super) use ahead::Ahead;

use super::level::Level;
use crate::quant::{BLOCK, Packing};

/// Weight rows of the widest panel.
pub(super) const WIDEST: usize = 32;

/// Rows of activations of the largest tile.
pub(super) const MOST: usize = 12;

/// Sums of a tile: `[row of activations][row of the panel]`.
pub(super) type Sums = [[f32; WIDEST]; MOST];

/// What a panel and the activations for it consist of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "other levels multiply blocks of many rows as floats")
)]
pub(super) enum Form {
    /// `f32`: panel `[column][row]`, activations `[column][row]`.
    Floats,
    /// Unsigned bytes less an offset, four columns to a word: panel `[column / 4][row]`, activations likewise, signed.
    Bytes { offset: i32 },
    /// Panel of signed bytes, four columns to a word; activations of signed 16-bit numbers, two columns to a word: of each four the first
    /// and third, then the second and fourth.
    Pairs,
}

impl Form {
    /// The form in which a level multiplies with weights of a packing.
    pub(super) fn of(level: Level, packing: Option<Packing>) -> Self {
        match (level, packing) {
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, Some(Packing::Q8)) => Self::Bytes { offset: 128 },
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, Some(Packing::Q8)) => Self::Pairs,
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512 | Level::Avx2, Some(Packing::Q4)) => Self::Bytes { offset: 8 },
            _ => Self::Floats,
        }
    }

    /// Words that a row's `columns` values take in a tile.
    pub(super) fn words(self, columns: usize) -> usize {
        match self {
            Self::Floats => columns,
            Self::Bytes { .. } => columns / 4,
            Self::Pairs => columns / 2,
        }
    }

    /// Words that a row's `columns` values take in a panel.
    pub(super) fn panel_words(self, columns: usize) -> usize {
        match self {
            Self::Floats => columns,
            Self::Bytes { .. } | Self::Pairs => columns / 4,
        }
    }
}

/// Weight rows of a panel.
pub(super) fn width(level: Level) -> usize {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => 32,
        _ => 16,
    }
}

/// Rows of activations that a tile takes at most.
pub(super) fn most(level: Level, form: Form) -> usize {
    match (level, form) {
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512, Form::Floats) => 12,
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512, _) => 6,
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, Form::Floats) => 6,
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, _) => 4,
        _ => 4,
    }
}

/// A panel of floats, `depth` columns of [`width`] values, `stride` values from one column to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct FloatPanel<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    pub(super) depth: usize,
}

/// `sums[r] = panel · x[.., r]` for `x [depth][rows]`, where `rows` is at most [`most`].
pub(super) fn float_tile(level: Level, panel: FloatPanel, x: &[f32], rows: usize, sums: &mut Sums) {
    let FloatPanel { values, stride, depth } = panel;
    assert!(depth == 0 || values.len() >= (depth - 1) * stride + width(level), "a whole panel");
    assert!(x.len() == depth * rows && (1..=most(level, Form::Floats)).contains(&rows), "a whole tile");
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the level's instructions; the lengths were just checked.
        Level::Avx512 => unsafe { float::avx512::tile(values.as_ptr(), stride, depth, x.as_ptr(), rows, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { float::avx2::tile(values.as_ptr(), stride, depth, x.as_ptr(), rows, sums) },
        _ => portable::float_tile(values, stride, x, rows, sums),
    }
}

/// A panel of quantised blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockPanel<'a> {
    /// `[words of a row][row]`
    pub(super) words: &'a [u32],
    /// `[block][row]`
    pub(super) scales: &'a [f32],
}

/// Quantised activations of a tile.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockTile<'a> {
    /// `[words of a row][row]`
    pub(super) words: &'a [u32],
    /// Minus the offset times the sum of a block's activations, `[block][row]`.
    pub(super) starts: &'a [i32],
    /// `[block][row]`
    pub(super) scales: &'a [f32],
}

/// `sums[r] = panel · x[r]`, where `rows` is at most [`most`]; `ahead` is asked for meanwhile.
pub(super) fn block_tile(
    level: Level,
    form: Form,
    panel: BlockPanel,
    x: BlockTile,
    rows: usize,
    ahead: Ahead,
    sums: &mut Sums,
) {
    let blocks = x.scales.len() / rows;
    let columns = blocks * BLOCK;
    assert!((1..=most(level, form)).contains(&rows) && x.scales.len() == blocks * rows, "a tile");
    assert_eq!((x.words.len(), x.starts.len()), (form.words(columns) * rows, blocks * rows), "a whole tile");
    let width = width(level);
    let whole = (form.panel_words(columns) * width, blocks * width);
    assert_eq!((panel.words.len(), panel.scales.len()), whole, "a whole panel");
    match (level, form) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the level's instructions; the lengths were just checked.
        (Level::Avx512, Form::Bytes { .. }) => unsafe { avx512::bytes_tile(panel, x, blocks, rows, ahead, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Level::Avx2, Form::Bytes { .. }) => unsafe { avx2::bytes_tile(panel, x, blocks, rows, ahead, sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Level::Avx2, Form::Pairs) => unsafe { avx2::pairs_tile(panel, x, blocks, rows, ahead, sums) },
        _ => {
            let _ = (ahead, sums);
            unreachable!("blocks are multiplied as floats at this level")
        }
    }
}
