//! The client against the other end of a socket that the test holds.

#![allow(clippy::unwrap_used)]

use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tribune_keeper::wire::{self, Patience, Received};
use tribune_keeper::{Call, ChildState, FromKeeper, KeeperStart, MOST_MESSAGE};

use super::*;

/// The keeper's end.
struct Keeper(OwnedFd);

impl Keeper {
    fn call(&self) -> Call {
        let mut buffer = vec![0; MOST_MESSAGE];
        match wire::receive(self.0.as_fd(), &mut buffer, Patience::Wait).unwrap() {
            Received::Message(message) => serde_json::from_slice(message).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn say(&self, message: &FromKeeper) {
        wire::send(self.0.as_fd(), &serde_json::to_vec(message).unwrap(), Patience::Wait).unwrap();
    }

    fn reply(&self, call: &Call, reply: Reply) {
        self.say(&FromKeeper::Reply { id: Some(call.id), reply });
    }

    fn answer_hello(&self) {
        let call = self.call();
        assert!(matches!(&call.request, Request::Hello { software, .. } if software == "agent"));
        let hello = Hello {
            protocol: PROTOCOL,
            software: "keeper".into(),
            keeper_pid: 7,
            run: "run".into(),
            began: KeeperStart::NodeRestart,
            agent_starts: 1,
        };
        self.reply(&call, Reply::Hello(hello));
    }
}

/// A client that has said hello, and what the keeper does then in a thread of its own.
async fn with(keeper: impl FnOnce(Keeper) + Send + 'static) -> (KeeperClient, mpsc::Receiver<Event>) {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    std::thread::spawn(move || {
        let theirs = Keeper(theirs);
        theirs.answer_hello();
        keeper(theirs);
    });
    let (client, hello, events) = KeeperClient::connect(ours, "agent").await.unwrap();
    assert_eq!(hello.software, "keeper");
    (client, events)
}

fn child(number: u64) -> ChildStatus {
    ChildStatus {
        id: ChildId::new("service", number),
        label: String::new(),
        state: ChildState::Stopped { last: None },
        endings: 0,
        log: "/log".into(),
    }
}

#[tokio::test]
async fn answers_find_their_calls_in_whichever_order_they_come() {
    let (client, _events) = with(|keeper| {
        let (first, second) = (keeper.call(), keeper.call());
        for call in [&second, &first] {
            let Request::Remove { child } = &call.request else { panic!() };
            let message = format!("no {child}");
            keeper.reply(call, Reply::Refused { why: Refusal::Runs, message });
        }
    })
    .await;
    let (a, b) = tokio::join!(client.remove(ChildId::new("a", 1)), client.remove(ChildId::new("b", 1)));
    assert_eq!(a.unwrap_err().to_string(), "the keeper refused: no a#1");
    assert_eq!(b.unwrap_err().to_string(), "the keeper refused: no b#1");
}

#[tokio::test]
async fn a_list_is_asked_for_until_it_is_whole() {
    let (client, _events) = with(|keeper| {
        let call = keeper.call();
        assert_eq!(call.request, Request::List { after: None });
        keeper.reply(&call, Reply::Children { children: vec![child(1), child(2)], rest: Rest::More });
        let call = keeper.call();
        assert_eq!(call.request, Request::List { after: Some(ChildId::new("service", 2)) });
        keeper.reply(&call, Reply::Children { children: vec![child(3)], rest: Rest::None });
    })
    .await;
    assert_eq!(client.list().await.unwrap(), [child(1), child(2), child(3)]);
}

#[tokio::test]
async fn events_that_nobody_takes_hold_up_no_call_and_none_is_lost() {
    const MANY: usize = 2 * WAITING_EVENTS;
    let (client, mut events) = with(|keeper| {
        for _ in 0..MANY {
            keeper.say(&FromKeeper::Event(Event::Reload));
        }
        let call = keeper.call();
        keeper.reply(&call, Reply::Done);
        // Until the other side is gone.
        let _ = wire::receive(keeper.0.as_fd(), &mut [0; 10], Patience::Wait);
    })
    .await;
    client.shutdown().await.unwrap();
    for _ in 0..MANY {
        assert_eq!(events.recv().await, Some(Event::Reload));
    }
}

#[tokio::test]
async fn when_the_keeper_is_gone_all_who_wait_hear_it() {
    let (client, mut events) = with(|keeper| drop(keeper.call())).await;
    assert!(matches!(client.stop(ChildId::new("a", 1), None).await, Err(ChildrenError::Gone)));
    assert_eq!(events.recv().await, None);
    client.closed().await;
    assert!(matches!(client.list().await, Err(ChildrenError::Gone)));
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_and_the_next_is_not() {
    let (client, _events) = with(|keeper| {
        let call = keeper.call();
        keeper.reply(&call, Reply::Done);
    })
    .await;
    let mut spec = ChildSpec::new(ChildId::new("a", 1), "/bin/true", "/", "/log");
    spec.args.push("x".repeat(MOST_MESSAGE));
    assert!(matches!(client.start(spec.clone()).await, Err(ChildrenError::TooLong(_))));
    spec.args.clear();
    client.start(spec).await.unwrap();
}
