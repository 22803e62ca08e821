//! Devices that write anything anywhere they can: no driver panics, hangs or loses count of its memory.

mod card;
mod disk;

use disk::PAGES;
use frontends::block::{Request, Settings as BlockSettings, Unmap};
use frontends::console::Console;
use frontends::device::{Driver, InterruptSource};
use frontends::fake::{DeviceQueue, FakeTransport, Memory};
use frontends::memory::DmaBuffer;
use frontends::net::{Frame, Settings as NetSettings, TransmitChecksum};
use proptest::prelude::*;
use std::sync::OnceLock;
use virtio_abi::{CommonFeatures, DeviceType, Status};

/// What a device does between two calls of the driver.
#[derive(Clone, Debug)]
enum Whim {
    /// Returns a chain with these bytes and this length.
    Return { bytes: Vec<u8>, len: Option<u32> },
    /// Writes a used entry and moves the index.
    Use { id: u32, len: u32, step: u16 },
    /// Changes the configuration.
    Configure { offset: usize, bytes: Vec<u8> },
    /// Moves its wish for notifications.
    Ask { index: u16 },
    /// Asks for a reset.
    NeedReset,
}

fn whim() -> impl Strategy<Value = Whim> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..80);
    let zeroes = (0..80_usize).prop_map(|len| vec![0; len]);
    prop_oneof![
        20 => (prop_oneof![bytes(), zeroes], prop::option::weighted(0.2, 0..5000_u32))
            .prop_map(|(bytes, len)| Whim::Return { bytes, len }),
        1 => (0..12_u32, 0..3000_u32, 0..3_u16).prop_map(|(id, len, step)| Whim::Use { id, len, step }),
        4 => (0..8_usize, prop::collection::vec(any::<u8>(), 1..4))
            .prop_map(|(offset, bytes)| Whim::Configure { offset, bytes }),
        1 => any::<u16>().prop_map(|index| Whim::Ask { index }),
        1 => Just(Whim::NeedReset),
    ]
}

fn whims() -> impl Strategy<Value = Vec<(u8, Whim)>> {
    prop::collection::vec((any::<u8>(), whim()), 1..60)
}

fn ring_features() -> impl Strategy<Value = u64> {
    let all = CommonFeatures::EVENT_IDX | CommonFeatures::INDIRECT_DESC;
    prop::sample::select(vec![0, all.bits(), CommonFeatures::EVENT_IDX.bits()])
}

fn act(whim: &Whim, memory: &'static Memory, transport: &FakeTransport, queue: &mut DeviceQueue) {
    // A device that was reset forgets its queues; one that lies writes on.
    match whim {
        Whim::Return { bytes, len } => {
            if transport.model().status.is_empty() {
                return;
            }
            if let Some(chain) = queue.next_chain() {
                let written = chain.write(memory, bytes);
                queue.complete(&chain, len.unwrap_or(written));
            }
        }
        Whim::Use { id, len, step } => {
            if !transport.model().status.is_empty() {
                queue.write_used(queue.used_index, *id, *len);
                queue.set_used_index(queue.used_index.wrapping_add(*step));
            }
        }
        Whim::Configure { offset, bytes } => transport.change_config(*offset, bytes),
        Whim::Ask { index } => queue.ask_for_notification_at(*index),
        Whim::NeedReset => {
            transport.model().status |= Status::DEVICE_NEEDS_RESET;
            transport.change_config(0, &[]);
        }
    }
}

