//! What both processes share: the socket their node opened, HTTP on it, and leaving without cutting anyone off.

use std::net::TcpListener;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a connection that was accepted may take to ask its first question.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// An answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// The one listening socket that the node passed on.
pub(crate) fn socket() -> Result<TcpListener> {
    let (_, socket) = tribune_process::listen_fds()?
        .into_iter()
        .next()
        .context("no listening socket was passed on; the module needs a `listen`")?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// An answer with this text.
pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text.into() + "\n")));
    *answer.status_mut() = status;
    answer
}

/// Asks a server to leave: it stops accepting, and says when the last request is answered.
#[derive(Debug, Clone)]
pub(crate) struct Leave(watch::Sender<Option<()>>, std::sync::Arc<std::sync::Mutex<Option<oneshot::Receiver<()>>>>);

impl Leave {
    /// Waits until everything that was begun is finished. Called on the thread that speaks to the node.
    pub(crate) fn and_wait(&self) {
        self.0.send_replace(Some(()));
        let left = self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(left) = left {
            // An error says that the server ended, which is as good.
            let _ = left.blocking_recv();
        }
    }
}

/// A server that has not begun yet, and what makes it leave.
pub(crate) fn server() -> (Server, Leave) {
    let (ask, asked) = watch::channel(None);
    let (left, to_wait) = oneshot::channel();
    (Server { asked, left }, Leave(ask, std::sync::Arc::new(std::sync::Mutex::new(Some(to_wait)))))
}

/// See [`server`].
pub(crate) struct Server {
    asked: watch::Receiver<Option<()>>,
    left: oneshot::Sender<()>,
}

impl Server {
    /// Answers requests until it is asked to leave; then waits to be stopped.
    pub(crate) async fn run<F, Fut>(mut self, listener: TcpListener, handle: F) -> Result<()>
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted?.0,
                Some(_) = connections.join_next() => continue,
                _ = self.asked.wait_for(Option::is_some) => break,
            };
            let handle = handle.clone();
            let service = service_fn(move |request| {
                let answer = handle(request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            connections.spawn(converse(stream, service, self.asked.clone()));
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
        // Nobody may wait any more, if the node has gone.
        let _ = self.left.send(());
        std::future::pending().await
    }
}

/// Answers the requests of one connection. Asked to leave, it ends with the answer to what was begun; who was accepted and has not
/// asked yet is heard first: hyper would close such a connection in its face.
async fn converse<S>(stream: TcpStream, service: S, mut asked: watch::Receiver<Option<()>>)
where
    S: hyper::service::HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Silence is an answer too: the connection is closed then.
    let _ = timeout(FIRST_WORD, stream.readable()).await;
    let mut connection = pin!(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    let first = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        _ = asked.wait_for(Option::is_some) => None,
    };
    let ended = match first {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        eprintln!("a connection ended early: {error}");
    }
}
