//! `update …` and `regress`.

use std::collections::BTreeSet;

use tribune_messages::api::{ApiRequest, ApiResponse};
use tribune_package::Inspection;
use tribune_raft_store::command::{Accepted, UserCommand};
use tribune_raft_store::model::{Decision, NodeName, Phase, UpdateId, UpdateKind, UpdateOptions, UpdateRequest};

use super::package::{count_copies, read_file};
use super::resolve::{Fleet, regress_targets, targets};
use super::{show_done, watch};
use crate::args::{DecideArgs, PlanArgs, RegressArgs, SubmitArgs, TargetArgs, UpdateCommand};
use crate::context::{Context, unexpected};
use crate::exit::Exit;
use crate::json::{Many, PlanView, SubmittedView, SummaryView, UpdateView};
use crate::manifests::Manifests;
use crate::output::update as text;
use crate::output::words::{count, list, stands};
use crate::problem::{Done, Problem};

/// `update …`.
pub async fn update(context: &mut Context, command: UpdateCommand) -> Done {
    match command {
        UpdateCommand::Plan(args) => plan(context, args).await,
        UpdateCommand::Submit(args) => submit(context, args).await,
        UpdateCommand::List { limit } => {
            let updates = context.updates(limit).await?;
            let view = || updates.iter().map(SummaryView::of).collect::<Many<_>>();
            context.print.show("updates", || text::list_of(&updates), view);
            Ok(Exit::Done)
        }
        UpdateCommand::Show { update } => {
            let info = context.update(update, None).await?;
            context.print.show("update", || text::show(&info), || UpdateView::of(&info));
            Ok(Exit::Done)
        }
        UpdateCommand::Watch { update } => watch::watch(context, update).await,
        UpdateCommand::Decide(args) => decide(context, args).await,
        UpdateCommand::Cancel { update } => {
            context.update(update, None).await?;
            context.order(UserCommand::Cancel { update }).await?;
            show_done(context, &format!("{update} is called off; what has changed goes back"));
            Ok(Exit::Done)
        }
        UpdateCommand::Pause { update } => {
            context.order(UserCommand::Pause { update }).await?;
            show_done(context, &format!("{update} is paused: no further node begins to change over"));
            Ok(Exit::Done)
        }
        UpdateCommand::Resume { update, watch } => {
            context.order(UserCommand::Resume { update }).await?;
            show_done(context, &format!("{update} goes on"));
            if watch { watch::watch(context, update).await } else { Ok(Exit::Done) }
        }
        UpdateCommand::Persist { update, watch } => {
            context.update(update, None).await?;
            context.order(UserCommand::Persist { update }).await?;
            show_done(context, &format!("{update} is persisted: its nodes install what runs"));
            if watch { watch::watch(context, update).await } else { Ok(Exit::Done) }
        }
    }
}

async fn fleet(context: &mut Context) -> Done<Fleet> {
    let nodes = context.nodes().await?;
    let classes = context.classes().await?;
    let packages = Manifests::of_store(&context.packages(None).await?)?;
    Ok(Fleet { nodes, classes, packages })
}

/// What was given as a file, and which nodes get what.
async fn wanted(
    context: &mut Context,
    args: &TargetArgs,
    options: UpdateOptions,
) -> Done<(Option<Inspection>, Fleet, UpdateRequest)> {
    let image = args.image.as_deref().map(read_file).transpose()?;
    let fleet = fleet(context).await?;
    let targets = targets(args, image.as_ref(), &fleet)?;
    Ok((image, fleet, UpdateRequest { kind: UpdateKind::Install, targets, options }))
}

/// The packages of a file that are not in the store yet.
fn unpublished<'a>(image: Option<&'a Inspection>, fleet: &Fleet) -> Vec<&'a tribune_package::build::InspectedPackage> {
    image.map_or(&[][..], |image| &image.packages).iter().filter(|package| fleet.packages.get(&package.id).is_none()).collect()
}

