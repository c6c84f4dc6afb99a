//! Which process a registration means now. Its one idea: three answers, not two. A pid file that cannot be read for a
//! moment is no sign that its process has ended, so whoever asks can tell *gone* from *not known*.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::OFlags;
use tribune_messages::registration::FoundBy;

use super::command::{Ended, run};
use super::identity::{ProcessId, look_up};

/// How long one look may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest pid file, in bytes: a number, and what people put around it.
const LONGEST_PID_FILE: u64 = 64;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This process.
    Running(ProcessId),
    /// There is none now.
    Gone,
    /// It could not be told, for this reason.
    Unknown(String),
}

/// Looks for the process that is meant now.
pub async fn find(found_by: &FoundBy) -> Found {
    let found = match found_by {
        FoundBy::PidFile(path) => {
            let path = path.clone();
            let read = tribune_p2p::blocking::run(move || pid_in_file(&path));
            match tokio::time::timeout(LIMIT, read).await {
                Ok(Ok(pid)) => pid,
                // The runtime is shutting down.
                Ok(Err(_)) => Err("the node is stopping".into()),
                Err(_) => Err(format!("it was not read within {LIMIT:?}")),
            }
        }
        FoundBy::Unit(unit) => main_pid("systemctl", unit).await,
    };
    match found {
        Ok(None) => Found::Gone,
        Ok(Some(pid)) => match look_up(pid) {
            Ok(seen) => Found::Running(seen.id),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Gone,
            Err(error) => Found::Unknown(format!("{found_by}: process {pid} cannot be looked up: {error}")),
        },
        Err(why) => Found::Unknown(format!("{found_by}: {why}")),
    }
}

/// The pid that a file holds; none when there is no file.
fn pid_in_file(path: &Path) -> Result<Option<u32>, String> {
    // A pipe in its place must not keep the node waiting.
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    let unreadable = |error: io::Error| format!("it cannot be read: {error}");
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err("it is not a file".into());
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_PID_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    pid(&String::from_utf8_lossy(&bytes)).map(Some)
}

fn pid(text: &str) -> Result<u32, String> {
    let number = text.trim().parse().ok().filter(|pid| *pid > 0 && text.len() as u64 <= LONGEST_PID_FILE);
    number.ok_or_else(|| "it does not hold the number of a process".into())
}

/// The main process of a unit; none when it has none.
async fn main_pid(systemctl: &str, unit: &str) -> Result<Option<u32>, String> {
    let mut command = Command::new(systemctl);
    command.args(["show", "--property=MainPID", "--", unit]);
    let finished = run(command, Vec::new(), LIMIT).await.map_err(|error| format!("{systemctl} could not be run: {error}"))?;
    match finished.ended {
        Ended::Exited(status) if status.success() => {
            let value = finished.output.lines().find_map(|line| line.strip_prefix("MainPID="));
            match value.map(str::trim) {
                Some("0") => Ok(None),
                Some(number) => pid(number).map(Some),
                None => Err(format!("{systemctl} did not say its main process: {}", finished.last_line())),
            }
        }
        Ended::Exited(status) => Err(format!("{systemctl} ended with {status}: {}", finished.last_line())),
        Ended::TimedOut => Err(format!("{systemctl} did not end within {LIMIT:?}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_pid_file_names_the_process_that_has_that_pid_now_and_a_bad_one_is_not_taken_for_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pid");
        let by = FoundBy::PidFile(path.clone());
        assert_eq!(find(&by).await, Found::Gone, "there is no file");
        let own = std::process::id();
        std::fs::write(&path, format!(" {own}\n")).unwrap();
        assert_eq!(find(&by).await, Found::Running(look_up(own).unwrap().id));
        // Beyond the highest pid there is.
        std::fs::write(&path, "4194305").unwrap();
        assert_eq!(find(&by).await, Found::Gone);
        let long = format!("{own}{}", " ".repeat(100));
        for bad in ["", "0", "-1", "ten", "1 2", long.as_str()] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(find(&by).await, Found::Unknown(why) if why.contains("does not hold the number")), "{bad:?}");
        }
        assert!(matches!(find(&FoundBy::PidFile(folder.path().into())).await, Found::Unknown(_)), "a folder");
    }

    #[tokio::test]
    async fn a_units_main_process_is_what_the_service_manager_says() {
        let folder = tempfile::tempdir().unwrap();
        let systemctl = folder.path().join("systemctl");
        let says = async |script: &str| {
            // Renamed into place: a file that is open for writing cannot be run.
            let fresh = folder.path().join("fresh");
            std::fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::rename(&fresh, &systemctl).unwrap();
            main_pid(systemctl.to_str().unwrap(), "clock.service").await
        };
        let right = r#"[ "$*" = "show --property=MainPID -- clock.service" ] && echo MainPID=42"#;
        assert_eq!(says(right).await, Ok(Some(42)));
        assert_eq!(says("echo MainPID=0").await, Ok(None));
        assert!(says("echo Failed to connect to bus; exit 1").await.unwrap_err().contains("Failed to connect to bus"));
        assert!(main_pid("/nonexistent/systemctl", "clock.service").await.unwrap_err().contains("could not be run"));
    }
}
