//! The network driver and a card that lies.

use crate::{Ending, Liar, Script, check, ending, offer, refused, settle};
use frontends::device::{Driver, RESTARTS};
use frontends::fake::{Chain, Memory};
use frontends::net::{Frame, Net, Settings, TransmitChecksum};
use shared_abi::virtio::{CommonFeatures, DeviceType};

/// MAC, status, queue pairs, MTU.
const CONFIG: [u8; 12] = [0x52, 0x54, 0, 1, 2, 3, 1, 0, 1, 0, 0x78, 5];
const HEADER: usize = 12;
/// Offers: checksums, MTU, MAC, mergeable buffers, status.
const OFFERS: [u64; 5] = [1 | 1 << 1, 1 << 3, 1 << 5, 1 << 15, 1 << 16];
const RECEIVE: usize = 0;

pub(crate) fn run(memory: &'static Memory, script: &mut Script) -> Ending {
    let ring = CommonFeatures::EVENT_IDX | CommonFeatures::INDIRECT_DESC;
    let offers = OFFERS.into_iter().filter(|_| script.one_in(2)).fold(0, |all, one| all | one);
    let features = script.word() & ring.bits() | offers;
    let (transport, lied) = offer(script, DeviceType::NET, features, 2, &CONFIG);
    let settings = Settings { receive_buffers: 8, transmit_buffers: 4, ..Settings::default() };
    let mut net = match Net::new(transport.clone(), memory, settings) {
        Ok(net) => net,
        Err(error) => return refused(&error, memory, &transport, lied),
    };
    net.set_restart_limit(script.below(RESTARTS + 1));
    let mut liar = Liar::new(memory, &transport, &[0, 1], (script, lied), answer);
    let mut kept: Vec<Frame> = Vec::new();
    while !script.ended() {
        let len = script.below(1800) as usize;
        let how = if script.one_in(2) { TransmitChecksum::Complete } else { TransmitChecksum::Offload };
        net.transmit(len, how, |frame| frame.fill(0x45));
        net.kick();
        let source = liar.act(script);
        net.interrupt(source);
        net.enable_interrupts();
        // A card that plays by the rules has no more than its buffers; a frame that is given back may be used again.
        for _ in 0..32 {
            let Some(frame) = net.receive() else { break };
            assert!((14..=1518).contains(&frame.bytes().len()), "a frame of {} bytes", frame.bytes().len());
            match script.below(4) {
                0 => kept.push(frame),
                1 => drop(frame),
                _ => net.recycle(frame),
            }
        }
        if script.one_in(4) {
            kept.drain(..).for_each(|frame| net.recycle(frame));
        }
        check(&net, &mut liar);
    }
    if !liar.lied {
        liar.serve_all(script);
        assert!(net.can_transmit(), "an honest card has sent all");
        check(&net, &mut liar);
    }
    let ending = ending(&liar);
    drop(kept);
    net.shut_down();
    assert!(net.receive().is_none());
    let leaked = settle(net, memory);
    assert!(leaked == 0 || transport.model().ignores_reset);
    ending
}

/// A frame in one buffer, or one sent.
fn answer(queue: usize, chain: &Chain, memory: &Memory, script: &mut Script) -> u32 {
    if queue != RECEIVE {
        return 0;
    }
    let mut bytes = vec![script.byte(); HEADER + 60 + script.below(1000) as usize];
    bytes[..HEADER].fill(0);
    bytes[10] = 1;
    chain.write(memory, &bytes)
}
