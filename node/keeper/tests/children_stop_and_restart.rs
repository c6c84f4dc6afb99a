//! How children are stopped, end and start again.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Agent, Node, Watched};
use tribune_keeper::{
    AfterExit, ChildId, ChildState, Exit, FileSpec, Refusal, Reply, Request, RestartPolicy, RestartWhen, SignalName, StopSpec,
};

fn stop(agent: &mut Agent, id: &ChildId) -> (Exit, AfterExit) {
    agent.done(Request::Stop { child: id.clone(), within_ms: None });
    agent.exited(id)
}

#[test]
fn a_child_that_ends_too_often_is_broken_until_it_is_told_to_start() {
    let (mut node, mut agent) = Node::start();
    agent.hello();
    let mut spec = node.shell("crashes", "exit 3");
    spec.restart = RestartPolicy { first_wait_ms: 10, loop_exits: 3, ..RestartPolicy::default() };
    agent.done(Request::Start(Box::new(spec.clone())));
    for wait in [10, 20] {
        assert_eq!(agent.soon_exited(&spec.id), (Exit::Code(3), AfterExit::Restarts { in_ms: wait }));
    }
    assert_eq!(agent.soon_exited(&spec.id), (Exit::Code(3), AfterExit::Broken { exits: 3 }));
    assert_eq!(agent.state(&spec.id), ChildState::Broken { exits: 3, last: Exit::Code(3) });
    assert_eq!(agent.list()[0].endings, 3);
    agent.done(Request::Start(Box::new(spec.clone())));
    assert_eq!(agent.soon_exited(&spec.id), (Exit::Code(3), AfterExit::Restarts { in_ms: 10 }));
    agent.done(Request::Stop { child: spec.id.clone(), within_ms: None });
    node.watch(agent);
}

#[test]
fn a_program_that_is_not_there_is_told_as_such() {
    let (mut node, mut agent) = Node::start();
    agent.hello();
    let mut spec = node.shell("missing", "");
    spec.program = "/nowhere/to/be/found".into();
    spec.restart = RestartPolicy { when: RestartWhen::Never, ..RestartPolicy::default() };
    agent.done(Request::Start(Box::new(spec.clone())));
    match agent.exited(&spec.id) {
        (Exit::NotStarted(reason), AfterExit::Stopped) => {
            assert!(reason.starts_with("/nowhere/to/be/found could not be run"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    node.watch(agent);
}

#[test]
fn a_file_whose_bytes_have_changed_is_run_neither_at_first_nor_after_a_crash() {
    let (mut node, mut agent) = Node::start();
    agent.hello();
    let mut spec = node.shell("changes", "exit 3");
    let path = spec.log.path.with_file_name("program");
    std::fs::write(&path, "#!/bin/sh\nexit 3\n").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    spec.program = path.display().to_string();
    spec.args.clear();
    spec.file = Some(FileSpec { path: path.clone(), blake3: blake3::hash(&std::fs::read(&path).unwrap()).to_string() });
    spec.restart = RestartPolicy { first_wait_ms: 10, ..RestartPolicy::default() };
    agent.done(Request::Start(Box::new(spec.clone())));
    assert_eq!(agent.soon_exited(&spec.id).0, Exit::Code(3));
    std::fs::write(&path, "#!/bin/sh\nexit 4\n").unwrap();
    // One that was being started meanwhile may have had the bytes of before.
    let exit = std::iter::repeat_with(|| agent.soon_exited(&spec.id).0).find(|exit| *exit != Exit::Code(3));
    assert!(matches!(&exit, Some(Exit::NotStarted(why)) if why.contains("has changed on disk")), "{exit:?}");
    agent.done(Request::Stop { child: spec.id.clone(), within_ms: None });
    node.watch(agent);
}

#[test]
fn the_stop_signal_is_the_spec_s_and_what_does_not_stop_in_time_is_killed_with_its_group() {
    let (mut node, mut agent) = Node::start();
    agent.hello();
    let mut bell = node.bell("bell");
    let at = bell.path.display().to_string();
    let mut polite = node.shell("polite", &format!("trap 'exit 7' INT; echo ready > {at}; while :; do sleep 0.01; done"));
    polite.stop = StopSpec { signal: SignalName::SigInt, within_ms: 20_000 };
    agent.start(&polite);
    assert_eq!(bell.heard(), "ready");
    assert_eq!(stop(&mut agent, &polite.id), (Exit::Code(7), AfterExit::Stopped));

    let mut deaf = node.shell("deaf", &format!("trap '' TERM; sleep 1000 & echo $! > {at}; wait; wait"));
    deaf.stop = StopSpec { signal: SignalName::SigTerm, within_ms: 100 };
    agent.start(&deaf);
    let grandchild = Watched::new(bell.heard().parse().unwrap());
    assert_eq!(stop(&mut agent, &deaf.id), (Exit::Signal(9), AfterExit::Stopped));
    grandchild.wait();

    agent.done(Request::Remove { child: deaf.id });
    agent.done(Request::Remove { child: polite.id });
    assert_eq!(agent.list(), []);
    node.watch(agent);
}

#[test]
fn signals_restarts_and_a_changed_spec() {
    let (mut node, mut agent) = Node::start();
    agent.hello();
    let mut bell = node.bell("bell");
    let script = format!("trap 'exit 5' USR1; echo ready > {}; while :; do sleep 0.01; done", bell.path.display());
    let mut spec = node.shell("service", &script);
    let first = agent.start(&spec);
    assert_eq!(bell.heard(), "ready");
    agent.done(Request::Restart { child: spec.id.clone() });
    assert_eq!(agent.exited(&spec.id).1, AfterExit::Stopped);
    let second = agent.started(&spec.id);
    assert_ne!(first, second);

    let before = spec.clone();
    spec.label = "another".into();
    let reply = agent.call(Request::Start(Box::new(spec.clone())));
    assert!(matches!(reply, Reply::Refused { why: Refusal::Runs, .. }), "{reply:?}");
    let reply = agent.call(Request::Remove { child: before.id.clone() });
    assert!(matches!(reply, Reply::Refused { why: Refusal::Runs, .. }), "{reply:?}");

    assert_eq!(bell.heard(), "ready");
    agent.done(Request::Signal { child: before.id.clone(), signal: SignalName::SigUsr1 });
    assert_eq!(agent.exited(&before.id), (Exit::Code(5), AfterExit::Restarts { in_ms: 500 }));
    // Not the end of its wait but a start of its own, with another spec.
    agent.start(&spec);
    assert_eq!(agent.list()[0].label, "another");
    assert_eq!(agent.list()[0].endings, 0);
    stop(&mut agent, &spec.id);
    node.watch(agent);
}
