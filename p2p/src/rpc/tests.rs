//! Calls between two networks on loopback.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::*;
use crate::channel::Limits;
use crate::identity::Identity;
use crate::network::{AllowList, Network, NetworkConfig, Standing, Who};

const PROTOCOL: &str = "/tribune/test-rpc/1";
const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    Echo(String),
    WaitForOpen,
    Open,
    Large(usize),
    Panic,
}

struct Pair {
    client: Network,
    server_identity: Identity,
    server: Network,
}

async fn start(identity: &Identity, listen: &str) -> Network {
    Network::start(identity, NetworkConfig::new("test", [listen.parse().unwrap()])).await.unwrap()
}

async fn pair() -> Pair {
    let (client_identity, server_identity) = (Identity::generate(), Identity::generate());
    let client = start(&client_identity, "/ip4/127.0.0.1/tcp/0").await;
    let server = start(&server_identity, "/ip4/127.0.0.1/tcp/0").await;
    let mut list = AllowList::new();
    list.add_member(client.peer_id(), client.listening());
    list.add_member(server.peer_id(), server.listening());
    client.set_allowed(list.clone());
    server.set_allowed(list);
    Pair { client, server_identity, server }
}

fn limits() -> Limits {
    Limits { max_frame: 64 * 1024, ..Limits::default() }
}

fn serve(network: &Network) {
    let gate = Arc::new(Semaphore::new(0));
    let incoming = network.serve(PROTOCOL, Who::Members, Limits { recv_time: None, ..limits() }).unwrap();
    tokio::spawn(serve_rpc(incoming, 64, move |_, standing, ask: Ask| {
        assert_eq!(standing, Standing::Member);
        let gate = gate.clone();
        async move {
            match ask {
                Ask::Echo(text) => text,
                Ask::WaitForOpen => {
                    gate.acquire().await.unwrap().forget();
                    "opened".to_owned()
                }
                Ask::Open => {
                    gate.add_permits(1);
                    "opening".to_owned()
                }
                Ask::Large(size) => "x".repeat(size),
                Ask::Panic => panic!("asked to"),
            }
        }
    }));
}

fn client(pair: &Pair) -> RpcClient {
    RpcClient::new(pair.client.clone(), PROTOCOL, limits())
}

async fn call(client: &RpcClient, pair: &Pair, ask: Ask) -> Result<String, RpcError> {
    client.call(pair.server.peer_id(), &ask, LONG).await
}

#[tokio::test]
async fn a_thousand_calls_at_once_get_their_own_answers() {
    let pair = pair().await;
    serve(&pair.server);
    let client = client(&pair);
    let answers = join_all((0..1000).map(|n| call(&client, &pair, Ask::Echo(n.to_string())))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), n.to_string());
    }
}

#[tokio::test]
async fn a_later_call_is_answered_before_an_earlier_one() {
    let pair = pair().await;
    serve(&pair.server);
    let client = client(&pair);
    let (first, second) = tokio::join!(call(&client, &pair, Ask::WaitForOpen), call(&client, &pair, Ask::Open));
    assert_eq!((first.unwrap().as_str(), second.unwrap().as_str()), ("opened", "opening"));
}

#[tokio::test]
async fn calls_fail_at_once_when_the_stream_breaks_and_the_next_one_opens_another() {
    let pair = pair().await;
    serve(&pair.server);
    let client = client(&pair);
    call(&client, &pair, Ask::Echo("warm".into())).await.unwrap();
    let address = pair.server.listening()[0].to_string();
    let begun = Instant::now();
    let (waiting, ()) = tokio::join!(call(&client, &pair, Ask::WaitForOpen), async {
        // The first answer shows that the waiting call, written before it, has arrived.
        call(&client, &pair, Ask::Echo("after".into())).await.unwrap();
        pair.server.shutdown().await;
    });
    assert!(matches!(waiting, Err(RpcError::Lost { .. })), "{waiting:?}");
    assert!(begun.elapsed() < LONG / 2);
    let refused = call(&client, &pair, Ask::Echo("nobody".into())).await.unwrap_err();
    assert!(matches!(refused, RpcError::Connect(_)), "{refused}");

    let again = start(&pair.server_identity, &address).await;
    let mut list = AllowList::new();
    list.add_member(pair.client.peer_id(), []);
    again.set_allowed(list);
    serve(&again);
    assert_eq!(call(&client, &pair, Ask::Echo("again".into())).await.unwrap(), "again");
}

