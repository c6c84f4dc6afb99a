//! The web server: asks `quoted` for a quote and answers with it. What is posted to it goes to `quoted` as it is.
//!
//! It asks the `quoted` of its own node, or with `--from` the one at that address.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tribune_process::{HandOver, Handler, Process};

use crate::serve::{self, Answer, Leave, text};

struct Opinion(Leave);

impl Handler for Opinion {
    fn on_hand_over(&mut self, _: &HandOver) -> Option<String> {
        self.0.and_wait();
        None
    }
}

/// Whom it asks, and for what.
struct Source {
    from: Option<String>,
    path: String,
}

/// Runs until the node stops it.
pub fn run(version: &'static str) -> Result<()> {
    let source = Arc::new(source()?);
    let listener = serve::socket()?;
    println!("web {version} listens on {}", listener.local_addr()?);
    let (server, leave) = serve::server();
    let _session = Process::connect()?.version(version).serve(Opinion(leave))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(server.run(listener, move |request| {
        let (source, method, path) = (source.clone(), request.method().clone(), request.uri().path().to_owned());
        async move { answer(version, &source, method, path).await }
    }))
}

fn source() -> Result<Source> {
    let mut source = Source { from: None, path: "/quote".into() };
    let mut args = std::env::args().skip(1);
    loop {
        match (args.next().as_deref(), args.next()) {
            (Some("--from"), Some(address)) => source.from = Some(address),
            (Some("--path"), Some(path)) => source.path = path,
            (None, _) => return Ok(source),
            _ => bail!("usage: web [--from ADDRESS] [--path PATH]"),
        }
    }
}

async fn answer(version: &str, source: &Source, method: Method, path: String) -> Answer {
    let path = if path == "/" { source.path.clone() } else { path };
    match ask(source, method, &path).await {
        Ok((status, quote)) => text(status, format!("{} (web {version})", quote.trim_end())),
        Err(error) => text(StatusCode::BAD_GATEWAY, format!("{error:#}")),
    }
}

async fn ask(source: &Source, method: Method, path: &str) -> Result<(StatusCode, String)> {
    let address = match &source.from {
        Some(address) => address.clone(),
        None => std::fs::read_to_string(crate::address_file("quoted")?).context("quoted has not said where it listens")?,
    };
    let stream = TcpStream::connect(address.trim()).await.context("connecting to quoted")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "quoted")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await.context("asking quoted")?;
    let status = answer.status();
    let body = answer.into_body().collect().await.context("reading quoted's answer")?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
