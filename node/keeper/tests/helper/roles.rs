//! What the keeper's tests run, by role: the keeper, its agent, its shim, and a service. The agent has no mind of its own: it
//! passes what the keeper says to the test, line by line, and back, and ends when either is gone.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use tribune_keeper::wire::{self, Patience, Received};
use tribune_keeper::{AGENT_CANNOT, KeeperConfig, MOST_MESSAGE};

type Outcome = Result<ExitCode, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        ["keeper", folder, test] => keeper(folder, &["agent", test]),
        ["keeper-with-agent-that-cannot", folder] => keeper(folder, &["agent-that-cannot"]),
        ["agent", test] => agent(test),
        ["agent-that-cannot"] => Ok(ExitCode::from(AGENT_CANNOT)),
        ["shim"] => Ok(tribune_keeper::shim_main()),
        ["server"] => server(),
        ["lines", count] => lines(count),
        _ => Err(format!("no such role: {args:?}").into()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

fn keeper(folder: &str, agent: &[&str]) -> Outcome {
    let this = std::env::current_exe()?;
    let command = |args: &[&str]| -> Vec<OsString> {
        std::iter::once(this.clone().into_os_string()).chain(args.iter().map(|arg| OsString::from(*arg))).collect()
    };
    let config = KeeperConfig {
        agent_within: Duration::from_secs(2),
        children_within: Duration::from_secs(20),
        ..KeeperConfig::new(folder, command(agent), command(&["shim"]), "test keeper")
    };
    Ok(tribune_keeper::run(config)?)
}

fn agent(test: &str) -> Outcome {
    let keeper = tribune_keeper::take_agent_socket()?;
    let mut to_test = UnixStream::connect(test)?;
    writeln!(to_test, "{}", std::process::id())?;
    let from_test = BufReader::new(to_test.try_clone()?);
    let to_keeper = keeper.try_clone()?;
    std::thread::spawn(move || {
        for line in from_test.lines() {
            let sent = line.and_then(|line| wire::send(to_keeper.as_fd(), line.as_bytes(), Patience::Wait));
            if sent.is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
    let mut buffer = vec![0; MOST_MESSAGE];
    while let Received::Message(message) = wire::receive(keeper.as_fd(), &mut buffer, Patience::Wait)? {
        to_test.write_all(message)?;
        to_test.write_all(b"\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Answers each connection to its first socket with its pid, and says so on its output.
fn server() -> Outcome {
    let listener = TcpListener::from(first_socket()?);
    loop {
        let (mut connection, _) = listener.accept()?;
        println!("{} serves", std::process::id());
        writeln!(connection, "{}", std::process::id())?;
        connection.shutdown(std::net::Shutdown::Write)?;
        // Until the other side has read all.
        let _ = connection.read(&mut [0]);
    }
}

#[allow(unsafe_code)]
fn first_socket() -> Result<OwnedFd, Box<dyn std::error::Error + Send + Sync>> {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if !is("LISTEN_FDS", "1") || !is("LISTEN_FDNAMES", "web") || !is("LISTEN_PID", &std::process::id().to_string()) {
        return Err("LISTEN_* are not as sd_listen_fds(3) wants them".into());
    }
    // SAFETY: this process was given descriptor 3, and nothing else in it knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(3) })
}

fn lines(count: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    for number in 0..count.parse::<u32>()? {
        writeln!(out, "line {number:010}")?;
    }
    Ok(ExitCode::SUCCESS)
}
