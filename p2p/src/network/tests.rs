//! Networks talking over loopback: who gets in, who does not, and what each is told.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout};

use super::*;
use crate::channel::{Channel, ChannelError};

const ECHO: &str = "/tribune/test-echo/1";
const JOIN: &str = "/tribune/test-join/1";
const LONG: Duration = Duration::from_secs(20);

struct Peer {
    identity: Identity,
    network: Network,
}

impl Peer {
    async fn start(admission: Admission) -> Self {
        Self::with_config(NetworkConfig::new("test", [loopback()]).admitting(admission)).await
    }

    async fn with_config(config: NetworkConfig) -> Self {
        let identity = Identity::generate();
        let network = Network::start(&identity, config).await.unwrap();
        Self { identity, network }
    }

    fn id(&self) -> PeerId {
        self.identity.peer_id()
    }

    async fn open(&self, to: &Peer, protocol: &'static str) -> Result<Channel, OpenError> {
        self.network.open(to.id(), &to.network.listening(), protocol, Limits::default()).await
    }
}

fn loopback() -> Multiaddr {
    "/ip4/127.0.0.1/tcp/0".parse().unwrap()
}

fn members(peers: &[&Peer]) -> AllowList {
    let mut list = AllowList::new();
    for peer in peers {
        list.add_member(peer.id(), peer.network.listening());
    }
    list
}

