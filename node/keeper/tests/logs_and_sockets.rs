//! A child's output goes to a log of limited size, and its sockets stay open while it comes and goes.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io::Read;
use std::net::TcpStream;

use common::Node;
use tribune_keeper::{AfterExit, Exit, Refusal, Reply, Request, RestartPolicy, RestartWhen, SocketAddress, SocketSpec};

#[test]
fn a_log_keeps_its_limit_and_holds_the_last_lines_whole() {
    let (mut node, mut agent) = Node::start();
    agent.hello();
    let mut spec = node.role("lines", &["lines", "100000"]);
    spec.restart = RestartPolicy { when: RestartWhen::Never, ..RestartPolicy::default() };
    spec.log.most_bytes = 4096;
    agent.done(Request::Start(Box::new(spec.clone())));
    assert_eq!(agent.soon_exited(&spec.id), (Exit::Code(0), AfterExit::Stopped));
    let log = std::fs::read_to_string(node.log(&spec.id)).unwrap();
    let old = std::fs::read_to_string(tribune_keeper::spec::rotated(&node.log(&spec.id))).unwrap();
    assert!(log.len() <= 4096 && old.len() <= 4096 && old.len() > 4000);
    let both = old + &log;
    let lines: Vec<&str> = both.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(*line, format!("line {:010}", 100_000 - lines.len() + index));
    }
    node.watch(agent);
}

#[test]
fn a_socket_stays_open_over_restarts_and_is_released_only_when_unused() {
    let (mut node, mut agent) = Node::start();
    agent.hello();
    let address: SocketAddress = "tcp://127.0.0.1:0".parse().unwrap();
    let mut spec = node.role("server", &["server"]);
    spec.sockets = vec![SocketSpec { name: "web".into(), address: address.clone() }];
    let first = agent.start(&spec);
    let Reply::Sockets(open) = agent.call(Request::ListSockets) else { panic!() };
    let [open] = &open[..] else { panic!("{open:?}") };
    let SocketAddress::Tcp(at) = open.bound else { panic!() };
    let ask = || {
        let mut said = String::new();
        TcpStream::connect(at).unwrap().read_to_string(&mut said).unwrap();
        said.trim().parse::<u32>().unwrap()
    };
    assert_eq!(ask(), first.pid);

    agent.done(Request::Stop { child: spec.id.clone(), within_ms: None });
    agent.exited(&spec.id);
    // Nobody accepts: it waits in the queue, and is not refused.
    let mut waiting = TcpStream::connect(at).unwrap();
    let second = agent.start(&spec);
    let mut said = String::new();
    waiting.read_to_string(&mut said).unwrap();
    assert_eq!(said.trim().parse(), Ok(second.pid));

    let reply = agent.call(Request::ReleaseSocket { address: address.clone() });
    assert!(matches!(reply, Reply::Refused { why: Refusal::Socket, .. }), "{reply:?}");
    agent.done(Request::Stop { child: spec.id.clone(), within_ms: None });
    agent.exited(&spec.id);
    agent.done(Request::ReleaseSocket { address });
    assert!(TcpStream::connect(at).is_err());
    node.watch(agent);
}
