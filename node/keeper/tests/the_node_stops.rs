//! A clean stop: the agent first, then the children, the last started first; nothing is left.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Agent, Node, Watched};
use rustix::process::Signal;
use tribune_keeper::{Event, KeeperStart, Refusal, Reply, Request};

fn two_children(node: &Node, agent: &mut Agent) -> [Watched; 2] {
    let order = node.folder.path().join("order");
    let mut bell = node.bell("bell");
    ["first", "second"].map(|key| {
        let (order, at) = (order.display(), bell.path.display());
        let script = format!("trap 'echo {key} >> {order}; exit' TERM; echo ready > {at}; while :; do sleep 0.01; done");
        let process = agent.start(&node.shell(key, &script));
        assert_eq!(bell.heard(), "ready");
        Watched::new(process.pid)
    })
}

fn order(node: &Node) -> String {
    std::fs::read_to_string(node.folder.path().join("order")).unwrap()
}

#[test]
fn the_agent_hears_it_and_ends_then_children_stop_in_order_and_the_next_start_is_a_node_restart() {
    let (mut node, mut agent) = Node::start();
    agent.hello();
    let children = two_children(&node, &mut agent);
    node.signal_keeper(Signal::TERM);
    assert_eq!(agent.event(), Event::Stopping { within_ms: 2000 });
    // Services go on for now, and no other one starts.
    assert!(children.iter().all(|child| !child.has_ended()));
    let reply = agent.call(Request::Start(Box::new(node.shell("late", "exec sleep 1000"))));
    assert!(matches!(reply, Reply::Refused { why: Refusal::Stopping, .. }), "{reply:?}");
    node.watch(agent);
    assert!(node.wait_keeper().success());
    assert!(children.iter().all(Watched::has_ended));
    assert_eq!(order(&node), "second\nfirst\n");
    let left: Vec<_> = std::fs::read_dir(node.folder.path().join("keeper/fifos")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    let mut agent = node.start_keeper();
    assert_eq!(agent.hello().began, KeeperStart::NodeRestart);
    assert_eq!(agent.list(), []);
    node.watch(agent);
}

#[test]
fn an_agent_that_does_not_end_is_killed_and_one_can_ask_for_the_stop_itself() {
    let (mut node, mut agent) = Node::start();
    agent.hello();
    let children = two_children(&node, &mut agent);
    agent.done(Request::Shutdown);
    assert_eq!(agent.event(), Event::Stopping { within_ms: 2000 });
    // The test's end of the agent says nothing until it is killed.
    let seen = agent.wait();
    node.seen.extend(seen);
    assert!(node.wait_keeper().success());
    assert!(children.iter().all(Watched::has_ended));
    assert_eq!(order(&node), "second\nfirst\n");
}

#[test]
fn a_second_signal_makes_it_hurry() {
    let (mut node, mut agent) = Node::start();
    agent.hello();
    let mut bell = node.bell("bell");
    let script = format!("trap '' TERM; echo ready > {}; while :; do sleep 0.01; done", bell.path.display());
    let mut deaf = node.shell("deaf", &script);
    deaf.stop.within_ms = 100;
    let child = Watched::new(agent.start(&deaf).pid);
    assert_eq!(bell.heard(), "ready");
    node.signal_keeper(Signal::TERM);
    assert_eq!(agent.event(), Event::Stopping { within_ms: 2000 });
    node.signal_keeper(Signal::TERM);
    let seen = agent.wait();
    node.seen.extend(seen);
    assert!(node.wait_keeper().success());
    assert!(child.has_ended());
}
