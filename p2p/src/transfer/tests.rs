//! Fetching over loopback from peers that are honest, damaged, gone, slow, or lying.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use libp2p::{Multiaddr, PeerId};
use tempfile::TempDir;
use tokio::sync::Notify;

use super::*;
use crate::blobs::BlobStore;
use crate::channel::Limits;
use crate::identity::Identity;
use crate::network::{AllowList, Arrival, Network, NetworkConfig, Who};

const SIZE: usize = 3 * 1024 * 1024 + 17;

struct Peer {
    identity: Identity,
    network: Network,
    store: BlobStore,
    folder: TempDir,
}

impl Peer {
    async fn start() -> Self {
        let identity = Identity::generate();
        let network = network(&identity, "/ip4/127.0.0.1/tcp/0".parse().unwrap()).await;
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open_with_reserve(folder.path(), 0).await.unwrap();
        Self { identity, network, store, folder }
    }

    /// A peer that has `content` and serves it.
    async fn with(content: &[u8]) -> Self {
        let peer = Self::start().await;
        peer.store.import(content, SIZE as u64, None).await.unwrap();
        serve_blobs(&peer.network, peer.store.clone()).unwrap();
        peer
    }

    /// A peer that answers every ask as `script` says.
    async fn scripted(script: Script) -> (Self, Arc<Mutex<Vec<u64>>>) {
        let peer = Self::start().await;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut incoming = peer.network.serve(BLOB_PROTOCOL, Who::Members, Limits::default()).unwrap();
        let offsets = asked.clone();
        tokio::spawn(async move {
            while let Some(Arrival { mut channel, .. }) = incoming.next().await {
                let Ok(Ask::Blob { offset, .. }) = channel.expect().await else { continue };
                offsets.lock().unwrap().push(offset);
                let _ = script.play(&mut channel, offset).await;
            }
        });
        (peer, asked)
    }

    fn id(&self) -> PeerId {
        self.identity.peer_id()
    }
}

/// What a dishonest or unlucky peer sends.
#[derive(Clone)]
struct Script {
    content: Vec<u8>,
    declared: u64,
    /// Where it breaks off.
    until: usize,
}

impl Script {
    async fn play(&self, channel: &mut crate::Channel, offset: u64) -> Result<(), ChannelError> {
        channel.send(&Reply::Sending { size: self.declared }).await?;
        let (sender, _) = channel.halves();
        sender.begin_body(self.declared.saturating_sub(offset))?;
        if (offset as usize) < self.until {
            sender.write_body(&self.content[offset as usize..self.until]).await?;
        }
        if self.until as u64 == self.declared { channel.send(&End::Sound).await } else { Ok(()) }
    }
}

async fn network(identity: &Identity, listen: Multiaddr) -> Network {
    let config = NetworkConfig { open_within: Duration::from_secs(5), ..NetworkConfig::new("data", [listen]) };
    Network::start(identity, config).await.unwrap()
}

fn introduce(peers: &[&Peer]) {
    let mut list = AllowList::new();
    for peer in peers {
        list.add_member(peer.id(), peer.network.listening());
    }
    for peer in peers {
        peer.network.set_allowed(list.clone());
    }
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|n| (n * 31 % 251) as u8).collect()
}

fn lies() -> Vec<u8> {
    let mut lies = content();
    lies[SIZE / 3] ^= 1;
    lies
}

fn request(content: &[u8]) -> Request {
    Request { signature: blake3::hash(content), size: content.len() as u64 }
}

async fn fetch(to: &Peer, request: Request, from: &[&Peer]) -> Result<Fetched, FetchError> {
    fetch_watched(to, request, from, &|_| {}).await
}

