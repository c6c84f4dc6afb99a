//! The daemon: gives out quotes from its catalogue, and objects to updates while it recalculates.
//!
//! `GET /quote` (or the path it was told) answers with a quote; `POST /recalculate` begins a recalculation, `POST /finish` ends it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use hyper::{Method, StatusCode};
use tribune_process::{Ballot, HandOver, Handler, Process, Proposal};

use crate::serve::{self, Leave, text};

struct Daemon {
    version: &'static str,
    path: String,
    quotes: Vec<String>,
    next: AtomicUsize,
    busy: AtomicBool,
}

struct Opinion {
    daemon: Arc<Daemon>,
    leave: Leave,
}

impl Handler for Opinion {
    fn on_proposal(&mut self, proposal: &Proposal) -> Ballot {
        if self.daemon.busy.load(Ordering::SeqCst) {
            println!("update {} is vetoed: a recalculation is under way", proposal.update);
            return Ballot::Veto(format!("{} quotes are being recalculated", self.daemon.quotes.len()));
        }
        Ballot::Accept
    }

    fn on_hand_over(&mut self, _: &HandOver) -> Option<String> {
        self.leave.and_wait();
        Some(self.daemon.next.load(Ordering::SeqCst).to_string())
    }
}

/// Runs until the node stops it.
pub fn run(version: &'static str) -> Result<()> {
    let Options { catalogue, name, path } = options()?;
    let quotes = read_catalogue(&catalogue)?;
    let daemon = Arc::new(Daemon { version, path, quotes, next: AtomicUsize::new(0), busy: AtomicBool::new(false) });
    let listener = serve::socket()?;
    let address = listener.local_addr()?;
    let file = crate::address_file(&name)?;
    let fresh = file.with_extension(format!("{}", std::process::id()));
    std::fs::write(&fresh, address.to_string())?;
    std::fs::rename(&fresh, &file)?;
    println!("{name} {version} listens on {address}");
    let (server, leave) = serve::server();
    let _session = Process::connect()?.version(version).serve(Opinion { daemon: daemon.clone(), leave })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(server.run(listener, move |request| {
        let answer = daemon.answer(request.method(), request.uri().path());
        async move { answer }
    }))
}

/// What it was told when it was started.
struct Options {
    catalogue: PathBuf,
    name: String,
    path: String,
}

fn options() -> Result<Options> {
    let (mut catalogue, mut name, mut path) = (None, "quoted".to_owned(), "/quote".to_owned());
    let mut args = std::env::args().skip(1);
    loop {
        match (args.next().as_deref(), args.next()) {
            (Some("--catalogue"), Some(file)) => catalogue = Some(PathBuf::from(file)),
            (Some("--name"), Some(given)) => name = given,
            (Some("--path"), Some(given)) => path = given,
            (None, _) => break,
            _ => bail!("usage: quoted --catalogue FILE [--name NAME] [--path PATH]"),
        }
    }
    let catalogue = catalogue.context("name the catalogue with --catalogue FILE")?;
    Ok(Options { catalogue, name, path })
}

fn read_catalogue(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading the catalogue {}", file.display()))?;
    let quotes: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if quotes.is_empty() {
        bail!("the catalogue {} has no quotes", file.display());
    }
    Ok(quotes)
}

impl Daemon {
    fn answer(&self, method: &Method, path: &str) -> serve::Answer {
        match (method, path) {
            (&Method::GET, path) if path == self.path => {
                let at = self.next.fetch_add(1, Ordering::SeqCst) % self.quotes.len();
                text(StatusCode::OK, format!("{} (quoted {})", self.quotes[at], self.version))
            }
            (&Method::POST, "/recalculate") => {
                self.busy.store(true, Ordering::SeqCst);
                text(StatusCode::OK, "recalculating")
            }
            (&Method::POST, "/finish") => {
                self.busy.store(false, Ordering::SeqCst);
                text(StatusCode::OK, "idle")
            }
            _ => text(StatusCode::NOT_FOUND, format!("try GET {}, POST /recalculate or POST /finish", self.path)),
        }
    }
}
