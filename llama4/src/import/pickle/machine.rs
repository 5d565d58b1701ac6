use std::collections::HashMap;
use std::rc::Rc;

/// Dimensions of a tensor that are read.
const MAX_DIMS: usize = 8;

/// Bytes in the name of a class or function that are read.
const MAX_GLOBAL: usize = 256;

const REBUILD_TENSOR: [&str; 2] = ["torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"];

/// A value. What may be large is held once and referred to, so that no operation costs more than a few times its own bytes and no input
/// makes a deep structure.
#[derive(Debug, Clone)]
pub(super) enum Value {
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

/// A tensor, which does not know its name.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) class: Rc<str>,
    pub(super) storage: Rc<str>,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// Reads a pickle operation by operation. It calls nothing: a function's name is a text, and a call of one is a value of no interest unless
/// it is among the few that build dictionaries and tensors.
#[derive(Default)]
pub(super) struct Machine<'a> {
    input: &'a [u8],
    stack: Vec<Value>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    tuples: Vec<Vec<Value>>,
    pub(super) dicts: Vec<Vec<(Value, Value)>>,
    pub(super) tensors: Vec<Described>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { input, ..Self::default() }
    }

    /// The value that the pickle is of.
    pub(super) fn run(&mut self) -> Result<Value, String> {
        loop {
            match self.byte()? {
                // PROTO, FRAME
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_mark()?),
                // None, True, False, an empty list, an empty set
                b'N' | 0x88 | 0x89 | b']' | 0x8f => self.stack.push(Value::Opaque),
                // A float; bytes with a length of 1, 4 and 8 bytes, and such as can be changed
                b'G' => self.skip(8)?,
                b'C' => self.skip_counted(1)?,
                b'B' => self.skip_counted(4)?,
                0x8e | 0x96 => self.skip_counted(8)?,
                // Integers of 1, 2 and 4 bytes, and of any length, which itself has 1 or 4
                b'K' => self.integer(1, false)?,
                b'M' => self.integer(2, false)?,
                b'J' => self.integer(4, true)?,
                0x8a => {
                    let len = self.unsigned(1)?;
                    self.integer(len as usize, true)?;
                }
                0x8b => self.skip_counted(4)?,
                // Text with a length of 1, 4 and 8 bytes
                0x8c => self.text(1)?,
                b'X' => self.text(4)?,
                0x8d => self.text(8)?,
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
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
                // Items of a list and of a set, which are of no interest; a set that is made of its items
                b'a' => drop(self.pop()?),
                b'e' | 0x90 => drop(self.pop_mark()?),
                0x91 => {
                    self.pop_mark()?;
                    self.stack.push(Value::Opaque);
                }
                // A storage stands on the stack as the tuple that describes it.
                b'Q' => {}
                b'R' => self.reduce()?,
                // A new object of a class, of its arguments, and of those by name: a buffer of bytes, where a model has one.
                0x81 => self.object(2)?,
                0x92 => self.object(3)?,
                // The state of an object: of a state dict a version number for each module, of a buffer its bytes.
                b'b' => drop(self.pop()?),
                other => return Err(format!("operation 0x{other:02x}, which no state dict needs")),
            }
        }
    }

    /// What calling a function gives: only those that build dictionaries and tensors mean anything here.
    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Value::Tuple(mut arguments), Value::Global(mut function)) = (arguments, function) else {
            return Err("a call of something that is not a function".to_string());
        };
        // A tensor with attributes: the call that builds it is among the arguments of another.
        if &*function == "torch._tensor _rebuild_from_type_v2"
            && let [Value::Global(inner), _, Value::Tuple(inner_arguments), ..] = self.tuples[arguments].as_slice()
        {
            (function, arguments) = (inner.clone(), *inner_arguments);
        }
        let value = match &*function {
            "collections OrderedDict" => {
                self.dict();
                return Ok(());
            }
            function if REBUILD_TENSOR.contains(&function) => {
                let tensor = self.tensor(arguments)?;
                self.tensors.push(tensor);
                Value::Tensor(self.tensors.len() - 1)
            }
            "torch._utils _rebuild_parameter" | "torch._utils _rebuild_parameter_with_state" => {
                self.tuples[arguments].first().cloned().unwrap_or(Value::Opaque)
            }
            _ => Value::Opaque,
        };
        self.stack.push(value);
        Ok(())
    }

    /// `(storage, offset, shape, strides, …)`, the storage being `("storage", type, name, device, elements)`.
    fn tensor(&self, arguments: usize) -> Result<Described, String> {
        let unusual = || "a tensor that is described in an unusual way".to_string();
        let arguments = self.tuples[arguments].as_slice();
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
            Value::Tuple(items) if self.tuples[*items].len() <= MAX_DIMS => {
                self.tuples[*items].iter().map(number).collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        Ok(Described {
            class: class.clone(),
            storage: name.clone(),
            offset: number(offset).ok_or_else(unusual)?,
            shape: numbers(shape).ok_or_else(unusual)?,
            strides: numbers(strides).ok_or_else(unusual)?,
        })
    }

    /// An object of a class, made of so many values on the stack.
    fn object(&mut self, values: usize) -> Result<(), String> {
        for _ in 0..values {
            self.pop()?;
        }
        self.stack.push(Value::Opaque);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let bytes = module.len() + name.len();
        if bytes > MAX_GLOBAL {
            return Err(format!("a class whose name has {bytes} bytes"));
        }
        self.stack.push(Value::Global(format!("{module} {name}").into()));
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.input.split_at_checked(len).ok_or("an end before its end")?;
        self.input = rest;
        Ok(taken)
    }

    /// Take a value that is of no interest.
    fn skip(&mut self, len: usize) -> Result<(), String> {
        self.take(len)?;
        self.stack.push(Value::Opaque);
        Ok(())
    }

    /// The same with a length of `width` bytes in front.
    fn skip_counted(&mut self, width: usize) -> Result<(), String> {
        let len = self.length(width)?;
        self.skip(len)
    }

    fn line(&mut self) -> Result<&'a str, String> {
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

    fn length(&mut self, width: usize) -> Result<usize, String> {
        usize::try_from(self.unsigned(width)?).map_err(|_| "an end before its end".to_string())
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
        let len = self.length(width)?;
        let text = utf8(self.take(len)?)?;
        self.stack.push(Value::Text(text.into()));
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
        let items = self.stack.drain(first..).collect();
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

    /// What is above the last mark, in memory of its own size.
    fn pop_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().ok_or("a missing mark")?;
        if mark > self.stack.len() {
            return Err("a mark above the stack".to_string());
        }
        Ok(self.stack.drain(mark..).collect())
    }
}

fn number(value: &Value) -> Option<usize> {
    match value {
        Value::Int(value) => usize::try_from(*value).ok(),
        _ => None,
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "a text that is not UTF-8".to_string())
}
