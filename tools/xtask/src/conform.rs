//! `cargo xtask conform`: builds what the testbeds need, and runs the suite on it.

use crate::artifacts::{Artifacts, GuestBuild, Needs};
use crate::options::{Common, ConformOptions};
use crate::{artifacts, setup, workspace};
use anyhow::Result;
use ringside_conform::command::{self, Chosen, Outputs};
use ringside_tests::conform::media;
use ringside_tests::conform::profile::{self, HOST_IN_TCG, Profile, RINGSIDE};
use ringside_tests::conform::start::{Progress, Setting};
use ringside_tests::testbed::Testbed;
use std::process::ExitCode;

/// `cargo xtask conform`.
pub(crate) fn command(common: &Common, options: &ConformOptions) -> Result<ExitCode> {
    let ConformOptions { suite: options, list } = options;
    let chosen = Chosen::new(&options.only)?;
    if *list {
        chosen.list();
        return Ok(ExitCode::SUCCESS);
    }
    let columns = command::columns(profile::read_folder(&workspace::root().join("tests/profiles"))?, options)?;
    let outputs = Outputs::create(options)?;

    let setup = setup::ensure(common)?;
    let any = |test: &dyn Fn(&Profile) -> bool| columns.iter().any(|(_, profile)| profile.as_ref().is_ok_and(test));
    let needs = Needs {
        host: any(&|profile| profile.program == RINGSIDE || profile.uses("ringside")),
        loaders: any(&|profile| media::KERNELS[1..].iter().any(|medium| profile.uses(medium))),
        // A run of some checks is usually part of editing them.
        guest: if options.only.is_empty() { GuestBuild::Release } else { GuestBuild::Incremental },
    };
    let mut artifacts = artifacts::build_some(&setup, needs)?;
    if any(&|profile| profile.program == HOST_IN_TCG) {
        artifacts.complete_for(Testbed::HostInTcg)?;
    }
    if any(&|profile| profile.uses("xen")) {
        artifacts.complete_for(Testbed::XenPv)?;
    }
    let interrupted = command::interruption()?;
    let Artifacts { image, disk, ringside, inner, xen, loaders, .. } = artifacts;
    let setting = Setting {
        image,
        disk,
        ringside,
        base: workspace::output()?,
        kvm: common.kvm(),
        tap: options.tap.clone(),
        inner,
        xen,
        loaders: Ok(loaders),
        progress: Progress::default(),
    };
    command::run(options, &chosen, &columns, setting, outputs, &interrupted)
}