async fn fetch_watched(
    to: &Peer,
    request: Request,
    from: &[&Peer],
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Fetched, FetchError> {
    let settings =
        FetchSettings { pause: Duration::from_millis(50), silence: Duration::from_secs(5), ..FetchSettings::default() };
    let providers = from.iter().map(|peer| peer.id().into()).collect();
    Fetcher::with_settings(to.network.clone(), settings).fetch(request, providers, &to.store, progress).await
}

async fn assert_has(peer: &Peer, content: &[u8]) {
    let path = peer.store.path(&blake3::hash(content));
    assert!(std::fs::read(path).unwrap() == content, "the blob is whole and right");
}

fn why(attempts: &[Attempt], peer: &Peer) -> String {
    attempts.iter().find(|attempt| attempt.peer == peer.id()).map(|attempt| attempt.why.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn a_blob_is_fetched_with_progress_and_only_once() {
    let content = content();
    let (a, b) = (Peer::start().await, Peer::with(&content).await);
    introduce(&[&a, &b]);
    let seen = Mutex::new(Vec::new());
    let fetched = fetch_watched(&a, request(&content), &[&b], &|progress| seen.lock().unwrap().push(progress)).await.unwrap();
    assert_eq!((fetched.moved, fetched.failed.len()), (SIZE as u64, 0));
    assert_has(&a, &content).await;
    let seen = seen.into_inner().unwrap();
    assert!(seen.is_sorted_by_key(|progress| progress.have));
    assert_eq!(seen.last(), Some(&Progress { have: SIZE as u64, size: SIZE as u64, from: b.id() }));
    assert_eq!(fetch(&a, request(&content), &[&b]).await.unwrap().moved, 0);
}

#[tokio::test]
async fn several_peers_fetch_at_once_and_pass_it_on() {
    let content = content();
    let source = Peer::with(&content).await;
    let others = join_all((0..4).map(|_| Peer::start())).await;
    let all: Vec<&Peer> = others.iter().chain([&source]).collect();
    introduce(&all);
    for result in join_all(others.iter().map(async |peer| fetch(peer, request(&content), &[&source]).await)).await {
        result.unwrap();
    }
    let empty = Peer::start().await;
    serve_blobs(&others[0].network, vec![empty.store, others[0].store.clone()]).unwrap();
    let last = Peer::start().await;
    introduce(&[&last, &others[0]]);
    fetch(&last, request(&content), &[&others[0]]).await.unwrap();
    assert_has(&last, &content).await;
}

#[tokio::test]
async fn an_empty_blob_is_fetched_too() {
    let (a, b) = (Peer::start().await, Peer::with(b"").await);
    introduce(&[&a, &b]);
    fetch(&a, request(b""), &[&b]).await.unwrap();
    assert_has(&a, b"").await;
}

#[tokio::test]
async fn when_a_peer_breaks_off_the_next_goes_on_where_it_stopped() {
    let content = content();
    let half = SIZE / 2;
    let (broken, _) = Peer::scripted(Script { content: content.clone(), declared: SIZE as u64, until: half }).await;
    let (a, whole) = (Peer::start().await, Peer::with(&content).await);
    introduce(&[&a, &broken, &whole]);
    let fetched = fetch(&a, request(&content), &[&broken, &whole]).await.unwrap();
    assert_eq!(fetched.moved, SIZE as u64, "no byte came twice");
    assert_has(&a, &content).await;
}

#[tokio::test]
async fn a_fetch_that_failed_is_resumed_by_the_next_one() {
    let content = content();
    let half = SIZE / 2;
    let (broken, asked) = Peer::scripted(Script { content: content.clone(), declared: SIZE as u64, until: half }).await;
    let (a, whole) = (Peer::start().await, Peer::with(&content).await);
    introduce(&[&a, &broken, &whole]);
    let error = fetch(&a, request(&content), &[&broken]).await.unwrap_err();
    assert!(error.to_string().contains(&broken.id().to_string()), "{error}");
    assert_eq!(asked.lock().unwrap()[..2], [0, half as u64]);
    let again = BlobStore::open_with_reserve(a.folder.path(), 0).await.unwrap();
    let a = Peer { store: again, ..a };
    assert_eq!(fetch(&a, request(&content), &[&whole]).await.unwrap().moved, (SIZE - half) as u64);
    assert_has(&a, &content).await;
}

#[tokio::test]
async fn a_provider_that_restarts_in_the_middle_is_asked_again() {
    let content: Vec<u8> = content().repeat(8);
    let (a, b) = (Peer::start().await, Peer::start().await);
    b.store.import(&content[..], content.len() as u64, None).await.unwrap();
    serve_blobs(&b.network, b.store.clone()).unwrap();
    introduce(&[&a, &b]);
    let (begun, address) = (Notify::new(), b.network.listening()[0].clone());
    let restarted = async {
        begun.notified().await;
        b.network.shutdown().await;
        let again = network(&b.identity, address).await;
        let mut list = AllowList::new();
        list.add_member(a.id(), []);
        again.set_allowed(list);
        serve_blobs(&again, b.store.clone()).unwrap();
        again
    };
    let progress = |_| begun.notify_one();
    let providers = [&b];
    let (fetched, _again) = tokio::join!(fetch_watched(&a, request(&content), &providers, &progress), restarted);
    fetched.unwrap();
    assert_has(&a, &content).await;
}

#[tokio::test]
async fn a_liar_is_named_and_not_asked_again_and_the_next_peer_is() {
    let (content, lies) = (content(), lies());
    let (liar, asked) = Peer::scripted(Script { content: lies.clone(), declared: SIZE as u64, until: SIZE }).await;
    let (a, honest) = (Peer::start().await, Peer::with(&content).await);
    introduce(&[&a, &liar, &honest]);
    let fetched = fetch(&a, request(&content), &[&liar, &honest]).await.unwrap();
    assert_has(&a, &content).await;
    assert!(why(&fetched.failed, &liar).contains(&blake3::hash(&lies).to_string()), "{:?}", fetched.failed);
    assert_eq!(*asked.lock().unwrap(), [0]);
}

#[tokio::test]
async fn a_liar_alone_gives_nothing() {
    let (content, lies) = (content(), lies());
    let (liar, asked) = Peer::scripted(Script { content: lies, declared: SIZE as u64, until: SIZE }).await;
    let a = Peer::start().await;
    introduce(&[&a, &liar]);
    let error = fetch(&a, request(&content), &[&liar]).await.unwrap_err().to_string();
    assert!(error.contains("sent wrong bytes") && error.contains(&liar.id().to_string()), "{error}");
    assert_eq!(asked.lock().unwrap().len(), 1);
    assert!(!a.store.contains(&blake3::hash(&content)).await.unwrap());
}

#[tokio::test]
async fn wrong_bytes_of_several_peers_blame_nobody_and_are_sorted_out() {
    let (content, lies) = (content(), lies());
    // It lies in its first half and then breaks off: the honest one completes what cannot be right.
    let (liar, _) = Peer::scripted(Script { content: lies, declared: SIZE as u64, until: SIZE / 2 }).await;
    let (a, honest) = (Peer::start().await, Peer::with(&content).await);
    introduce(&[&a, &liar, &honest]);
    let fetched = fetch(&a, request(&content), &[&liar, &honest]).await.unwrap();
    assert_has(&a, &content).await;
    assert_eq!(why(&fetched.failed, &honest), "");
    assert_eq!(fetched.moved, 2 * SIZE as u64, "everything came once in vain and once from the honest one alone");
}

#[tokio::test]
async fn a_peer_whose_disk_changed_a_byte_says_so_and_stops_serving_it() {
    let content = content();
    let (a, damaged, sound) = (Peer::start().await, Peer::with(&content).await, Peer::with(&content).await);
    introduce(&[&a, &damaged, &sound]);
    let signature = blake3::hash(&content);
    let path = damaged.store.path(&signature);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&path, lies()).unwrap();
    let fetched = fetch(&a, request(&content), &[&damaged, &sound]).await.unwrap();
    assert_has(&a, &content).await;
    assert_eq!(why(&fetched.failed, &damaged), "its copy is damaged");
    let second = Peer::start().await;
    introduce(&[&second, &damaged]);
    let error = fetch(&second, request(&content), &[&damaged]).await.unwrap_err();
    assert!(error.to_string().contains("its copy is damaged"), "{error}");
    let FetchError::NoProvider { attempts, .. } = error else { panic!("{error}") };
    assert_eq!(attempts.len(), 1);
    let partial = std::fs::read_dir(second.folder.path().join("partial")).unwrap().count();
    assert_eq!(partial, 0, "nothing was sent, and nothing is left");
}

#[tokio::test]
async fn a_peer_that_declares_another_size_is_not_read_at_all() {
    let content = content();
    let (liar, asked) = Peer::scripted(Script { content: Vec::new(), declared: u64::MAX, until: 0 }).await;
    let a = Peer::start().await;
    introduce(&[&a, &liar]);
    let error = fetch(&a, request(&content), &[&liar]).await.unwrap_err().to_string();
    assert!(error.contains(&format!("declared {} bytes where there must be {SIZE}", u64::MAX)), "{error}");
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn without_a_provider_each_reason_is_given() {
    let content = content();
    let (a, without, gone) = (Peer::start().await, Peer::with(b"other").await, Peer::start().await);
    introduce(&[&a, &without, &gone]);
    gone.network.shutdown().await;
    let error = fetch(&a, request(&content), &[&without, &gone]).await.unwrap_err().to_string();
    assert!(error.contains("it does not have it") && error.contains("Connection refused"), "{error}");
    let nobody = fetch(&a, request(&content), &[]).await.unwrap_err().to_string();
    assert!(nobody.ends_with("none is known"), "{nobody}");
}

#[tokio::test]
async fn a_peer_that_is_no_member_gets_no_blob() {
    let content = content();
    let (stranger, b) = (Peer::start().await, Peer::with(&content).await);
    introduce(&[&b]);
    let provider = Provider { peer: b.id(), addresses: b.network.listening() };
    let fetcher = Fetcher::new(stranger.network.clone());
    let error = fetcher.fetch(request(&content), vec![provider], &stranger.store, &|_| {}).await.unwrap_err();
    assert!(error.to_string().contains("closed the connection at once"), "{error}");
}

#[tokio::test]
async fn a_full_disk_here_is_not_blamed_on_peers() {
    let content = content();
    let (a, b) = (Peer::start().await, Peer::with(&content).await);
    introduce(&[&a, &b]);
    let full = BlobStore::open_with_reserve(a.folder.path(), u64::MAX / 2).await.unwrap();
    let a = Peer { store: full, ..a };
    let error = fetch(&a, request(&content), &[&b]).await.unwrap_err();
    assert!(matches!(error, FetchError::Store(BlobError::NoSpace { .. })), "{error}");
}
