use std::thread::{self, available_parallelism};

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};

use super::stored::StoredDtype;

/// Side of the tiles in which matrices are turned: one of them and the lines it is read from and written to fit the first cache.
const TILE: usize = 32;

/// Values that one thread turns faster than several can be started.
const ALONE: usize = 1 << 18;

/// Where in a stored tensor the wanted values are, and whether they are turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it, in its order.
    Whole,
    /// `count` matrices from `first` on, of `rows` by `columns` each, transposed one by one.
    Turned { first: usize, count: usize, rows: usize, columns: usize },
}

/// Why values cannot be converted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ValuesError {
    /// A pair of types that there is no conversion for.
    Unsupported,
    /// A value beyond the range of `F16`.
    Overflow,
    /// Fewer bytes than the shape needs.
    Short,
}

/// Part of a stored tensor as values of type `target`.
///
/// Exact where `target` can hold the stored values, rounded to nearest even otherwise.
pub(super) fn read(
    bytes: &[u8],
    stored: &StoredDtype,
    target: DType,
    part: Part,
    shape: Vec<usize>,
) -> Result<TensorData, ValuesError> {
    use StoredDtype as S;
    macro_rules! values {
        ($convert:expr) => {
            TensorData::new(gather(bytes, $convert, part, shape.iter().product()).ok_or(ValuesError::Short)?, shape)
        };
    }
    let data = match (stored, target) {
        (S::F32, DType::F32 | DType::Flex32) => values!(f32::from_le_bytes),
        (S::F32, DType::BF16) => values!(|b| bf16::from_f32(f32::from_le_bytes(b))),
        (S::F32, DType::F16) => values!(|b| f16::from_f32(f32::from_le_bytes(b))),
        (S::F32, DType::F64) => values!(|b| f64::from(f32::from_le_bytes(b))),
        (S::Bf16, DType::F32 | DType::Flex32) => values!(|b| bf16::from_le_bytes(b).to_f32()),
        (S::Bf16, DType::BF16) => values!(bf16::from_le_bytes),
        (S::Bf16, DType::F16) => values!(|b| f16::from_f32(bf16::from_le_bytes(b).to_f32())),
        (S::Bf16, DType::F64) => values!(|b| bf16::from_le_bytes(b).to_f64()),
        (S::F16, DType::F32 | DType::Flex32) => values!(|b| f16::from_le_bytes(b).to_f32()),
        (S::F16, DType::BF16) => values!(|b| bf16::from_f32(f16::from_le_bytes(b).to_f32())),
        (S::F16, DType::F16) => values!(f16::from_le_bytes),
        (S::F16, DType::F64) => values!(|b| f16::from_le_bytes(b).to_f64()),
        _ => return Err(ValuesError::Unsupported),
    };
    let overflows = target == DType::F16
        && *stored != S::F16
        && data.as_slice::<f16>().is_ok_and(|values| values.iter().any(|value| value.is_infinite()));
    if overflows { Err(ValuesError::Overflow) } else { Ok(data) }
}

/// Convert `len` values of `N` bytes each. `None` if there are fewer.
fn gather<const N: usize, T: Copy + Default + Send>(
    bytes: &[u8],
    convert: impl Fn([u8; N]) -> T + Sync,
    part: Part,
    len: usize,
) -> Option<Vec<T>> {
    let (values, _) = bytes.as_chunks::<N>();
    match part {
        Part::Whole => {
            let values = values.get(..len)?;
            Some(values.iter().map(|&value| convert(value)).collect())
        }
        Part::Turned { first, count, rows, columns } => {
            let size = rows * columns;
            let values = values.get(first * size..(first + count) * size)?;
            if len != count * size {
                return None;
            }
            let mut turned = vec![T::default(); len];
            for matrix in 0..count {
                let matrix = matrix * size..(matrix + 1) * size;
                turn(&values[matrix.clone()], &mut turned[matrix], &convert, rows, columns);
            }
            Some(turned)
        }
    }
}

