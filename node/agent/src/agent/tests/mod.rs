#![allow(clippy::unwrap_used)]

use serde_json::json;
use tribune_messages::node::{Overruling, Want};
use tribune_raft_store::model::{Answer, NodeReport, Outcome, Step};

use self::world::*;
use super::LocalRegressError;

mod ballots;
mod ephemeral;
mod world;

fn settled(reports: &[NodeReport]) -> bool {
    matches!(reports.last(), Some(NodeReport::Settled { .. }))
}

fn regressed(reports: &[NodeReport]) -> bool {
    matches!(reports.last(), Some(NodeReport::Regressed { .. }))
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !so() {
        assert!(begin.elapsed() < LONG, "it does not come: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_accepted_update_goes_pending_ready_start_occurred_and_only_then_the_old_process_ends() {
    let mut world = World::new();
    let agent = world.agent().await;
    let above = speaker("above", &world.source, "same", json!({ "depends-on": ["base"] }));
    let one = [app("1.0.0", &[speaker("base", &world.source, "1", json!({})), above.clone()])];
    let two = [app("2.0.0", &[speaker("base", &world.source, "2", json!({})), above])];
    world.install(&agent, &[], &one).await;
    assert_eq!(world.keeper.log(), ["start app/base#1", "start app/above#1"]);
    until("two hellos", || world.heard().iter().filter(|line| line.ends_with("welcome")).count() == 2).await;

    let before = world.keeper.running();
    let generation = world.install(&agent, &one, &two).await;
    assert_eq!(generation.number, 2);
    assert_eq!(world.keeper.log(), ["start app/base#2", "stop app/base#1"]);
    let above_pid = |running: &[(String, u64, u32)]| running.iter().find(|(name, ..)| name == "app/above").unwrap().2;
    assert_eq!(above_pid(&before), above_pid(&world.keeper.running()), "an affected process goes on");
    until("the outcome", || world.heard().contains(&"app/above 1.0.0 outcome".to_owned())).await;
    let heard = world.heard();
    let place = |line: &str| heard.iter().position(|heard| heard == line).unwrap_or_else(|| panic!("{line}: {heard:?}"));
    let order =
        ["app/base 1.0.0 proposal", "app/base 1.0.0 changeover-pending", "app/base 2.0.0 welcome", "app/base 1.0.0 hand-over"];
    assert!(order.windows(2).all(|pair| place(pair[0]) < place(pair[1])), "{heard:?}");
    assert!(place("app/above 1.0.0 changeover-pending") < place("app/base 2.0.0 welcome"));
    assert!(place("app/base 2.0.0 welcome") < place("app/above 1.0.0 changeover-done"));
    until("the journal to be gone", || std::fs::read_dir(world.folder.path().join("local/updates")).unwrap().count() == 0).await;
    agent.stop().await;
    let storage = world.storage().await;
    assert_eq!(storage.current().await.unwrap().number(), 2);
}

#[tokio::test]
async fn a_veto_changes_nothing_and_a_user_may_go_past_it() {
    let mut world = World::new();
    let agent = world.agent().await;
    let one = [app("1.0.0", &[speaker("base", &world.source, "1", json!({}))])];
    let two = [app("2.0.0", &[speaker("base", &world.source, "2", json!({}))])];
    world.install(&agent, &[], &one).await;
    until("a hello", || world.heard().len() == 1).await;
    std::fs::write(world.folder.path().join("home/veto"), "").unwrap();
    world.keeper.log();

    let standing = agent.standing().borrow().clone();
    let mut update = world.update(&standing, &one, &two);
    update.want(&agent, Want::Voted);
    let reports = update.until(&agent, |reports| matches!(reports.last(), Some(NodeReport::Voted { .. }))).await;
    let Some(NodeReport::Voted { ballots }) = reports.last() else { panic!() };
    assert_eq!(ballots[0].answer, Answer::Veto { reason: "three calls are up".into() });
    assert_eq!(ballots[0].process.name, "app/base");
    let fetched = world.source.fetched.lock().unwrap().len();
    assert_eq!(fetched, 1, "nothing of the new package");
    let refused = agent.local_regress(None, None).await;
    assert!(matches!(refused, Err(LocalRegressError::Refused(why)) if why.contains("u2")));

    let overruling = Overruling { process: ballots[0].process.clone(), by: "anna".into(), why: "a leak".into() };
    update.overruled.push(overruling);
    update.want(&agent, Want::Staged);
    update.until(&agent, |reports| reports.last() == Some(&NodeReport::Staged)).await;
    until("overruled", || world.heard().contains(&"app/base 1.0.0 overruled".to_owned())).await;
    update.want(&agent, Want::Ready);
    update.until(&agent, |reports| reports.last() == Some(&NodeReport::Ready)).await;
    update.want(&agent, Want::Hold);
    update.until(&agent, |reports| reports.last() == Some(&NodeReport::Released)).await;
    until("resume", || world.heard().contains(&"app/base 1.0.0 resume".to_owned())).await;
    update.end(&agent, Outcome::Aborted).await;
    until("the outcome", || world.heard().contains(&"app/base 1.0.0 outcome".to_owned())).await;
    assert!(world.keeper.log().is_empty(), "no process was touched");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_dies_in_the_middle_goes_on_and_exactly_one_generation_runs() {
    for stops_at in 0..4 {
        let mut world = World::new();
        let agent = world.agent().await;
        let one = [app(
            "1.0.0",
            &[script("a", &world.source, "exec sleep 1001", json!({})), speaker("b", &world.source, "1", json!({}))],
        )];
        let two = [app(
            "2.0.0",
            &[script("a", &world.source, "exec sleep 1002", json!({})), speaker("b", &world.source, "2", json!({}))],
        )];
        world.install(&agent, &[], &one).await;
        until("a hello", || world.heard().len() == 1).await;
        world.keeper.log();
        let standing = agent.standing().borrow().clone();
        let update = world.update(&standing, &one, &two);
        update.to_ready(&agent).await;
        update.want(&agent, Want::Settled);
        let mut reached = 0;
        until("so many actions", || {
            reached += world.keeper.log().len();
            reached >= stops_at
        })
        .await;
        agent.stop().await;
        let agent = world.agent().await;
        // To a new session the master says the same again; the agent before may have ended before it had heard it.
        update.want(&agent, Want::Settled);
        update.until(&agent, settled).await;
        update.end(&agent, Outcome::Completed).await;
        let running = world.keeper.running();
        assert_eq!(running.len(), 2, "stopped after {stops_at} actions: {running:?}");
        assert!(running.iter().all(|(_, instance, _)| *instance >= 2), "{running:?}");
        assert_eq!(agent.standing().borrow().current.number, 2);
        agent.stop().await;
    }
}

#[tokio::test]
async fn an_old_process_that_has_no_connection_yet_is_waited_for_and_hands_over_before_it_ends() {
    let mut world = World::new();
    let agent = world.agent().await;
    let one = [app("1.0.0", &[speaker("a", &world.source, "1", json!({}))])];
    let two = [app("2.0.0", &[speaker("a", &world.source, "2", json!({}))])];
    world.install(&agent, &[], &one).await;
    until("a hello", || world.heard().len() == 1).await;
    let standing = agent.standing().borrow().clone();
    let update = world.update(&standing, &one, &two);
    update.to_ready(&agent).await;
    world.keeper.log();
    let away = |version: &str| world.folder.path().join(format!("home/away-{version}"));
    for version in ["1.0.0", "2.0.0"] {
        std::fs::write(away(version), "").unwrap();
    }
    update.want(&agent, Want::Settled);
    until("the new process", || world.keeper.log() == ["start app/a#2"]).await;
    agent.stop().await;

    let agent = world.agent().await;
    update.want(&agent, Want::Settled);
    std::fs::remove_file(away("2.0.0")).unwrap();
    let speaks = async || {
        let processes = agent.processes().await;
        processes.iter().any(|process| process.said_hello && process.version.as_deref() == Some("2.0.0"))
    };
    let begin = std::time::Instant::now();
    while !speaks().await {
        assert!(begin.elapsed() < LONG, "the new process does not say hello");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(world.keeper.log().is_empty(), "the new one is up, and the old one has still to hand over");
    std::fs::remove_file(away("1.0.0")).unwrap();
    update.until(&agent, settled).await;
    assert!(world.heard().contains(&"app/a 1.0.0 hand-over".to_owned()), "{:?}", world.heard());
    assert_eq!(world.keeper.log(), ["stop app/a#1"]);
    update.end(&agent, Outcome::Completed).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_begins_again_after_an_update_that_was_taken_back_whoever_has_not_heard_of_its_end() {
    for speaks in [false, true] {
        let mut world = World::new();
        let agent = world.agent().await;
        let modules = |last: &str, source: &TestSource| {
            let above = json!({ "depends-on": ["m"] });
            let above =
                if speaks { speaker("above", source, "", above) } else { script("above", source, "exec sleep 1003", above) };
            [above, script("m", source, last, json!({}))]
        };
        let one = [app("1.0.0", &modules("exec sleep 1004", &world.source))];
        let two = [app("2.0.0", &modules("exit 3", &world.source))];
        world.install(&agent, &[], &one).await;
        until("a hello", || !speaks || world.heard().len() == 1).await;
        std::fs::write(world.folder.path().join("home/never-seen"), "").unwrap();
        let standing = agent.standing().borrow().clone();
        let update = world.update(&standing, &one, &two);
        update.to_ready(&agent).await;
        update.want(&agent, Want::Settled);
        update.until(&agent, regressed).await;
        update.end(&agent, Outcome::Regressed).await;
        let updates = world.folder.path().join("local/updates");
        // Each in two copies.
        let journals = || std::fs::read_dir(&updates).unwrap().count() / 2;
        assert_eq!(journals(), usize::from(speaks), "who never spoke can hear nothing");
        agent.stop().await;

        let agent = world.agent().await;
        assert_eq!(agent.standing().borrow().current.number, 1, "it stands where it stood from the first moment on");
        agent.stop().await;
        world.restart_node();
        let agent = world.agent().await;
        until("both run", || world.keeper.running().len() == 2).await;
        until("nobody is left to be told", || journals() == 0).await;
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_node_restart_before_the_new_modules_held_runs_the_old_ones() {
    let mut world = World::new();
    let agent = world.agent().await;
    let slow = json!({ "health": { "settle": "60s" } });
    let one = [app("1.0.0", &[script("a", &world.source, "exec sleep 1001", json!({}))])];
    let two = [app("2.0.0", &[script("a", &world.source, "exec sleep 1002", slow)])];
    world.install(&agent, &[], &one).await;
    let standing = agent.standing().borrow().clone();
    let update = world.update(&standing, &one, &two);
    update.to_ready(&agent).await;
    update.want(&agent, Want::Settled);
    update.until(&agent, |reports| reports.last() == Some(&NodeReport::Started)).await;
    agent.stop().await;
    world.restart_node();
    world.keeper.log();
    let agent = world.agent().await;
    let reports = update.until(&agent, regressed).await;
    let Some(NodeReport::Regressed { current, why: Some(why) }) = reports.last() else { panic!("{reports:?}") };
    assert_eq!(current.number, 1);
    assert!(why.contains("restarted"), "{why}");
    until("the old module", || world.keeper.running().len() == 1).await;
    let version = agent.processes().await[0].version.clone();
    assert_eq!(version.as_deref(), Some("1.0.0"));
    update.end(&agent, Outcome::Regressed).await;
    agent.stop().await;
}

#[tokio::test]
async fn new_modules_that_crash_or_are_unhealthy_give_way_to_the_old_ones() {
    let mut world = World::new();
    let agent = world.agent().await;
    let one = [app("1.0.0", &[speaker("a", &world.source, "1", json!({}))])];
    world.install(&agent, &[], &one).await;
    until("a hello", || world.heard().len() == 1).await;
    let pid = world.keeper.running()[0].2;
    let crashes = script("a", &world.source, "exit 3", json!({}));
    let sick = json!({ "health": { "exec": ["/bin/false"], "every": "200ms", "settle": "500ms" }, "changeover": { "ready-within": "1s" } });
    let sick = script("a", &world.source, "exec sleep 1003", sick);
    for (version, module, expected) in [("2.0.0", crashes, "ended with code 3"), ("3.0.0", sick, "did not come up within")] {
        let bad = [app(version, &[module])];
        let standing = agent.standing().borrow().clone();
        let update = world.update(&standing, &one, &bad);
        update.to_ready(&agent).await;
        update.want(&agent, Want::Settled);
        let reports = update.until(&agent, regressed).await;
        let Some(NodeReport::Regressed { current, why: Some(why) }) = reports.last() else { panic!("{reports:?}") };
        assert!(why.contains(expected), "{why}");
        assert_eq!(current.number, 1);
        update.end(&agent, Outcome::Regressed).await;
        assert!(world.heard().contains(&"app/a 1.0.0 resume".to_owned()));
        let running = world.keeper.running();
        assert_eq!(running.iter().map(|(_, _, pid)| *pid).collect::<Vec<_>>(), [pid], "the old process goes on");
    }
    assert_eq!(agent.local().await.failed.len(), 2);
    agent.stop().await;
}

#[tokio::test]
async fn a_settled_update_goes_back_when_the_master_says_so_and_the_node_does_it_by_itself_too() {
    let mut world = World::new();
    let agent = world.agent().await;
    let one = [app("1.0.0", &[script("a", &world.source, "exec sleep 1001", json!({}))])];
    let two = [app("2.0.0", &[script("a", &world.source, "exec sleep 1002", json!({}))])];
    world.install(&agent, &[], &one).await;
    let standing = agent.standing().borrow().clone();
    let update = world.update(&standing, &one, &two);
    update.to_ready(&agent).await;
    update.want(&agent, Want::Settled);
    update.until(&agent, settled).await;
    update.want(&agent, Want::Regressed { why: "another node failed".into() });
    let reports = update.until(&agent, regressed).await;
    assert!(matches!(reports.last(), Some(NodeReport::Regressed { current, why: None }) if current.number == 1));
    update.end(&agent, Outcome::Regressed).await;

    world.install(&agent, &one, &two).await;
    let fetched = world.source.fetched.lock().unwrap().len();
    let current = agent.local_regress(None, None).await.unwrap();
    assert_eq!(current.number, 1);
    assert_eq!(world.source.fetched.lock().unwrap().len(), fetched, "nothing is fetched");
    assert_eq!(agent.processes().await[0].version.as_deref(), Some("1.0.0"));
    assert!(matches!(agent.local_regress(Some(77), None).await, Err(LocalRegressError::Refused(_))));
    agent.stop().await;
}

#[tokio::test]
async fn a_process_that_is_not_ready_in_time_fails_the_update_and_what_cannot_be_fetched_too() {
    let mut world = World::new();
    let agent = world.agent().await;
    let deaf = "exec python3 -c '
import json,os,socket
s=socket.socket(socket.AF_UNIX); s.connect(os.environ[\"TRIBUNE_SOCKET\"]); f=s.makefile(\"rw\")
def say(**m): f.write(json.dumps(m)+\"\\n\"); f.flush()
say(type=\"hello\",protocol=1)
for line in f:
    m=json.loads(line)
    if m[\"type\"]==\"welcome\": open(os.environ[\"HOME\"]+\"/heard\",\"a\").write(\"x\\n\")
    if m[\"type\"]==\"proposal\": say(type=\"accept\",update=m[\"update\"],revision=m[\"revision\"])
' # 1";
    let quick = json!({ "changeover": { "ready-within": "300ms" } });
    let one = [app("1.0.0", &[script("a", &world.source, deaf, quick)])];
    let two = [app("2.0.0", &[script("a", &world.source, "exec sleep 1002", json!({}))])];
    world.install(&agent, &[], &one).await;
    until("a hello", || world.heard().len() == 1).await;
    let standing = agent.standing().borrow().clone();
    let update = world.update(&standing, &one, &two);
    update.to_staged(&agent).await;
    update.want(&agent, Want::Ready);
    let reports = update.until(&agent, |reports| matches!(reports.last(), Some(NodeReport::Failed { .. }))).await;
    assert!(
        matches!(reports.last(), Some(NodeReport::Failed { step: Step::Pending, why }) if why.contains("app/a")),
        "{reports:?}"
    );
    update.end(&agent, Outcome::Aborted).await;
    assert_eq!(world.keeper.running().len(), 1);
    agent.stop().await;
}
