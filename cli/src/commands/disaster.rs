//! `backup`, `restore`, `recover`, `fsck`: what is done before and after the worst.

use std::time::Duration;

use tribune_messages::api::{ApiRequest, ApiResponse};
use tribune_node::backup::format::About;
use tribune_node::backup::make::{BackupError, from_stopped};
use tribune_node::backup::restore::{Existing, RestoreOptions, restore as make_from};
use tribune_node::backup::save::Draft;
use tribune_node::data::DataFolder;
use tribune_node::error::NodeError;
use tribune_node::fsck::fsck as look;
use tribune_node::recovery::force::{RecoverOptions, recover as force};
use tribune_raft_store::command::Rejection;
use tribune_raft_store::stopped::StoppedError;

use crate::args::{BackupArgs, RecoverArgs, RestoreArgs};
use crate::context::{Context, unexpected};
use crate::exit::Exit;
use crate::json::{BackupView, FsckView, RecoveredView, RestoredView};
use crate::output::disaster;
use crate::places::{no_file, no_folder};
use crate::problem::{Done, Problem, plain};

/// How long a check of a disk may take beyond any patience: all of it is read.
const LOOKING: Duration = Duration::from_secs(3600);

/// `backup`.
pub async fn backup(context: &mut Context, args: BackupArgs) -> Done {
    let (about, size) = match from_running(context, &args).await {
        // Nobody answers: what is on its disk is asked, unless the node runs after all.
        Err(problem) if problem.exit == Exit::NoAnswer && context.global.peer.is_empty() && !context.has_node().await => {
            from_stopped(&context.global.data, &args.file).await.map_err(plain)?
        }
        made => made?,
    };
    let file = args.file.display();
    context.print.show("backup", || disaster::backup(&about, size, &file), || BackupView::of(&about, size, &file));
    Ok(whole(about.incomplete.is_empty()))
}

async fn from_running(context: &mut Context, args: &BackupArgs) -> Done<(About, u64)> {
    let draft = Draft::begin(&args.file).map_err(plain)?;
    context.backup(draft.writer().map_err(plain)?).await?;
    draft.finish().map_err(plain)
}

/// `restore`.
pub async fn restore(context: &mut Context, args: RestoreArgs) -> Done {
    context.only_here()?;
    no_folder(&args.file, "the file that `tribune backup` wrote")?;
    no_file(&context.global.data)?;
    let RestoreArgs { file, name, replace, node, recovery } = args;
    let options = RestoreOptions {
        file,
        data: context.global.data.clone(),
        name,
        existing: if replace { Existing::IsReplaced } else { Existing::Stays },
        key: context.global.key.clone(),
        good_for: recovery.good_for,
        epoch: recovery.epoch,
        control: node.control,
        data_address: node.data_address,
        platform: node.platform,
        runners: node.runner.into_iter().collect(),
        process_group: node.process_group,
        voter: node.voter.into(),
    };
    let restored = make_from(options).await.map_err(not_restored)?;
    let data = context.global.data.display();
    context.print.show("restored", || disaster::restored(&restored, &data), || RestoredView::of(&restored));
    Ok(whole(restored.about.incomplete.is_empty()))
}

/// `fsck`.
pub async fn fsck(context: &mut Context) -> Done {
    context.only_here()?;
    let found = if context.has_node().await {
        match context.ask_within(ApiRequest::Fsck, LOOKING).await? {
            ApiResponse::Fsck(found) => *found,
            _ => return Err(unexpected("a check of the disk")),
        }
    } else {
        look(DataFolder::open(&context.global.data).map_err(plain)?).await.map_err(plain)?
    };
    context.print.show("fsck", || disaster::fsck(&found), || FsckView::of(&found));
    Ok(whole(found.findings.is_empty()))
}

/// `recover`.
pub async fn recover(context: &mut Context, args: RecoverArgs) -> Done {
    context.only_here()?;
    let options = RecoverOptions {
        data: context.global.data.clone(),
        key: context.global.key.clone(),
        good_for: args.recovery.good_for,
        epoch: args.recovery.epoch,
    };
    let recovered = force(options).await.map_err(|error| refused(&error))?;
    let data = context.global.data.display();
    context.print.show("recovered", || disaster::recovered(&recovered, &data), || RecoveredView::of(&recovered));
    Ok(whole(recovered.incomplete.is_empty()))
}

/// What lacks modules, or is damaged, is no error of the command.
fn whole(complete: bool) -> Exit {
    if complete { Exit::Done } else { Exit::Discrepancies }
}

/// A recovery that was not made.
fn refused(error: &NodeError) -> Problem {
    let todo = match error {
        NodeError::Stopped(StoppedError::Rejected(rejection)) => match **rejection {
            Rejection::Role { .. } | Rejection::UnknownKey { .. } => "sign it with an admin's key: name the key file with --key",
            _ => "",
        },
        NodeError::NotInRaft { .. } => "recover one of these, or restore a backup with `tribune restore`",
        _ => "",
    };
    Problem::new(error, todo)
}

fn not_restored(error: BackupError) -> Problem {
    match error {
        BackupError::Node(error) => refused(&error),
        other => plain(other),
    }
}
