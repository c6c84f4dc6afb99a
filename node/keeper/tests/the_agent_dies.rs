//! The agent dies, hangs up or asks nonsense: services go on, and another agent starts.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{HELPER, Node, Watched, output};
use tribune_keeper::{ChildId, ChildState, KeeperStart, Refusal, Reply, Request};

#[test]
fn a_killed_agent_is_followed_by_another_and_services_keep_their_processes() {
    let (mut node, mut agent) = Node::start();
    let first = agent.hello();
    assert_eq!((first.began, first.agent_starts, first.software.as_str()), (KeeperStart::NodeRestart, 1, "test keeper"));
    let spec = node.shell("service", "exec sleep 1000");
    let process = agent.start(&spec);
    // Again: it is as it is.
    agent.done(Request::Start(Box::new(spec.clone())));

    node.kill_agent(agent);
    let mut agent = node.agent();
    let second = agent.hello();
    assert_eq!((second.agent_starts, second.began), (2, KeeperStart::NodeRestart));
    assert_eq!((second.run, second.keeper_pid), (first.run, first.keeper_pid));
    let ChildState::Running { process: now, .. } = agent.state(&spec.id) else { panic!() };
    assert_eq!(now, process);
    node.watch(agent);
}

#[test]
fn before_hello_nothing_is_done_and_nonsense_is_refused_with_a_name() {
    let (mut node, mut agent) = Node::start();
    let refusal = |reply| match reply {
        Reply::Refused { why, .. } => why,
        other => panic!("{other:?}"),
    };
    let spec = node.shell("service", "exec sleep 1000");
    assert_eq!(refusal(agent.call(Request::Start(Box::new(spec.clone())))), Refusal::Protocol);
    assert_eq!(refusal(agent.call(Request::Hello { protocol: 0, software: "old".into() })), Refusal::Protocol);
    let hello = agent.call(Request::Hello { protocol: 9, software: "new".into() });
    assert!(matches!(hello, Reply::Hello(hello) if hello.protocol == tribune_keeper::PROTOCOL));
    assert_eq!(agent.list(), []);
    for (text, why) in [
        (r#"{"id":1,"request":{"fly":{}}}"#, Refusal::UnknownRequest),
        (r#"{"id":1,"request":{"stop":{"child":7}}}"#, Refusal::BadRequest),
        ("nonsense", Refusal::BadRequest),
    ] {
        agent.say(text);
        assert_eq!(refusal(agent.reply()), why, "{text}");
    }
    let unknown = ChildId::new("nobody", 1);
    assert_eq!(refusal(agent.call(Request::Stop { child: unknown.clone(), within_ms: None })), Refusal::UnknownChild);
    agent.done(Request::Remove { child: unknown });
    let mut bad = spec;
    bad.folder = "relative".into();
    assert_eq!(refusal(agent.call(Request::Start(Box::new(bad)))), Refusal::BadRequest);
    node.watch(agent);
}

#[test]
fn a_second_keeper_on_the_folder_is_refused_and_the_first_goes_on() {
    let (mut node, mut agent) = Node::start();
    agent.hello();
    let (status, error) = output(&mut node.another_keeper());
    assert!(!status.success());
    assert!(error.contains(&format!("another keeper (pid {}) runs on", node.keeper.id())), "{error}");
    assert_eq!(agent.list(), []);
    node.watch(agent);
}

#[test]
fn an_agent_that_cannot_work_ends_a_keeper_without_services() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(HELPER);
    let mut keeper = command.arg("keeper-with-agent-that-cannot").arg(folder.path().join("keeper")).spawn().unwrap();
    Watched::new(keeper.id()).wait();
    assert_eq!(keeper.wait().unwrap().code(), Some(78));
}
