//! Arguments about packages and images.

use std::path::PathBuf;

use clap::Subcommand;
use tribune_package::PackageRef;
use tribune_raft_store::model::PackageName;

use super::some;

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
    /// Take a version out of the package store that no node has, can go back to or should have, and no update changes
    #[command(after_help = "What only this version needs leaves the package stores after `forget-after` of node.toml, an hour. \
            The name and version stand for the same contents for ever.")]
    Remove {
        /// The package, as NAME@VERSION
        #[arg(value_parser = exact)]
        package: PackageRef,
    },
    /// Keep the last versions of a package, and of the older ones those that are needed; remove the others
    Retain {
        /// The package
        name: PackageName,
        /// How many versions, newest first
        #[arg(long, value_name = "N", value_parser = some)]
        last: u32,
    },
    /// Join packages of one version, built on different machines for different platforms, into one
    #[command(after_help = "-o FILE.tpkg names the file to write.\n\nExample:\n  \
        tribune package merge billing-amd64.tpkg billing-arm64.tpkg -o billing-2.3.1.tpkg")]
    Merge {
        /// The package files
        #[arg(required = true, num_args = 2.., value_name = "FILE.tpkg")]
        packages: Vec<PathBuf>,
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

/// Reads a package with its version.
fn exact(text: &str) -> Result<PackageRef, String> {
    match text.parse::<PackageRef>() {
        Ok(package) if package.version.is_none() => Err("name the version as well, as NAME@VERSION".into()),
        Ok(package) => Ok(package),
        Err(error) => Err(error.to_string()),
    }
}
