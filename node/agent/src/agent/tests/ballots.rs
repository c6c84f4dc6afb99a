//! Who is asked late, who objects late, and processes that the node did not start.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};

use tribune_messages::registration::{FoundBy, Registration};
use tribune_raft_store::model::{BallotCast, ProcessName, Silent, Span};

use super::*;
use crate::agent::Agent;

fn voted(reports: &[NodeReport]) -> Option<&[BallotCast]> {
    reports.iter().find_map(|report| match report {
        NodeReport::Voted { ballots } => Some(ballots.as_slice()),
        _ => None,
    })
}

fn vetoed(reports: &[NodeReport], why: &str) -> bool {
    voted(reports).is_some_and(|ballots| ballots.iter().any(|ballot| ballot.standing_veto().is_some_and(|reason| reason == why)))
}

/// A process that somebody else started.
struct Stranger(Child);

impl Stranger {
    fn start(world: &World) -> Self {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let file = world.folder.path().join("stranger.pid");
        std::fs::write(file.with_extension("new"), child.id().to_string()).unwrap();
        std::fs::rename(file.with_extension("new"), file).unwrap();
        Self(child)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Depends on `app/base`. Its hook says the text of the file `no`, if there is one, and then vetoes.
fn registration(world: &World) -> Registration {
    let hook = world.folder.path().join("hook");
    let no = world.folder.path().join("no").display().to_string();
    std::fs::write(hook.with_extension("new"), format!("#!/bin/sh\n! cat '{no}' 2>/dev/null\n")).unwrap();
    std::fs::set_permissions(hook.with_extension("new"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(hook.with_extension("new"), &hook).unwrap();
    Registration {
        name: ProcessName::new("stranger").unwrap(),
        found_by: FoundBy::PidFile(world.folder.path().join("stranger.pid")),
        hook: Some(vec![hook.display().to_string()]),
        depends_on: vec!["app/base".parse().unwrap()],
        consumes: vec![],
        silent: Silent::Veto,
        within: Span::from_secs(20),
        ready_within: Span::from_secs(10),
    }
}

/// A node with a module that speaks, and an update of it.
async fn speaking(world: &mut World, agent: &Agent, more: serde_json::Value) -> Update {
    let one = [app("1.0.0", &[speaker("base", &world.source, "1", more)])];
    let two = [app("2.0.0", &[speaker("base", &world.source, "2", json!({}))])];
    world.install(agent, &[], &one).await;
    until("a hello", || world.heard().len() == 1).await;
    let standing = agent.standing().borrow().clone();
    world.update(&standing, &one, &two)
}

#[tokio::test]
async fn a_registered_process_is_asked_by_its_hook_and_its_registration_survives_agent_and_node() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = speaking(&mut world, &agent, json!({})).await;
    let refused = agent.register(Registration { depends_on: vec![], ..registration(&world) }).await.unwrap_err();
    assert!(refused.contains("would never be asked"), "{refused}");
    let info = agent.register(registration(&world)).await.unwrap();
    assert_eq!((info.state.as_str(), info.process), ("gone", None));
    let stranger = Stranger::start(&world);
    agent.stop().await;

    let agent = world.agent().await;
    let shown = agent.processes().await.into_iter().find(|info| info.name == "stranger").unwrap();
    assert_eq!(shown.registered, Some(registration(&world)));
    assert_eq!((shown.state.as_str(), shown.process.unwrap().pid), ("running", stranger.0.id()));
    std::fs::write(world.folder.path().join("no"), "the tapes\nare turning").unwrap();
    update.want(&agent, Want::Voted);
    let reports = update.until(&agent, |reports| voted(reports).is_some()).await;
    let answers: Vec<_> = voted(&reports).unwrap().iter().map(|b| (b.process.name.as_str(), b.standing_veto())).collect();
    assert_eq!(answers, [("app/base", None), ("stranger", Some("are turning"))]);
    update.end(&agent, Outcome::Aborted).await;
    agent.unregister("stranger".parse().unwrap()).await.unwrap();
    let unknown = agent.unregister("stranger".parse().unwrap()).await.unwrap_err();
    assert!(unknown.contains("none is"), "{unknown}");
    agent.register(registration(&world)).await.unwrap();
    agent.stop().await;

    world.restart_node();
    let agent = world.agent().await;
    assert!(agent.processes().await.iter().any(|info| info.name == "stranger" && info.state == "running"));
    agent.stop().await;
}

#[tokio::test]
async fn a_registered_process_that_says_nothing_and_has_no_hook_has_vetoed_unless_its_silence_is_consent() {
    let mut world = World::new();
    let agent = world.agent().await;
    let mut update = speaking(&mut world, &agent, json!({})).await;
    let _stranger = Stranger::start(&world);
    let silent = Registration { hook: None, within: Span::from_millis(300), ..registration(&world) };
    agent.register(silent.clone()).await.unwrap();
    update.want(&agent, Want::Voted);
    update.until(&agent, |reports| vetoed(reports, "no answer: it did not say hello within 300ms")).await;
    agent.register(Registration { silent: Silent::Accept, ..silent }).await.unwrap();
    update.round = 1;
    update.want(&agent, Want::Voted);
    let accepted = |ballots: &[BallotCast]| ballots.len() == 2 && ballots.iter().all(|ballot| ballot.answer == Answer::Accept);
    update.until(&agent, |reports| voted(reports).is_some_and(accepted)).await;
    update.end(&agent, Outcome::Aborted).await;
    agent.stop().await;
}

fn stand_in(reports: &[NodeReport]) -> Option<&BallotCast> {
    voted(reports)?.iter().find(|ballot| ballot.process.pid == 0)
}

#[tokio::test]
async fn a_registered_process_that_cannot_be_found_has_vetoed_and_is_asked_once_it_is_found() {
    let mut world = World::new();
    let agent = world.agent().await;
    let mut update = speaking(&mut world, &agent, json!({})).await;
    std::fs::write(world.folder.path().join("stranger.pid"), "ten").unwrap();
    let lost = Registration { within: Span::from_millis(300), ..registration(&world) };
    agent.register(lost.clone()).await.unwrap();
    update.want(&agent, Want::Voted);
    let reports = update.until(&agent, |reports| stand_in(reports).is_some()).await;
    let veto = stand_in(&reports).unwrap().clone();
    let why = veto.standing_veto().unwrap();
    assert!(why.starts_with("it cannot be told which process stranger on node n1 is: pid file /"), "{why}");
    assert!(why.ends_with("stranger.pid: it does not hold the number of a process"), "{why}");
    agent.stop().await;

    let agent = world.agent().await;
    update.overruled.push(Overruling { process: veto.process.clone(), by: "anna".into(), why: "a leak".into() });
    update.to_ready(&agent).await;
    let _stranger = Stranger::start(&world);
    std::fs::write(world.folder.path().join("no"), "here I am").unwrap();
    let reports = update.until(&agent, |reports| vetoed(reports, "here I am")).await;
    assert!(stand_in(&reports).unwrap().lapsed);
    update.end(&agent, Outcome::Aborted).await;
    agent.stop().await;
}

#[tokio::test]
async fn the_veto_of_a_registered_process_that_cannot_be_found_lapses_with_its_registration() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = speaking(&mut world, &agent, json!({})).await;
    std::fs::write(world.folder.path().join("stranger.pid"), "ten").unwrap();
    agent.register(Registration { within: Span::from_millis(300), ..registration(&world) }).await.unwrap();
    update.want(&agent, Want::Voted);
    update.until(&agent, |reports| stand_in(reports).is_some_and(|ballot| !ballot.lapsed)).await;
    agent.unregister("stranger".parse().unwrap()).await.unwrap();
    update.until(&agent, |reports| stand_in(reports).is_some_and(|ballot| ballot.lapsed)).await;
    update.end(&agent, Outcome::Aborted).await;
    agent.stop().await;
}

#[tokio::test]
async fn the_silence_of_a_registered_process_that_cannot_be_found_is_consent_if_it_says_so() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = speaking(&mut world, &agent, json!({})).await;
    std::fs::write(world.folder.path().join("stranger.pid"), "ten").unwrap();
    let within = Span::from_millis(300);
    agent.register(Registration { silent: Silent::Accept, within, ..registration(&world) }).await.unwrap();
    update.to_ready(&agent).await;
    update.want(&agent, Want::Settled);
    let reports = update.until(&agent, settled).await;
    assert_eq!(stand_in(&reports).map(|ballot| &ballot.answer), Some(&Answer::Accept));
    update.end(&agent, Outcome::Completed).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_registered_process_whose_pid_file_is_empty_for_a_moment_is_asked_itself() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = speaking(&mut world, &agent, json!({})).await;
    std::fs::write(world.folder.path().join("stranger.pid"), "").unwrap();
    agent.register(registration(&world)).await.unwrap();
    update.want(&agent, Want::Voted);
    let asked = |reports: &[NodeReport]| matches!(reports, [NodeReport::Asked { processes }] if processes.len() == 2);
    update.until(&agent, asked).await;
    let stranger = Stranger::start(&world);
    let reports = update.until(&agent, |reports| voted(reports).is_some()).await;
    let answers: Vec<_> = voted(&reports).unwrap().iter().map(|ballot| (ballot.process.pid, ballot.answer.clone())).collect();
    let base = world.keeper.running()[0].2;
    assert_eq!(answers, [(base, Answer::Accept), (stranger.0.id(), Answer::Accept)]);
    update.end(&agent, Outcome::Aborted).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_registered_process_that_was_restarted_since_it_accepted_is_asked_before_the_changeover() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = speaking(&mut world, &agent, json!({})).await;
    let first = Stranger::start(&world);
    agent.register(registration(&world)).await.unwrap();
    update.to_staged(&agent).await;
    drop(first);
    let second = Stranger::start(&world);
    std::fs::write(world.folder.path().join("no"), "I have just begun").unwrap();
    update.want(&agent, Want::Ready);
    let reports = update.until(&agent, |reports| vetoed(reports, "I have just begun")).await;
    let veto = voted(&reports).unwrap().iter().find(|ballot| ballot.standing_veto().is_some()).unwrap();
    assert_eq!(veto.process.pid, second.0.id());
    assert!(!world.heard().contains(&"app/base 1.0.0 changeover-pending".to_owned()), "nobody was told to get ready");
    // Its veto lapses with it.
    drop(second);
    let lapsed = |ballots: &[BallotCast]| ballots.iter().any(|ballot| ballot.lapsed && ballot.process == veto.process);
    update.until(&agent, |reports| voted(reports).is_some_and(lapsed)).await;
    update.end(&agent, Outcome::Aborted).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_registered_process_that_restarts_again_and_again_leaves_nothing_of_itself_in_the_journal() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = speaking(&mut world, &agent, json!({})).await;
    let mut stranger = Stranger::start(&world);
    agent.register(registration(&world)).await.unwrap();
    update.to_ready(&agent).await;
    let mut reports = Vec::new();
    for _ in 0..3 {
        drop(stranger);
        stranger = Stranger::start(&world);
        let pid = stranger.0.id();
        let accepted = |reports: &[NodeReport]| voted(reports).is_some_and(|all| all.iter().any(|one| one.process.pid == pid));
        let ready = |reports: &[NodeReport]| accepted(reports) && reports.last() == Some(&NodeReport::Ready);
        reports = update.until(&agent, ready).await;
    }
    let pids: Vec<_> = voted(&reports).unwrap().iter().map(|ballot| ballot.process.pid).collect();
    assert_eq!(pids, [world.keeper.running()[0].2, stranger.0.id()]);
    assert!(matches!(&reports[0], NodeReport::Asked { processes } if processes.len() == 2), "{reports:?}");
    update.end(&agent, Outcome::Aborted).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_go_for_a_readiness_that_a_newcomers_veto_ended_is_reported_as_not_taken() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = speaking(&mut world, &agent, json!({})).await;
    let first = Stranger::start(&world);
    agent.register(registration(&world)).await.unwrap();
    update.to_ready(&agent).await;
    world.keeper.log();
    std::fs::write(world.folder.path().join("no"), "I have just begun").unwrap();
    drop(first);
    let _second = Stranger::start(&world);
    update.until(&agent, |reports| vetoed(reports, "I have just begun")).await;
    until("it goes on as before", || world.heard().contains(&"app/base 1.0.0 resume".to_owned())).await;
    // The master had committed it before it heard of the veto, and hears no veto after it.
    update.want(&agent, Want::Settled);
    let reports = update.until(&agent, regressed).await;
    let Some(NodeReport::Regressed { current, why: Some(why) }) = reports.last() else { panic!("{reports:?}") };
    assert_eq!(current.number, 1);
    assert_eq!(why, "the go came when this node was no longer ready; vetoed by stranger: I have just begun");
    update.end(&agent, Outcome::Regressed).await;
    assert!(world.keeper.log().is_empty(), "no process was touched");
    agent.stop().await;
}

#[tokio::test]
async fn a_go_that_crosses_the_veto_of_a_process_that_spoke_only_then_changes_nothing() {
    let mut world = World::new();
    let agent = world.agent().await;
    let home = world.folder.path().join("home");
    std::fs::write(home.join("away-1.0.0"), "").unwrap();
    std::fs::write(home.join("veto"), "").unwrap();
    let one = [app("1.0.0", &[speaker("base", &world.source, "1", json!({}))])];
    let two = [app("2.0.0", &[speaker("base", &world.source, "2", json!({}))])];
    world.install(&agent, &[], &one).await;
    let standing = agent.standing().borrow().clone();
    let update = world.update(&standing, &one, &two);
    // It counts as one that does not speak, and so the node is ready.
    update.to_ready(&agent).await;
    world.keeper.log();
    std::fs::remove_file(home.join("away-1.0.0")).unwrap();
    let taken_back = |reports: &[NodeReport]| matches!(reports.last(), Some(NodeReport::Staged | NodeReport::Released));
    update.until(&agent, |reports| vetoed(reports, "three calls are up") && taken_back(reports)).await;
    update.want(&agent, Want::Settled);
    let reports = update.until(&agent, regressed).await;
    let Some(NodeReport::Regressed { current, why: Some(why) }) = reports.last() else { panic!("{reports:?}") };
    assert_eq!(current.number, 1);
    assert_eq!(why, "the go came when this node was no longer ready; vetoed by app/base: three calls are up");
    update.end(&agent, Outcome::Regressed).await;
    assert!(world.keeper.log().is_empty(), "no process was touched");
    agent.stop().await;
}

#[tokio::test]
async fn deferrals_are_asked_again_and_end_as_a_veto_when_their_cap_has_passed_also_when_the_agent_dies() {
    let mut world = World::new();
    let agent = world.agent().await;
    let update = speaking(&mut world, &agent, json!({})).await;
    let update = Update { max_defer: Span::from_millis(2_500), ..update };
    std::fs::write(world.folder.path().join("home/defer"), "").unwrap();
    update.want(&agent, Want::Voted);
    until("two proposals", || world.heard().iter().filter(|line| line.ends_with("proposal")).count() == 2).await;
    agent.stop().await;
    let agent = world.agent().await;
    update.want(&agent, Want::Voted);
    let why = "deferred for longer than the update may wait (2500ms); last reason: a call is up";
    update.until(&agent, |reports| vetoed(reports, why)).await;
    update.end(&agent, Outcome::Aborted).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_process_may_veto_instead_of_getting_ready_and_once_overruled_is_changed_over_without_its_ready() {
    let mut world = World::new();
    let agent = world.agent().await;
    let mut update = speaking(&mut world, &agent, json!({ "changeover": { "ready-within": "400ms" } })).await;
    let home = world.folder.path().join("home");
    std::fs::write(home.join("late"), "").unwrap();
    update.to_staged(&agent).await;
    update.want(&agent, Want::Ready);
    let reports = update.until(&agent, |reports| vetoed(reports, "a call came in")).await;
    until("it goes on as before", || world.heard().contains(&"app/base 1.0.0 resume".to_owned())).await;
    let process = voted(&reports).unwrap()[0].process.clone();

    update.overruled.push(Overruling { process, by: "anna".into(), why: "a leak".into() });
    std::fs::remove_file(home.join("late")).unwrap();
    std::fs::write(home.join("deaf"), "").unwrap();
    update.want(&agent, Want::Ready);
    update.until(&agent, |reports| reports.last() == Some(&NodeReport::Ready)).await;
    update.want(&agent, Want::Settled);
    update.until(&agent, settled).await;
    update.end(&agent, Outcome::Completed).await;
    agent.stop().await;
}

#[tokio::test]
async fn who_has_not_said_that_it_saw_the_outcome_hears_the_same_from_the_next_agent() {
    let mut world = World::new();
    let agent = world.agent().await;
    // It is affected and goes on, so it lives on to be told.
    let above = speaker("above", &world.source, "same", json!({ "depends-on": ["base"] }));
    let one = [app("1.0.0", &[script("base", &world.source, "exec sleep 1001", json!({})), above.clone()])];
    let two = [app("2.0.0", &[script("base", &world.source, "exec sleep 1002", json!({})), above])];
    world.install(&agent, &[], &one).await;
    until("a hello", || world.heard().len() == 1).await;
    let seen = world.folder.path().join("home/never-seen");
    std::fs::write(&seen, "").unwrap();
    world.install(&agent, &one, &two).await;
    let told = || world.heard().iter().filter(|line| line.ends_with("outcome")).count();
    until("the outcome", || told() == 1).await;
    agent.stop().await;
    std::fs::remove_file(seen).unwrap();
    let agent = world.agent().await;
    until("the outcome again", || told() == 2).await;
    let journals = world.folder.path().join("local/updates");
    until("it was seen", || std::fs::read_dir(&journals).unwrap().count() == 0).await;
    agent.stop().await;
}
