//! Asks a program that will not learn our socket, by running a command of its own. Its one idea: the exit status is the
//! answer (0 accept, 75 defer for a minute, anything else veto) and the last line of output is the reason.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tribune_process::protocol::{NodeMessage, PackageChange, Proposal, Role};

use super::command::{Ended, run};

/// The exit status for "not now" (`EX_TEMPFAIL` of `sysexits.h`).
const DEFER_STATUS: i32 = 75;
/// How long a hook that exits with [`DEFER_STATUS`] defers.
const DEFER_FOR: Duration = Duration::from_secs(60);

/// A command that answers for a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Where it runs.
    pub folder: PathBuf,
    /// Its whole environment, but for `PATH`, which it gets from the node unless it is given here, and `TRIBUNE_…`.
    pub environment: Vec<(String, String)>,
}

/// What a hook answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookAnswer {
    /// Exit status 0.
    Accept,
    /// Exit status 75.
    Defer {
        /// For how long, in milliseconds.
        for_ms: u64,
        /// Its last line of output.
        reason: String,
    },
    /// Any other end, its time limit included.
    Veto {
        /// Its last line of output, or what became of it.
        reason: String,
    },
}

/// Asks by running the hook, with the proposal on its standard input as the JSON object that the socket would carry, and
/// in `TRIBUNE_UPDATE`, `TRIBUNE_REVISION`, `TRIBUNE_ROLE`, `TRIBUNE_PROCESS`, `TRIBUNE_PACKAGES` (JSON),
/// `TRIBUNE_MODULES` (JSON) and `TRIBUNE_WITHIN_MS`, which is also its time limit. `name` is the module or
/// registered process it answers for. A hook that cannot be run vetoes: a process that meant to be asked was not.
pub async fn ask(hook: &Hook, name: &str, proposal: &Proposal) -> HookAnswer {
    let proposal = proposal.clone().fitted();
    let limit = Duration::from_millis(proposal.within_ms);
    let command = match command_for(hook, name, &proposal) {
        Ok(command) => command,
        Err(reason) => return HookAnswer::Veto { reason },
    };
    let input = tribune_process::protocol::encode(&NodeMessage::Proposal(proposal)).unwrap_or_default();
    let finished = match run(command, input.into_bytes(), limit).await {
        Ok(finished) => finished,
        Err(error) => return HookAnswer::Veto { reason: format!("hook {:?} could not be run: {error}", hook.command[0]) },
    };
    let said = finished.last_line();
    match finished.ended {
        Ended::TimedOut => HookAnswer::Veto { reason: format!("hook did not end within {limit:?}") },
        Ended::Exited(status) => match status.code() {
            Some(0) => HookAnswer::Accept,
            Some(DEFER_STATUS) => HookAnswer::Defer {
                for_ms: DEFER_FOR.as_millis() as u64,
                reason: or(said, || format!("hook exited with status {DEFER_STATUS}")),
            },
            _ => HookAnswer::Veto { reason: or(said, || format!("hook ended with {status}")) },
        },
    }
}

fn or(said: String, otherwise: impl FnOnce() -> String) -> String {
    if said.is_empty() { otherwise() } else { said }
}

fn command_for(hook: &Hook, name: &str, proposal: &Proposal) -> Result<Command, String> {
    let [program, arguments @ ..] = hook.command.as_slice() else {
        return Err("the hook names no command".to_owned());
    };
    // The node's own environment may hold what is not for others.
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&hook.folder).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.envs(hook.environment.iter().map(|(key, value)| (key, value)));
    let role = match proposal.role {
        Role::Replaced => "replaced",
        Role::Affected => "affected",
        Role::Removed => "removed",
        Role::Other => "other",
    };
    command
        .env("TRIBUNE_UPDATE", &proposal.update)
        .env("TRIBUNE_REVISION", proposal.revision.to_string())
        .env("TRIBUNE_ROLE", role)
        .env("TRIBUNE_PROCESS", name)
        .env("TRIBUNE_PACKAGES", json::<Vec<PackageChange>>(&proposal.packages))
        .env("TRIBUNE_MODULES", json::<Vec<String>>(&proposal.modules))
        .env("TRIBUNE_WITHIN_MS", proposal.within_ms.to_string());
    Ok(command)
}

