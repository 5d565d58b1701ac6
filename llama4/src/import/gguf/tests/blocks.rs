use std::path::Path;

use crate::import::gguf::blocks::packed::split;
use crate::import::gguf::blocks::{BlocksError, dequantise};
use crate::import::gguf::kind::{GgmlType, row_bytes};

/// Blocks of one type with the values that ggml's own package makes of them.
struct Record {
    kind: GgmlType,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

fn records() -> Vec<Record> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/gguf/blocks.bin");
    let content = std::fs::read(file).unwrap();
    let mut rest = &content[..];
    let mut take = |len: usize| rest.split_off(..len).unwrap();
    let mut records = Vec::new();
    for _ in GgmlType::READ {
        let len = take(1)[0].into();
        let name = str::from_utf8(take(len)).unwrap();
        let kind = GgmlType::READ.into_iter().find(|kind| kind.to_string() == name).unwrap();
        let [bytes, values] = [(); 2].map(|()| u32::from_le_bytes(take(4).try_into().unwrap()) as usize);
        let bytes = take(bytes).to_vec();
        let values = take(4 * values).as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
        records.push(Record { kind, bytes, values });
    }
    assert!(rest.is_empty());
    records
}

#[test]
fn every_type_has_the_bits_of_ggmls_own_package() {
    let records = records();
    assert_eq!(records.len(), GgmlType::READ.len());
    for Record { kind, bytes, values } in records {
        assert_eq!(row_bytes(kind, values.len()), Some(bytes.len()), "{kind}");
        let mut found = vec![f32::NAN; values.len()];
        dequantise(kind, &bytes, &mut found).unwrap();
        for (index, (found, expected)) in found.iter().zip(&values).enumerate() {
            assert_eq!(found.to_bits(), expected.to_bits(), "{kind} {index}: {found} is not {expected}");
        }
        // A part of the rows, as one of several threads has it.
        let (skipped, block) = (kind.block_bytes(), kind.block_values());
        let mut found = vec![f32::NAN; values.len() - block];
        dequantise(kind, &bytes[skipped..], &mut found).unwrap();
        assert!(found == values[block..], "{kind} from the second block on");
    }
}

#[test]
fn bytes_that_are_not_of_so_many_values_are_refused() {
    for Record { kind, bytes, values } in records() {
        let len = values.len();
        let short = &bytes[..bytes.len() - 1];
        let wrong = |bytes: &[u8], values| BlocksError::Length { kind, bytes: bytes.len(), values };
        assert_eq!(dequantise(kind, short, &mut vec![0.0; len]), Err(wrong(short, len)));
        assert_eq!(dequantise(kind, &bytes, &mut vec![0.0; len - 1]), Err(wrong(&bytes, len - 1)));
        assert_eq!(dequantise(kind, &bytes, &mut vec![0.0; len + 1]), Err(wrong(&bytes, len + 1)));
        assert_eq!(dequantise(kind, &[], &mut []), Ok(()));
    }
    let other = GgmlType::from_id(19).unwrap();
    assert_eq!(dequantise(other, &[0; 50], &mut [0.0; 256]), Err(BlocksError::Unsupported(other)));
}

#[test]
fn rows_are_whole_blocks() {
    assert_eq!(row_bytes(GgmlType::F32, 5), Some(20));
    assert_eq!(row_bytes(GgmlType::Q8_0, 64), Some(68));
    assert_eq!(row_bytes(GgmlType::Q4K, 5120), Some(20 * 144));
    assert_eq!(row_bytes(GgmlType::Q4K, 128), None);
    assert_eq!(row_bytes(GgmlType::F32, usize::MAX), None);
}

#[test]
fn packed_blocks_still_hold_every_bit() {
    for (kind, words_of_a_block) in [(GgmlType::Q8_0, 8), (GgmlType::Q4_0, 4)] {
        let record = records().into_iter().find(|record| record.kind == kind).unwrap();
        let blocks = record.values.len() / 32;
        let (mut scales, mut words) = (vec![0; blocks], vec![0; blocks * words_of_a_block]);
        split(kind, &record.bytes, &mut scales, &mut words).unwrap();
        for (block, expected) in record.values.chunks(32).enumerate() {
            let scale = half::f16::from_bits(scales[block]).to_f32();
            let words = &words[block * words_of_a_block..][..words_of_a_block];
            for (index, expected) in expected.iter().enumerate() {
                let quant = match kind {
                    GgmlType::Q8_0 => f32::from((words[index / 4] >> (8 * (index % 4))) as u8 as i8),
                    // Byte j has value j below and value j + 16 above.
                    _ => {
                        let byte = (words[index % 16 / 4] >> (8 * (index % 4))) as u8;
                        f32::from(byte >> (4 * (index / 16)) & 0xf) - 8.0
                    }
                };
                assert_eq!((scale * quant).to_bits(), expected.to_bits(), "{kind} {block} {index}");
            }
        }
    }
}

#[test]
fn packing_wants_the_right_room_and_type() {
    let bytes = [0; 34];
    let length = |bytes| Err(BlocksError::Length { kind: GgmlType::Q8_0, bytes, values: 32 });
    assert_eq!(split(GgmlType::Q8_0, &bytes, &mut [0], &mut [0; 8]), Ok(()));
    assert_eq!(split(GgmlType::Q8_0, &bytes, &mut [0], &mut [0; 4]), length(16));
    assert_eq!(split(GgmlType::Q8_0, &bytes[1..], &mut [0], &mut [0; 8]), length(33));
    let unsupported = Err(BlocksError::Unsupported(GgmlType::Q5_0));
    assert_eq!(split(GgmlType::Q5_0, &[0; 22], &mut [0], &mut [0; 4]), unsupported);
}
