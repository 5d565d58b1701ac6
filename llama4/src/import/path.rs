/// Where a visitor of a model is: the names of fields around it, without those of enum variants, which no file has.
#[derive(Debug, Default)]
pub(super) struct ModulePath {
    names: Vec<String>,
    /// Parts of split weights around it.
    parts: usize,
}

/// What burn calls [`Rows`](crate::quant::Rows).
const PART: &str = "Enum:Rows";

impl ModulePath {
    /// burn's `enter_module`.
    pub(super) fn enter(&mut self, name: &str, container_type: &str) {
        self.parts += usize::from(container_type == PART);
        if !container_type.starts_with("Enum:") {
            self.names.push(name.to_string());
        }
    }

    /// burn's `exit_module`.
    pub(super) fn exit(&mut self, container_type: &str) {
        self.parts -= usize::from(container_type == PART);
        if !container_type.starts_with("Enum:") {
            self.names.pop();
        }
    }

    /// The parameter's name.
    pub(super) fn name(&self) -> String {
        self.names.join(".")
    }

    /// Whether it is a part of a weight that is split; such a weight was given its values when it was split.
    pub(super) fn in_part(&self) -> bool {
        self.parts > 0
    }
}
