//! The process of a machine: its console, its error output, its end.

use crate::console::{Console, Event};
use anyhow::{Context, Result, anyhow, bail};
use inner_init::peak_memory;
use nix::pty::openpty;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{self, Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// What a process may have to say on its error output before we stop listening.
const STDERR_MAX: u64 = 64 << 10;

/// What a process has for its standard input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// Pipes.
    Pipes,
    /// A pseudo terminal, which passes every byte on.
    Terminal,
}

/// What a process of ours may know of our surroundings. Others have changed what a program does: with `RUST_BACKTRACE`, Cloud
/// Hypervisor reads files that its own filter of system calls then kills it for.
const ENVIRONMENT: [&str; 9] =
    ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "XDG_RUNTIME_DIR", "DISPLAY", "XAUTHORITY"];

/// Leaves of our environment what a child may see; what the command sets itself stays.
fn clean_environment(command: &mut Command) {
    let own: Vec<_> = command.get_envs().map(|(key, value)| (key.to_owned(), value.map(ToOwned::to_owned))).collect();
    command.env_clear();
    command.envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    for (key, value) in own {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
}

/// A pseudo terminal: our side, and that of a process.
fn terminal() -> Result<(File, File)> {
    let pty = openpty(None, None).context("cannot make a pseudo terminal")?;
    let mut settings = tcgetattr(&pty.slave)?;
    cfmakeraw(&mut settings);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &settings)?;
    Ok((pty.master.into(), pty.slave.into()))
}

/// A process whose standard output is a guest's console. It ends with us, whatever happens.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: File,
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
    pub fn spawn(command: Command) -> Result<Self> {
        Self::spawn_with(command, Stdio::Pipes)
    }

    /// The same with a choice of its standard input and output.
    ///
    /// # Errors
    /// The same.
    pub fn spawn_with(mut command: Command, stdio: Stdio) -> Result<Self> {
        clean_environment(&mut command);
        let terminal = if stdio == Stdio::Terminal { Some(terminal()?) } else { None };
        match &terminal {
            Some((_, theirs)) => command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?),
            None => command.stdin(process::Stdio::piped()).stdout(process::Stdio::piped()),
        };
        command.stderr(process::Stdio::piped());
        // A group of its own, so that the processes it starts can be ended with it.
        command.process_group(0);
        end_with_parent(&mut command);
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        // The command has the terminal's other end: our side would never see it closed.
        drop(command);
        let (console, input) = match (terminal, child.stdout.take(), child.stdin.take()) {
            (Some((ours, _)), ..) => (Console::new(ours.try_clone()?), ours),
            (None, Some(output), Some(input)) => (Console::new(output), File::from(OwnedFd::from(input))),
            _ => return Err(anyhow!("no standard input and output")),
        };
        let stderr = child.stderr.take().ok_or_else(|| anyhow!("no error output"))?;
        let (sender, receiver) = channel();
        thread::spawn(move || {
            let mut text = Vec::new();
            let mut stderr = stderr;
            let _ = Read::by_ref(&mut stderr).take(STDERR_MAX).read_to_end(&mut text);
            // The receiver may be gone.
            let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
            // The process must not wait for us to read on.
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        });
        let stderr = Some(receiver);
        Ok(Self { child, input, stderr, stopped: false, peak_memory: None, console })
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
    /// When the process has ended, or does not read.
    pub fn write_input(&mut self, text: &str) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let mut input = self.input.try_clone()?;
        let text = text.to_owned();
        let (sender, receiver) = channel();
        // A thread of its own, which ends with the process at the latest.
        thread::spawn(move || sender.send(input.write_all(text.as_bytes())));
        let written = receiver.recv_timeout(PATIENCE);
        written.map_err(|_| anyhow!("it does not read what is typed"))?.context("cannot type")
    }

    /// The next line of its console that has a text; what comes before is passed over.
    ///
    /// # Errors
    /// When none comes in time: with what was printed instead.
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

    /// Asks it to end, and then makes it, including the processes that it has started.
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

    #[test]
    fn a_process_that_does_not_read_is_not_typed_to_for_long() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let mut running = Running::spawn(command).unwrap();
        let error = running.write_input(&"x".repeat(1 << 20)).unwrap_err();
        assert_eq!(error.to_string(), "it does not read what is typed");
    }

    #[test]
    fn a_child_sees_nothing_of_our_environment_but_what_it_needs() {
        // SAFETY: other tests of this process do not read this variable.
        unsafe { std::env::set_var("RUST_BACKTRACE", "1") };
        let mut command = Command::new("env");
        command.env("OWN", "word");
        let mut running = Running::spawn(command).unwrap();
        let mut seen = Vec::new();
        while let Event::Line(line) = running.console.next(Duration::from_secs(10)) {
            seen.push(line);
        }
        assert!(seen.iter().any(|line| line == "OWN=word"), "{seen:?}");
        assert!(seen.iter().any(|line| line.starts_with("PATH=")), "{seen:?}");
        let known =
            |line: &&String| line.split_once('=').is_none_or(|(name, _)| name == "OWN" || ENVIRONMENT.contains(&name));
        assert_eq!(seen.iter().find(|line| !known(line)), None);
    }

    #[test]
    fn a_terminal_is_one_and_passes_bytes_on_both_ways() {
        let mut command = Command::new("sh");
        command.args(["-c", "test -t 0 && test -t 1 && read word && echo heard $word"]);
        let mut running = Running::spawn_with(command, Stdio::Terminal).unwrap();
        running.write_input("this\n").unwrap();
        assert_eq!(running.console.next(Duration::from_secs(10)), Event::Line("heard this".into()));
        assert_eq!(running.console.next(Duration::from_secs(10)), Event::Closed);
        assert!(running.wait(Duration::from_secs(10)).unwrap().success());
    }
}
