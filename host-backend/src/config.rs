//! What a user asks for: the description of one VM, and the words in which it is written on the command line.

pub mod hostile;
pub mod lie;
mod limit;
pub mod sandbox;

pub use limit::RateLimit;

use std::path::PathBuf;
use std::str::FromStr;

/// Most vCPUs of a VM.
pub const CPUS_MAX: u32 = 64;
/// Bytes of a console's file, unless the user says otherwise.
pub const LOG_SIZE: u64 = 64 << 20;
/// Bytes of a console's file, at least.
pub const LOG_SIZE_MIN: u64 = 4096;
/// Full console files that can be kept.
pub const LOG_KEEP_MAX: u32 = 100;
/// Default output limit of a console, in bytes per second.
pub const CONSOLE_RATE: u64 = 8 << 20;
/// Longest serial number of a disk.
pub const SERIAL_MAX: usize = shared_abi::virtio::blk::ID_LEN;

/// Most queues of a disk.
pub const QUEUES_MAX: u16 = 16;

/// One VM.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is started.
    pub kernel: Kernel,
    /// Command line, given to the guest as it is.
    pub cmdline: String,
    /// Bytes of memory.
    pub memory: u64,
    /// vCPUs.
    pub cpus: u32,
    /// Block devices, in the order of their slots.
    pub disks: Vec<Disk>,
    /// Network card.
    pub net: Option<Net>,
    /// Ports of this machine that lead into the guest.
    pub publish: Vec<Publish>,
    /// Whether there is a balloon.
    pub balloon: bool,
    /// Whether there is an entropy device.
    pub rng: bool,
    /// Where the control socket goes.
    pub control: Option<PathBuf>,
    /// Where the one for monitoring goes.
    pub control_readonly: Option<PathBuf>,
    /// What the serial port is connected to.
    pub console: Console,
    /// What the virtio console is connected to.
    pub virtio_console: Option<Console>,
    /// Output limit of each console in bytes per second; `None` is without a limit.
    pub console_rate: Option<u64>,
    /// What a guest's reset does.
    pub on_reset: OnReset,
    /// How to print the statistics on exit.
    pub stats: Option<StatsFormat>,
    /// Which devices lie to the guest, if any.
    pub hostile: Option<hostile::Options>,
    /// Where the lies are written down.
    pub hostile_log: Option<LogFile>,
    /// The KVM device.
    pub kvm: PathBuf,
    /// The sandbox.
    pub sandbox: sandbox::Options,
}

/// Where kernel and initrd come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Files of their own.
    Elf {
        /// PVH ELF file.
        path: PathBuf,
        /// Initial RAM disk.
        initrd: Option<PathBuf>,
    },
    /// A bootable disk, whose command line comes before the VM's.
    Disk(PathBuf),
}

/// The other end of a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// Standard input and output.
    Stdio,
    /// Output to a file, no input.
    File(LogFile),
    /// Both by the control socket.
    Control,
}

/// A file that takes a console's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Its name. Full ones are kept as `NAME.1`, `NAME.2` and so on.
    pub path: PathBuf,
    /// Bytes, at most.
    pub size: u64,
    /// How many full ones are kept.
    pub keep: u32,
}

/// A disk image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The raw image.
    pub path: PathBuf,
    /// What the guest may do.
    pub access: DiskAccess,
    /// Queues for requests.
    pub queues: u16,
    /// Its serial number; otherwise the end of the file's name.
    pub serial: Option<String>,
    /// Bytes and requests per second.
    pub limit: RateLimit,
}

impl Disk {
    /// A disk without any options.
    pub fn at(path: impl Into<PathBuf>, access: DiskAccess) -> Self {
        Self { path: path.into(), access, queues: 1, serial: None, limit: RateLimit::default() }
    }
}

/// What a guest may do to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskAccess {
    /// Read and write; no other process may have the image.
    ReadWrite,
    /// Read; others may read too.
    ReadOnly,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    /// Where its frames go.
    pub peer: Peer,
    /// Its address; otherwise one is made up.
    pub mac: Option<Mac>,
    /// Bytes and packets per second, in each direction.
    pub limit: RateLimit,
}

/// Where frames go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A tap interface of this machine.
    Tap(String),
    /// A passt of our own.
    Passt,
    /// A listening Unix socket that speaks QEMU's stream framing.
    Stream(PathBuf),
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

/// A TCP port of the loopback interface that leads to a port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Port on 127.0.0.1.
    pub host: u16,
    /// Port of the guest.
    pub guest: u16,
}

