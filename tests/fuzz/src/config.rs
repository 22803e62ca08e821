//! The command line: the first byte chooses a parser of one value, or a whole list of arguments, one per line.
//!
//! What a parser accepts keeps to the documented limits, and parses to the same again when it is printed. A list that is
//! accepted also goes through the checks of several options, which look names up but open nothing.

use crate::assert_one_line;
use host_backend::config::hostile::{Options, TYPES};
use host_backend::config::{
    CPUS_MAX, Config, Console, Disk, DiskAccess, Kernel, LOG_KEEP_MAX, LOG_SIZE_MIN, LogFile, Mac, Net, Peer, Publish,
    QUEUES_MAX, RateLimit, SERIAL_MAX, parse_net, parse_rate, parse_size,
};
use host_backend::vmm::memory;
use host_backend::{cli, run};
use shared_abi::board::VIRTIO_MMIO_SLOTS;
use std::ffi::OsString;
use std::fmt::{Debug, Display};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

pub(crate) fn run(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let text = &*String::from_utf8_lossy(rest);
    match choice % 16 {
        0 => again(text, parse_size, u64::to_string),
        1 => again(text, parse_rate, |rate| rate.map_or("none".into(), |rate| rate.to_string())),
        2 => again(text, str::parse, print_disk),
        3 => again(text, parse_net, |net| net.as_ref().map_or("none".into(), print_net)),
        4 => again(text, str::parse, print_mac),
        5 => again(text, str::parse, print_publish),
        6 => again(text, str::parse, print_console),
        7 => again(text, str::parse, print_log),
        8 => again(text, str::parse, print_hostile),
        9 => again(text, mkimage::size::parse, |size| mkimage::size::display(*size)),
        _ => arguments(rest),
    }
}

/// What is accepted parses to the same when it is printed.
fn again<T: PartialEq + Debug, E: Display + Debug>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, E>,
    print: impl Fn(&T) -> String,
) {
    match parse(text) {
        Ok(value) => {
            let printed = print(&value);
            let read = parse(&printed);
            assert!(read.as_ref().ok() == Some(&value), "{text:?} is {value:?}, and {printed:?} is {read:?}");
        }
        // An error quotes what it was given.
        Err(error) if !text.contains(char::is_control) => assert_one_line(&error.to_string()),
        Err(_) => {}
    }
}

fn print_disk(disk: &Disk) -> String {
    let Disk { path, access, queues, serial, limit } = disk;
    assert!((1..=QUEUES_MAX).contains(queues) && !path.as_os_str().is_empty(), "{disk:?}");
    assert!(serial.as_ref().is_none_or(|text| (1..=SERIAL_MAX).contains(&text.len()) && text.is_ascii()), "{disk:?}");
    let access = if *access == DiskAccess::ReadOnly { ",ro" } else { "" };
    let serial = serial.as_ref().map_or(String::new(), |serial| format!(",serial={serial}"));
    format!("{}{access},queues={queues}{serial}{}", path.display(), print_limit(limit, "iops"))
}

fn print_net(net: &Net) -> String {
    let peer = match &net.peer {
        Peer::Tap(name) => {
            assert!((1..16).contains(&name.len()), "{net:?}");
            format!("tap={name}")
        }
        Peer::Passt => "passt".into(),
        Peer::Stream(path) => format!("stream={}", path.display()),
    };
    let mac = net.mac.as_ref().map_or(String::new(), |mac| format!(",mac={}", print_mac(mac)));
    format!("{peer}{mac}{}", print_limit(&net.limit, "pps"))
}

fn print_limit(limit: &RateLimit, operations: &str) -> String {
    let RateLimit { bytes, operations: count, burst } = limit;
    assert!(*bytes != Some(0) && *count != Some(0), "{limit:?}");
    let bytes = bytes.map_or(String::new(), |bytes| format!(",bps={bytes}"));
    let count = count.map_or(String::new(), |count| format!(",{operations}={count}"));
    let limited = !bytes.is_empty() || !count.is_empty();
    let burst = if limited { format!(",burst={}ms", burst.as_millis()) } else { String::new() };
    format!("{bytes}{count}{burst}")
}

fn print_mac(mac: &Mac) -> String {
    assert!(mac.0[0] & 1 == 0 && mac.0 != [0; 6], "{mac:?} is no card's");
    mac.0.map(|byte| format!("{byte:02x}")).join(":")
}

fn print_publish(publish: &Publish) -> String {
    assert!(publish.host != 0 && publish.guest != 0, "{publish:?}");
    format!("{}:{}", publish.host, publish.guest)
}

fn print_console(console: &Console) -> String {
    match console {
        Console::Stdio => "stdio".into(),
        Console::Control => "control".into(),
        Console::File(log) => format!("file={}", print_log(log)),
    }
}

fn print_log(log: &LogFile) -> String {
    let LogFile { path, size, keep } = log;
    assert!(*size >= LOG_SIZE_MIN && *keep <= LOG_KEEP_MAX && !path.as_os_str().is_empty(), "{log:?}");
    format!("{},size={size},keep={keep}", path.display())
}

fn print_hostile(options: &Options) -> String {
    let Options { seed, devices, lies, rate } = options;
    assert!(*rate > 0 && !devices.is_empty() && devices.iter().all(|device| TYPES.contains(device)), "{options:?}");
    let join = |names: Vec<&str>| names.join("+");
    let devices = join(devices.iter().map(|device| device.name()).collect());
    let lies = lies.as_ref().map(|lies| join(lies.iter().map(|lie| lie.name()).collect()));
    let lies = lies.map_or(String::new(), |lies| format!(",lies={lies}"));
    format!("{seed},device={devices}{lies},rate={rate}")
}

