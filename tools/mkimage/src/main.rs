//! The `mkimage` program: see `mkimage --help`. Exit status 0: done; 1: the input is no good; 2: the arguments are not.

use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget};
use mkimage::bootable::{self, Image};
use mkimage::loaders::Loaders;
use mkimage::output::{self, Existing};
use mkimage::time::Timestamp;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

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
    /// What to make.
    #[arg(long, value_enum)]
    format: Format,
    /// Where to put it.
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Replace the output if it exists.
    #[arg(long)]
    force: bool,
    /// Size of the disk: a number with K, M, G or T; otherwise what is needed, at least 64M.
    #[arg(long, value_name = "SIZE", value_parser = mkimage::size::parse)]
    size: Option<u64>,
    /// A folder of more files for the disk's EFI system partition.
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// The folder of the loaders, as `cargo xtask build` makes it.
    #[arg(long, value_name = "DIR")]
    loaders: Option<PathBuf>,
}

/// Formats of bootable images.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One ELF that boots alone wherever a PVH ELF boots.
    Elf,
    /// A raw disk that boots with BIOS and with UEFI.
    Disk,
    /// An ISO 9660 image that boots with BIOS and with UEFI, from a CD or written to a USB stick.
    Iso,
    /// The disk for QEMU; needs qemu-img.
    Qcow2,
    /// The same for Hyper-V; needs qemu-img.
    Vhdx,
    /// The same for VMware; needs qemu-img.
    Vmdk,
}

impl From<Format> for bootable::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Elf => Self::Elf,
            Format::Disk => Self::Disk,
            Format::Iso => Self::Iso,
            Format::Qcow2 => Self::Qcow2,
            Format::Vhdx => Self::Vhdx,
            Format::Vmdk => Self::Vmdk,
        }
    }
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
        /// The disk.
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
        /// The image or disk.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
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
            bootable::extract::extract(&file)?.write(&output, existing(force))?;
        }
        (Some(Command::Inspect { json, file }), _) => {
            let report = mkimage::inspect::inspect(&file)?;
            if json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                print!("{report}");
            }
        }
        (None, Some(args)) => make(args)?,
        (None, None) => anyhow::bail!("nothing to do; see mkimage --help"),
    }
    Ok(())
}

fn make(args: ImageArgs) -> anyhow::Result<()> {
    let inputs: Vec<&Path> = args.initrd.iter().chain([&args.kernel]).map(PathBuf::as_path).collect();
    output::check(&args.output, &inputs)?;
    output::check_existing(&args.output, existing(args.force))?;
    let mut image = Image::read(&args.kernel, &args.cmdline, args.initrd.as_deref())?;
    image.time = Timestamp::from_environment()?;
    image.size = args.size;
    image.files = args.files;
    let format = bootable::Format::from(args.format);
    if format == bootable::Format::Elf {
        anyhow::ensure!(image.size.is_none(), "--size is for disks; the format elf is as large as it needs to be");
        anyhow::ensure!(image.files.is_none(), "--files is for disks; the format elf has no file system");
    } else {
        let sized = format != bootable::Format::Iso || image.size.is_none();
        anyhow::ensure!(sized, "--size is for disks; the format iso is as large as it needs to be");
        image.loaders = Some(Loaders::read(&args.loaders.map_or_else(Loaders::find, Ok)?)?);
    }
    let bar = Bar::default();
    image.write(format, &args.output, existing(args.force), &mut |done, total| bar.show(done, total))?;
    bar.0.finish_and_clear();
    Ok(())
}

fn existing(force: bool) -> Existing {
    if force { Existing::Replace } else { Existing::Keep }
}

/// A progress bar that shows itself after a second, on a terminal.
struct Bar(ProgressBar, Instant);

impl Default for Bar {
    fn default() -> Self {
        Self(ProgressBar::hidden(), Instant::now())
    }
}

impl Bar {
    fn show(&self, done: u64, total: u64) {
        if self.0.is_hidden() && self.1.elapsed() >= Duration::from_secs(1) {
            self.0.set_length(total);
            self.0.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.0.set_position(done);
    }
}
