//! Deliberate mistakes, one at a time, for the proof that the models and the property tests of the transport find them. They
//! exist in unit tests only: elsewhere [`made`] is a constant.

/// A mistake, named after what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// The last reason for the VM's end wins.
    LastReasonWins,
    /// A stop can be seen before its reason.
    StopBeforeReason,
    /// A stop wakes nobody.
    StopWakesNobody,
    /// A vCPU looks at the gate before it says that it is in the guest.
    GateBeforePlace,
    /// A pause sends its signal once.
    OneSignal,
    /// A change of the gate wakes nobody.
    GateWakesNobody,
    /// Resuming does not make the main loop look for a reset that has waited.
    ResumeWakesNobody,
    /// A device at work is not asked to look at the registers.
    NoAttention,
    /// A live queue reads as off before the device has let go of it.
    OffBeforeLetGo,
    /// A device that has more to do is not called again.
    NoMore,
    /// A device reads as reset before it has let go of its queues.
    ResetBeforeLetGo,
    /// The host takes a device for reset that is at work.
    ResetOfABusyDevice,
    /// Registers and device are locked in the wrong order.
    LocksCrossed,
    /// A change is announced before it is there.
    InterruptBeforeChange,
    /// A client that asks the guest for statistics waits for them without end.
    StatisticsWithoutEnd,
    /// Output is copied and cleared in two steps.
    OutputInTwoSteps,
    /// The interrupt comes before its reason.
    LineBeforeReason,
    /// The configuration changes without its lock.
    ConfigUnlocked,
    /// A new target wakes the balloon before it is there.
    PokeBeforeTarget,
    /// Input that finds no room is not remembered.
    NoStarvation,
    /// The host's signal of a queue is counted after it was sent.
    OwnAfterSignal,
    /// The places and the size of a live queue follow the registers, unchecked.
    LiveQueueMoves,
    /// A queue is set up without a look at its places.
    PlacesUnchecked,
    /// A reset leaves the selected queue's number.
    ResetKeepsSelection,
    /// A fault is announced with every notification.
    FaultRepeats,
}

#[cfg(test)]
thread_local! {
    static MADE: std::cell::Cell<Option<Mistake>> = const { std::cell::Cell::new(None) };
}

/// Whether this mistake is to be made.
#[cfg(test)]
pub(crate) fn made(mistake: Mistake) -> bool {
    MADE.get() == Some(mistake)
}

/// Whether this mistake is to be made.
#[cfg(not(test))]
pub(crate) const fn made(_mistake: Mistake) -> bool {
    false
}

/// Does something on this thread with a mistake.
#[cfg(test)]
pub(crate) fn making<T>(mistake: Mistake, what: impl FnOnce() -> T) -> T {
    struct Done;
    impl Drop for Done {
        fn drop(&mut self) {
            MADE.set(None);
        }
    }
    MADE.set(Some(mistake));
    let _done = Done;
    what()
}
