/// Where a visitor of a model is: the names of fields around it, without those of enum variants, which no file has.
#[derive(Debug, Default)]
pub(super) struct ModulePath(Vec<String>);

impl ModulePath {
    /// burn's `enter_module`.
    pub(super) fn enter(&mut self, name: &str, container_type: &str) {
        if !container_type.starts_with("Enum:") {
            self.0.push(name.to_string());
        }
    }

    /// burn's `exit_module`.
    pub(super) fn exit(&mut self, container_type: &str) {
        if !container_type.starts_with("Enum:") {
            self.0.pop();
        }
    }

    /// The parameter's name.
    pub(super) fn name(&self) -> String {
        self.0.join(".")
    }
}
