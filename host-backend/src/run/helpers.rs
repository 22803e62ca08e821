//! The processes that help this one: passt, and the keeper. They start before the sandbox is put on, which lets none start any
//! more.

use super::Error;
use super::machine::BuiltMachine;
use crate::keeper::{Duties, Keeper, KeptLog};
use crate::terminal::Modes;
use crate::virtio::net::passt;
use std::sync::Arc;

/// What helps until it is dropped.
pub(super) struct Helpers(Option<Arc<Keeper>>);

impl Helpers {
    /// Starts what this machine needs. Returns the modes of the terminal too, if it is to be made raw.
    pub(super) fn start(built: &mut BuiltMachine) -> Result<(Self, Option<Modes>), Error> {
        if let Some(passt) = built.passt.take() {
            let passt = passt.start()?;
            let peer = built.machine.peer.as_ref();
            peer.map_or(Ok(()), |peer| peer.attach(passt)).map_err(passt::Error::Start)?;
        }
        let typed = built.machine.input.is_some();
        let modes = if typed { Modes::of_stdin().map_err(Error::system("read the terminal's modes"))? } else { None };
        let duties = Duties {
            terminal: modes,
            sockets: built.sockets.iter_mut().filter_map(|socket| socket.leave_file()).collect(),
            logs: built.logs.iter().map(|(log, _)| KeptLog::new(log)).collect(),
        };
        if duties.is_empty() {
            return Ok((Self(None), modes));
        }
        let keeper = Arc::new(Keeper::start(&duties).map_err(Error::system("start the keeper"))?);
        for (number, (_, output)) in (0..).zip(&built.logs) {
            let keeper = keeper.clone();
            output.rotate_by(Box::new(move || keeper.rotate(number)));
        }
        Ok((Self(Some(keeper)), modes))
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        if let Some(keeper) = &self.0 {
            keeper.dismiss();
        }
    }
}