/// Plain data as JSON, which cannot fail.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn proposal(within_ms: u64) -> Proposal {
        Proposal {
            update: "u-7".into(),
            revision: 2,
            packages: vec![PackageChange {
                name: "billing".into(),
                from: Some("2.3.0".into()),
                to: Some("2.3.1".into()),
                id: "ab12".into(),
                depends_on: vec![],
            }],
            modules: vec!["billing/billingd".into()],
            left_out: 0,
            role: Role::Replaced,
            within_ms,
        }
    }

    fn sh(script: &str) -> Hook {
        let command = ["/bin/sh", "-c", script].map(String::from).to_vec();
        Hook { command, folder: "/".into(), environment: vec![("COLOUR".into(), "red".into())] }
    }

    #[tokio::test]
    async fn exit_statuses_are_answers_and_the_last_line_is_the_reason() {
        let ask = async |script: &str| super::ask(&sh(script), "billing/billingd", &proposal(20_000)).await;
        assert_eq!(ask("echo fine").await, HookAnswer::Accept);
        assert_eq!(ask("echo one; echo ' 3 calls are up '; exit 1").await, HookAnswer::Veto { reason: "3 calls are up".into() });
        assert_eq!(ask("echo tonight; exit 75").await, HookAnswer::Defer { for_ms: 60_000, reason: "tonight".into() });
        assert_eq!(ask("exit 4").await, HookAnswer::Veto { reason: "hook ended with exit status: 4".into() });
        assert_eq!(ask("kill -9 $$").await, HookAnswer::Veto { reason: "hook ended with signal: 9 (SIGKILL)".into() });
    }

    #[tokio::test]
    async fn the_proposal_is_in_the_environment_and_on_standard_input_and_nothing_else_is() {
        let script = r#"echo "$TRIBUNE_UPDATE $TRIBUNE_REVISION $TRIBUNE_ROLE $TRIBUNE_PROCESS $TRIBUNE_PACKAGES $TRIBUNE_MODULES $COLOUR [$CARGO_MANIFEST_DIR] $(cat)"; exit 1"#;
        let HookAnswer::Veto { reason } = ask(&sh(script), "billing/billingd", &proposal(20_000)).await else {
            panic!("no veto")
        };
        let start = r#"u-7 2 replaced billing/billingd [{"name":"billing","from":"2.3.0","to":"2.3.1","id":"ab12","depends_on":[]}] ["billing/billingd"] red [] {"type":"proposal","#;
        assert!(reason.starts_with(start), "{reason}");
    }

    #[tokio::test]
    async fn a_hook_that_does_not_end_is_killed_with_its_children_and_vetoes() {
        let began = Instant::now();
        let answer = ask(&sh("trap '' TERM; sleep 600 & sleep 600"), "x", &proposal(200)).await;
        assert_eq!(answer, HookAnswer::Veto { reason: "hook did not end within 200ms".into() });
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn a_hook_that_is_not_there_vetoes_and_says_so() {
        let hook = Hook { command: vec!["/nonexistent/hook".into()], ..sh("") };
        let HookAnswer::Veto { reason } = ask(&hook, "x", &proposal(1000)).await else { panic!("no veto") };
        assert!(reason.contains("/nonexistent/hook") && reason.contains("No such file"), "{reason}");
        let none = Hook { command: vec![], ..sh("") };
        assert_eq!(ask(&none, "x", &proposal(1000)).await, HookAnswer::Veto { reason: "the hook names no command".into() });
    }
}