/// What a guest's reset does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnReset {
    /// Starts the VM again, from its kernel.
    Reboot,
    /// Ends the VM.
    Exit,
}

/// How to print statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StatsFormat {
    /// One line of JSON.
    Json,
    /// For people.
    Table,
}

/// Why a word of the command line means nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

fn bad<T>(why: impl Into<String>) -> Result<T, ParseError> {
    Err(ParseError(why.into()))
}

/// Reads a memory size: bytes, or a number followed by K, M or G.
///
/// # Errors
/// When it is no such number.
pub fn parse_size(text: &str) -> Result<u64, ParseError> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        _ => return bad(format!("\"{unit}\" is no unit of memory: use K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| ParseError("it is no size, such as 256M or 1G".into()))?;
    number.checked_mul(1 << shift).ok_or_else(|| ParseError("it is more than any machine has".into()))
}

impl FromStr for Disk {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut parts = text.split(',');
        let path = parts.next().unwrap_or_default();
        if path.is_empty() {
            return bad("the path is missing");
        }
        let mut disk = Self::at(path, DiskAccess::ReadWrite);
        for option in parts {
            match option.split_once('=') {
                Some((name, value)) if disk.limit.set(name, value, limit::REQUESTS)? => {}
                None if option == "ro" => disk.access = DiskAccess::ReadOnly,
                Some(("serial", serial)) if serial.is_empty() || serial.len() > SERIAL_MAX || !serial.is_ascii() => {
                    return bad(format!("serial takes 1 to {SERIAL_MAX} ASCII characters"));
                }
                Some(("queues", count)) => match count.parse() {
                    Ok(count @ 1..=QUEUES_MAX) => disk.queues = count,
                    _ => return bad(format!("queues takes a number from 1 to {QUEUES_MAX}")),
                },
                Some(("serial", serial)) => disk.serial = Some(serial.into()),
                _ => {
                    let known = "ro, queues=N, serial=TEXT, bps=SIZE, iops=N and burst=TIME";
                    return bad(format!("\"{option}\" is no option of a disk: there are {known}"));
                }
            }
        }
        disk.limit.check(limit::REQUESTS)?;
        Ok(disk)
    }
}

/// Reads the value of `--net`; `None` is no network card.
///
/// # Errors
/// When it means nothing.
pub fn parse_net(text: &str) -> Result<Option<Net>, ParseError> {
    let mut parts = text.split(',');
    let peer = match parts.next().unwrap_or_default().split_once('=') {
        None if text == "none" => return Ok(None),
        None if text.split(',').next() == Some("passt") => Peer::Passt,
        Some(("tap", name)) if (1..libc::IFNAMSIZ).contains(&name.len()) => Peer::Tap(name.into()),
        Some(("tap", _)) => return bad("the name of a tap interface has 1 to 15 bytes"),
        Some(("stream", path)) if !path.is_empty() => Peer::Stream(path.into()),
        _ => return bad("expected tap=NAME, passt, stream=SOCKET or none"),
    };
    let mut net = Net { peer, mac: None, limit: RateLimit::default() };
    for option in parts {
        match option.split_once('=') {
            Some(("mac", mac)) => net.mac = Some(mac.parse()?),
            Some((name, value)) if net.limit.set(name, value, limit::PACKETS)? => {}
            _ => {
                let known = "mac=ADDRESS, bps=SIZE, pps=N and burst=TIME";
                return bad(format!("\"{option}\" is no option of a network card: there are {known}"));
            }
        }
    }
    net.limit.check(limit::PACKETS)?;
    Ok(Some(net))
}

impl FromStr for Mac {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()));
            match part.and_then(|part| u8::from_str_radix(part, 16).ok()) {
                Some(value) => *byte = value,
                None => return bad("a MAC address looks like 02:00:00:00:00:01"),
            }
        }
        if parts.next().is_some() {
            return bad("a MAC address has six bytes");
        }
        if bytes[0] & 1 != 0 || bytes == [0; 6] {
            return bad("a network card needs a unicast MAC address");
        }
        Ok(Self(bytes))
    }
}

impl FromStr for Publish {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let port = |text: &str| Some(text).filter(digits)?.parse().ok().filter(|port| *port != 0);
        match text.split_once(':').map(|(host, guest)| (port(host), port(guest))) {
            Some((Some(host), Some(guest))) => Ok(Self { host, guest }),
            _ => bad("it is no pair HOSTPORT:GUESTPORT, each from 1 to 65535"),
        }
    }
}

