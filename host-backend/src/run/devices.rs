//! The devices that a [`Config`] asks for, and what is at their other ends. Everything is opened and checked here, and
//! nothing is created.

use super::{Error, open_output, parts};
use crate::config::{self, Config, Peer};
use crate::control::ControlConsole;
use crate::devices::InputSink;
use crate::devices::output::Output;
use crate::devices::reset::ResetLine;
use crate::rate::SystemClock;
use crate::stop::Stop;
use crate::virtio::Device;
use crate::virtio::balloon::{Balloon, BalloonHandle};
use crate::virtio::block::{Block, RawFile};
use crate::virtio::console::Console;
use crate::virtio::net::passt::Prepared;
use crate::virtio::net::stream::StreamLink;
use crate::virtio::net::tap::TapLink;
use crate::virtio::net::{Link, Net};
use crate::virtio::rng::Rng;
use crate::vmm::GuestRam;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Devices with their names, and the ends of them that stay outside the guest.
#[derive(Default)]
pub(super) struct Models {
    pub(super) models: Vec<(String, Box<dyn Device>)>,
    pub(super) balloon: Option<BalloonHandle>,
    pub(super) console_input: Option<Arc<dyn InputSink>>,
    pub(super) console: Option<ControlConsole>,
    pub(super) passt: Option<Prepared>,
    /// The other end of the network card.
    pub(super) peer: Option<Arc<super::peer::Peer>>,
    /// What the virtio console prints to.
    pub(super) virtio_output: Option<Arc<Output>>,
}

impl Models {
    fn push(&mut self, name: impl Into<String>, device: impl Device + 'static) {
        self.models.push((name.into(), parts::device(Box::new(device))));
    }
}

/// The devices that `config` asks for, in the order of their slots.
pub(super) fn devices(
    config: &Config,
    memory: &GuestRam,
    stop: &Arc<Stop>,
    reset: &Arc<ResetLine>,
    output: &Arc<Output>,
) -> Result<Models, Error> {
    let mut models = Models::default();
    for (index, disk) in config.disks.iter().enumerate() {
        let engine = RawFile::open(disk).map_err(|source| Error::Disk { path: disk.path.clone(), source })?;
        let name = disk.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let serial = disk.serial.as_deref().unwrap_or(&name);
        let build = |engine| -> Box<dyn Device> {
            let block = Block::new(engine, disk.access, serial).with_queues(disk.queues);
            Box::new(block.with_limit(&disk.limit, SystemClock::shared()))
        };
        models.models.push((format!("block{index}"), parts::disk(Box::new(engine), build)));
    }
    if let Some(net) = &config.net {
        let (link, watched) = link(&net.peer, config, &mut models.passt)?;
        models.peer = Some(Arc::new(super::peer::Peer::new(&net.peer, watched, stop.clone())));
        models.push("net", Net::new(link, net.mac).with_limit(&net.limit, &SystemClock::shared()));
    }
    if config.balloon {
        let balloon = Balloon::new(memory).map_err(Error::system("create the balloon"))?;
        models.balloon = Some(balloon.handle());
        models.push("balloon", balloon);
    }
    if let Some(console) = &config.virtio_console {
        let output =
            if *console == config.console { output.clone() } else { open_output(console, config.console_rate, reset)? };
        let device = Console::new(output.clone()).map_err(Error::system("create the console"))?;
        match console {
            config::Console::Stdio => models.console_input = Some(device.input()),
            config::Console::Control => {
                models.console = Some(ControlConsole { output: output.clone(), input: device.input() });
            }
            config::Console::File(_) => {}
        }
        models.virtio_output = Some(output);
        models.push("console", device);
    }
    if config.rng {
        models.push("rng", Rng::new());
    }
    Ok(models)
}

/// Connects to the peer, and returns the descriptor that shows its end, if it is known by now.
fn link(peer: &Peer, config: &Config, child: &mut Option<Prepared>) -> Result<(Box<dyn Link>, Option<OwnedFd>), Error> {
    Ok(match peer {
        Peer::Tap(name) => {
            let link = TapLink::open(name).map_err(|source| Error::Tap { name: name.clone(), source })?;
            (Box::new(link), None)
        }
        Peer::Stream(path) => {
            let failed = |source| Error::Stream { path: path.clone(), source };
            let link = StreamLink::connect(path).map_err(failed)?;
            let watched = link.watch().map_err(Error::system("watch the network's peer"))?;
            (Box::new(link), Some(watched))
        }
        Peer::Passt => {
            let (passt, link) = Prepared::new(&config.publish, config.sandbox.user, config.sandbox.group)?;
            *child = Some(passt);
            (Box::new(link), None)
        }
    })
}
