//! The part of Python's pickle that a PyTorch state dict is written in: enough to list its tensors, nothing that runs.

use std::collections::HashMap;
use std::rc::Rc;

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

/// Most entries of dictionaries that are looked at, and most tensors that are made. A few bytes of a pickle make one more of either, and a
/// dictionary that holds itself has entries without end.
const MAX_ENTRIES: usize = 1 << 20;

/// Most axes of a tensor.
const MAX_AXES: usize = 8;

/// Longest name of a tensor, a storage or a class. A few bytes of a pickle make one more copy of it.
const MAX_NAME: usize = 255;

/// List the tensors of a pickled state dict. The error says what is not understood.
pub(super) fn tensors(pickle: &[u8]) -> Result<Vec<PickledTensor>, String> {
    let mut machine = Machine { input: pickle, ..Machine::default() };
    let root = machine.run()?;
    let mut found = Vec::new();
    let mut entries = 0;
    machine.collect(root, &mut Vec::new(), &mut entries, &mut found)?;
    Ok(found)
}

/// A value. What holds others refers to them by index, so that nothing is nested and no input makes a deep structure; texts are shared,
/// so that recalling one does not copy it.
#[derive(Debug, Clone)]
enum Value {
    /// Of no interest.
    Opaque,
    Int(i64),
    Text(Rc<str>),
    /// `module name`.
    Global(Rc<str>),
    Tuple(usize),
    Dict(usize),
    Tensor(usize),
}