proptest! {
    #[test]
    fn block_keeps_its_accounts(features in ring_features(), extra: u64, whims in whims(), ignores_reset: bool) {
        let features = features | extra & 0xffff_f3ff & !CommonFeatures::all().bits();
        let mut config = disk::config(64);
        (config.size_max, config.seg_max) = (1024, 2);
        let settings = BlockSettings { queue_size: 8, segments: 4, ..Default::default() };
        let (mut block, mut disk) = disk::pair(features, config, settings);
        disk.transport.model().ignores_reset = ignores_reset;
        let mut taken = 0;
        let mut ended = 0;
        let mut set_ups = 1;
        for (choice, whim) in &whims {
            let (sector, len) = (u64::from(choice % 32), usize::from(choice % 9 + 1) * 512);
            let buffer = || DmaBuffer::allocate(disk.memory, len);
            let request = match choice % 5 {
                0 => Request::Flush,
                1 => Request::Id,
                2 => Request::WriteZeroes { sector, sectors: 3, unmap: Unmap::Allow },
                3 => buffer().map_or(Request::Id, |buffer| Request::Write { sector, buffer }),
                _ => buffer().map_or(Request::Id, |buffer| Request::Read { sector, buffer }),
            };
            taken += u32::from(block.submit(request).is_ok());
            block.kick();
            disk.transport.follow(disk.memory, &mut set_ups, &mut [(0, &mut disk.queue)]);
            act(whim, disk.memory, &disk.transport, &mut disk.queue);
            block.interrupt(InterruptSource::Shared);
            ended += std::iter::from_fn(|| block.poll()).count() as u32;
            prop_assert_eq!(block.pending() as u32, taken - ended);
        }
        block.shut_down();
        ended += std::iter::from_fn(|| block.poll()).count() as u32;
        prop_assert_eq!((ended, block.pending()), (taken, 0), "each request ended once");
        let leaked = block.leaked_pages();
        drop(block);
        prop_assert_eq!(disk.memory.allocated_pages(), leaked);
        prop_assert!(ignores_reset || leaked == 0);
        prop_assert!(leaked < PAGES);
    }

    #[test]
    fn net_keeps_its_accounts(features in ring_features(), extra: u64, whims in whims(), ignores_reset: bool) {
        let features = features | extra & 0x18_ffff & !CommonFeatures::all().bits();
        let settings = NetSettings { receive_buffers: 8, transmit_buffers: 4, ..NetSettings::default() };
        let (mut net, mut card) = card::pair(features, card::config(), settings);
        card.transport.model().ignores_reset = ignores_reset;
        let mut kept: Vec<Frame> = Vec::new();
        let mut set_ups = 2;
        for (choice, whim) in &whims {
            let len = usize::from(*choice) * 8;
            let how = if choice % 2 == 0 { TransmitChecksum::Complete } else { TransmitChecksum::Offload };
            net.transmit(len, how, |frame| frame.fill(*choice));
            net.kick();
            let queues = &mut [(0, &mut card.receive), (1, &mut card.transmit)];
            card.transport.follow(card.memory, &mut set_ups, queues);
            let queue = if choice % 3 == 0 { &mut card.transmit } else { &mut card.receive };
            act(whim, card.memory, &card.transport, queue);
            net.interrupt(InterruptSource::Shared);
            net.enable_interrupts();
            for _ in 0..20 {
                let Some(frame) = net.receive() else { break };
                prop_assert!((14..=1518).contains(&frame.bytes().len()));
                match choice % 4 {
                    0 => kept.push(frame),
                    1 => drop(frame),
                    _ => net.recycle(frame),
                }
            }
            if choice % 7 == 0 {
                kept.drain(..).for_each(|frame| net.recycle(frame));
            }
        }
        drop(kept);
        net.shut_down();
        let leaked = net.leaked_pages();
        drop(net);
        prop_assert_eq!(card.memory.allocated_pages(), leaked);
        prop_assert!(ignores_reset || leaked == 0);
    }

    #[test]
    fn console_keeps_its_accounts(features in ring_features(), whims in whims(), ignores_reset: bool) {
        let memory = Memory::leaked(32);
        let transport = FakeTransport::new(DeviceType::CONSOLE, features | 5, 2, &[0; 12]);
        let mut console = Console::new(transport.clone(), memory).unwrap();
        transport.model().ignores_reset = ignores_reset;
        let mut queues = [transport.queue(memory, 0), transport.queue(memory, 1)];
        let mut set_ups = 2;
        for (choice, whim) in &whims {
            console.transmit(&vec![*choice; usize::from(*choice) * 40]);
            console.kick();
            let [receive, transmit] = &mut queues;
            transport.follow(memory, &mut set_ups, &mut [(0, receive), (1, transmit)]);
            act(whim, memory, &transport, &mut queues[usize::from(choice % 2)]);
            console.interrupt(InterruptSource::Shared);
            console.emergency_write(*choice);
            let count = console.receive(&mut vec![0; usize::from(*choice)]);
            prop_assert!(count <= usize::from(*choice));
        }
        console.shut_down();
        let leaked = console.leaked_pages();
        drop(console);
        prop_assert_eq!(memory.allocated_pages(), leaked);
        prop_assert!(ignores_reset || leaked == 0);
    }

    #[test]
    fn any_configuration_and_any_features_bring_a_driver_up_or_give_an_error(
        features: u64, bytes in prop::collection::vec(any::<u8>(), 0..80), size: u16,
    ) {
        static MEMORY: OnceLock<&Memory> = OnceLock::new();
        let memory = *MEMORY.get_or_init(|| Memory::leaked(2000));
        for device_type in [DeviceType::BLOCK, DeviceType::NET, DeviceType::CONSOLE] {
            let transport = FakeTransport::new(device_type, features, 2, &bytes);
            transport.model().queue_sizes = vec![size.into(); 2];
            match device_type {
                DeviceType::BLOCK => drop(frontends::Block::new(transport, memory, BlockSettings::default())),
                DeviceType::NET => drop(frontends::Net::new(transport, memory, NetSettings::default())),
                _ => drop(Console::new(transport, memory)),
            }
            prop_assert_eq!(memory.allocated_pages(), 0);
        }
    }
}
