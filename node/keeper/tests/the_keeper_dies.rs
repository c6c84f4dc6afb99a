//! The keeper dies: its agent ends, services go on, and the next keeper finds them. When nothing lives, it is a node restart.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::Read;
use std::net::TcpStream;

use common::{Node, Watched};
use tribune_keeper::{
    AfterExit, ChildState, Exit, KeeperStart, Reply, Request, RestartPolicy, RestartWhen, SocketAddress, SocketSpec,
};

#[test]
fn the_next_keeper_takes_over_what_lives_and_restarts_what_does_not() {
    let (mut node, mut agent) = Node::start();
    let first = agent.hello();
    let mut lives = node.shell("lives", "exec sleep 1000");
    lives.label = "a signature".into();
    let mut dies = node.shell("dies", "exec sleep 1001");
    dies.restart = RestartPolicy { first_wait_ms: 10, ..RestartPolicy::default() };
    let mut stays = node.shell("stays", "exec sleep 1002");
    stays.restart = RestartPolicy { when: RestartWhen::Never, ..RestartPolicy::default() };
    let living = agent.start(&lives);
    let dying = agent.start(&dies);
    let staying = agent.start(&stays);
    let ends = [Watched::new(dying.pid), Watched::new(staying.pid)];

    node.kill_keeper(agent);
    for end in &ends {
        end.kill();
        end.wait();
    }
    let mut agent = node.start_keeper();
    let second = agent.hello();
    assert_eq!((second.began, second.agent_starts), (KeeperStart::TookOver, 1));
    assert_eq!(second.run, first.run);
    assert_eq!(agent.running(&lives.id), living);
    assert_eq!(agent.list().iter().find(|child| child.id == lives.id).unwrap().label, "a signature");
    assert_ne!(agent.running(&dies.id), dying);
    assert_eq!(agent.state(&stays.id), ChildState::Stopped { last: Some(Exit::Unknown) });

    // It is the keeper's as any other now, but for how it ended.
    agent.done(Request::Stop { child: lives.id.clone(), within_ms: None });
    assert_eq!(agent.exited(&lives.id), (Exit::Unknown, AfterExit::Stopped));
    node.watch(agent);
}

#[test]
fn sockets_and_output_outlive_the_keeper() {
    let (mut node, mut agent) = Node::start();
    agent.hello();
    let any: SocketAddress = "tcp://127.0.0.1:0".parse().unwrap();
    let mut spec = node.role("server", &["server"]);
    spec.sockets = vec![SocketSpec { name: "web".into(), address: any.clone() }];
    let process = agent.start(&spec);
    let Reply::Socket(before) = agent.call(Request::OpenSocket { address: any.clone() }) else { panic!() };
    let SocketAddress::Tcp(at) = before.bound else { panic!() };

    node.kill_keeper(agent);
    let mut said = String::new();
    TcpStream::connect(at).unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, format!("{}\n", process.pid));
    let mut agent = node.start_keeper();
    agent.hello();
    assert_eq!(agent.call(Request::OpenSocket { address: any.clone() }), Reply::Socket(before));
    agent.done(Request::Stop { child: spec.id.clone(), within_ms: None });
    agent.exited(&spec.id);
    // What it said while no keeper lived.
    assert_eq!(std::fs::read_to_string(node.log(&spec.id)).unwrap(), format!("{} serves\n", process.pid));
    // Its successor gets the same socket.
    let successor = agent.start(&spec);
    said.clear();
    TcpStream::connect(at).unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, format!("{}\n", successor.pid));
    node.watch(agent);
}

#[test]
fn a_start_at_which_nothing_lives_is_a_node_restart() {
    let (mut node, mut agent) = Node::start();
    let first = agent.hello();
    let spec = node.shell("service", "exec sleep 1000");
    let process = Watched::new(agent.start(&spec).pid);
    node.kill_keeper(agent);
    process.kill();
    process.wait();

    let mut agent = node.start_keeper();
    let second = agent.hello();
    assert_eq!(second.began, KeeperStart::NodeRestart);
    assert_ne!(second.run, first.run);
    assert_eq!(agent.list(), []);
    node.watch(agent);
}
