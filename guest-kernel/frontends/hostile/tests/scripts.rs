//! Ten thousand scripts for each driver. A failing seed is printed, and `HOSTILE_SEED` replays it alone;
//! `HOSTILE_SCRIPTS` asks for another number of them.

use hostile_device::batch::{self, check_variety};
use hostile_device::{Ending, Script, Subject, run};

fn play_all(subject: Subject) {
    let Some(endings) = batch::play_all(subject, |subject, seed| run(subject, &mut Script::from_seed(seed))) else {
        return;
    };
    let all = [Ending::Refused, Ending::Stopped, Ending::Worked { lied: true }, Ending::Worked { lied: false }];
    check_variety(&endings, all, 1000);
}

#[test]
fn block_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Block);
}

#[test]
fn net_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Net);
}

#[test]
fn console_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Console);
}

#[test]
fn entropy_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Entropy);
}

#[test]
fn balloon_keeps_its_promises_to_ten_thousand_scripts() {
    play_all(Subject::Balloon);
}
