use std::fmt;

/// A device that a backend can run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// As its driver calls it.
    pub name: String,
    /// What sort of device it is, and what drives it, where that is known.
    pub driver: Option<String>,
    /// Bytes of memory of its own, where the driver says.
    pub memory: Option<u64>,
    /// The largest tensor in bytes, where there is a limit: what a shader can bind at once.
    pub largest_tensor: Option<u64>,
}

impl fmt::Display for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let gibibytes = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let details = [
            self.driver.clone(),
            self.memory.map(|bytes| format!("{:.1} GiB", gibibytes(bytes))),
            self.largest_tensor.map(|bytes| format!("tensors up to {:.2} GiB", gibibytes(bytes))),
        ];
        let details: Vec<String> = details.into_iter().flatten().collect();
        if details.is_empty() { Ok(()) } else { write!(f, " ({})", details.join(", ")) }
    }
}