impl FromStr for Console {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.split_once('=') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "control" => Ok(Self::Control),
            Some(("file", file)) => file.parse().map(Self::File),
            _ => bad("expected stdio, control or file=PATH"),
        }
    }
}

impl FromStr for LogFile {
    type Err = ParseError;

    /// A name may have commas: only known options at its end are options.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (mut path, mut size, mut keep) = (text, LOG_SIZE, 1);
        while let Some((name, option)) = path.rsplit_once(',') {
            match option.split_once('=') {
                Some(("size", value)) => match parse_size(value) {
                    Ok(value) if value >= LOG_SIZE_MIN => size = value,
                    _ => return bad(format!("size takes at least {LOG_SIZE_MIN} bytes, such as 1M")),
                },
                Some(("keep", value)) => match value.parse() {
                    Ok(value @ 0..=LOG_KEEP_MAX) => keep = value,
                    _ => return bad(format!("keep takes a number from 0 to {LOG_KEEP_MAX}")),
                },
                _ => break,
            }
            path = name;
        }
        if path.is_empty() {
            return bad("the name of the file is missing");
        }
        Ok(Self { path: path.into(), size, keep })
    }
}

/// Reads the value of `--console-rate`: bytes per second, or `none`.
///
/// # Errors
/// When it is no such number.
pub fn parse_rate(text: &str) -> Result<Option<u64>, ParseError> {
    match text {
        "none" => Ok(None),
        _ => match parse_size(text)? {
            0 => bad("a console needs at least one byte per second"),
            rate => Ok(Some(rate)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert_eq!(parse_size("512MiB"), Ok(512 << 20));
        for wrong in ["", "M", "-1", "12T", "1.5G", "99999999999999999999", "18446744073709551615G", "1KIBIB", "+1"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn disks_have_options() {
        let disk: Disk = "a/b.img,ro,serial=tour".parse().unwrap();
        assert_eq!((disk.access, disk.serial.as_deref()), (DiskAccess::ReadOnly, Some("tour")));
        let disk: Disk = "x".parse().unwrap();
        assert_eq!((disk.access, disk.queues), (DiskAccess::ReadWrite, 1));
        assert_eq!("x,queues=4".parse::<Disk>().unwrap().queues, 4);
        for wrong in
            ["", ",ro", "x,rw", "x,queues=0", "x,queues=17", "x,queues=", "x,serial=", "x,serial=123456789012345678901"]
        {
            assert!(wrong.parse::<Disk>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_have_a_peer() {
        assert_eq!(parse_net("none"), Ok(None));
        assert_eq!(parse_net("passt").unwrap().unwrap().peer, Peer::Passt);
        let net = parse_net("stream=/run/x,mac=02:00:00:00:00:0a").unwrap().unwrap();
        let limit = RateLimit::default();
        assert_eq!(net, Net { peer: Peer::Stream("/run/x".into()), mac: Some(Mac([2, 0, 0, 0, 0, 10])), limit });
        for wrong in [
            "",
            "tap",
            "tap=",
            "tap=0123456789abcdef",
            "bridge",
            "passt,x",
            "passt,mac=01:00:00:00:00:00",
            "passt,mac=+2:00:00:00:00:01",
        ] {
            assert!(parse_net(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn console_files_have_a_bound() {
        let log = |path: &str, size, keep| Console::File(LogFile { path: path.into(), size, keep });
        assert_eq!("file=a/log".parse(), Ok(log("a/log", LOG_SIZE, 1)));
        assert_eq!("file=a,b,size=1M,keep=3".parse(), Ok(log("a,b", 1 << 20, 3)));
        assert_eq!("file=x,keep=0".parse(), Ok(log("x", LOG_SIZE, 0)));
        for wrong in ["file=", "file=,size=1M", "file=x,size=1", "file=x,keep=-1", "file=x,keep=1000", "log"] {
            assert!(wrong.parse::<Console>().is_err(), "{wrong}");
        }
        assert_eq!((parse_rate("none"), parse_rate("1M")), (Ok(None), Ok(Some(1 << 20))));
        assert!(parse_rate("0").is_err() && parse_rate("fast").is_err());
    }

    #[test]
    fn ports_are_pairs() {
        assert_eq!("8080:80".parse(), Ok(Publish { host: 8080, guest: 80 }));
        for wrong in ["80", "0:80", "80:0", "65536:1", "a:b", "1:2:3", "+80:80"] {
            assert!(wrong.parse::<Publish>().is_err(), "{wrong}");
        }
    }
}