/// Transpose `rows` by `columns` values; a large matrix by several threads, each with its own rows of the result.
fn turn<const N: usize, T: Copy + Default + Send>(
    source: &[[u8; N]],
    target: &mut [T],
    convert: impl Fn([u8; N]) -> T + Sync,
    rows: usize,
    columns: usize,
) {
    let threads = if source.len() < ALONE { 1 } else { available_parallelism().map_or(1, usize::from) };
    let band = columns.div_ceil(threads).next_multiple_of(TILE);
    if band >= columns {
        return turn_band(source, target, &convert, 0, rows, columns);
    }
    thread::scope(|scope| {
        for (index, target) in target.chunks_mut(band * rows).enumerate() {
            let convert = &convert;
            scope.spawn(move || turn_band(source, target, convert, index * band, rows, columns));
        }
    });
}

/// The columns from `first` on, as many as fit the target's rows, tile by tile.
///
/// Each tile is read row by row into a small square first: rows of a matrix whose width is a power of two all fall into the same
/// few cache lines, and going down a column would throw each out before it is used again.
fn turn_band<const N: usize, T: Copy + Default>(
    source: &[[u8; N]],
    target: &mut [T],
    convert: &impl Fn([u8; N]) -> T,
    first: usize,
    rows: usize,
    columns: usize,
) {
    let width = target.len() / rows.max(1);
    let mut square = [[T::default(); TILE]; TILE];
    for row_tile in (0..rows).step_by(TILE) {
        let height = TILE.min(rows - row_tile);
        for column_tile in (0..width).step_by(TILE) {
            let across = TILE.min(width - column_tile);
            for (row, line) in square[..height].iter_mut().enumerate() {
                let start = (row_tile + row) * columns + first + column_tile;
                for (value, &stored) in line.iter_mut().zip(&source[start..start + across]) {
                    *value = convert(stored);
                }
            }
            for column in 0..across {
                let start = (column_tile + column) * rows + row_tile;
                for (value, line) in target[start..start + height].iter_mut().zip(&square) {
                    *value = line[column];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn matrices_of_any_size_are_turned_one_by_one() {
        // The last is large enough for several threads, and its columns do not divide among them.
        for (rows, columns) in [(1, 1), (3, 5), (TILE, TILE), (TILE + 1, 2 * TILE - 1), (301, 1007)] {
            let stored: Vec<f32> = (0..3 * rows * columns).map(|value| value as f32).collect();
            let part = Part::Turned { first: 1, count: 2, rows, columns };
            let data = read(&bytes(&stored), &StoredDtype::F32, DType::F32, part, vec![2, columns, rows]).unwrap();
            let turned = data.as_slice::<f32>().unwrap();
            for matrix in 0..2 {
                for row in 0..rows {
                    for column in 0..columns {
                        let expected = stored[((matrix + 1) * rows + row) * columns + column];
                        assert_eq!(turned[(matrix * columns + column) * rows + row], expected);
                    }
                }
            }
        }
    }

    #[test]
    fn every_pair_of_types_keeps_what_both_can_hold() {
        let values = [1.0_f32, -0.5, 0.0, 256.0];
        let stored: [(StoredDtype, Vec<u8>); 3] = [
            (StoredDtype::F32, bytes(&values)),
            (StoredDtype::Bf16, values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect()),
            (StoredDtype::F16, values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()),
        ];
        for (dtype, bytes) in stored {
            for target in [DType::F32, DType::BF16, DType::F16, DType::F64] {
                let data = read(&bytes, &dtype, target, Part::Whole, vec![4]).unwrap();
                assert_eq!(data.dtype, target);
                assert_eq!(data.iter::<f32>().collect::<Vec<_>>(), values, "{dtype} as {target:?}");
            }
        }
    }

    #[test]
    fn what_a_half_cannot_hold_is_not_made_infinite() {
        let read = |dtype| read(&bytes(&[7e4]), &StoredDtype::F32, dtype, Part::Whole, vec![1]);
        assert_eq!(read(DType::F16).unwrap_err(), ValuesError::Overflow);
        assert!(read(DType::BF16).is_ok());
    }

    #[test]
    fn too_few_bytes_are_an_error() {
        let read = |part, shape| read(&bytes(&[0.0; 3]), &StoredDtype::F32, DType::F32, part, shape).unwrap_err();
        assert_eq!(read(Part::Whole, vec![4]), ValuesError::Short);
        assert_eq!(read(Part::Turned { first: 1, count: 1, rows: 2, columns: 2 }, vec![1, 2, 2]), ValuesError::Short);
    }
}
