//! The entropy driver and a source that lies.

use crate::{Ending, Liar, Script, check, ending, offer, refused, settle};
use frontends::device::{Driver, RESTARTS};
use frontends::entropy::Entropy;
use frontends::fake::{Chain, Memory};
use shared_abi::virtio::{CommonFeatures, DeviceType};

pub(crate) fn run(memory: &'static Memory, script: &mut Script) -> Ending {
    let ring = CommonFeatures::EVENT_IDX | CommonFeatures::INDIRECT_DESC;
    let features = script.word() & ring.bits();
    let (transport, lied) = offer(script, DeviceType::RNG, features, 1, &[]);
    let mut entropy = match Entropy::new(transport.clone(), memory) {
        Ok(entropy) => entropy,
        Err(error) => return refused(&error, memory, &transport, lied),
    };
    entropy.set_restart_limit(script.below(RESTARTS + 1));
    let mut liar = Liar::new(memory, &transport, &[0], (script, lied), answer);
    while !script.ended() {
        entropy.request(script.below(300) as usize);
        let source = liar.act(script);
        entropy.interrupt(source);
        entropy.enable_interrupts();
        let mut bytes = vec![0; script.below(300) as usize];
        assert!(entropy.take(&mut bytes).unwrap_or(0) <= bytes.len());
        check(&entropy, &mut liar);
    }
    if !liar.lied {
        liar.serve_all(script);
        entropy.take(&mut []);
        assert!(entropy.request(1), "an honest source has answered");
        check(&entropy, &mut liar);
    }
    let ending = ending(&liar);
    entropy.shut_down();
    let leaked = settle(entropy, memory);
    assert!(leaked == 0 || transport.model().ignores_reset);
    ending
}

fn answer(_: usize, chain: &Chain, memory: &Memory, script: &mut Script) -> u32 {
    chain.write(memory, &vec![script.byte(); script.below(300) as usize])
}
