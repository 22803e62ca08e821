//! Compares what the guest says of a step with what our side knows of it.

use super::{DiskKnowledge, Guide};
use crate::machine::Access;
use crate::testbed::Testbed;
use anyhow::{Context, Result, anyhow, bail, ensure};
use shared_abi::report::Report;
use shared_abi::tour::{DEFLATE, FILE, INFLATE, INFLATE_PAGES, POWER_OFF, PVOPS, SECTORS, WEB, WORLD};

impl Guide<'_> {
    /// Compares what the guest says with what we know.
    pub(super) fn judge(&mut self, name: &str, report: &Report<'_>) -> Result<String> {
        match name {
            WORLD => {
                self.world = text(report, "world")?;
                let memory = number(report, "memory_kib")?;
                let given = self.machine.memory >> 10;
                ensure!((given / 2..=given).contains(&memory), "the guest found {memory} KiB of {given} KiB");
                let hypervisor = text(report, "hypervisor")?;
                Ok(format!("{} on {hypervisor}, {memory} of {given} KiB of memory", self.world))
            }
            PVOPS => judge_pvops(report, self.machine.cmdline.split(' ').any(|word| word == "pvops=unpatched")),
            FILE => self.judge_file(report),
            SECTORS => {
                let (first, count) = (number(report, "first")?, number(report, "count")?);
                ensure!(count > 0, "no sector was written");
                ensure!(self.machine.disk.access == Access::ReadWrite, "the disk is read-only and was written");
                Ok(format!("{count} sectors from {first} written, flushed, read back, restored"))
            }
            WEB => self.judge_page(report),
            INFLATE | DEFLATE if self.machine.testbed == Testbed::XenPv => judge_own_balloon(name, report),
            INFLATE | DEFLATE => self.judge_balloon(report),
            POWER_OFF => {
                let failed = number(report, "failed")?;
                ensure!(failed == 0, "the guest counts {failed} failed steps");
                Ok("the guest switches the machine off".into())
            }
            _ => bail!("nothing is known about this step"),
        }
    }

    fn judge_file(&self, report: &Report<'_>) -> Result<String> {
        let (path, bytes, crc32) = (text(report, "path")?, number(report, "bytes")?, text(report, "crc32")?);
        let DiskKnowledge::Sample { file, .. } = self.disk else {
            return Ok(format!("{path}: {bytes} bytes, CRC-32 {crc32} says the guest"));
        };
        let expected = format!("{:08x}", file.crc32);
        ensure!(path == file.path, "the guest read {path}, the sample file is {}", file.path);
        ensure!(bytes == file.bytes, "the guest read {bytes} bytes of {}", file.bytes);
        ensure!(crc32 == expected, "the guest has CRC-32 {crc32}, the file {expected}");
        Ok(format!("{path}: {bytes} bytes, CRC-32 {crc32} on both sides"))
    }

    fn judge_page(&mut self, report: &Report<'_>) -> Result<String> {
        let page = self.page.take().ok_or_else(|| anyhow!("the guest served a page without a request to fetch it"))?;
        let page = page.context("the page did not arrive")?;
        let (served, received) = (number(report, "bytes")?, page.bytes);
        ensure!(page.status == 200, "the page came with status {}", page.status);
        ensure!(served == received, "the guest served {served} bytes, {received} arrived");
        let body = String::from_utf8_lossy(&page.body);
        ensure!(!self.world.is_empty() && body.contains(&self.world), "the page does not name the world");
        Ok(format!("{received} of {served} bytes arrived from 127.0.0.1:{}", self.machine.publish.host))
    }

    fn judge_balloon(&mut self, report: &Report<'_>) -> Result<String> {
        let Some((target, host)) = self.balloon.take() else { bail!("the guest reached a target that was never set") };
        let host = host.context("the host's balloon")?;
        let (pages, free) = (number(report, "pages")?, number(report, "free_kib")?);
        ensure!(pages == target, "the guest's balloon has {pages} pages, the target was {target}");
        ensure!(host.actual_pages == target, "the host's balloon has {} pages, not {target}", host.actual_pages);
        let returned = host.returned_pages.map_or(String::new(), |pages| format!(", {pages} given back to the system"));
        Ok(format!("guest {pages} pages, host {} pages{returned}; guest has {free} KiB free", host.actual_pages))
    }
}

/// A balloon whose target the guest sets itself: it compares Xen's own count before and after, and fails if that differs.
fn judge_own_balloon(name: &str, report: &Report<'_>) -> Result<String> {
    let (pages, free) = (number(report, "pages")?, number(report, "free_kib")?);
    let target = if name == INFLATE { u64::from(INFLATE_PAGES) } else { 0 };
    ensure!(pages == target, "the guest's balloon has {pages} pages, the tour wants {target}");
    Ok(format!("guest {pages} pages, which Xen counts too; guest has {free} KiB free"))
}

fn judge_pvops(report: &Report<'_>, unpatched: bool) -> Result<String> {
    let sites = number(report, "sites")?;
    let counts = ["inline", "direct", "nop", "indirect"].map(|key| number(report, key));
    let [inline, direct, nop, indirect] = counts;
    let (inline, direct, nop, indirect) = (inline?, direct?, nop?, indirect?);
    ensure!(sites > 0 && inline + direct + nop + indirect == sites, "the counts do not add up to {sites} sites");
    let expected = if unpatched { sites } else { 0 };
    ensure!(indirect == expected, "{indirect} of {sites} sites are indirect, {expected} expected");
    Ok(format!("{sites} sites: {inline} inline, {direct} direct calls, {nop} nops, {indirect} indirect"))
}

pub(super) fn number(report: &Report<'_>, key: &str) -> Result<u64> {
    let value = report.field(key).ok_or_else(|| anyhow!("the guest does not report {key}"))?;
    value.number().ok_or_else(|| anyhow!("{key}={value} is no number"))
}

fn text(report: &Report<'_>, key: &str) -> Result<String> {
    report.field(key).map(|value| value.to_string()).ok_or_else(|| anyhow!("the guest does not report {key}"))
}
