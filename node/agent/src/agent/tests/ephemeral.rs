//! Updates whose software runs until the node is restarted.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::json;
use tribune_messages::node::{Keep, Want};
use tribune_raft_store::model::{NodeReport, Outcome};

use super::world::*;
use super::{regressed, settled, until};
use crate::agent::{Agent, LocalRegressError};

/// A node that has version 1 installed and runs version 2, by this update. Module `b` is the same in both.
async fn running(world: &mut World, agent: &Agent) -> Update {
    let b = script("b", &world.source, "exec sleep 1009", json!({}));
    let one = [app("1.0.0", &[script("a", &world.source, "exec sleep 1001", json!({})), b.clone()])];
    let two = [app("2.0.0", &[script("a", &world.source, "exec sleep 1002", json!({})), b])];
    world.install(agent, &[], &one).await;
    let standing = agent.standing().borrow().clone();
    let update = Update { keep: Keep::UntilRestart, ..world.update(&standing, &one, &two) };
    update.to_ready(agent).await;
    update.want(agent, Want::Settled);
    update.until(agent, |reports| matches!(reports.last(), Some(NodeReport::Running { .. }))).await;
    update
}

/// The version of each module that runs.
async fn versions(agent: &Agent) -> Vec<(String, Option<String>)> {
    agent.processes().await.into_iter().map(|process| (process.name, process.version)).collect()
}

fn files(world: &World, folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![world.folder.path().join(folder)];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() { left.push(path) } else { found.push(path) }
        }
    }
    found
}

#[tokio::test]
async fn it_lies_outside_local_storage_makes_no_generation_and_shares_what_is_the_same() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = running(&mut world, &agent).await;
    let standing = agent.standing().borrow().clone();
    assert_eq!(standing.current.number, 1);
    assert_eq!(standing.ephemeral.unwrap().update, update.id);
    assert_eq!(files(&world, "local/modules").len(), 2, "nothing came to local storage");
    assert!(!world.folder.path().join("local/generations/2").exists());
    let running = versions(&agent).await;
    assert_eq!(running, [("app/a".to_owned(), Some("2.0.0".to_owned())), ("app/b".to_owned(), Some("1.0.0".to_owned()))]);
    let shared =
        files(&world, "ephemeral").into_iter().filter(|path| path.symlink_metadata().is_ok_and(|about| about.nlink() == 2));
    assert_eq!(shared.count(), 1, "module b is one file");
    let local = agent.local().await;
    assert!(local.ephemeral.is_some() && local.manifests.len() == 2, "both versions are described: {local:?}");

    // The next agent goes on with it.
    agent.stop().await;
    world.keeper.log();
    let agent = world.agent().await;
    assert_eq!(versions(&agent).await, running);
    assert!(world.keeper.log().is_empty(), "nothing was started again");

    update.want(&agent, Want::Regressed { why: "somebody took it back".into() });
    update.until(&agent, regressed).await;
    update.end(&agent, Outcome::Regressed).await;
    let back = versions(&agent).await;
    assert_eq!(back[0].1.as_deref(), Some("1.0.0"), "{back:?}");
    until("nothing is left of it", || files(&world, "ephemeral").is_empty()).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_node_restart_undoes_it_and_what_is_installed_runs() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = running(&mut world, &agent).await;
    agent.stop().await;
    world.restart_node();
    let agent = world.agent().await;
    let restarted =
        |reports: &[NodeReport]| matches!(reports.last(), Some(NodeReport::Restarted { current }) if current.number == 1);
    update.until(&agent, restarted).await;
    assert!(files(&world, "ephemeral").is_empty(), "its folder is wiped");
    until("both run", || world.keeper.running().len() == 2).await;
    assert!(versions(&agent).await.iter().all(|(_, version)| version.as_deref() == Some("1.0.0")));
    update.end(&agent, Outcome::Regressed).await;
    agent.stop().await;
}

