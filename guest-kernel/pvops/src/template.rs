//! Inline code of an operation: the bytes between two labels, emitted as data.

/// Code that can stand at a call site instead of the call. Made by [`template!`](crate::template!).
#[derive(Clone, Copy)]
pub struct Template {
    start: unsafe extern "C" fn(),
    end: unsafe extern "C" fn(),
    text: &'static str,
}

impl Template {
    /// What [`template!`](crate::template!) expands to.
    ///
    /// # Safety
    /// `start` and `end` are labels in one read-only section, in this order, with nothing but the code between them.
    #[doc(hidden)]
    pub const unsafe fn new(start: unsafe extern "C" fn(), end: unsafe extern "C" fn(), text: &'static str) -> Self {
        Self { start, end, text }
    }

    /// The instructions in Intel's syntax, with `; ` between them.
    pub fn text(&self) -> &'static str {
        self.text.strip_suffix("; ").unwrap_or(self.text)
    }

    /// The bytes; empty for an operation that does nothing.
    pub fn bytes(&self) -> &'static [u8] {
        let start = self.start as usize;
        let len = self.end as usize - start;
        // SAFETY: by the contract of `new`.
        unsafe { core::slice::from_raw_parts(start as *const u8, len) }
    }
}

/// Assembles instructions as data and names them as a [`Template`]: the inline code of an operation in a world.
///
/// The code stands in the place of a call, so it takes arguments where the System V ABI has them and leaves its result in
/// RAX. At a *hot* site (see [`site`](crate::site)) it may change RAX and the flags only. It must not depend on where it
/// stands: addresses are absolute, jumps stay within. `template!(NAME,);` is an operation that does nothing.
///
/// ```
/// pvops::template!(
///     /// Turns interrupts off.
///     pub DISABLE,
///     "cli",
/// );
///
/// fn main() {
///     assert_eq!(DISABLE.bytes(), [0xfa]);
///     assert_eq!(DISABLE.text(), "cli");
/// }
/// ```
#[macro_export]
macro_rules! template {
    ($(#[$doc:meta])* $visibility:vis $name:ident, $($line:literal),* $(,)?) => {
        ::core::arch::global_asm!(
            ".pushsection .rodata.pvops_templates, \"a\"",
            concat!(".globl \"", module_path!(), "::", stringify!($name), "\""),
            concat!(".globl \"", module_path!(), "::", stringify!($name), "_end\""),
            concat!("\"", module_path!(), "::", stringify!($name), "\":"),
            $($line,)*
            concat!("\"", module_path!(), "::", stringify!($name), "_end\":"),
            // Keeps the labels of an empty template apart from those that follow.
            ".byte 0xcc",
            ".popsection",
        );

        $(#[$doc])*
        $visibility const $name: $crate::template::Template = {
            unsafe extern "C" {
                #[link_name = concat!(module_path!(), "::", stringify!($name))]
                fn start();
                #[link_name = concat!(module_path!(), "::", stringify!($name), "_end")]
                fn end();
            }
            // SAFETY: the labels above.
            unsafe { $crate::template::Template::new(start, end, concat!($($line, "; "),*)) }
        };
    };
}