async fn plan(context: &mut Context, args: PlanArgs) -> Done {
    let (image, fleet, request) = wanted(context, &args.targets, (&args.options).into()).await?;
    if let Some(package) = unpublished(image.as_ref(), &fleet).first() {
        let what = format!("package {}@{} is not in the package store yet", package.manifest.name, package.manifest.version);
        return Err(Problem::new(
            what,
            "publish the file first, with `tribune package publish FILE`; a plan is made from what the store has",
        ));
    }
    let ApiResponse::Plan(plan) = context.ask(ApiRequest::Plan(Box::new(request))).await? else {
        return Err(unexpected("a plan"));
    };
    let names = fleet.packages.names();
    context.print.show("plan", || text::plan(&plan, &names), || PlanView::of(&plan, &names));
    if plan.blockers.is_empty() {
        return Ok(Exit::Done);
    }
    let blockers: Vec<String> = plan.blockers.iter().map(ToString::to_string).collect();
    let what = format!("the plan has {}", count(blockers.len(), "blocker"));
    Err(Problem::with(Exit::Blocked, what, "remove what blocks it; nothing was changed").detailed(blockers))
}

async fn submit(context: &mut Context, args: SubmitArgs) -> Done {
    let (image, fleet, request) = wanted(context, &args.targets, (&args.options).into()).await?;
    let new = unpublished(image.as_ref(), &fleet);
    if let (Some(file), Some(image), false) = (&args.targets.image, &image, new.is_empty()) {
        let (_, copies) = context.publish(file, image.size).await?;
        for package in new {
            let what = format!("published {}@{}, {}", package.manifest.name, package.manifest.version, count_copies(copies));
            context.print.note(&what);
        }
    }
    begin(context, request, args.detach).await
}

/// Submits, and watches unless told not to.
async fn begin(context: &mut Context, request: UpdateRequest, detach: bool) -> Done {
    let Accepted::Update { update } = context.order(UserCommand::Submit { request }).await? else {
        return Err(unexpected("a submission"));
    };
    let view = || SubmittedView { update: update.to_string() };
    context.print.show("submitted", || format!("submitted {update}"), view);
    if detach {
        return Ok(Exit::Done);
    }
    watch::watch(context, update).await
}

/// `regress`.
pub async fn regress(context: &mut Context, args: RegressArgs) -> Done {
    let fleet = fleet(context).await?;
    let targets = regress_targets(&args, &fleet)?;
    let options = UpdateOptions {
        skip_away: args.skip_away,
        accept_discrepancies: args.accept_discrepancy.into_iter().collect(),
        again: args.again,
        allow_drift: args.allow_drift,
        force: args.why,
        ..UpdateOptions::default()
    };
    begin(context, UpdateRequest { kind: UpdateKind::Regress, targets, options }, args.detach).await
}

async fn decide(context: &mut Context, args: DecideArgs) -> Done {
    let update = args.update;
    let info = context.update(update, None).await?;
    if !matches!(info.update.phase, Phase::Vetoed | Phase::Held { .. }) {
        let what = format!("there is nothing to decide: {update} {}", stands(&info.update));
        return Err(Problem::new(what, format!("`tribune update show {update}` says more")));
    }
    let members: BTreeSet<NodeName> = info.update.nodes.keys().cloned().collect();
    let decision = decision(&args, update, &members)?;
    let what = format!("decided on {update}: {}", text::decision(&decision));
    let ballot_revision = args.seen.unwrap_or(info.update.ballot_revision);
    context.order(UserCommand::Decide { update, ballot_revision, decision }).await?;
    show_done(context, &what);
    if args.watch { watch::watch(context, update).await } else { Ok(Exit::Done) }
}

/// The decision that was named, about an update of these nodes.
fn decision(args: &DecideArgs, update: UpdateId, members: &BTreeSet<NodeName>) -> Done<Decision> {
    if let Some(node) = args.only.iter().chain(&args.without).find(|node| !members.contains(*node)) {
        return Err(Problem::new(format!("node {node} is not in {update}"), format!("its nodes are: {}", list(members))));
    }
    Ok(match (&args.why, args.ask_again, args.abort) {
        (Some(why), _, _) => Decision::Force { why: why.clone() },
        (None, true, _) => Decision::AskAgain,
        (None, false, true) => Decision::Abort,
        (None, false, false) if args.only.is_empty() => {
            let nodes: BTreeSet<NodeName> = members.iter().filter(|node| !args.without.contains(node)).cloned().collect();
            if nodes.is_empty() {
                return Err(Problem::with(Exit::Usage, "no node would be left", "use --abort to change nothing"));
            }
            Decision::Only { nodes }
        }
        (None, false, false) => Decision::Only { nodes: args.only.iter().cloned().collect() },
    })
}
