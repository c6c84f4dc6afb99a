//! What commands print. One idea: a command says what there is, and only here is decided how it looks.

pub mod fleet;
pub mod package;
pub mod table;
pub mod update;
pub mod words;

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::args::Format;
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
            eprintln!("{text}");
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
            eprintln!("{}", Document::new("error", json::ErrorView::of(problem)).to_line());
            return;
        }
        eprintln!("error: {}", words::clean(&problem.what));
        for detail in &problem.details {
            eprintln!("  - {}", words::clean(detail));
        }
        if !problem.todo.is_empty() {
            eprintln!("hint: {}", words::clean(&problem.todo));
        }
    }
}

/// Prints a line on standard output. A reader that has gone ends the process, as it ends other programs.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// Writes over the current line of the terminal.
pub fn live(text: &str) {
    let mut out = std::io::stdout().lock();
    // A terminal that has gone is noticed by the next whole line.
    let _ = write!(out, "\r\x1b[2K{text}").and_then(|()| out.flush());
}