#[tokio::test]
async fn a_call_that_is_not_answered_times_out_and_harms_no_other() {
    let pair = pair().await;
    serve(&pair.server);
    let client = client(&pair);
    let within = Duration::from_millis(300);
    let error = client.call::<_, String>(pair.server.peer_id(), &Ask::WaitForOpen, within).await.unwrap_err();
    assert!(matches!(error, RpcError::TimedOut { after, .. } if after == within), "{error}");
    assert_eq!(call(&client, &pair, Ask::Echo("fine".into())).await.unwrap(), "fine");
}

#[tokio::test]
async fn what_is_too_large_is_said_and_the_stream_goes_on() {
    let pair = pair().await;
    serve(&pair.server);
    let client = client(&pair);
    let request = call(&client, &pair, Ask::Echo("x".repeat(70_000))).await.unwrap_err();
    assert!(request.to_string().contains("too large: the request"), "{request}");
    let answer = call(&client, &pair, Ask::Large(70_000)).await.unwrap_err();
    assert!(answer.to_string().contains("too large: the answer"), "{answer}");
    assert_eq!(call(&client, &pair, Ask::Large(3)).await.unwrap(), "xxx");
}

#[tokio::test]
async fn what_cannot_be_read_is_said_by_the_side_that_cannot() {
    let pair = pair().await;
    serve(&pair.server);
    let client = client(&pair);
    let peer = pair.server.peer_id();
    let request = client.call::<_, String>(peer, &[1, 2, 3], LONG).await.unwrap_err();
    assert!(request.to_string().contains("cannot read the request"), "{request}");
    let answer = client.call::<_, u64>(peer, &Ask::Echo("text".into()), LONG).await.unwrap_err();
    assert!(matches!(&answer, RpcError::Malformed(why) if why.contains("the answer of")), "{answer}");
}

#[tokio::test]
async fn a_handler_that_panics_is_an_answer() {
    let pair = pair().await;
    serve(&pair.server);
    let client = client(&pair);
    assert!(matches!(call(&client, &pair, Ask::Panic).await, Err(RpcError::Failed { .. })));
    assert_eq!(call(&client, &pair, Ask::Echo("alive".into())).await.unwrap(), "alive");
}

#[tokio::test]
async fn a_caller_that_is_no_member_hears_so() {
    let pair = pair().await;
    let incoming = pair.server.serve(PROTOCOL, Who::Principals, limits()).unwrap();
    tokio::spawn(serve_rpc(incoming, 1, |_, _, ask: u8| async move { ask }));
    let error = call(&client(&pair), &pair, Ask::Open).await.unwrap_err();
    assert!(matches!(error, RpcError::Refused { refusal: Refusal::NotFor(Standing::Member), .. }), "{error}");
}

#[tokio::test]
async fn no_more_requests_are_worked_on_at_once_than_allowed() {
    let pair = pair().await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let incoming = pair.server.serve(PROTOCOL, Who::Members, limits()).unwrap();
    let seen = most.clone();
    tokio::spawn(serve_rpc(incoming, 4, move |_, _, ask: u32| {
        let (now, most) = (now.clone(), most.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::SeqCst);
            ask
        }
    }));
    let client = client(&pair);
    let (client, peer) = (&client, pair.server.peer_id());
    let answers = join_all((0..200_u32).map(async |n| client.call::<_, u32>(peer, &n, LONG).await)).await;
    assert!(answers.into_iter().enumerate().all(|(n, answer)| answer.unwrap() == n as u32));
    assert!(seen.load(Ordering::SeqCst) <= 4);
}

#[tokio::test]
async fn a_handler_is_dropped_when_its_caller_has_waited_long_enough() {
    struct Tell(mpsc::UnboundedSender<()>);
    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let pair = pair().await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let incoming = pair.server.serve(PROTOCOL, Who::Members, limits()).unwrap();
    tokio::spawn(serve_rpc(incoming, 4, move |_, _, _: u8| {
        let tell = Tell(tell.clone());
        async move {
            Notify::new().notified().await;
            drop(tell);
        }
    }));
    let within = Duration::from_millis(200);
    assert!(client(&pair).call::<_, ()>(pair.server.peer_id(), &1_u8, within).await.is_err());
    timeout(LONG, told.recv()).await.unwrap().unwrap();
}
