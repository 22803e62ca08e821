//! The `mkimage` program: see `mkimage --help`. Exit status 0: done; 1: the input is no good; 2: the arguments are not.

mod bar;

use bar::Bar;
use clap::{Args, Parser, Subcommand};
use mkimage::bootable::{self, Format, Image};
use mkimage::loaders::Loaders;
use mkimage::output::{self, Existing};
use mkimage::time::Timestamp;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

/// Builds bootable images and data disks. Same input, same bytes out.
#[derive(Debug, Parser)]
#[command(name = "mkimage", version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    image: Option<ImageArgs>,
}

#[derive(Debug, Args)]
struct ImageArgs {
    /// The kernel, as it was linked.
    #[arg(long, value_name = "ELF")]
    kernel: PathBuf,
    /// Default command line; what the VMM passes adds to it or overrides it.
    #[arg(long, value_name = "S", default_value = "")]
    cmdline: String,
    /// A file taken as it is, or a folder to be packed as newc cpio.
    #[arg(long, value_name = "DIR|FILE")]
    initrd: Option<PathBuf>,
    /// What to make; otherwise what the output's name ends in: .elf, .bzimage, .img, .iso, .qcow2, .vhdx or .vmdk.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Where to put it: a file, or for the formats disk and iso a block device such as /dev/sdX, with --force.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Replace the output if it exists. A device loses all that is on it; one that is in use is refused all the same.
    #[arg(long)]
    force: bool,
    /// Size of the disk, also on a larger device: a number with K, M, G or T; otherwise what is needed, at least 64M.
    #[arg(long, value_name = "SIZE", value_parser = mkimage::size::parse)]
    size: Option<u64>,
    /// A folder of more files for the disk's EFI system partition.
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// The folder of the loaders, as `cargo xtask build` makes it.
    #[arg(long, value_name = "DIR")]
    loaders: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a data disk: a partition table and one FAT partition.
    Disk {
        /// Size of the disk: a number with K, M, G or T.
        #[arg(long, value_name = "SIZE", value_parser = mkimage::size::parse)]
        size: u64,
        /// The folder whose files it holds.
        #[arg(long, value_name = "DIR")]
        fat: PathBuf,
        /// Where to put it.
        #[arg(short, long, value_name = "OUT")]
        output: PathBuf,
        /// Replace the output if it exists.
        #[arg(long)]
        force: bool,
    },
    /// Takes kernel, command line and initrd out of a bootable disk or ISO image.
    Extract {
        /// The disk: a file, a device, or a qcow2, vhdx or vmdk file (needs qemu-img).
        file: PathBuf,
        /// The folder for kernel.elf, cmdline.txt and initrd.img.
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Replace files that exist.
        #[arg(long)]
        force: bool,
    },
    /// Shows what is in an image or a disk.
    Inspect {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
        /// The image, or the disk as for extract.
        file: PathBuf,
    },
}

/// Ends us on a signal, without a file that is half made. A file that may not grow further (SIGXFSZ) is an error of a write.
fn mind_signals() -> io::Result<()> {
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default())?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            output::remove_unfinished();
            // Ends us: what is not caught any more has its default.
            let _ = emulate_default_handler(signal);
        }
    });
    Ok(())
}

fn main() -> ExitCode {
    if let Err(error) = mind_signals() {
        eprintln!("mkimage: cannot catch signals: {error}");
        return ExitCode::FAILURE;
    }
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mkimage: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match (cli.command, cli.image) {
        (Some(Command::Disk { size, fat, output, force }), _) => {
            output::check(&output, &[])?;
            output::check_existing(&output, existing(force))?;
            mkimage::disk::write(size, &fat, &output)?;
        }
        (Some(Command::Extract { file, output, force }), _) => {
            let _bar = Bar::start("reading", &file.display());
            bootable::extract::extract(&file).map_err(|error| error.of(&file))?.write(&output, existing(force))?;
        }
        (Some(Command::Inspect { json, file }), _) => {
            let bar = Bar::start("reading", &file.display());
            let report = mkimage::inspect::inspect(&file).map_err(|error| error.of(&file))?;
            drop(bar);
            say(&if json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_string() })?;
        }
        (None, Some(args)) => make(args)?,
        (None, None) => anyhow::bail!("nothing to do; see mkimage --help"),
    }
    Ok(())
}

fn make(args: ImageArgs) -> anyhow::Result<()> {
    let inputs: Vec<&Path> = args.initrd.iter().chain([&args.kernel]).map(PathBuf::as_path).collect();
    let format = match args.format {
        Some(format) => format,
        None => Format::of_name(&args.output).ok_or_else(|| {
            let path = args.output.display();
            anyhow::anyhow!("cannot tell the format of {path} from its name; use --format elf, bzimage, disk, iso, qcow2, vhdx or vmdk")
        })?,
    };
    format.check_output(&args.output, &inputs, existing(args.force))?;
    let mut bar = Bar::start("reading input for", &args.output.display());
    let mut image = Image::read(&args.kernel, &args.cmdline, args.initrd.as_deref())?;
    image.time = Timestamp::from_environment()?;
    image.size = args.size;
    image.files = args.files;
    let name = if format == Format::BzImage { "bzimage" } else { "elf" };
    if matches!(format, Format::Elf | Format::BzImage) {
        anyhow::ensure!(image.size.is_none(), "--size is for disks; the format {name} is as large as it needs to be");
        anyhow::ensure!(image.files.is_none(), "--files is for disks; the format {name} has no file system");
    } else {
        let sized = format != Format::Iso || image.size.is_none();
        anyhow::ensure!(sized, "--size is for disks; the format iso is as large as it needs to be");
    }
    if format != Format::Elf {
        image.loaders = Some(Loaders::read(&args.loaders.map_or_else(Loaders::find, Ok)?)?);
    }
    let made = image.write(format, &args.output, existing(args.force), &mut |step, bytes| bar.at(step, bytes));
    Ok(made.map_err(|error| error.of(&args.kernel))?)
}

/// Prints to a reader that may close early: `mkimage inspect disk | head`.
fn say(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        said => said,
    }
}

fn existing(force: bool) -> Existing {
    if force { Existing::Replace } else { Existing::Keep }
}
