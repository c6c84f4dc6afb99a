//! Arguments of the commands for disasters.

use std::path::PathBuf;

use clap::Args;
use tribune_raft_store::model::{NodeName, Span};

use super::node::NewNodeArgs;
use super::span;

/// What is said after the help of `backup`.
pub const BACKUP: &str = "The file has the record and the modules of all packages. Needs the admin role. On a node that runs, everything that \
    was acknowledged before is in it; it is read from the master, through any node. While the node of --data does not run the file is made from \
    that node's folder alone. Software that is installed on nodes, and keys, are not in it. Who has the file can read the record: keep it safe.\n\n\
    Exit code 4 if no sound copy of some module was found: the file is good, and lacks these.";

/// What is said after the help of `fsck`.
pub const FSCK: &str = "The node may run, or not. Looked at are its settings, key and cluster.json, the Raft store, the package store, and local \
    storage. On a large store this takes as long as reading it.\n\n\
    Exit code 4 if something was found.";

/// What is said after the help of `restore`.
pub const RESTORE: &str = "The file is checked to its last byte before anything is done. Of the old cluster nothing counts any more: its nodes \
    follow this one as soon as it runs and reaches them. What was done after the backup is lost.\n\n\
    A machine that has the key of the node it becomes (identity.key in its data folder) is that node. Any other takes that node's place, and \
    the machine that was that node is out of the cluster for good.\n\n\
    The recovery is signed with an admin's key: give it with --key.\n\n\
    Example:\n  tribune restore cluster.backup --name n1 --key admin.key --control /ip4/10.0.0.1/tcp/7400 --data-address /ip4/10.0.0.1/tcp/7401";

/// What is said after the help of `recover`.
pub const RECOVER: &str = "Of the old cluster nothing counts any more: its nodes follow this one as soon as it runs and reaches them, and those \
    that come back later do so then. What the lost nodes alone had is lost. So make sure first that a majority is gone for good, recover the \
    node that has the most (the one whose record was written to last), and one only.\n\n\
    The recovery is signed with an admin's key: give it with --key. Without it the node's own key is used, which may do it on the node where \
    the cluster was made.\n\n\
    Example:\n  tribune recover --force-new-cluster --data /var/lib/tribune --key admin.key";

/// Makes a stopped node the only voter.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Say that a majority of the voters is gone for good
    #[arg(long, required = true)]
    pub force_new_cluster: bool,
    /// How it is signed.
    #[command(flatten)]
    pub recovery: RecoveryArgs,
}

/// How a recovery is signed.
#[derive(Debug, Args)]
pub struct RecoveryArgs {
    /// How long nodes that have a master still believe the recovery; those that have none always do
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = span)]
    pub good_for: Span,
    /// The recovery epoch to begin, if other nodes are at a higher one than this knows [default: the next]
    #[arg(long, value_name = "NUMBER")]
    pub epoch: Option<u64>,
}

/// Writes a backup.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to write; it must not be there
    pub file: PathBuf,
}

/// Makes a node from a backup.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    pub file: PathBuf,
    /// Which node of the backup this one becomes
    #[arg(long)]
    pub name: NodeName,
    /// Put the backup in the place of the Raft store that this node has
    #[arg(long)]
    pub replace: bool,
    /// What the node is like, where its folder does not say so.
    #[command(flatten)]
    pub node: NewNodeArgs,
    /// How it is signed.
    #[command(flatten)]
    pub recovery: RecoveryArgs,
}
