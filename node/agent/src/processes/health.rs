//! Checks from outside whether a module does its work. Its one idea: one check, one answer with a reason, always within
//! its limit; how often to check, and what follows, is for the caller.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::command::{self, Ended};

/// One way to look at a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What to look at.
    pub probe: Probe,
    /// How long one check may take.
    pub within: Duration,
}

/// What a check looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A GET must be answered with a status from 200 to 399. Redirects are not followed.
    Http(HttpUrl),
    /// `host:port` must take a connection.
    Tcp(String),
    /// A command must exit with status 0.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
        /// Where it runs.
        folder: PathBuf,
        /// Its environment, beside `PATH`.
        environment: Vec<(String, String)>,
    },
}

/// A URL that can be checked: `http://host[:port]/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    address: String,
    host: String,
    path: String,
}

/// Why a URL cannot be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} cannot be checked: {why}; it should be like http://127.0.0.1:8080/health")]
pub struct BadUrl {
    /// The URL as it was given.
    pub url: String,
    /// What is wrong with it.
    pub why: String,
}

impl std::str::FromStr for HttpUrl {
    type Err = BadUrl;

    fn from_str(url: &str) -> Result<Self, BadUrl> {
        let bad = |why: &str| BadUrl { url: url.to_owned(), why: why.to_owned() };
        let uri: Uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| bad(&error.to_string()))?;
        if uri.scheme_str() != Some("http") {
            return Err(bad("only http is checked"));
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("a name and password have no place in it"));
        }
        if authority.host().is_empty() {
            return Err(bad("it names no host"));
        }
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { address, host: authority.as_str().to_owned(), path })
    }
}

/// Why a module is not healthy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unhealthy {
    /// For the operator: what was checked and what happened.
    pub why: String,
}

/// Checks once.
///
/// # Errors
/// [`Unhealthy`] with the reason: a refusal, a wrong answer, or none in time.
pub async fn check_once(check: &HealthCheck) -> Result<(), Unhealthy> {
    let (what, checked) = match &check.probe {
        Probe::Http(url) => (format!("http://{}{}", url.host, url.path), timeout(check.within, http(url)).await),
        Probe::Tcp(address) => (format!("tcp {address}"), timeout(check.within, tcp(address)).await),
        Probe::Exec { command, folder, environment } => {
            // Its own limit is what kills it; it needs no second one.
            let what = format!("command {:?}", command.first().map_or("", String::as_str));
            (what, Ok(exec(command, folder, environment, check.within).await))
        }
    };
    let checked = checked.unwrap_or_else(|_| Err(format!("no answer within {:?}", check.within)));
    checked.map_err(|why| Unhealthy { why: format!("{what}: {why}") })
}

async fn tcp(address: &str) -> Result<(), String> {
    TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
}

async fn http(url: &HttpUrl) -> Result<(), String> {
    let stream = TcpStream::connect(&url.address).await.map_err(|error| error.to_string())?;
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_headers(100).max_buf_size(64 * 1024);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::get(&url.path)
        .header(HOST, &url.host)
        .header(USER_AGENT, concat!("tribune/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    // The connection is driven only until the status is here: the body is nobody's concern.
    let response = sender.send_request(request);
    tokio::pin!(response, connection);
    let answered = tokio::select! {
        answered = &mut response => answered,
        ended = &mut connection => match ended {
            Ok(()) => response.await,
            Err(error) => Err(error),
        },
    };
    judge(answered.map_err(|error| error.to_string())?.status())
}

fn judge(status: StatusCode) -> Result<(), String> {
    if (200..400).contains(&status.as_u16()) { Ok(()) } else { Err(format!("status {status}")) }
}

async fn exec(
    words: &[String],
    folder: &std::path::Path,
    environment: &[(String, String)],
    within: Duration,
) -> Result<(), String> {
    let [program, arguments @ ..] = words else { return Err("the check names no command".to_owned()) };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    let finished = command::run(command, Vec::new(), within).await.map_err(|error| format!("could not be run: {error}"))?;
    let said = finished.last_line();
    let said = if said.is_empty() { said } else { format!(": {said}") };
    match finished.ended {
        Ended::Exited(status) if status.success() => Ok(()),
        Ended::Exited(status) => Err(format!("{status}{said}")),
        Ended::TimedOut => Err(format!("did not end within {within:?}{said}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const LONG: Duration = Duration::from_secs(30);

    /// A server that gives every connection these bytes, then keeps it open.
    async fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
                open.push(stream);
            }
        });
        address
    }

    async fn get(answer: &'static [u8], within: Duration) -> Result<(), String> {
        let url = format!("http://{}/health?x=1", server(answer).await);
        let check = HealthCheck { probe: Probe::Http(url.parse().unwrap()), within };
        check_once(&check).await.map_err(|unhealthy| unhealthy.why)
    }

    #[tokio::test]
    async fn statuses_from_200_to_399_are_healthy_whatever_the_body_does() {
        get(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nnever all of it", LONG).await.unwrap();
        get(b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", LONG).await.unwrap();
        let why = get(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", LONG).await.unwrap_err();
        assert!(why.ends_with("/health?x=1: status 503 Service Unavailable"), "{why}");
    }

    #[tokio::test]
    async fn nonsense_silence_and_refusal_are_unhealthy_with_a_reason() {
        assert!(get(b"SSH-2.0-OpenSSH\r\n\r\n", LONG).await.is_err());
        let why = get(b"", Duration::from_millis(100)).await.unwrap_err();
        assert!(why.ends_with("no answer within 100ms"), "{why}");
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let check = HealthCheck { probe: Probe::Tcp(free.to_string()), within: LONG };
        assert!(check_once(&check).await.unwrap_err().why.contains("refused"));
    }

    #[tokio::test]
    async fn a_port_that_takes_connections_is_healthy() {
        let check = HealthCheck { probe: Probe::Tcp(server(b"").await), within: LONG };
        check_once(&check).await.unwrap();
    }

    #[tokio::test]
    async fn a_command_is_healthy_when_it_exits_with_0_in_time() {
        let sh = async |script: &str, within| {
            let command = ["/bin/sh", "-c", script].map(String::from).to_vec();
            let probe = Probe::Exec { command, folder: "/".into(), environment: vec![] };
            check_once(&HealthCheck { probe, within }).await.map_err(|unhealthy| unhealthy.why)
        };
        sh("exit 0", LONG).await.unwrap();
        assert_eq!(sh("echo no queue; exit 2", LONG).await.unwrap_err(), "command \"/bin/sh\": exit status: 2: no queue");
        let why = sh("sleep 600", Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(why, "command \"/bin/sh\": did not end within 100ms");
    }

    #[test]
    fn urls_that_cannot_be_checked_are_refused_with_what_would_be_right() {
        let why = |url: &str| url.parse::<HttpUrl>().unwrap_err().to_string();
        assert!(why("https://127.0.0.1/").contains("only http is checked"));
        for bad in ["", "/health", "http://", "http://u:p@host/", "http://:80/", "http://a b/"] {
            assert!(why(bad).contains("it should be like http://127.0.0.1:8080/health"), "{bad}");
        }
        let url: HttpUrl = "http://[::1]:8080".parse().unwrap();
        assert_eq!((url.address.as_str(), url.path.as_str()), ("[::1]:8080", "/"));
    }
}
