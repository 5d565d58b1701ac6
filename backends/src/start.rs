//! burn's GPU backends panic where a driver or device is missing, instead of returning an error.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};

/// Run what may panic; the panic's first sentence is the error, and nothing is printed.
///
/// The panic hook is the process's: a panic of another thread at the same time would not be printed either.
#[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), allow(dead_code))]
pub(crate) fn attempt<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    panic::set_hook(hook);
    result.map_err(|payload| first_sentence(payload.as_ref()))
}

/// What a panic says, without the lists of file names and back traces that follow.
fn first_sentence(payload: &(dyn Any + Send)) -> String {
    let said = payload.downcast_ref::<String>().map(String::as_str);
    let said = said.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
    let said = said.lines().next().unwrap_or_default();
    said.split(" - ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_first_sentence() {
        assert_eq!(attempt(|| 3), Ok(3));
        let found: Result<(), String> = attempt(|| panic!("no driver - tried a, b, c\nat somewhere"));
        assert_eq!(found, Err("no driver".to_owned()));
    }
}
