//! Wrong arguments. One idea: who asked for JSON is told in JSON, also when the arguments could not be read.

use std::ffi::OsString;

use clap::Error;
use clap::error::ErrorKind;

use super::Format;
use crate::exit::Exit;
use crate::output::Printer;
use crate::problem::Problem;

/// Says what is wrong with the arguments, or prints the help that was asked for, and ends the process.
pub fn end(error: &Error, args: &[OsString]) -> ! {
    if error.use_stderr() && wanted_format(args) == Format::Json {
        let problem = problem(error);
        Printer::new(Format::Json).problem(&problem);
        std::process::exit(problem.exit.number().into());
    }
    error.exit()
}

/// How to print, read from arguments that are wrong elsewhere: what the last `-o` says.
pub(super) fn wanted_format(args: &[OsString]) -> Format {
    let texts: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or("")).take_while(|arg| *arg != "--").collect();
    let mut format = Format::default();
    for (place, arg) in texts.iter().enumerate() {
        let next = || texts.get(place + 1).copied().unwrap_or("");
        let value = match arg.strip_prefix("--output") {
            Some("") => next(),
            Some(rest) => rest.strip_prefix('=').unwrap_or(""),
            None => short_value(arg).map_or("", |rest| if rest.is_empty() { next() } else { rest }),
        };
        match value {
            "json" => format = Format::Json,
            "table" => format = Format::Table,
            _ => {}
        }
    }
    format
}

/// What follows `-o` in an argument such as `-ojson`, `-o=json` or `-fo`; none if there is no `-o` in it.
fn short_value(arg: &str) -> Option<&str> {
    let flags = arg.strip_prefix('-').filter(|flags| !flags.starts_with('-'))?;
    let (_, value) = flags.split_once('o')?;
    Some(value.strip_prefix('=').unwrap_or(value))
}

/// The problem in clap's words: its first paragraph is what happened, the others are more.
pub(super) fn problem(error: &Error) -> Problem {
    const HINT: &str = "the same command with --help shows its arguments";
    // clap would print the whole help, or name hidden commands as well.
    if matches!(error.kind(), ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) {
        return Problem::with(Exit::Usage, "a command is missing", HINT);
    }
    let text = error.render().to_string();
    let paragraphs = text.split("\n\n").map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut paragraphs = paragraphs.filter(|text| !text.is_empty() && !text.starts_with("For more information"));
    let what = paragraphs.next().unwrap_or_default();
    Problem::with(Exit::Usage, what.trim_start_matches("error: "), HINT).detailed(paragraphs.collect())
}