#[tokio::test]
async fn persisted_it_is_installed_without_any_network_and_no_process_is_touched() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = running(&mut world, &agent).await;
    let fetched = world.source.fetched.lock().unwrap().len();
    world.keeper.log();
    update.want(&agent, Want::Persisted);
    let reports = update.until(&agent, settled).await;
    assert!(matches!(reports.last(), Some(NodeReport::Settled { current }) if current.number == 2), "{reports:?}");
    update.end(&agent, Outcome::Completed).await;
    assert_eq!(world.source.fetched.lock().unwrap().len(), fetched, "nothing was fetched");
    assert!(world.keeper.log().is_empty(), "no process was touched");
    assert!(agent.standing().borrow().ephemeral.is_none());
    assert!(!files(&world, "ephemeral").is_empty(), "its children run from there");

    agent.stop().await;
    world.restart_node();
    let agent = world.agent().await;
    until("both run", || world.keeper.running().len() == 2).await;
    assert_eq!(versions(&agent).await[0].1.as_deref(), Some("2.0.0"));
    assert!(files(&world, "ephemeral").is_empty());
    agent.stop().await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_takes_it_back_by_itself() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = running(&mut world, &agent).await;
    let fetched = world.source.fetched.lock().unwrap().len();
    let current = agent.local_regress(None, None).await.unwrap();
    assert_eq!(current.number, 1);
    assert_eq!(versions(&agent).await[0].1.as_deref(), Some("1.0.0"));
    assert_eq!(world.source.fetched.lock().unwrap().len(), fetched, "nothing was fetched");
    let reports = update.until(&agent, regressed).await;
    assert!(matches!(reports.last(), Some(NodeReport::Regressed { why: Some(_), .. })), "{reports:?}");
    update.end(&agent, Outcome::Regressed).await;
    agent.stop().await;
}

#[tokio::test]
async fn persisted_it_is_taken_back_also_after_the_node_was_restarted() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = running(&mut world, &agent).await;
    update.want(&agent, Want::Persisted);
    update.until(&agent, settled).await;
    agent.stop().await;
    world.restart_node();
    let agent = world.agent().await;
    until("both run", || world.keeper.running().len() == 2).await;
    assert!(files(&world, "ephemeral").is_empty(), "what it ran from is wiped");
    assert_eq!(versions(&agent).await[0].1.as_deref(), Some("2.0.0"));
    update.want(&agent, Want::Regressed { why: "another node could not persist it".into() });
    let reports = update.until(&agent, regressed).await;
    assert!(matches!(reports.last(), Some(NodeReport::Regressed { current, .. }) if current.number == 1), "{reports:?}");
    assert_eq!(versions(&agent).await[0].1.as_deref(), Some("1.0.0"));
    update.end(&agent, Outcome::Regressed).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_node_restart_in_the_middle_of_its_changeover_undoes_it_like_any_other() {
    let mut world = World::new();
    let agent = world.agent().await;
    let slow = json!({ "health": { "settle": "60s" } });
    let one = [app("1.0.0", &[script("a", &world.source, "exec sleep 1001", json!({}))])];
    let two = [app("2.0.0", &[script("a", &world.source, "exec sleep 1002", slow)])];
    world.install(&agent, &[], &one).await;
    let standing = agent.standing().borrow().clone();
    let update = Update { keep: Keep::UntilRestart, ..world.update(&standing, &one, &two) };
    update.to_ready(&agent).await;
    update.want(&agent, Want::Settled);
    update.until(&agent, |reports| reports.last() == Some(&NodeReport::Started)).await;
    agent.stop().await;
    world.restart_node();
    let agent = world.agent().await;
    let reports = update.until(&agent, |reports| matches!(reports.last(), Some(NodeReport::Restarted { .. }))).await;
    assert!(matches!(reports.last(), Some(NodeReport::Restarted { current }) if current.number == 1), "{reports:?}");
    update.end(&agent, Outcome::Regressed).await;
    assert_eq!(agent.local().await.failed.len(), 0, "nothing of it has failed");
    agent.stop().await;
}

#[tokio::test]
async fn a_node_that_was_cut_off_and_restarted_goes_back_by_itself_before_the_master_hears_of_the_restart() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = running(&mut world, &agent).await;
    agent.stop().await;
    world.restart_node();
    let agent = world.agent().await;
    update.until(&agent, |reports| matches!(reports.last(), Some(NodeReport::Restarted { .. }))).await;
    let current = agent.local_regress(None, None).await.unwrap();
    assert_eq!(current.number, 0, "it goes back from what was installed before the update");
    until("nothing runs", || world.keeper.running().is_empty()).await;
    update.end(&agent, Outcome::Regressed).await;
    agent.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_not_taken_back_and_the_answer_says_what_to_do() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = running(&mut world, &agent).await;
    agent.stop().await;
    let folder = world.folder.path().join("ephemeral").join(update.id.to_string());
    let both = files(&world, "ephemeral").into_iter().filter(|path| path.to_string_lossy().ends_with("generation.json"));
    let damaged = both.map(|path| std::fs::write(path, "{").unwrap()).count();
    assert_eq!(damaged, 2, "the file and its copy");
    let agent = world.agent().await;
    let refused = agent.local_regress(None, None).await;
    let Err(LocalRegressError::Refused(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains(&folder.display().to_string()) && why.contains("restart the node"), "{why}");
    agent.stop().await;
    world.restart_node();
    let agent = world.agent().await;
    until("what is installed runs", || world.keeper.running().len() == 2).await;
    update.end(&agent, Outcome::Regressed).await;
    agent.stop().await;
}
