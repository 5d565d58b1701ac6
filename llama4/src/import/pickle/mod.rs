//! The part of Python's pickle that a PyTorch state dict is written in: enough to list its tensors, nothing that runs.

mod machine;

use std::rc::Rc;

use machine::{Machine, Value};

/// A tensor as the pickle describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PickledTensor {
    /// Path of keys that leads to it, joined with dots.
    pub(super) name: String,
    /// `BFloat16Storage`, `FloatStorage`, …, or `float8_e4m3fn` where the storage has no type of its own.
    pub(super) storage_type: String,
    /// Name of the storage that holds its bytes.
    pub(super) storage: String,
    /// First element in the storage.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// Dictionaries in dictionaries that are followed.
const MAX_DEPTH: usize = 8;

/// What the list of tensors may take, in bytes for each byte of the pickle. Values are stored once and referred to, so a short pickle could
/// list the same tensors without end; one that PyTorch writes stays below a tenth of this.
const MAX_GROWTH: usize = 16;

/// List the tensors of a pickled state dict. The error says what is not understood.
pub(super) fn tensors(pickle: &[u8]) -> Result<Vec<PickledTensor>, String> {
    let mut machine = Machine::new(pickle);
    let root = machine.run()?;
    let Value::Dict(root) = root else {
        return Err("something that is not a dictionary of tensors".to_string());
    };
    let budget = pickle.len().saturating_mul(MAX_GROWTH);
    let mut list = List { machine: &machine, path: Vec::new(), found: Vec::new(), budget };
    list.dict(root)?;
    Ok(list.found)
}

struct List<'a> {
    machine: &'a Machine<'a>,
    /// Keys that lead to where we are.
    path: Vec<Rc<str>>,
    found: Vec<PickledTensor>,
    /// Bytes that may still be spent.
    budget: usize,
}

impl List<'_> {
    /// Tensors under a dictionary, each with its path as name.
    fn dict(&mut self, index: usize) -> Result<(), String> {
        if self.path.len() == MAX_DEPTH {
            return Err(format!("dictionaries nested deeper than {MAX_DEPTH}"));
        }
        for (key, value) in &self.machine.dicts[index] {
            self.spend(1)?;
            let Value::Text(key) = key else { continue };
            self.path.push(key.clone());
            match *value {
                Value::Tensor(index) => self.tensor(index)?,
                Value::Dict(index) => self.dict(index)?,
                _ => {}
            }
            self.path.pop();
        }
        Ok(())
    }

    fn tensor(&mut self, index: usize) -> Result<(), String> {
        let tensor = &self.machine.tensors[index];
        let name: usize = self.path.iter().map(|key| key.len() + 1).sum();
        let sizes = 8 * (tensor.shape.len() + tensor.strides.len());
        self.spend(name + tensor.class.len() + tensor.storage.len() + sizes)?;
        self.found.push(PickledTensor {
            name: self.path.join("."),
            storage_type: tensor.class.split(' ').next_back().unwrap_or_default().to_string(),
            storage: tensor.storage.to_string(),
            offset: tensor.offset,
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
        });
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.budget.checked_sub(bytes).ok_or("the same values over and over")?;
        self.budget = left;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
