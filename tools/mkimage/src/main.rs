//! The `mkimage` program: see `mkimage --help`. Exit status 0: done; 1: the input is no good; 2: the arguments are not.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

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
}

/// Formats of bootable images.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One ELF that boots alone wherever a PVH ELF boots.
    Elf,
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
        (Some(Command::Disk { size, fat, output }), _) => mkimage::disk::write(size, &fat, &output)?,
        (Some(Command::Inspect { json, file }), _) => {
            let report = mkimage::inspect::inspect(&file)?;
            if json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                print!("{report}");
            }
        }
        (None, Some(ImageArgs { kernel, cmdline, initrd, format: Format::Elf, output })) => {
            mkimage::image::write(&kernel, &cmdline, initrd.as_deref(), &output)?;
        }
        (None, None) => anyhow::bail!("nothing to do; see mkimage --help"),
    }
    Ok(())
}
