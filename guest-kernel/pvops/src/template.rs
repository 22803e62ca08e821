//! Inline code of an operation: the bytes between two labels, emitted as data.

/// Code that can stand at a call site instead of the call.
#[derive(Clone, Copy)]
pub struct Template {
    start: unsafe extern "C" fn(),
    end: unsafe extern "C" fn(),
    text: &'static str,
}

impl Template {
    pub(crate) const fn new(start: unsafe extern "C" fn(), end: unsafe extern "C" fn(), text: &'static str) -> Self {
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
        // SAFETY: `template!` emits both labels in this order in one read-only section with the bytes between them.
        unsafe { core::slice::from_raw_parts(start as *const u8, len) }
    }
}

/// Emits the given instructions as data and names them as a [`Template`].
macro_rules! template {
    ($(#[$doc:meta])* $name:ident, $($line:literal),* $(,)?) => {
        core::arch::global_asm!(
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
        pub(crate) const $name: $crate::template::Template = {
            unsafe extern "C" {
                #[link_name = concat!(module_path!(), "::", stringify!($name))]
                fn start();
                #[link_name = concat!(module_path!(), "::", stringify!($name), "_end")]
                fn end();
            }
            $crate::template::Template::new(start, end, concat!($($line, "; "),*))
        };
    };
}
pub(crate) use template;
