use burn::module::{Ignored, Module, Param, ParamId};
use burn::tensor::backend::Backend;
use burn::tensor::{AllocationProperty, Bytes, DType, Int, Tensor, TensorData};

use super::{NotRepresentable, Packing, pack, resident};
use crate::ops;

/// A weight of a module: plain floats, or packed.
///
/// Packed weights are not trained: they are integers, which autodiff does not follow.
#[derive(Module, Debug)]
pub enum Weight<B: Backend, const D: usize> {
    /// `D` axes, the last one `in`.
    Float(Param<Tensor<B, D>>),
    /// The same rows, all other axes in one.
    Packed(PackedTensor<B>),
    /// A matrix whose rows are in several tensors, one after the other, because the device cannot bind as much at once.
    Split(Vec<Rows<B>>),
}

/// Consecutive rows of a weight.
#[derive(Module, Debug)]
pub enum Rows<B: Backend> {
    /// `[rows, in]`.
    Float(Param<Tensor<B, 2>>),
    /// The same, packed.
    Packed(PackedTensor<B>),
}

/// The rows of a weight as packed words.
#[derive(Module, Debug)]
pub struct PackedTensor<B: Backend> {
    /// `I32`, `[rows, words]`.
    words: Param<Tensor<B, 2, Int>>,
    /// `I32`, `[rows, scale words]`, two `f16` to a word; `None` where the packing has no scales.
    scales: Option<Param<Tensor<B, 2, Int>>>,
    packing: Ignored<Packing>,
    columns: usize,
}

/// A [`PackedTensor`] on the host: its words as bytes, which may be those of a mapped file.
#[derive(Debug, Clone)]
pub struct PackedData {
    /// How values are packed.
    pub packing: Packing,
    /// Rows.
    pub rows: usize,
    /// Values of a row.
    pub columns: usize,
    /// `rows` times [`Packing::words`], little-endian.
    pub words: Bytes,
    /// `rows` times [`Packing::scale_words`], little-endian.
    pub scales: Bytes,
}

impl PackedData {
    /// Pack rows of floats.
    ///
    /// # Errors
    /// When a value is not finite or beyond what the packing can hold.
    ///
    /// # Panics
    /// If `values` are not whole rows, or the packing does not fit their width.
    pub fn pack(packing: Packing, columns: usize, values: &[f32]) -> Result<Self, NotRepresentable> {
        assert!(packing.fits(columns) && values.len().is_multiple_of(columns), "whole rows of whole blocks");
        let rows = values.len() / columns;
        let mut words = vec![0_u32; rows * packing.words(columns)];
        let mut scales = vec![0_u16; 2 * rows * packing.scale_words(columns)];
        for (row, values) in values.chunks_exact(columns).enumerate() {
            let words = &mut words[row * packing.words(columns)..][..packing.words(columns)];
            let scales = &mut scales[2 * row * packing.scale_words(columns)..][..packing.scales(columns)];
            pack(packing, values, words, scales)?;
        }
        Ok(Self { packing, rows, columns, words: shared_bytes(words), scales: shared_bytes(scales) })
    }
}

/// Memory that clones share. burn copies bytes of its own with every clone of a tensor that is made from them, and it clones a parameter
/// whenever one is used.
pub(crate) fn shared_bytes<T: bytemuck::NoUninit + Send + Sync + 'static>(values: Vec<T>) -> Bytes {
    struct Owner<T>(Vec<T>);

    impl<T: bytemuck::NoUninit> AsRef<[u8]> for Owner<T> {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }

    Bytes::from_shared(bytes::Bytes::from_owner(Owner(values)), AllocationProperty::Native)
}

impl<B: Backend> PackedTensor<B> {
    /// Upload packed rows.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub fn from_data(data: PackedData, device: &B::Device) -> Self {
        let PackedData { packing, rows, columns, words, scales } = data;
        let upload = |bytes: Bytes, width: usize| {
            // The pages of a mapped file are the file's.
            let own = !matches!(bytes.property(), AllocationProperty::File);
            let data = TensorData::from_bytes(bytes, [rows, width], DType::I32);
            let upload = |data| Tensor::from_data_dtype(data, device, DType::I32);
            let tensor = resident::<B, _, _>(device, rows * width * size_of::<i32>(), data, upload);
            if own {
                ops::enlarge(&tensor);
            }
            Param::initialized(ParamId::new(), tensor)
        };
        Self {
            words: upload(words, packing.words(columns)),
            scales: packing.has_scales().then(|| upload(scales, packing.scale_words(columns))),
            packing: Ignored(packing),
            columns,
        }
    }

    /// How values are packed.
    pub fn packing(&self) -> Packing {
        self.packing.0
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.words.dims()[0]
    }

    /// Values of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The words, `I32`, `[rows, words]`.
    pub fn words(&self) -> Tensor<B, 2, Int> {
        self.words.val()
    }

    /// The words of the scales, `I32`, `[rows, scale words]`.
    pub fn scales(&self) -> Option<Tensor<B, 2, Int>> {
        self.scales.as_ref().map(Param::val)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.rows() * self.packing().row_bytes(self.columns)
    }
}

impl<B: Backend, const D: usize> Weight<B, D> {
    /// The packed rows, if that is what it is.
    pub fn packed(&self) -> Option<&PackedTensor<B>> {
        match self {
            Self::Float(_) | Self::Split(_) => None,
            Self::Packed(packed) => Some(packed),
        }
    }

    /// Width of a row, `in`.
    pub fn columns(&self) -> usize {
        match self {
            Self::Float(weight) => weight.dims()[D - 1],
            Self::Packed(packed) => packed.columns(),
            Self::Split(parts) => parts.first().map_or(0, Rows::columns),
        }
    }
}

impl<B: Backend> Rows<B> {
    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Float(weight) => weight.dims()[0],
            Self::Packed(packed) => packed.rows(),
        }
    }

    /// Width of a row, `in`.
    pub fn columns(&self) -> usize {
        match self {
            Self::Float(weight) => weight.dims()[1],
            Self::Packed(packed) => packed.columns(),
        }
    }
}
