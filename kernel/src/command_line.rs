//! The kernel's command line: `/chosen/bootargs` of the device tree.

use alloc::string::String;

use crate::sync::Once;

static TEXT: Once<String> = Once::new();

/// Takes it over from the tree; only the first counts.
pub fn set(text: &str) {
    TEXT.call_once(|| text.into());
}

/// The command line, empty where there is none.
pub fn get() -> &'static str {
    TEXT.get().map_or("", String::as_str)
}
