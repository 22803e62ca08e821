//! The parts that a machine is built of. They are what they are given; only with the feature `test-faults`, and if a bug is
//! injected, they come in the wrapper that has the bug.

#[cfg(not(feature = "test-faults"))]
mod source {
    use crate::devices::output::Output;
    use crate::devices::serial::SerialPort;
    use crate::devices::{BusDevice, InterruptLine};
    use crate::stop::Stop;
    use crate::virtio::Device;
    use crate::virtio::block::Engine;
    use crate::virtio::mmio::MmioTransport;
    use kvm_ioctls::VmFd;
    use std::io;
    use std::sync::Arc;

    /// A disk of this storage.
    pub(in crate::run) fn disk(
        engine: Box<dyn Engine>,
        build: impl FnOnce(Box<dyn Engine>) -> Box<dyn Device>,
    ) -> Box<dyn Device> {
        build(engine)
    }

    /// A device that is no disk.
    pub(in crate::run) fn device(device: Box<dyn Device>) -> Box<dyn Device> {
        device
    }

    /// What is on the bus for a device.
    pub(in crate::run) fn slot(transport: &Arc<MmioTransport>) -> Arc<dyn BusDevice> {
        transport.clone()
    }

    /// COM1, and what is on the bus for it.
    pub(in crate::run) fn serial(
        line: Arc<dyn InterruptLine>,
        output: Arc<Output>,
    ) -> io::Result<(Arc<SerialPort>, Arc<dyn BusDevice>)> {
        let port = Arc::new(SerialPort::new(line, output)?);
        Ok((port.clone(), port))
    }

    /// The clock of a VM that starts now.
    pub(in crate::run) fn clock(_vm: &Arc<VmFd>, _stop: &Arc<Stop>) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "test-faults")]
mod source {
    use crate::devices::output::Output;
    use crate::devices::serial::SerialPort;
    use crate::devices::{BusDevice, InterruptLine};
    use crate::faulty::device::FaultyDevice;
    use crate::faulty::slot::FaultySlot;
    use crate::faulty::{self, Bug, injected};
    use crate::stop::Stop;
    use crate::virtio::Device;
    use crate::virtio::block::Engine;
    use crate::virtio::mmio::MmioTransport;
    use kvm_ioctls::VmFd;
    use std::io;
    use std::sync::Arc;

    pub(in crate::run) fn disk(
        engine: Box<dyn Engine>,
        build: impl FnOnce(Box<dyn Engine>) -> Box<dyn Device>,
    ) -> Box<dyn Device> {
        match injected() {
            None => build(engine),
            Some(bug) => Box::new(FaultyDevice::disk(bug, engine, build)),
        }
    }

    pub(in crate::run) fn device(device: Box<dyn Device>) -> Box<dyn Device> {
        match injected() {
            None => device,
            Some(bug) => Box::new(FaultyDevice::new(bug, device)),
        }
    }

    pub(in crate::run) fn slot(transport: &Arc<MmioTransport>) -> Arc<dyn BusDevice> {
        match injected() {
            None => transport.clone(),
            Some(bug) => Arc::new(FaultySlot::new(bug, transport.clone())),
        }
    }

    pub(in crate::run) fn serial(
        line: Arc<dyn InterruptLine>,
        output: Arc<Output>,
    ) -> io::Result<(Arc<SerialPort>, Arc<dyn BusDevice>)> {
        if injected() == Some(Bug::GatedLoopback) {
            return faulty::serial::gated(line, output);
        }
        let port = Arc::new(SerialPort::new(line, output)?);
        Ok((port.clone(), port))
    }

    pub(in crate::run) fn clock(vm: &Arc<VmFd>, stop: &Arc<Stop>) -> io::Result<()> {
        if injected() == Some(Bug::ClockGoesBack) { faulty::clock::start(vm, stop) } else { Ok(()) }
    }
}

pub(super) use source::{clock, device, disk, serial, slot};
