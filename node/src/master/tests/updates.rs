//! Updates, from the order to the end.

use std::time::Duration;

use tokio::time::timeout;
use tribune_messages::api::{ApiError, ApiResponse, Query, Wait};
use tribune_messages::node::Want;
use tribune_raft_store::command::{Rejection, UserCommand};
use tribune_raft_store::model::{Answer, BallotCast, Blocker, Decision, NodeReport, Outcome, Phase, ProcessRef, UpdateId};

use super::cluster::{Cluster, Script, name};

fn vetoed(reason: &str) -> Vec<BallotCast> {
    let process = ProcessRef { name: "till".into(), pid: 12, start_time: 34 };
    vec![BallotCast { process, answer: Answer::Veto { reason: reason.into() }, lapsed: false, overruled: false }]
}

async fn accept(node: &mut Script, update: UpdateId) {
    let asked = node.until(update, |want| *want == Want::Voted).await;
    node.report(&asked, NodeReport::Asked { processes: Vec::new() }).await;
    node.report(&asked, NodeReport::Voted { ballots: Vec::new() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_uploaded_published_and_rolled_out_to_a_node() {
    let mut cluster = Cluster::new().await;
    let mut node = cluster.join("edge").await;
    let package = cluster.publish(1, "1.0.0").await;
    let update = cluster.submit(2, "edge", package).await.unwrap();
    assert_eq!(cluster.submit(2, "edge", package).await.unwrap(), update, "a repeat gets the first answer");
    accept(&mut node, update).await;
    node.install(update).await;
    let info = cluster.until(update, Phase::ended).await;
    assert_eq!(info.update.phase, Phase::Ended { outcome: Outcome::Completed });
    assert_eq!((info.waiting, info.packages.len()), (None, 1));
    // Who says that it knows the update hears its end.
    node.state([update]).await;
    let ended = node.until(update, |want| matches!(want, Want::Ended { .. })).await;
    assert_eq!(ended.want, Want::Ended { outcome: Outcome::Completed, reason: None });

    let ApiResponse::Nodes(nodes) = cluster.ask(Query::Nodes).await.unwrap() else { panic!("nodes") };
    let edge = nodes.iter().find(|info| info.node.name == name("edge")).unwrap();
    assert!(edge.connected && !edge.master);
    assert_eq!(edge.packages.values().collect::<Vec<_>>(), ["1.0.0"]);
    assert_eq!(edge.packages, edge.should);
    assert!(nodes.iter().any(|info| info.master && info.connected && info.node.name == name("first")));
    let ApiResponse::Updates(updates) = cluster.ask(Query::Updates { limit: 10 }).await.unwrap() else { panic!("updates") };
    assert_eq!((updates[0].nodes, &updates[0].packages[..]), (1, &["billing 1.0.0".to_owned()][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_veto_stops_the_update_until_a_user_who_saw_it_decides() {
    let mut cluster = Cluster::new().await;
    let mut node = cluster.join("edge").await;
    let package = cluster.publish(1, "1.0.0").await;
    let update = cluster.submit(2, "edge", package).await.unwrap();
    let asked = node.until(update, |want| *want == Want::Voted).await;
    node.report(&asked, NodeReport::Voted { ballots: vetoed("the till is open") }).await;
    let info = cluster.until(update, |phase| *phase == Phase::Vetoed).await;
    let force =
        |seen| UserCommand::Decide { update, ballot_revision: seen, decision: Decision::Force { why: "it is closed".into() } };
    let stale = cluster.order(3, force(info.update.ballot_revision + 1)).await.unwrap_err();
    assert!(matches!(stale, ApiError::Rejected(rejection) if matches!(*rejection, Rejection::BallotsChanged { .. })));
    cluster.order(4, force(info.update.ballot_revision)).await.unwrap();
    let staged = node.until(update, |want| *want == Want::Staged).await;
    assert_eq!((staged.overruled[0].by.as_str(), staged.overruled[0].why.as_str()), ("ada", "it is closed"));
    node.install(update).await;
    cluster.until(update, Phase::ended).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_with_blockers_is_rejected_with_its_plan() {
    let mut cluster = Cluster::new().await;
    let _node = cluster.join("edge").await;
    let package = cluster.publish(1, "1.0.0").await;
    let error = cluster.submit(2, "nowhere", package).await.unwrap_err();
    let ApiError::Rejected(rejection) = error else { panic!("{error}") };
    let Rejection::Blocked { plan } = *rejection else { panic!("{rejection}") };
    assert!(plan.blockers.contains(&Blocker::UnknownNode { node: name("nowhere") }), "{:?}", plan.blockers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_for_something_newer_is_answered_when_there_is() {
    let mut cluster = Cluster::new().await;
    let mut node = cluster.join("edge").await;
    let package = cluster.publish(1, "1.0.0").await;
    let update = cluster.submit(2, "edge", package).await.unwrap();
    let asking = cluster.until(update, |phase| *phase == Phase::Asking).await;
    let newer = cluster.update(update, Some(asking.index));
    tokio::pin!(newer);
    assert!(timeout(Duration::from_millis(300), &mut newer).await.is_err(), "there is nothing newer");
    accept(&mut node, update).await;
    let newer = newer.await;
    assert!(newer.index > asking.index && newer.update != asking.update);

    let ApiResponse::Events(before) = cluster.ask(Query::Events { after: None, limit: 1, wait: Wait::No }).await.unwrap() else {
        panic!("events")
    };
    let last = before[0].seq;
    let (events, cancelled) = tokio::join!(
        cluster.ask(Query::Events { after: Some(last), limit: 10, wait: Wait::ForSomething }),
        cluster.order(3, UserCommand::Cancel { update })
    );
    cancelled.unwrap();
    let ApiResponse::Events(events) = events.unwrap() else { panic!("events") };
    assert_eq!(events[0].seq, last + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_in_a_new_session_is_told_at_once_where_its_updates_are() {
    let mut cluster = Cluster::new().await;
    let mut node = cluster.join("edge").await;
    let package = cluster.publish(1, "1.0.0").await;
    let update = cluster.submit(2, "edge", package).await.unwrap();
    accept(&mut node, update).await;
    let mut node = node.again().await;
    let staged = node.until(update, |want| *want == Want::Staged).await;
    // What is in the record is taken again, and changes nothing.
    node.report(&staged, NodeReport::Voted { ballots: Vec::new() }).await;
    node.install(update).await;
    cluster.until(update, Phase::ended).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_the_master_any_more_says_so() {
    let cluster = Cluster::new().await;
    cluster.raft.shutdown().await;
    let mut reign = cluster.master.shared.reign.clone();
    super::cluster::soon("the end of the reign", reign.wait_for(Option::is_none)).await.unwrap();
    assert!(matches!(cluster.ask(Query::Nodes).await, Err(ApiError::NoMaster { .. })));
    assert!(!cluster.master.is_master());
}