/// A list of arguments for `ringside run`.
fn arguments(bytes: &[u8]) {
    let given = bytes.split(|byte| *byte == b'\n').map(|word| OsString::from_vec(word.to_vec())).collect();
    let config = match read(given) {
        Ok(config) => config,
        Err(None) => return,
        Err(Some(line)) => return assert_one_line(&line),
    };
    assert!((1..=CPUS_MAX).contains(&config.cpus), "{} vCPUs", config.cpus);
    let printed = read(words(&config)).unwrap_or_else(|error| panic!("{config:?} does not read back: {error:?}"));
    assert_eq!(known(&printed), known(&config), "what it means changes when it is printed");
    if run::check(&config).is_ok() {
        check_promises(&config);
    }
}

fn read(given: Vec<OsString>) -> Result<Config, Option<String>> {
    let start = ["ringside", "run"].map(OsString::from);
    cli::read(start.into_iter().chain(given))
}

/// What holds for a VM that may start.
fn check_promises(config: &Config) {
    assert!(memory::check_size(config.memory).is_ok(), "{} bytes of memory", config.memory);
    let optional = [config.net.is_some(), config.balloon, config.virtio_console.is_some(), config.rng];
    let devices = config.disks.len() + optional.into_iter().filter(|there| *there).count();
    assert!(devices <= VIRTIO_MMIO_SLOTS as usize, "{devices} devices");
    assert_ne!(config.console, Console::Control);
    assert!(config.virtio_console != Some(Console::Control) || config.control.is_some());
    let mut ports: Vec<u16> = config.publish.iter().map(|publish| publish.host).collect();
    ports.sort_unstable();
    assert!(ports.windows(2).all(|pair| pair[0] != pair[1]), "a port is published twice: {ports:?}");
    let is_passt = config.net.as_ref().is_some_and(|net| net.peer == Peer::Passt);
    assert!(ports.is_empty() || is_passt, "ports are published without passt");
    // A log that is one of the inputs would empty it.
    for log in logs(config) {
        let inputs = config.disks.iter().map(|disk| &disk.path).chain(
            match &config.kernel {
                Kernel::Elf { path, initrd } => [Some(path), initrd.as_ref()],
                Kernel::Disk(path) => [Some(path), None],
            }
            .into_iter()
            .flatten(),
        );
        inputs.for_each(|input| assert_ne!(&log.path, input, "a log is an input"));
    }
}

fn logs(config: &Config) -> impl Iterator<Item = &LogFile> {
    let consoles = [Some(&config.console), config.virtio_console.as_ref()].into_iter().flatten();
    let files = consoles.filter_map(|console| match console {
        Console::File(log) => Some(log),
        _ => None,
    });
    files.chain(&config.hostile_log)
}

/// The options that this target knows, as text.
fn known(config: &Config) -> String {
    let Config { kernel, cmdline, memory, cpus, disks, net, publish, balloon, rng, control, console, .. } = config;
    let Config { virtio_console, console_rate, on_reset, stats, hostile, hostile_log, .. } = config;
    let first = (kernel, cmdline, memory, cpus, disks, net, publish, balloon, rng, control, console);
    format!("{first:?} {:?}", (virtio_console, console_rate, on_reset, stats, hostile, hostile_log))
}

/// The command line of a VM, after `ringside run`.
fn words(config: &Config) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut option = |name: &str, value: &[u8]| {
        words.push(OsString::from_vec([name.as_bytes(), b"=", value].concat()));
    };
    match &config.kernel {
        Kernel::Elf { path, initrd } => {
            option("--kernel", path.as_os_str().as_bytes());
            initrd.iter().for_each(|path| option("--initrd", path.as_os_str().as_bytes()));
        }
        Kernel::Disk(path) => option("--image", path.as_os_str().as_bytes()),
    }
    option("--cmdline", config.cmdline.as_bytes());
    option("--mem", config.memory.to_string().as_bytes());
    option("--cpus", config.cpus.to_string().as_bytes());
    config.disks.iter().for_each(|disk| option("--disk", print_disk(disk).as_bytes()));
    option("--net", config.net.as_ref().map_or("none".into(), print_net).as_bytes());
    config.publish.iter().for_each(|publish| option("--publish", print_publish(publish).as_bytes()));
    config.control.iter().for_each(|path| option("--control", path.as_os_str().as_bytes()));
    option("--console", print_console(&config.console).as_bytes());
    config.virtio_console.iter().for_each(|console| option("--virtio-console", print_console(console).as_bytes()));
    option("--console-rate", config.console_rate.map_or("none".into(), |rate| rate.to_string()).as_bytes());
    option("--on-reset", value_name(&config.on_reset).as_bytes());
    config.stats.iter().for_each(|format| option("--stats", value_name(format).as_bytes()));
    config.hostile.iter().for_each(|options| option("--hostile-device", print_hostile(options).as_bytes()));
    config.hostile_log.iter().for_each(|log| option("--hostile-log", print_log(log).as_bytes()));
    words.extend(config.balloon.then(|| "--balloon".into()));
    words.extend(config.rng.then(|| "--rng".into()));
    words
}

/// How a value of an enum is written: its name in lower case.
fn value_name(value: &impl Debug) -> String {
    format!("{value:?}").to_ascii_lowercase()
}
