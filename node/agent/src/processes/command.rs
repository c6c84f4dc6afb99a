//! Runs one short command on the node's behalf. Its one idea: whatever the command does, it ends by its limit, with all
//! it started in its process group, and what it prints takes bounded memory.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use super::identity::ExitWatch;

/// How much of what a command prints is kept: its end.
const KEPT_OUTPUT: usize = 64 * 1024;

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// It did not within its limit, and was killed.
    TimedOut,
}

/// How a command ended, and the end of what it printed on standard output and standard error.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) ended: Ended,
    pub(crate) output: String,
}

impl Finished {
    /// The last line that says anything, without control characters; empty when there is none.
    pub(crate) fn last_line(&self) -> String {
        let line = self.output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        tribune_process::protocol::clean_reason(line)
    }
}

/// Runs `command`, with `input` on its standard input, for at most `limit`.
///
/// # Errors
/// When it could not be started or watched.
pub(crate) async fn run(mut command: Command, input: Vec<u8>, limit: Duration) -> io::Result<Finished> {
    let (output, writer) = io::pipe()?;
    command.stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let child = command.spawn()?;
    let mut group = Group { child };
    // Holds the writing ends of the pipe, which must close here for the reading end to see the command's.
    drop(command);

    let mut output = Output { pipe: pipe::Receiver::from_owned_fd(OwnedFd::from(output))?, kept: VecDeque::new() };
    let exit = ExitWatch::of_child(&group.child)?;
    let stdin = group.child.stdin.take();

    let talk = async {
        tokio::join!(feed(stdin, input), output.read_on());
        // Both ends are closed by the command, which may still run: its exit ends this wait.
        std::future::pending::<()>().await;
    };
    let within_limit = tokio::time::timeout(limit, async {
        tokio::select! {
            () = exit.exited() => {}
            () = talk => {}
        }
    })
    .await;
    group.kill();
    // It has ended, or was just killed, so that this returns at once.
    let status = group.child.wait()?;
    output.read_rest();
    let ended = if within_limit.is_ok() { Ended::Exited(status) } else { Ended::TimedOut };
    Ok(Finished { ended, output: output.text() })
}

/// The command's process group, which does not outlive this value: also when the future that waits for it is dropped.
struct Group {
    child: Child,
}

impl Group {
    /// Kills what is left of the group. The leader has not been waited for yet, so its number cannot be another's.
    fn kill(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It fails only when nobody is left.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        // The command itself may have moved to another group.
        let _ = self.child.kill();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Once it was waited for, try_wait answers from memory, and there is nothing left to kill.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// Writes the input; a command that does not read it has that right.
async fn feed(stdin: Option<ChildStdin>, input: Vec<u8>) {
    let Some(stdin) = stdin else { return };
    if let Ok(mut sender) = pipe::Sender::from_owned_fd(OwnedFd::from(stdin)) {
        let _ = sender.write_all(&input).await;
    }
}

/// The end of what a command prints.
struct Output {
    pipe: pipe::Receiver,
    kept: VecDeque<u8>,
}

impl Output {
    async fn read_on(&mut self) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = self.pipe.read(&mut buffer).await {
            self.keep(&buffer[..read]);
        }
    }

    /// What lies in the pipe now; someone who left the group may hold it open for ever.
    fn read_rest(&mut self) {
        let mut buffer = vec![0; 16 * 1024];
        let mut most = KEPT_OUTPUT * 16;
        while let Ok(read @ 1..) = self.pipe.try_read(&mut buffer) {
            self.keep(&buffer[..read]);
            most = most.saturating_sub(read);
            if most == 0 {
                return;
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
        self.kept.drain(..self.kept.len().saturating_sub(KEPT_OUTPUT));
    }

    fn text(&self) -> String {
        let (first, second) = self.kept.as_slices();
        String::from_utf8_lossy(&[first, second].concat()).into_owned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Instant;

    async fn sh(script: &str, limit: Duration) -> Finished {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        run(command, b"hello\n".to_vec(), limit).await.unwrap()
    }

    #[tokio::test]
    async fn the_last_line_of_both_outputs_is_kept_and_the_input_arrives() {
        let done = sh("read x; echo got $x; printf 'the \\033[31mreason\\n\\n' >&2; exit 3", Duration::from_secs(20)).await;
        assert!(matches!(done.ended, Ended::Exited(status) if status.code() == Some(3)));
        assert_eq!(done.last_line(), "the  [31mreason");
        assert!(done.output.starts_with("got hello\n"));
    }

    #[tokio::test]
    async fn endless_output_takes_bounded_memory_and_ends_at_the_limit() {
        let began = Instant::now();
        let done = sh("yes x; true", Duration::from_millis(300)).await;
        assert!(matches!(done.ended, Ended::TimedOut));
        assert!(done.output.len() <= KEPT_OUTPUT);
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn what_it_leaves_running_in_its_group_is_killed_and_not_waited_for() {
        let done = sh("sleep 600 & echo $!", Duration::from_secs(20)).await;
        assert!(matches!(done.ended, Ended::Exited(_)));
        let left: u32 = done.last_line().parse().unwrap();
        // The signal was sent before run returned; a killed process may still be a zombie of init.
        let alive =
            || std::fs::read_to_string(format!("/proc/{left}/stat")).is_ok_and(|s| !s.contains(") Z ") && !s.contains(") X "));
        for _ in 0..200 {
            if !alive() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("pid {left} still runs");
    }

    #[tokio::test]
    async fn a_dropped_run_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 600; true", file.display())]);
        let running = tokio::spawn(run(command, vec![], Duration::from_secs(600)));
        let pid = loop {
            if let Ok(text) = std::fs::read_to_string(&file) {
                break text.trim().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
