//! The number of a group. Its one idea: the system is asked, as its groups may come from a directory service and not from `/etc/group`,
//! and as all that the system asks, it has a limit.

use std::time::Duration;

use super::command::{Ended, run};

/// How long the system may take to find a group.
const WITHIN: Duration = Duration::from_secs(10);

/// The number of a group that is given by its name or its number.
///
/// # Errors
/// There is no such group, or the system cannot say: what is wrong and what would be right, as a sentence.
pub async fn number_of(group: &str) -> Result<u32, String> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let mut command = std::process::Command::new("getent");
    command.args(["group", group]);
    let or_number = "give its number instead, which `stat -c %g` shows of a file of that group";
    let done = run(command, Vec::new(), WITHIN).await;
    let done =
        done.map_err(|error| format!("group {group} cannot be looked up, as getent does not run ({error}); {or_number}"))?;
    match done.ended {
        Ended::TimedOut => Err(format!("group {group} was not found within {} s; {or_number}", WITHIN.as_secs())),
        Ended::Exited(status) => match number_in(&done.output, group).filter(|_| status.success()) {
            Some(number) => Ok(number),
            None => Err(format!("there is no group {group} on this machine; make it with groupadd, or name another")),
        },
    }
}

/// The number in the line `name:password:number:members` of this group. Directories may write the name otherwise than it was asked for.
fn number_in(output: &str, group: &str) -> Option<u32> {
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let mut entries = output.lines().map(fields).filter(|fields| fields.len() == 4);
    let found = entries.find(|fields| fields[0].eq_ignore_ascii_case(group))?;
    found[2].parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_group_is_found_by_name_and_number_and_one_that_is_not_there_is_named() {
        assert_eq!(number_of("root").await, Ok(0));
        assert_eq!(number_of("4711").await, Ok(4711));
        let unknown = number_of("no-such-group").await.unwrap_err();
        assert!(unknown.contains("there is no group no-such-group"), "{unknown}");
    }

    #[test]
    fn warnings_around_the_line_are_passed_over() {
        assert_eq!(number_in("a:warning\nservices:x:990:ann,bob\n", "services"), Some(990));
        assert_eq!(number_in("other:x:990:\nservices:x:many:\n", "services"), None);
    }
}
