//! Arguments about packages and images.

use std::path::PathBuf;

use clap::Subcommand;
use tribune_package::PackageRef;
use tribune_raft_store::model::PackageName;

/// What is done with packages.
#[derive(Debug, Subcommand)]
pub enum PackageCommand {
    /// Build a package file (.tpkg) from its description; the same input makes the same bytes
    #[command(after_help = "-o FILE names the file to write; without it that is NAME-VERSION.tpkg.")]
    Build {
        /// The description
        #[arg(long, value_name = "FILE", default_value = "tribune.toml")]
        manifest: PathBuf,
    },
    /// Verify a package file and show what is in it
    Inspect {
        /// The package file
        file: PathBuf,
    },
    /// Put the packages of a .tpkg or .timg file into the cluster's package store
    Publish {
        /// The file
        file: PathBuf,
    },
    /// List the packages in the store
    List {
        /// Only versions of this package
        name: Option<PackageName>,
    },
    /// Show a package: its modules, what they depend on, which APIs they provide and consume
    Show {
        /// The package, as NAME or NAME@VERSION; without a version, all of them
        package: PackageRef,
    },
}

/// What is done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build an image file (.timg) from package files
    #[command(
        after_help = "-o FILE.timg names the file to write.\n\nA target list is TOML:\n  [nodes]\n  n1 = [\"billing\", \"rates@2.0.0\"]\n  [classes]\n  edge = [\"billing\"]"
    )]
    Build {
        /// Which nodes and classes get which packages
        #[arg(long, value_name = "FILE")]
        targets: Option<PathBuf>,
        /// The package files
        #[arg(required = true, value_name = "FILE.tpkg")]
        packages: Vec<PathBuf>,
    },
    /// Verify an image file and show what is in it
    Inspect {
        /// The image file
        file: PathBuf,
    },
}
