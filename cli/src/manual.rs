//! The manual: pages for `man`, and docs/CLI.md.
//!
//! One idea: both are made from the same descriptions as `--help`, so they cannot say anything else.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use crate::args::Cli;
use crate::output::words::clean;

/// Under this heading are the options that every command has.
const GLOBAL: &str = "Global options";

const INTRODUCTION: &str = "# Commands

<!-- Made by `make docs` from the commands' own descriptions: change those in cli/src/args. -->

`tribune COMMAND --help` says the same, `tribune man FOLDER` writes it as manual pages, and [JSON.md](JSON.md) describes what `-o json` prints.
";

/// Writes a page for each command into a folder, and says how many there are.
///
/// # Errors
/// What cannot be written, and why.
pub fn write_pages(folder: &Path) -> Result<usize, String> {
    let failed = |error: io::Error| format!("manual pages cannot be written into {}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
    Ok(pages(&built()))
}

fn pages(command: &Command) -> usize {
    1 + shown(command).map(pages).sum::<usize>()
}

/// All commands, with what each has from those above it.
fn built() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// The commands below one that people see.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
}

/// docs/CLI.md.
pub fn markdown() -> String {
    let root = built();
    let mut text = INTRODUCTION.to_owned();
    if let Some(about) = root.get_about() {
        let _ = write!(text, "\n{about}.\n");
    }
    if let Some(after) = root.get_after_help() {
        let _ = write!(text, "\n{after}\n");
    }
    text.push_str("\n## Options of every command\n");
    text.push_str(&table(root.get_arguments().filter(|arg| arg.get_help_heading() == Some(GLOBAL))));
    for command in shown(&root) {
        describe(command, "tribune", &mut text);
    }
    text
}

fn describe(command: &Command, above: &str, text: &mut String) {
    let name = format!("{above} {}", command.get_name());
    let level = if above.contains(' ') { "###" } else { "##" };
    let _ = write!(text, "\n{level} `{name}`\n");
    if let Some(about) = command.get_about() {
        let _ = write!(text, "\n{about}.\n");
    }
    let below: Vec<&Command> = shown(command).collect();
    if below.is_empty() {
        let usage = command.clone().render_usage().to_string();
        let _ = write!(text, "\n```text\n{}\n```\n", usage.trim_start_matches("Usage: ").trim());
    }
    text.push_str(&table(command.get_arguments().filter(|arg| arg.get_help_heading() != Some(GLOBAL))));
    if let Some(after) = command.get_after_long_help().or(command.get_after_help()) {
        let _ = write!(text, "\n```text\n{}\n```\n", after.to_string().trim_end());
    }
    for command in below {
        describe(command, &name, text);
    }
}

/// Arguments in a table; nothing if there are none.
fn table<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let own = |argument: &&Arg| !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str());
    let rows: String =
        arguments.filter(own).map(|argument| format!("| `{}` | {} |\n", called(argument), meaning(argument))).collect();
    if rows.is_empty() { rows } else { format!("\n| argument | meaning |\n| --- | --- |\n{rows}") }
}

/// How an argument is given: `-n, --limit <LIMIT>`.
fn called(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let values = names.iter().map(|name| format!("<{name}>")).collect::<Vec<_>>().join(" ");
    let values = if argument.get_action().takes_values() { values } else { String::new() };
    let flags = [argument.get_short().map(|short| format!("-{short}")), argument.get_long().map(|long| format!("--{long}"))];
    let flags: Vec<String> = flags.into_iter().flatten().collect();
    // In a table a bar begins the next field.
    format!("{} {values}", flags.join(", ")).trim().replace('|', "\\|")
}

fn meaning(argument: &Arg) -> String {
    let mut text = argument.get_help().map(|help| clean(&help.to_string())).unwrap_or_default();
    if !argument.get_action().takes_values() {
        return text;
    }
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| match value.get_help() {
            Some(help) => format!("`{}` ({})", value.get_name(), clean(&help.to_string()).trim_end_matches('.')),
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    if !values.is_empty() {
        let _ = write!(text, ": {}", values.join(", "));
    }
    let defaults: Vec<String> =
        argument.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    if !defaults.is_empty() {
        let _ = write!(text, "; otherwise {}", defaults.join(", "));
    }
    if let Some(variable) = argument.get_env() {
        let _ = write!(text, "; or the variable `{}`", variable.to_string_lossy());
    }
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_in_the_documents_are_those_there_are() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CLI.md");
        let written = std::fs::read_to_string(file).unwrap_or_default();
        assert!(written.trim_end() == markdown().trim_end(), "docs/CLI.md is not what the commands are now: run `make docs`");
    }

    #[test]
    fn every_command_has_a_page_and_nothing_hidden_is_described() {
        let folder = tempfile::tempdir().unwrap();
        let count = write_pages(&folder.path().join("man1")).unwrap();
        let pages: Vec<String> = std::fs::read_dir(folder.path().join("man1"))
            .unwrap()
            .map(|page| page.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        for page in ["tribune.1", "tribune-update.1", "tribune-update-pause.1", "tribune-package-merge.1"] {
            assert!(pages.iter().any(|name| name == page), "{page} is not among {pages:?}");
        }
        assert!(!pages.iter().any(|name| name.contains("shim")), "{pages:?}");
        assert_eq!(pages.len(), count);
        let submit = std::fs::read_to_string(folder.path().join("man1/tribune-update-submit.1")).unwrap();
        assert!(submit.contains("accept\\-discrepancy") || submit.contains("accept-discrepancy"), "{submit}");
        assert!(!markdown().contains("tribune shim"));
    }
}
