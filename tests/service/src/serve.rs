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

/// How long a connection that was accepted before the server leaves may still take to ask its first question.
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
            connections.spawn(converse(stream, handle.clone(), self.asked.clone()));
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
        // Nobody may wait any more, if the node has gone.
        let _ = self.left.send(());
        std::future::pending().await
    }
}

/// Answers the requests of one connection. Asked to leave, it ends with the answer to what was begun; who was accepted and whose
/// first request has not begun to be answered is heard first: hyper would close such a connection in its face.
async fn converse<F, Fut>(stream: TcpStream, handle: F, mut asked: watch::Receiver<Option<()>>)
where
    F: Fn(Request<Incoming>) -> Fut,
    Fut: Future<Output = Answer>,
{
    let (hear, mut heard) = watch::channel(false);
    let service = service_fn(move |request| {
        hear.send_replace(true);
        let answer = handle(request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let mut connection = pin!(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    let leave = async {
        // Without anyone to ask, there is nothing to wait for. Silence is an answer too: the connection is closed then.
        let _ = asked.wait_for(Option::is_some).await;
        let _ = timeout(FIRST_WORD, heard.wait_for(|heard| *heard)).await;
    };
    let first = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        () = leave => None,
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// Longer than anything here takes on a busy machine.
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn who_was_accepted_is_answered_also_when_the_server_leaves_before_the_request_is_whole() -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (server, leave) = server();
        runtime.spawn(server.run(listener, async |_| text(StatusCode::OK, "here")));
        let connect = || {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_read_timeout(Some(LONG))?;
            std::io::Result::Ok(stream)
        };
        // Accepted in this order, so that the last answer says that the first two were.
        let (mut silent, mut half, mut whole) = (connect()?, connect()?, connect()?);
        half.write_all(b"GET / HT")?;
        whole.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        whole.read_to_string(&mut answer)?;
        assert!(answer.ends_with("here\n"), "{answer}");

        let asked = leave.0.clone();
        let left = std::thread::spawn(move || leave.and_wait());
        runtime.block_on(async { asked.subscribe().wait_for(Option::is_some).await.map(|_| ()) })?;
        half.write_all(b"TP/1.1\r\nHost: a\r\n\r\n")?;
        silent.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
        for mut stream in [half, silent] {
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            assert!(answer.ends_with("here\n"), "{answer}");
        }
        assert!(left.join().is_ok());
        assert!(std::net::TcpStream::connect(address).is_err(), "nobody accepts any more");
        runtime.shutdown_background();
        Ok(())
    }
}