/// Answers every message of every stream with itself.
fn echo(network: &Network, protocol: &'static str, who: Who) {
    let mut incoming = network.serve(protocol, who, Limits { recv_time: None, ..Limits::default() }).unwrap();
    tokio::spawn(async move {
        while let Some(mut arrival) = incoming.next().await {
            tokio::spawn(async move {
                while let Ok(Some(text)) = arrival.channel.recv::<String>().await {
                    if arrival.channel.send(&text).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

async fn ask(channel: &mut Channel, text: &str) -> Result<String, ChannelError> {
    channel.send(&text).await?;
    channel.expect().await
}

/// Two members that know each other, the second of which echoes.
async fn couple() -> (Peer, Peer) {
    let (a, b) = (Peer::start(Admission::ListedOnly).await, Peer::start(Admission::ListedOnly).await);
    a.network.set_allowed(members(&[&a, &b]));
    b.network.set_allowed(members(&[&a, &b]));
    echo(&b.network, ECHO, Who::Members);
    (a, b)
}

async fn until_connected(network: &Network, peer: PeerId, wanted: Presence) {
    let mut connections = network.connections();
    let seen = connections.wait_for(|peers| peers.contains(&peer) == (wanted == Presence::Here));
    timeout(LONG, seen).await.expect("the peer came or went in time").unwrap();
}

#[derive(PartialEq)]
enum Presence {
    Here,
    Gone,
}

#[tokio::test]
async fn members_talk_without_being_told_where_the_other_is() {
    let (a, b) = couple().await;
    let mut channel = a.network.open(b.id(), &[], ECHO, Limits::default()).await.unwrap();
    assert_eq!(ask(&mut channel, "hello").await.unwrap(), "hello");
    assert!(a.network.connections().borrow().contains(&b.id()));
    channel.finish().await.unwrap();
}

#[tokio::test]
async fn a_hundred_streams_opened_at_once_are_all_served() {
    let (a, b) = couple().await;
    let answers = join_all((0..100).map(async |n| {
        let mut channel = a.open(&b, ECHO).await.unwrap();
        ask(&mut channel, &n.to_string()).await.unwrap()
    }))
    .await;
    assert_eq!(answers, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stranger_is_told_that_it_is_not_a_member() {
    let (a, _) = couple().await;
    let stranger = Peer::start(Admission::ListedOnly).await;
    let admitting = Peer::start(Admission::JoinersToo(JoinerLimits::default())).await;
    echo(&admitting.network, ECHO, Who::Members);
    let refused = stranger.open(&admitting, ECHO).await.unwrap_err();
    assert!(matches!(refused, OpenError::Refused { refusal: Refusal::NotAMember, .. }), "{refused}");
    assert!(refused.to_string().ends_with("not a member of this cluster"), "{refused}");

    echo(&a.network, ECHO, Who::Anyone);
    let closed = stranger.open(&a, ECHO).await.unwrap_err();
    assert!(matches!(closed, OpenError::Closed(_)), "{closed}");
}

#[tokio::test]
async fn a_joiner_reaches_only_the_protocols_for_anyone() {
    let server = Peer::start(Admission::JoinersToo(JoinerLimits::default())).await;
    let joiner = Peer::start(Admission::ListedOnly).await;
    echo(&server.network, JOIN, Who::Anyone);
    echo(&server.network, ECHO, Who::MembersAndPrincipals);
    let mut channel = joiner.open(&server, JOIN).await.unwrap();
    assert_eq!(ask(&mut channel, "token").await.unwrap(), "token");
    assert!(matches!(joiner.open(&server, ECHO).await, Err(OpenError::Refused { refusal: Refusal::NotAMember, .. })));
    // The way back over the joiner's own connection gives the server no standing there.
    echo(&joiner.network, ECHO, Who::Anyone);
    assert!(matches!(server.open(&joiner, ECHO).await, Err(OpenError::Refused { refusal: Refusal::NotAMember, .. })));
}

#[tokio::test]
async fn joiners_are_limited_in_number() {
    let limits = JoinerLimits { at_once: 3, time: LONG };
    let server = Peer::start(Admission::JoinersToo(limits)).await;
    echo(&server.network, JOIN, Who::Anyone);
    let mut joiners = Vec::new();
    for _ in 0..3 {
        let joiner = Peer::start(Admission::ListedOnly).await;
        let channel = joiner.open(&server, JOIN).await.unwrap();
        joiners.push((joiner, channel));
    }
    let late = Peer::start(Admission::ListedOnly).await;
    assert!(matches!(late.open(&server, JOIN).await, Err(OpenError::Closed(_))));

    let (leaving, _) = joiners.pop().unwrap();
    let id = leaving.id();
    leaving.network.shutdown().await;
    until_connected(&server.network, id, Presence::Gone).await;
    late.open(&server, JOIN).await.unwrap();
}

#[tokio::test]
async fn a_joiner_is_cut_off_when_its_time_is_up_unless_it_was_let_in() {
    let time = Duration::from_millis(700);
    let server = Peer::start(Admission::JoinersToo(JoinerLimits { at_once: 16, time })).await;
    echo(&server.network, JOIN, Who::Anyone);
    let (let_in, left_out) = (Peer::start(Admission::ListedOnly).await, Peer::start(Admission::ListedOnly).await);
    let mut kept = let_in.open(&server, JOIN).await.unwrap();
    let mut cut = left_out.open(&server, JOIN).await.unwrap();
    let begun = Instant::now();
    server.network.set_allowed(members(&[&let_in]));
    assert!(matches!(timeout(LONG, cut.recv::<String>()).await.unwrap(), Err(ChannelError::Lost(_))));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(ask(&mut kept, "still here").await.unwrap(), "still here");
}

#[tokio::test]
async fn a_principal_is_served_only_where_principals_are_named() {
    let server = Peer::start(Admission::ListedOnly).await;
    let person = Peer::with_config(NetworkConfig::new("test", [])).await;
    let mut list = AllowList::new();
    list.add_principal(person.id());
    server.network.set_allowed(list);
    echo(&server.network, ECHO, Who::Members);
    echo(&server.network, "/tribune/test-admin/1", Who::Principals);
    let refused = person.open(&server, ECHO).await.unwrap_err();
    assert!(matches!(refused, OpenError::Refused { refusal: Refusal::NotFor(Standing::Principal), .. }), "{refused}");
    person.open(&server, "/tribune/test-admin/1").await.unwrap();
}

#[tokio::test]
async fn a_member_that_is_taken_off_the_list_loses_its_connection_at_once() {
    let (a, b) = couple().await;
    let mut channel = a.open(&b, ECHO).await.unwrap();
    assert_eq!(ask(&mut channel, "before").await.unwrap(), "before");
    b.network.set_allowed(members(&[&b]));
    assert!(matches!(timeout(LONG, channel.recv::<String>()).await.unwrap(), Err(ChannelError::Lost(_))));
    until_connected(&b.network, a.id(), Presence::Gone).await;
    assert!(matches!(a.open(&b, ECHO).await, Err(OpenError::Closed(_))));
}

#[tokio::test]
async fn a_protocol_that_is_not_served_is_named() {
    let (a, b) = couple().await;
    let error = a.open(&b, JOIN).await.unwrap_err();
    assert!(matches!(error, OpenError::NotServed { protocol: JOIN, .. }), "{error}");
    assert!(matches!(b.network.serve(ECHO, Who::Members, Limits::default()), Err(NetworkError::ServedAlready(ECHO))));
}

#[tokio::test]
async fn a_server_that_takes_nothing_makes_the_opener_wait_and_then_say_so() {
    let a = Peer::with_config(NetworkConfig { open_within: Duration::from_millis(600), ..NetworkConfig::new("test", []) }).await;
    let b = Peer::start(Admission::ListedOnly).await;
    b.network.set_allowed(members(&[&a]));
    let mut incoming = b.network.serve(ECHO, Who::Members, Limits::default()).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..QUEUE {
        waiting.push(a.open(&b, ECHO).await.unwrap());
    }
    let error = a.open(&b, ECHO).await.unwrap_err();
    assert!(matches!(error, OpenError::Refused { refusal: Refusal::Busy, .. }), "{error}");
    let mut opened = tokio::spawn(async move { a.open(&b, ECHO).await.map(|_| ()) });
    // The last try of the opener that gave up may be on its way still, and take the first place that becomes free.
    let opened = loop {
        tokio::select! {
            Some(_) = incoming.next() => {}
            opened = &mut opened => break opened,
        }
    };
    opened.unwrap().unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_named_even_though_libp2p_would_share_it() {
    let first = Peer::start(Admission::ListedOnly).await;
    let taken = first.network.listening()[0].clone();
    let second = Network::start(&Identity::generate(), NetworkConfig::new("test", [taken.clone()])).await;
    let error = second.map(|_| ()).unwrap_err();
    assert!(matches!(&error, NetworkError::PortInUse { address } if *address == taken), "{error}");
    first.network.shutdown().await;
    Network::start(&Identity::generate(), NetworkConfig::new("test", [taken])).await.expect("the port is free again");
}

#[tokio::test]
async fn a_network_can_listen_on_every_interface_and_refuses_what_is_no_address() {
    let wide = Peer::with_config(NetworkConfig::new("test", ["/ip4/0.0.0.0/tcp/0".parse().unwrap()])).await;
    assert!(!wide.network.listening().is_empty());
    for bad in ["/ip4/127.0.0.1/udp/9/quic-v1", "/dns4/localhost/tcp/9", "/memory/9"] {
        let started = Network::start(&Identity::generate(), NetworkConfig::new("test", [bad.parse().unwrap()])).await;
        let error = started.map(|_| ()).unwrap_err();
        assert!(matches!(error, NetworkError::NoSuchKind { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_unreachable_peer_is_reported_with_every_address_that_was_tried() {
    let (a, b) = couple().await;
    let stranger = Peer::start(Admission::ListedOnly).await;
    b.network.shutdown().await;
    let hints = stranger.network.listening();
    let error = a.network.open(b.id(), &hints, ECHO, Limits::default()).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{text}");
    assert!(text.contains("Connection refused") && text.contains(&format!("{} is there instead", stranger.id())), "{text}");
    let nobody = PeerId::random();
    assert!(matches!(a.network.open(nobody, &[], ECHO, Limits::default()).await, Err(OpenError::NoAddress(_))));
    assert!(matches!(a.network.open(a.id(), &[], ECHO, Limits::default()).await, Err(OpenError::Myself(_))));
}

#[tokio::test]
async fn a_peer_whose_old_address_now_belongs_to_another_is_found_at_its_new_one() {
    let (a, b) = couple().await;
    let squatter = Peer::start(Admission::JoinersToo(JoinerLimits::default())).await;
    let hints = [squatter.network.listening(), b.network.listening()].concat();
    let mut channel = a.network.open(b.id(), &hints, ECHO, Limits::default()).await.unwrap();
    assert_eq!(ask(&mut channel, "found").await.unwrap(), "found");
}

#[tokio::test]
async fn a_stream_breaks_at_once_when_its_peer_dies_and_opens_again_when_it_is_back() {
    let (a, b) = couple().await;
    let mut channel = a.open(&b, ECHO).await.unwrap();
    ask(&mut channel, "before").await.unwrap();
    let address = b.network.listening()[0].clone();
    b.network.shutdown().await;
    assert!(matches!(timeout(LONG, channel.recv::<String>()).await.unwrap(), Err(ChannelError::Lost(_))));

    let again = Network::start(&b.identity, NetworkConfig::new("test", [address])).await.unwrap();
    again.set_allowed(members(&[&a]));
    echo(&again, ECHO, Who::Members);
    let mut channel = a.network.open(b.id(), &[], ECHO, Limits::default()).await.unwrap();
    assert_eq!(ask(&mut channel, "after").await.unwrap(), "after");
}

#[tokio::test]
async fn a_connection_without_streams_closes_and_one_with_a_stream_lives() {
    let idle = Duration::from_millis(300);
    let config = || NetworkConfig { idle, ping_every: Duration::from_millis(100), ..NetworkConfig::new("test", [loopback()]) };
    let (a, b, c) = (Peer::with_config(config()).await, Peer::with_config(config()).await, Peer::with_config(config()).await);
    for server in [&b, &c] {
        server.network.set_allowed(members(&[&a]));
        echo(&server.network, ECHO, Who::Members);
    }
    let mut long_lived = a.open(&b, ECHO).await.unwrap();
    drop(a.open(&c, ECHO).await.unwrap());
    until_connected(&a.network, c.id(), Presence::Gone).await;
    assert_eq!(ask(&mut long_lived, "still here").await.unwrap(), "still here");
}

/// A wire that can be cut without either end hearing of it: bytes are taken and go nowhere.
async fn wire_to(target: Multiaddr) -> (Multiaddr, CancellationToken) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = socket_of(&target).unwrap();
    let cut = CancellationToken::new();
    let silent = cut.clone();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(target).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            () = silent.cancelled() => std::future::pending().await,
        }
    });
    (format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap(), cut)
}

#[tokio::test]
async fn a_peer_that_falls_silent_without_closing_is_noticed() {
    let quick = Duration::from_millis(200);
    let config = NetworkConfig { ping_every: quick, ping_within: quick, ..NetworkConfig::new("test", [loopback()]) };
    let (a, b) = (Peer::with_config(config).await, Peer::start(Admission::ListedOnly).await);
    b.network.set_allowed(members(&[&a]));
    echo(&b.network, ECHO, Who::Members);
    let (through, cut) = wire_to(b.network.listening()[0].clone()).await;
    let mut channel = a.network.open(b.id(), &[through], ECHO, Limits { recv_time: None, ..Limits::default() }).await.unwrap();
    assert_eq!(ask(&mut channel, "hello").await.unwrap(), "hello");
    cut.cancel();
    assert!(matches!(timeout(LONG, channel.recv::<String>()).await.unwrap(), Err(ChannelError::Lost(_))));
}

#[tokio::test]
async fn a_peer_that_falls_silent_in_the_middle_of_much_data_is_noticed_and_reached_anew() {
    let (quick, silence) = (Duration::from_millis(200), Duration::from_millis(800));
    let config = NetworkConfig { ping_every: quick, ping_within: silence, ..NetworkConfig::new("test", [loopback()]) };
    let (a, b) = (Peer::with_config(config).await, Peer::start(Admission::ListedOnly).await);
    b.network.set_allowed(members(&[&a]));
    echo(&b.network, ECHO, Who::Members);
    let mut swallow = b.network.serve(JOIN, Who::Members, Limits::default()).unwrap();
    let (through, cut) = wire_to(b.network.listening()[0].clone()).await;
    let patient = Limits { send_time: LONG, recv_time: None, ..Limits::default() };
    let mut waiting = a.network.open(b.id(), &[through], ECHO, patient).await.unwrap();
    assert_eq!(ask(&mut waiting, "hello").await.unwrap(), "hello");
    let mut flood = a.network.open(b.id(), &[], JOIN, patient).await.unwrap();
    let mut arrival = swallow.next().await.unwrap();
    tokio::spawn(async move {
        let mut body = arrival.channel.recv_body(u64::MAX).unwrap();
        while body.read(&mut [0; 1 << 16]).await.is_ok() {}
    });
    let flooding = tokio::spawn(async move { flood.send_body(tokio::io::repeat(7), u64::MAX).await });
    cut.cancel();
    assert!(matches!(timeout(LONG, waiting.recv::<String>()).await.unwrap(), Err(ChannelError::Lost(_))));
    assert!(timeout(LONG, flooding).await.unwrap().unwrap().is_err());
    let mut again = a.open(&b, ECHO).await.unwrap();
    assert_eq!(ask(&mut again, "by another way").await.unwrap(), "by another way");
}

#[tokio::test]
async fn disconnecting_a_peer_breaks_its_streams_on_both_sides_and_lets_it_come_again() {
    let (a, b) = couple().await;
    let mut incoming = b.network.serve(JOIN, Who::Members, Limits { recv_time: None, ..Limits::default() }).unwrap();
    let mut here = a.open(&b, JOIN).await.unwrap();
    let mut there = incoming.next().await.unwrap().channel;
    b.network.disconnect(a.id()).await;
    assert!(matches!(timeout(LONG, there.recv::<u8>()).await.unwrap(), Err(ChannelError::Lost(_))));
    assert!(matches!(timeout(LONG, here.recv::<u8>()).await.unwrap(), Err(ChannelError::Lost(_))));
    a.open(&b, JOIN).await.unwrap();
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_network() {
    let identity = Identity::generate();
    let network = Network::start(&identity, NetworkConfig::new("test", [loopback()])).await.unwrap();
    let mut incoming = network.serve(ECHO, Who::Members, Limits::default()).unwrap();
    drop(network);
    assert!(timeout(LONG, incoming.next()).await.unwrap().is_none());
}

/// A second process with the key of a peer.
async fn copy_of(peer: &Peer) -> Peer {
    let config = NetworkConfig::new("copy", [loopback()]);
    let network = Network::start(&peer.identity, config).await.unwrap();
    Peer { identity: peer.identity.clone(), network }
}

#[tokio::test]
async fn a_second_process_with_a_members_key_is_turned_away_while_the_first_answers() {
    let (a, b) = couple().await;
    let mut first = a.open(&b, ECHO).await.unwrap();
    let copy = copy_of(&a).await;
    copy.network.set_allowed(members(&[&a, &b]));
    let refused = copy.open(&b, ECHO).await.unwrap_err();
    assert!(matches!(refused, OpenError::Copy(peer) if peer == b.id()), "{refused}");
    assert!(copy.network.turned_away().borrow().keys().eq([&b.id()]));
    let (count, seen) = b.network.copies().borrow().clone();
    assert_eq!((count, seen.map(|seen| seen.peer)), (1, Some(a.id())));
    assert_eq!(ask(&mut first, "still").await.unwrap(), "still", "the first is not disturbed");
    assert!(a.open(&b, ECHO).await.is_ok());
}

#[tokio::test]
async fn a_process_that_was_started_again_gets_in_at_once() {
    let (a, b) = couple().await;
    let _stream = a.open(&b, ECHO).await.unwrap();
    let again = copy_of(&a).await;
    again.network.set_allowed(members(&[&a, &b]));
    a.network.shutdown().await;
    let began = Instant::now();
    let mut channel = again.open(&b, ECHO).await.unwrap();
    assert_eq!(ask(&mut channel, "me").await.unwrap(), "me");
    // Sooner than one that has to be asked first.
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_process_that_died_without_a_word_makes_room_for_the_next_one() {
    let (a, b) = couple().await;
    let _stream = a.open(&b, ECHO).await.unwrap();
    let again = copy_of(&a).await;
    again.network.set_allowed(members(&[&a, &b]));
    // It answers nothing any more, and its connection stays.
    a.network.freeze().await;
    let mut channel = again.open(&b, ECHO).await.unwrap();
    assert_eq!(ask(&mut channel, "me").await.unwrap(), "me");
    assert_eq!(b.network.copies().borrow().0, 0);
}

#[tokio::test]
async fn who_reads_from_or_writes_to_a_machine_that_vanished_hears_of_it_when_its_next_process_takes_its_place() {
    // So patient with silence that only the next process's coming shows it.
    let config = NetworkConfig { ping_within: 3 * LONG, ..NetworkConfig::new("test", [loopback()]) };
    let (a, b) = (Peer::start(Admission::ListedOnly).await, Peer::with_config(config).await);
    // It knows the other by the wire alone.
    let mut list = AllowList::new();
    list.add_member(b.id(), []);
    a.network.set_allowed(list);
    b.network.set_allowed(members(&[&a, &b]));
    echo(&b.network, ECHO, Who::Members);
    let patient = Limits { send_time: 3 * LONG, recv_time: None, ..Limits::default() };
    let mut incoming = b.network.serve(JOIN, Who::Members, patient).unwrap();
    let (through, cut) = wire_to(b.network.listening()[0].clone()).await;
    let _here = a.network.open(b.id(), &[through], JOIN, patient).await.unwrap();
    let mut there = incoming.next().await.unwrap().channel;
    // Much is on its way to it, so that the connection cannot say goodbye.
    let mut swallow = a.network.serve(ECHO, Who::Members, patient).unwrap();
    until_connected(&b.network, a.id(), Presence::Here).await;
    let mut flood = b.network.open(a.id(), &[], ECHO, patient).await.unwrap();
    let mut arrival = swallow.next().await.unwrap();
    let flooding = tokio::spawn(async move { flood.send_body(tokio::io::repeat(7), u64::MAX).await });
    let mut body = arrival.channel.recv_body(u64::MAX).unwrap();
    for _ in 0..1000 {
        body.read(&mut [0; 1 << 16]).await.unwrap();
    }
    cut.cancel();
    let again = copy_of(&a).await;
    again.network.set_allowed(members(&[&b]));
    let mut channel = again.open(&b, ECHO).await.unwrap();
    assert!(matches!(timeout(LONG, there.recv::<u8>()).await.expect("heard in time"), Err(ChannelError::Lost(_))));
    assert_eq!(ask(&mut channel, "me").await.unwrap(), "me");
    assert!(timeout(LONG, flooding).await.unwrap().unwrap().is_err());
}

#[tokio::test]
async fn a_users_key_may_be_used_by_many_programs_at_once() {
    let (a, b) = couple().await;
    let copy = copy_of(&a).await;
    let mut list = AllowList::new();
    list.add_principal(a.id());
    b.network.set_allowed(list);
    echo(&b.network, JOIN, Who::Principals);
    let mut first = a.network.open(b.id(), &b.network.listening(), JOIN, Limits::default()).await.unwrap();
    let mut second = copy.network.open(b.id(), &b.network.listening(), JOIN, Limits::default()).await.unwrap();
    assert_eq!(ask(&mut first, "one").await.unwrap(), "one");
    assert_eq!(ask(&mut second, "two").await.unwrap(), "two");
}

#[tokio::test]
async fn a_removed_node_is_told_so_and_reaches_only_what_serves_anyone() {
    let (a, b) = (Peer::start(Admission::ListedOnly).await, Peer::start(Admission::JoinersToo(JoinerLimits::default())).await);
    a.network.set_allowed(members(&[&a, &b]));
    let mut list = members(&[&b]);
    list.add_removed(a.id());
    b.network.set_allowed(list);
    echo(&b.network, ECHO, Who::Members);
    echo(&b.network, JOIN, Who::Anyone);
    let refused = a.open(&b, ECHO).await.unwrap_err();
    assert!(matches!(refused, OpenError::Refused { refusal: Refusal::Removed, .. }), "{refused}");
    assert_eq!(ask(&mut a.open(&b, JOIN).await.unwrap(), "again").await.unwrap(), "again");
}
