//! The process of a machine: its console, its error output, its end.

use crate::console::{Console, Event};
use anyhow::{Context, Result, anyhow, bail};
use inner_init::peak_memory;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// What a process may have to say on its error output before we stop listening.
const STDERR_MAX: u64 = 64 << 10;

/// A process whose standard output is a guest's console. It ends with us, whatever happens.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stderr: Option<Receiver<String>>,
    stopped: bool,
    peak_memory: Option<u64>,
    /// The guest's console.
    pub console: Console,
}

impl Running {
    /// Starts a command.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that the processes it starts can be ended with it.
        command.process_group(0);
        end_with_parent(&mut command);
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let stdout = child.stdout.take().ok_or_else(|| anyhow!("no standard output"))?;
        let stderr = child.stderr.take().ok_or_else(|| anyhow!("no error output"))?;
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let mut text = Vec::new();
            let mut stderr = stderr;
            let _ = Read::by_ref(&mut stderr).take(STDERR_MAX).read_to_end(&mut text);
            // Nobody may want it any more.
            let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
            // The process must not wait for us to read on.
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        });
        Ok(Self { child, stderr: Some(receiver), stopped: false, peak_memory: None, console: Console::new(stdout) })
    }

    /// Types a line on the guest's console.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.write_input(&format!("{line}\r"))
    }

    /// Writes to the process's standard input, as it is.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn write_input(&mut self, text: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().ok_or_else(|| anyhow!("no standard input"))?;
        input.write_all(text.as_bytes()).context("cannot type")
    }

    /// The next line of its console that has a text; what comes before is passed over.
    ///
    /// # Errors
    /// When there is none in time: with what it said instead.
    pub fn expect(&mut self, text: &str, patience: Duration) -> Result<String> {
        const TICK: Duration = Duration::from_millis(100);
        let deadline = Instant::now() + patience;
        let mut seen = Vec::new();
        while Instant::now() < deadline {
            match self.console.next(TICK) {
                Event::Line(line) if line.contains(text) => return Ok(line),
                Event::Line(line) => seen.push(line),
                Event::Quiet => {}
                Event::Closed => break,
            }
        }
        bail!("no {text:?} in:\n{}\n{}", seen.join("\n"), self.stderr())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not ended in time; it is then ended.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.try_wait().context("cannot wait for the process")? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.stop();
                return Err(anyhow!("it did not end within {} s", patience.as_secs()));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its status, once it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.try_wait().ok().flatten()
    }

    fn try_wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
        self.peak_memory = self.peak_memory.or_else(|| peak_memory(&self.child));
        self.child.try_wait()
    }

    /// The most memory in bytes that it, or a process that it started, had at a time: known once it has ended by itself.
    pub fn peak_memory(&self) -> Option<u64> {
        self.peak_memory
    }

    /// What it wrote to its error output. Ends it if it still runs.
    pub fn stderr(&mut self) -> String {
        // A process that has left the group may hold the output open: we do not wait for that one.
        const PATIENCE: Duration = Duration::from_secs(3);
        self.stop();
        self.stderr.take().and_then(|text| text.recv_timeout(PATIENCE).ok()).unwrap_or_default()
    }

    /// Asks it to end, and then makes it, and with it what it has started and left behind.
    pub fn stop(&mut self) {
        if self.stopped {
            return;
        }
        stop(&mut self.child);
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        // Later the number may be another group's.
        self.stopped = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Asks a child to end; kills it when it has not done so after a few seconds.
pub fn stop(child: &mut Child) {
    const PATIENCE: Duration = Duration::from_secs(3);
    let deadline = Instant::now() + PATIENCE;
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Lets the kernel end the process when the thread that starts it is gone.
pub fn end_with_parent(command: &mut Command) {
    let set = || prctl::set_pdeathsig(Signal::SIGTERM).map_err(Into::into);
    // SAFETY: between fork and exec only one system call is made, and nothing is allocated.
    unsafe { command.pre_exec(set) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_does_not_end_is_ended_and_its_output_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo hello; echo problem >&2; exec sleep 600"]);
        let mut running = Running::spawn(command).unwrap();
        assert_eq!(running.console.next(Duration::from_secs(10)), Event::Line("hello".into()));
        assert!(running.wait(Duration::from_millis(10)).is_err());
        assert_eq!(running.stderr(), "problem\n");
        assert!(kill(Pid::from_raw(running.id() as i32), None).is_err(), "the process is gone");
    }
}
