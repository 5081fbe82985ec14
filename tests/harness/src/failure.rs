//! Why the test has failed, for whatever is printed after that.
//!
//! Invariant: what a panic prints by itself is printed all the same.

use std::panic::{self, PanicHookInfo};
use std::sync::{Once, OnceLock};

/// More of it is where the panic was printed.
const LONGEST: usize = 500;

static WATCH: Once = Once::new();
static FIRST: OnceLock<String> = OnceLock::new();

/// From now on the first panic is remembered.
pub(crate) fn watch() {
    WATCH.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let _later = FIRST.set(text(info));
            before(info);
        }));
    });
}

/// Where the first panic was, and what it said.
pub(crate) fn first() -> Option<&'static str> {
    FIRST.get().map(String::as_str)
}

fn text(info: &PanicHookInfo<'_>) -> String {
    let said = info.payload_as_str().unwrap_or("a panic without a text");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    format!("{place}: {}", said.chars().take(LONGEST).collect::<String>())
}
