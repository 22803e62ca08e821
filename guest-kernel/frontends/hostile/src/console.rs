//! The console driver and a terminal that lies.

use crate::{Ending, Liar, Script, check, ending, offer, refused, settle};
use frontends::console::Console;
use frontends::device::{Driver, RESTARTS};
use frontends::fake::{Chain, Memory};
use shared_abi::virtio::{CommonFeatures, DeviceType};

/// Columns, rows, ports, the emergency write.
const CONFIG: [u8; 12] = [80, 0, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0];
const RECEIVE: usize = 0;
/// Size, emergency write.
const OFFERS: u64 = 1 | 1 << 2;

pub(crate) fn run(memory: &'static Memory, script: &mut Script) -> Ending {
    let ring = CommonFeatures::EVENT_IDX | CommonFeatures::INDIRECT_DESC;
    let features = script.word() & (ring.bits() | OFFERS);
    let (transport, lied) = offer(script, DeviceType::CONSOLE, features, 2, &CONFIG);
    let mut console = match Console::new(transport.clone(), memory) {
        Ok(console) => console,
        Err(error) => return refused(&error, memory, &transport, lied),
    };
    console.set_restart_limit(script.below(RESTARTS + 1));
    let mut liar = Liar::new(memory, &transport, &[0, 1], (script, lied), answer);
    while !script.ended() {
        let output = vec![b'x'; script.below(20_000) as usize];
        assert!(console.transmit(&output) <= output.len());
        console.kick();
        let source = liar.act(script);
        console.interrupt(source);
        console.enable_interrupts();
        console.emergency_write(b'!');
        let mut input = vec![0; script.below(600) as usize];
        assert!(console.receive(&mut input) <= input.len());
        check(&console, &mut liar);
    }
    if !liar.lied {
        liar.serve_all(script);
        assert_eq!(console.transmit(b"x"), 1, "an honest terminal has taken all");
        check(&console, &mut liar);
    }
    let ending = ending(&liar);
    console.shut_down();
    let leaked = settle(console, memory);
    assert!(leaked == 0 || transport.model().ignores_reset);
    ending
}

/// Something typed, or output taken.
fn answer(queue: usize, chain: &Chain, memory: &Memory, script: &mut Script) -> u32 {
    if queue != RECEIVE {
        return 0;
    }
    let bytes = vec![b'k'; script.below(300) as usize];
    chain.write(memory, &bytes)
}
