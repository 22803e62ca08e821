//! The states of a VM's vCPUs, and the one table of legal transitions between them. All vCPUs of a VM change their state
//! together; [`super::gate::Gate`] holds it and makes their threads follow. Nothing here has an effect.

use std::fmt;

/// What the vCPUs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They exist, not yet started: before the start, and while a reset replaces them.
    Created,
    /// They run the guest.
    Running,
    /// They are out of the guest and stay there until they are resumed or stopped.
    Paused,
    /// They have run for the last time.
    Stopped,
}

/// What happens to the vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// They are to run for the first time.
    Start,
    /// They are to leave the guest.
    Pause,
    /// They are to go on where they were paused.
    Resume,
    /// The guest has reset its machine: new vCPUs take their place.
    Reset,
    /// The VM ends.
    Stop,
}

/// An event that is illegal in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Illegal {
    /// The state.
    pub state: State,
    /// The event.
    pub event: Event,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Created, Self::Running, Self::Paused, Self::Stopped];

    /// The state after `event`.
    ///
    /// # Errors
    /// [`Illegal`]: the state stays as it is.
    pub const fn after(self, event: Event) -> Result<Self, Illegal> {
        Ok(match (self, event) {
            (Self::Created, Event::Start) => Self::Running,
            (Self::Running, Event::Pause) => Self::Paused,
            (Self::Paused, Event::Resume) => Self::Running,
            // The reset of a paused VM waits until it is resumed.
            (Self::Running, Event::Reset) => Self::Created,
            (Self::Created | Self::Running | Self::Paused, Event::Stop) => Self::Stopped,
            (state, event) => return Err(Illegal { state, event }),
        })
    }

    /// Its name in the answer to `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl Event {
    /// All events.
    pub const ALL: [Self; 5] = [Self::Start, Self::Pause, Self::Resume, Self::Reset, Self::Stop];

    /// What it does, as a verb.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::Stop => "stop",
        }
    }
}

impl fmt::Display for Illegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let legal = State::ALL.iter().filter(|state| state.after(self.event).is_ok()).map(|state| state.name());
        let legal: Vec<_> = legal.collect();
        let (event, state) = (self.event.name(), self.state.name());
        write!(f, "cannot {event} a VM that is {state}, only one that is {}", legal.join(" or "))
    }
}

impl std::error::Error for Illegal {}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{Pause, Reset, Resume, Start, Stop};
    use State::{Created, Paused, Running, Stopped};

    #[test]
    fn each_state_answers_each_event() {
        let table = [
            (Created, [Some(Running), None, None, None, Some(Stopped)]),
            (Running, [None, Some(Paused), None, Some(Created), Some(Stopped)]),
            (Paused, [None, None, Some(Running), None, Some(Stopped)]),
            (Stopped, [None; 5]),
        ];
        assert_eq!(table.map(|(state, _)| state), State::ALL);
        assert_eq!(Event::ALL, [Start, Pause, Resume, Reset, Stop]);
        for (state, answers) in table {
            for (event, next) in Event::ALL.into_iter().zip(answers) {
                assert_eq!(state.after(event), next.ok_or(Illegal { state, event }), "{event:?} in {state:?}");
            }
        }
    }

    #[test]
    fn illegal_transition_names_the_event_the_state_and_the_legal_states() {
        for state in State::ALL {
            for event in Event::ALL {
                let Err(illegal) = state.after(event) else { continue };
                let text = illegal.to_string();
                assert!(text.starts_with(&format!("cannot {} a VM that is {},", event.name(), state.name())), "{text}");
            }
        }
        let twice = Paused.after(Pause).unwrap_err().to_string();
        assert_eq!(twice, "cannot pause a VM that is paused, only one that is running");
        let late = Stopped.after(Stop).unwrap_err().to_string();
        assert_eq!(late, "cannot stop a VM that is stopped, only one that is created or running or paused");
    }

    #[test]
    fn nothing_leads_out_of_stopped_and_every_other_state_can_be_stopped() {
        for state in State::ALL {
            assert_eq!(state.after(Stop).is_ok(), state != Stopped);
            assert!(Event::ALL.iter().all(|event| Stopped.after(*event).is_err()));
        }
    }
}
