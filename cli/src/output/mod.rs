//! What commands print. One idea: a command says what there is, and only here is decided how it looks.

pub mod disaster;
pub mod fleet;
pub mod package;
pub mod process;
pub mod table;
pub mod update;
pub mod waiting;
pub mod words;

use std::io::{IsTerminal, Write};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::Serialize;

use crate::args::Format;
use crate::exit::Exit;
use crate::json::{self, Document};
use crate::problem::Problem;

/// Where a command prints.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    format: Format,
}

impl Printer {
    /// A printer in this format.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// Prints text for people, or a document for programs.
    pub fn show<T: Serialize>(&self, document: &'static str, text: impl FnOnce() -> String, view: impl FnOnce() -> T) {
        match self.format {
            Format::Table => line(text().trim_end()),
            Format::Json => line(&Document::new(document, view()).to_line()),
        }
    }

    /// Says something by the way; programs are not told.
    pub fn note(&self, text: &str) {
        if self.format == Format::Table {
            aside(text);
        }
    }

    /// Whether programs read it.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether a line can be written over: a person looks at a terminal.
    pub fn is_live(&self) -> bool {
        self.format == Format::Table && std::io::stdout().is_terminal()
    }

    /// Says on standard error why a command was not done.
    pub fn problem(&self, problem: &Problem) {
        if self.is_json() {
            aside(&Document::new("error", json::ErrorView::of(problem)).to_line());
            return;
        }
        aside(&format!("error: {}", words::clean(&problem.what)));
        for detail in &problem.details {
            aside(&format!("  - {}", words::clean(detail)));
        }
        if !problem.todo.is_empty() {
            aside(&format!("hint: {}", words::clean(&problem.todo)));
        }
    }
}

/// The exit code when the reader of standard output has gone: a shell's for SIGPIPE, which ends other programs then.
pub const READER_GONE: u8 = 128 + 13;

/// Prints a line on standard output. A reader that has gone ends the process, as it ends other programs.
pub fn line(text: &str) {
    if let Err(error) = try_line(text) {
        std::process::exit(unprinted(&error).into());
    }
}

/// Prints a line on standard output, for who has something to clear up when that fails.
///
/// # Errors
/// The reader has gone, or the disk is full.
pub fn try_line(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}

/// Says on standard error why something could not be printed, unless the reader has gone; gives the exit code.
fn unprinted(error: &std::io::Error) -> u8 {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return READER_GONE;
    }
    aside(&format!("error: standard output cannot be written: {error}"));
    Exit::Error.number()
}

/// Ends the process as soon as the reader of standard output has gone, also while nothing is printed.
pub fn end_with_reader() {
    std::thread::spawn(|| {
        let out = std::io::stdout();
        // Nothing is asked for: what is told regardless is an error or a hang-up. A file has neither.
        let mut gone = [PollFd::new(&out, PollFlags::empty())];
        loop {
            match poll(&mut gone, None) {
                Ok(_) => std::process::exit(READER_GONE.into()),
                Err(Errno::INTR) => {}
                // Then the next line finds it out.
                Err(_) => return,
            }
        }
    });
}

/// Prints a line on standard error. If that has gone too, the exit code says it alone.
fn aside(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes over the current line of the terminal.
pub fn live(text: &str) {
    let mut out = std::io::stdout().lock();
    // A terminal that has gone is noticed by the next whole line.
    let _ = write!(out, "\r\x1b[2K{text}").and_then(|()| out.flush());
}