#[derive(Default)]
struct Machine<'a> {
    input: &'a [u8],
    stack: Vec<Value>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    tuples: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    tensors: Vec<PickledTensor>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value, String> {
        loop {
            match self.byte()? {
                // PROTO, FRAME
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                // None, True, False, a float, an empty list
                b'N' | 0x88 | 0x89 | b']' => self.stack.push(Value::Opaque),
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Opaque);
                }
                // Integers of 1, 2 and 4 bytes, and of any length
                b'K' => self.integer(1, false)?,
                b'M' => self.integer(2, false)?,
                b'J' => self.integer(4, true)?,
                0x8a => {
                    let len = self.byte()?;
                    self.integer(usize::from(len), true)?;
                }
                // Text with a length of 1, 4 and 8 bytes
                0x8c => self.text(1)?,
                b'X' => self.text(4)?,
                0x8d => self.text(8)?,
                b'c' => {
                    let module = self.line()?;
                    let name = self.line()?;
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(module), Value::Text(name)) = (module, name) else {
                        return Err("a class without a name".to_string());
                    };
                    self.global(&module, &name)?;
                }
                // Remember under a number of 1 and 4 bytes, or the next one; recall
                b'q' => self.remember(1)?,
                b'r' => self.remember(4)?,
                0x94 => {
                    let key = self.memo.len() as u32;
                    self.memo.insert(key, self.top()?.clone());
                }
                b'h' => self.recall(1)?,
                b'j' => self.recall(4)?,
                // Tuples of 0, 1, 2, 3 items and down to the mark
                b')' => self.tuple(Vec::new()),
                0x85 => self.tuple_of(1)?,
                0x86 => self.tuple_of(2)?,
                0x87 => self.tuple_of(3)?,
                b't' => {
                    let items = self.pop_mark()?;
                    self.tuple(items);
                }
                b'}' => self.dict(),
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(vec![key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set(items)?;
                }
                // Items of a list, which is of no interest
                b'a' => drop(self.pop()?),
                b'e' => drop(self.pop_mark()?),
                // A storage stands on the stack as the tuple that describes it.
                b'Q' => {}
                b'R' => self.reduce()?,
                // The state of an object: PyTorch's is a version number for each module.
                b'b' => drop(self.pop()?),
                other => return Err(format!("operation 0x{other:02x}, which no state dict needs")),
            }
        }
    }

    /// What calling a function gives: only those that build dictionaries and tensors mean anything here.
    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Value::Tuple(arguments), Value::Global(function)) = (arguments, function) else {
            return Err("a call of something that is not a function".to_string());
        };
        let arguments = &self.tuples[arguments];
        match &*function {
            "collections OrderedDict" => self.dict(),
            "torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor_v3" => {
                if self.tensors.len() == MAX_ENTRIES {
                    return Err(format!("more than {MAX_ENTRIES} tensors"));
                }
                let tensor = self.tensor(arguments)?;
                self.tensors.push(tensor);
                self.stack.push(Value::Tensor(self.tensors.len() - 1));
            }
            "torch._utils _rebuild_parameter" => {
                let parameter = arguments.first().cloned().unwrap_or(Value::Opaque);
                self.stack.push(parameter);
            }
            _ => self.stack.push(Value::Opaque),
        }
        Ok(())
    }

    /// `(storage, offset, shape, strides, …)`, the storage being `("storage", type, name, device, elements)`.
    fn tensor(&self, arguments: &[Value]) -> Result<PickledTensor, String> {
        let unusual = || "a tensor that is described in an unusual way".to_string();
        let [storage, offset, shape, strides, ..] = arguments else { return Err(unusual()) };
        let Value::Tuple(storage) = storage else { return Err(unusual()) };
        let [_, Value::Global(class), Value::Text(name), ..] = self.tuples[*storage].as_slice() else {
            return Err(unusual());
        };
        // Version 3 says the type beside an untyped storage.
        let class = match arguments.get(6) {
            Some(Value::Global(dtype)) => dtype,
            _ => class,
        };
        let numbers = |value: &Value| match value {
            Value::Tuple(items) if self.tuples[*items].len() <= MAX_AXES => {
                self.tuples[*items].iter().map(number).collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        if name.len() > MAX_NAME {
            return Err(format!("a storage's name of {} bytes; at most {MAX_NAME} are read", name.len()));
        }
        Ok(PickledTensor {
            name: String::new(),
            storage_type: class.split(' ').next_back().unwrap_or_default().to_string(),
            storage: name.to_string(),
            offset: number(offset).ok_or_else(unusual)?,
            shape: numbers(shape).ok_or_else(unusual)?,
            strides: numbers(strides).ok_or_else(unusual)?,
        })
    }

    /// Tensors under `value`, each with its path as name.
    fn collect(
        &self,
        value: Value,
        path: &mut Vec<Rc<str>>,
        entries: &mut usize,
        found: &mut Vec<PickledTensor>,
    ) -> Result<(), String> {
        match value {
            _ if path.is_empty() && !matches!(value, Value::Dict(_)) => {
                return Err("something that is not a dictionary of tensors".to_string());
            }
            Value::Tensor(index) => {
                let len: usize = path.iter().map(|key| key.len() + 1).sum();
                if len > MAX_NAME + 1 {
                    return Err(format!("a tensor's name of {} bytes; at most {MAX_NAME} are read", len - 1));
                }
                found.push(PickledTensor { name: path.join("."), ..self.tensors[index].clone() });
            }
            Value::Dict(index) => {
                if path.len() == MAX_DEPTH {
                    return Err(format!("dictionaries nested deeper than {MAX_DEPTH}"));
                }
                for (key, value) in &self.dicts[index] {
                    *entries += 1;
                    if *entries > MAX_ENTRIES {
                        return Err(format!("dictionaries of more than {MAX_ENTRIES} entries in all"));
                    }
                    let Value::Text(key) = key else { continue };
                    path.push(key.clone());
                    self.collect(value.clone(), path, entries, found)?;
                    path.pop();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, len: usize) -> Result<&[u8], String> {
        let (taken, rest) = self.input.split_at_checked(len).ok_or("an end before its end")?;
        self.input = rest;
        Ok(taken)
    }

    fn line(&mut self) -> Result<String, String> {
        let len = self.input.iter().position(|&byte| byte == b'\n').ok_or("an end before its end")?;
        let line = utf8(self.take(len)?)?;
        self.take(1)?;
        Ok(line)
    }

    /// A little-endian number of `width` bytes.
    fn unsigned(&mut self, width: usize) -> Result<u64, String> {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(self.take(width)?);
        Ok(u64::from_le_bytes(bytes))
    }

    /// Push an integer; one of more than 8 bytes is of no interest.
    fn integer(&mut self, width: usize, signed: bool) -> Result<(), String> {
        let value = match width {
            0 => Value::Int(0),
            1..=8 => {
                let value = self.unsigned(width)? as i64;
                let shift = 64 - 8 * width as u32;
                Value::Int(if signed { (value << shift) >> shift } else { value })
            }
            _ => {
                self.take(width)?;
                Value::Opaque
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn text(&mut self, width: usize) -> Result<(), String> {
        let len = usize::try_from(self.unsigned(width)?).map_err(|_| "a text without end")?;
        let text = utf8(self.take(len)?)?;
        self.stack.push(Value::Text(text.into()));
        Ok(())
    }

    /// Push a class or a function.
    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let len = module.len().saturating_add(name.len());
        if len > MAX_NAME {
            return Err(format!("a class's name of {len} bytes; at most {MAX_NAME} are read"));
        }
        self.stack.push(Value::Global(format!("{module} {name}").into()));
        Ok(())
    }

    fn remember(&mut self, width: usize) -> Result<(), String> {
        let key = self.unsigned(width)? as u32;
        self.memo.insert(key, self.top()?.clone());
        Ok(())
    }

    fn recall(&mut self, width: usize) -> Result<(), String> {
        let key = self.unsigned(width)? as u32;
        self.stack.push(self.memo.get(&key).ok_or("a reference to nothing")?.clone());
        Ok(())
    }

    fn tuple(&mut self, items: Vec<Value>) {
        self.tuples.push(items);
        self.stack.push(Value::Tuple(self.tuples.len() - 1));
    }

    fn tuple_of(&mut self, count: usize) -> Result<(), String> {
        let first = self.stack.len().checked_sub(count).ok_or("a tuple of nothing")?;
        let items = self.stack.split_off(first);
        self.tuple(items);
        Ok(())
    }

    fn dict(&mut self) {
        self.dicts.push(Vec::new());
        self.stack.push(Value::Dict(self.dicts.len() - 1));
    }

    /// Put keys and values in the dictionary on top of the stack. Another object's items are of no interest.
    fn set(&mut self, items: Vec<Value>) -> Result<(), String> {
        if let &Value::Dict(dict) = self.top()? {
            let mut items = items.into_iter();
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                self.dicts[dict].push((key, value));
            }
        }
        Ok(())
    }

    fn top(&self) -> Result<&Value, String> {
        self.stack.last().ok_or_else(|| "an empty stack".to_string())
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "an empty stack".to_string())
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or("a missing mark")?;
        if mark > self.stack.len() {
            return Err("a mark above the stack".to_string());
        }
        Ok(self.stack.split_off(mark))
    }
}

fn number(value: &Value) -> Option<usize> {
    match value {
        Value::Int(value) => usize::try_from(*value).ok(),
        _ => None,
    }
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text that is not UTF-8".to_string())
}
