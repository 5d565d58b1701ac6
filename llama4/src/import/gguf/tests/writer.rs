/// A value with its type in front, as metadata have it.
pub(super) struct Typed(pub(super) Vec<u8>);

/// A GGUF file to be written. What a sound file has follows from keys and tensors; what is set here is written instead.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) magic: [u8; 4],
    pub(super) version: u32,
    pub(super) tensor_count: Option<u64>,
    pub(super) key_count: Option<u64>,
    pub(super) alignment: usize,
    /// Key, and its value with the type in front.
    pub(super) keys: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) tensors: Vec<RawTensor>,
}

#[derive(Clone)]
pub(super) struct RawTensor {
    pub(super) name: Vec<u8>,
    /// Fastest axis first, as in the file.
    pub(super) widths: Vec<u64>,
    pub(super) id: u32,
    pub(super) offset: Option<u64>,
    pub(super) bytes: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            key_count: None,
            alignment: 32,
            keys: Vec::new(),
            tensors: Vec::new(),
        }
    }
}

impl Writer {
    /// With a key, which takes the place of one of the same name.
    pub(super) fn with(mut self, key: &str, value: impl Into<Typed>) -> Self {
        self.keys.retain(|(name, _)| name != key.as_bytes());
        self.and(key, value)
    }

    /// With a key, even if there is one of that name.
    pub(super) fn and(mut self, key: &str, value: impl Into<Typed>) -> Self {
        self.keys.push((key.as_bytes().to_vec(), value.into().0));
        self
    }

    pub(super) fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(name, _)| name != key.as_bytes());
        self
    }

    /// With a tensor of ggml's type `id`, given its shape with the slowest axis first.
    pub(super) fn tensor(mut self, name: &str, id: u32, shape: &[u64], bytes: Vec<u8>) -> Self {
        let widths = shape.iter().rev().copied().collect();
        self.tensors.push(RawTensor { name: name.as_bytes().to_vec(), widths, id, offset: None, bytes });
        self
    }

    /// With a tensor of zeros of type `F32`.
    pub(super) fn zeros(self, name: &str, shape: &[u64]) -> Self {
        let bytes = vec![0; 4 * shape.iter().product::<u64>() as usize];
        self.tensor(name, 0, shape, bytes)
    }

    /// With a tensor of type `F32`.
    pub(super) fn floats(self, name: &str, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, 0, &[values.len() as u64], bytes)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut head = self.magic.to_vec();
        head.extend(self.version.to_le_bytes());
        head.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        head.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            head.extend(string(key));
            head.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            head.extend(string(&tensor.name));
            head.extend((tensor.widths.len() as u32).to_le_bytes());
            head.extend(tensor.widths.iter().flat_map(|width| width.to_le_bytes()));
            head.extend(tensor.id.to_le_bytes());
            head.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
            data.resize(data.len().next_multiple_of(self.alignment), 0);
        }
        head.resize(head.len().next_multiple_of(self.alignment), 0);
        head.extend(data);
        head
    }
}

/// A string as the format has it.
pub(super) fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// A list, given the number of its elements' type and their bytes.
pub(super) fn list(id: u32, count: u64, elements: &[u8]) -> Typed {
    Typed([&9_u32.to_le_bytes()[..], &id.to_le_bytes(), &count.to_le_bytes(), elements].concat())
}

macro_rules! typed {
    ($($kind:ty = $id:literal),*) => {$(
        impl From<$kind> for Typed {
            fn from(value: $kind) -> Self {
                Self([&u32::to_le_bytes($id)[..], &value.to_le_bytes()].concat())
            }
        }

        impl From<&[$kind]> for Typed {
            fn from(values: &[$kind]) -> Self {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                list($id, values.len() as u64, &bytes)
            }
        }
    )*};
}

typed!(u8 = 0, i8 = 1, u16 = 2, i16 = 3, u32 = 4, i32 = 5, f32 = 6, u64 = 10, i64 = 11, f64 = 12);

impl From<bool> for Typed {
    fn from(value: bool) -> Self {
        Self([&7_u32.to_le_bytes()[..], &[value.into()]].concat())
    }
}

impl From<&str> for Typed {
    fn from(text: &str) -> Self {
        Self([&8_u32.to_le_bytes()[..], &string(text.as_bytes())].concat())
    }
}

impl From<&[&str]> for Typed {
    fn from(texts: &[&str]) -> Self {
        let bytes: Vec<u8> = texts.iter().flat_map(|text| string(text.as_bytes())).collect();
        list(8, texts.len() as u64, &bytes)
    }
}
