//! Users of the demo's service: they ask every node's web server all the time. What fails is told at once, and counted.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::cut::{Waiter, tell};
use crate::output::words;

const LIMIT: Duration = Duration::from_secs(10);
/// Between two requests to one node.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct Counts {
    answered: u64,
    failed: u64,
    last: String,
}

type Shared = Arc<Mutex<BTreeMap<String, Counts>>>;

/// The users.
pub(super) struct Traffic {
    addresses: BTreeMap<String, SocketAddr>,
    counts: Shared,
    stop: Arc<AtomicBool>,
    users: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// One user for each address.
    pub(super) fn start(addresses: Vec<(String, SocketAddr)>) -> Self {
        let counts = Shared::default();
        let stop = Arc::new(AtomicBool::new(false));
        let users = addresses.iter().cloned().map(|(name, address)| {
            let (counts, stop) = (counts.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = ask(address, "GET", "/");
                    if let Err(error) = &answer {
                        // The demo itself notices when nobody reads any more.
                        let _ = tell(&format!("  ! at {} a request to {name} failed: {error:#}", words::time(words::now())));
                    }
                    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                    counts.entry(name.clone()).or_default().add(answer);
                    drop(counts);
                    std::thread::sleep(PAUSE);
                }
            })
        });
        let users = users.collect();
        Self { addresses: addresses.into_iter().collect(), counts, stop, users }
    }

    /// Posts to one node.
    pub(super) fn post(&self, node: &str, path: &str) -> Result<()> {
        let address = self.addresses.get(node).context("no such node")?;
        ask(*address, "POST", path).map(|_| ())
    }

    /// Waits until every node's answer has this in it.
    pub(super) fn seen(&self, waiter: &Waiter, what: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            if counts.len() == self.addresses.len() && counts.values().all(|counts| counts.last.contains(what)) {
                let such_as = counts.values().next().map_or("", |counts| counts.last.trim());
                return tell(&format!("  every node answers, such as: {such_as}"));
            }
            if begun.elapsed() > LIMIT {
                bail!("not every node answers with {what:?}: {counts:?}");
            }
            drop(counts);
            waiter.pause(PAUSE)?;
        }
    }

    /// Stops the users, tells how it went, and gives the nodes on which something failed.
    pub(super) fn stop(self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        for user in self.users {
            // A user that panicked has said so.
            let _ = user.join();
        }
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, counts) in counts.iter() {
            tell(&format!("  {name}: {} requests answered, {} failed", counts.answered, counts.failed))?;
        }
        Ok(counts.iter().filter(|(_, counts)| counts.failed > 0).map(|(name, _)| name.clone()).collect())
    }
}

impl Counts {
    fn add(&mut self, answer: Result<String>) {
        match answer {
            Ok(text) => {
                self.answered += 1;
                self.last = text;
            }
            Err(_) => self.failed += 1,
        }
    }
}

/// What a server answers to its front page, or why it does not.
pub(super) fn said(address: SocketAddr) -> String {
    ask(address, "GET", "/").unwrap_or_else(|error| format!("{error:#}"))
}

/// One request on a connection of its own; gives the answer's body.
fn ask(address: SocketAddr, method: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer was cut short")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{}: {}", head.lines().next().unwrap_or_default(), body.trim());
    Ok(body.to_owned())
}
