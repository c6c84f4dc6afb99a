//! The commands. Each reads what it needs, checks what was named, asks or orders, and prints.

mod disaster;
mod events;
mod fleet;
mod local;
mod members;
mod package;
mod process;
mod resolve;
mod setup;
mod update;
mod watch;

use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::{Cli, Command};
use crate::context::Context;
use crate::json::DoneView;
use crate::manual;
use crate::output::{Printer, line};
use crate::problem::{Done, Problem, plain};

fn show_done(context: &Context, what: &str) {
    context.print.show("done", || what.to_owned(), || DoneView { what: what.to_owned() });
}

/// Runs a command, and ends as it ends.
pub fn run(cli: Cli) -> ExitCode {
    let print = Printer::new(cli.global.format());
    match dispatch(cli) {
        Ok(code) => code,
        Err(problem) => {
            print.problem(&problem);
            problem.exit.into()
        }
    }
}

/// Those that are processes of a node have their own runtimes and logs; all others are clients.
fn dispatch(cli: Cli) -> Done<ExitCode> {
    let Cli { global, command } = cli;
    match command {
        Command::Shim => Ok(tribune_keeper::shim_main()),
        Command::Agent => Ok(setup::agent(&global)),
        Command::Run => Ok(setup::run(&global)),
        Command::Demo => demo(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tribune", &mut script);
            line(String::from_utf8_lossy(&script).trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { folder } => {
            let pages = manual::write_pages(&folder).map_err(plain)?;
            let what = format!("wrote {} into {}", crate::output::words::count(pages, "page"), folder.display());
            Printer::new(global.format()).show("done", || what.clone(), || DoneView { what: what.clone() });
            Ok(ExitCode::SUCCESS)
        }
        Command::Markdown => {
            line(manual::markdown().trim_end());
            Ok(ExitCode::SUCCESS)
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Problem::new(format!("the program cannot start: {error}"), ""))?;
            runtime.block_on(client(&mut Context::new(global), command)).map(ExitCode::from)
        }
    }
}

fn demo() -> Done<ExitCode> {
    let Err(error) = crate::demo::run() else { return Ok(ExitCode::SUCCESS) };
    match error.downcast_ref::<crate::demo::Cut>() {
        Some(cut) => Ok(ExitCode::from(cut.code())),
        None => Err(plain(format!("the demo stopped: {error:#}"))),
    }
}

async fn client(context: &mut Context, command: Command) -> Done {
    match command {
        Command::Init(args) => setup::init(context, args).await,
        Command::Join(args) => setup::join(context, args).await,
        Command::Token(command) => setup::token(context, command).await,
        Command::Status => fleet::status(context).await,
        Command::Node(command) => fleet::node(context, command).await,
        Command::Cluster(command) => members::cluster(context, command).await,
        Command::Class(command) => fleet::class(context, command).await,
        Command::Process(command) => process::process(context, command).await,
        Command::Admin(command) => fleet::admin(context, command).await,
        Command::Package(command) => package::package(context, command).await,
        Command::Image(command) => package::image(context, command).await,
        Command::Update(command) => update::update(context, command).await,
        Command::Regress(args) => update::regress(context, args).await,
        Command::Check => fleet::check(context).await,
        Command::Events(args) => events::events(context, args).await,
        Command::Local(command) => local::local(context, command).await,
        Command::Backup(args) => disaster::backup(context, args).await,
        Command::Restore(args) => disaster::restore(context, *args).await,
        Command::Fsck => disaster::fsck(context).await,
        Command::Recover(args) => disaster::recover(context, args).await,
        Command::Run
        | Command::Agent
        | Command::Shim
        | Command::Demo
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::Markdown => Err(plain("this command is no client's command")),
    }
}
