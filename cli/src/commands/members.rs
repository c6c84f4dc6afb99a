//! Commands about who is in the cluster, and what holds for all of it.

use tokio::time::Instant;
use tribune_messages::api::{ApiError, ApiRequest, ApiResponse, Query, Wait};
use tribune_raft_store::command::{Accepted, UserCommand};
use tribune_raft_store::model::{NodeName, VoterPreference};

use super::show_done;
use crate::args::ClusterCommand;
use crate::context::{Context, unexpected};
use crate::exit::Exit;
use crate::json::SettingsView;
use crate::output::fleet;
use crate::problem::{Done, Problem};

/// `node remove`.
pub async fn remove(context: &mut Context, node: NodeName) -> Done {
    context.node(&node).await?;
    let until = Instant::now() + context.global.patience();
    let mut seen = last_event(context).await?;
    if let Accepted::Leaving { .. } = context.order(UserCommand::RemoveNode { node: node.clone() }).await? {
        while !is_out(context, &node).await? {
            if Instant::now() >= until {
                let what = format!("node {node} is to leave, but Raft cannot do without it yet");
                let todo = "it leaves by itself once a majority of the other voters is connected and, where there are three or more nodes \
                            that may vote, one of them can take its place; `tribune node list` shows who is there";
                return Err(Problem::with(Exit::NoAnswer, what, todo));
            }
            seen = next_event(context, seen).await.or_else(|problem| while_master_changes(problem).map(|()| seen))?;
        }
    }
    show_done(context, &format!("node {node} is in the cluster no more; what runs on it goes on"));
    Ok(Exit::Done)
}

/// Whether a node is in the cluster no more.
async fn is_out(context: &mut Context, node: &NodeName) -> Done<bool> {
    match context.nodes().await {
        Ok(nodes) => Ok(nodes.iter().all(|info| info.node.name != *node)),
        // It is the node that was asked.
        Err(problem) if problem.what == ApiError::Removed.to_string() => Ok(true),
        Err(problem) => while_master_changes(problem).map(|()| false),
    }
}

/// A node that is master hands over before it leaves: for a moment there is no answer.
fn while_master_changes(problem: Problem) -> Done<()> {
    if problem.exit == Exit::NoAnswer || problem.what == ApiError::Removed.to_string() { Ok(()) } else { Err(problem) }
}

async fn last_event(context: &mut Context) -> Done<Option<u64>> {
    events(context, None, Wait::No).await
}

/// Waits until something happens.
async fn next_event(context: &mut Context, seen: Option<u64>) -> Done<Option<u64>> {
    Ok(events(context, Some(seen.unwrap_or(0)), Wait::ForSomething).await?.or(seen))
}

async fn events(context: &mut Context, after: Option<u64>, wait: Wait) -> Done<Option<u64>> {
    match context.ask(ApiRequest::Query(Query::Events { after, limit: 1, wait })).await? {
        ApiResponse::Events(events) => Ok(events.last().map(|event| event.seq)),
        _ => Err(unexpected("the events")),
    }
}

/// `node set-voter`.
pub async fn set_voter(context: &mut Context, node: NodeName, voter: Option<VoterPreference>) -> Done {
    context.node(&node).await?;
    let what = match voter {
        Some(VoterPreference::Never) => format!("node {node} is never a voter"),
        Some(VoterPreference::May) => format!("node {node} may be a voter"),
        Some(VoterPreference::Prefer) => format!("node {node} is a voter rather than others"),
        None => format!("node {node} is a voter as its own settings say"),
    };
    context.order(UserCommand::SetVoter { node, voter }).await?;
    show_done(context, &what);
    Ok(Exit::Done)
}

/// `cluster …`.
pub async fn cluster(context: &mut Context, command: ClusterCommand) -> Done {
    let ClusterCommand::Settings { away_after, voters, standbys } = command;
    if away_after.is_some() || voters.is_some() || standbys.is_some() {
        context.order(UserCommand::SetSettings { away_after, voters, standbys }).await?;
    }
    let ApiResponse::Settings(settings) = context.ask(ApiRequest::Query(Query::Settings)).await? else {
        return Err(unexpected("the settings"));
    };
    context.print.show("settings", || fleet::settings(&settings), || SettingsView::of(&settings));
    Ok(Exit::Done)
}
