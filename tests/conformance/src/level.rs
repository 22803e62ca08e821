//! How binding a rule is.

/// How binding a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The clause says MUST, or describes what a register or a field is.
    Must,
    /// The clause says SHOULD, binds the driver alone and leaves the reaction to the device, or says MAY of what drivers
    /// stumble over: advice.
    Should,
}

impl Level {
    /// The word for people and for reports.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Should => "should",
        }
    }
}
