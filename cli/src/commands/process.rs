//! `process`: what runs on a node, and what is registered with it.

use tribune_messages::api::{ApiRequest, ApiResponse, ProcessInfo};
use tribune_raft_store::model::NodeName;

use crate::args::{ProcessCommand, RegisterArgs};
use crate::context::{Context, unexpected};
use crate::exit::Exit;
use crate::json::{LogView, Many, ProcessView};
use crate::output::{fleet, process as shown};
use crate::problem::{Done, Problem, plain};

use super::show_done;

/// `process …`.
pub async fn process(context: &mut Context, command: ProcessCommand) -> Done {
    match command {
        ProcessCommand::List { node } => {
            let processes = processes(context, node).await?;
            let view = || processes.iter().map(ProcessView::of).collect::<Many<_>>();
            context.print.show("processes", || shown::processes(&processes), view);
        }
        ProcessCommand::Show { process, node } => {
            let processes = processes(context, node).await?;
            let names: Vec<String> = processes.iter().map(|info| info.name.clone()).collect();
            let found = processes.into_iter().find(|info| info.name == process);
            let found = found.ok_or_else(|| Problem::unknown("process", process, &names))?;
            context.print.show("process", || shown::process(&found), || ProcessView::of(&found));
        }
        ProcessCommand::Logs(args) => {
            known(context, args.node.as_ref()).await?;
            let request = ApiRequest::Log { node: args.node, process: args.process, lines: args.lines };
            let ApiResponse::Log(log) = context.ask(request).await? else { return Err(unexpected("the log")) };
            context.print.note(&format!("the end of {}:", log.file));
            context.print.show("log", || fleet::log(&log), || LogView::of(&log));
        }
        ProcessCommand::Register(args) => register(context, args).await?,
        ProcessCommand::Unregister { name } => {
            context.only_here()?;
            let request = ApiRequest::Unregister { name: name.clone() };
            let ApiResponse::Unregistered = context.ask(request).await? else { return Err(unexpected("a registration")) };
            show_done(context, &format!("process {name} is registered no more, and is not asked"));
        }
    }
    Ok(Exit::Done)
}

async fn register(context: &mut Context, args: RegisterArgs) -> Done<()> {
    context.only_here()?;
    let how = || Problem::with(Exit::Usage, "it was not said how the process is found", "use --pid-file or --unit");
    let registration = args.registration().ok_or_else(how)?;
    registration.check().map_err(plain)?;
    let answer = context.ask(ApiRequest::Register(Box::new(registration))).await?;
    let ApiResponse::Registered(info) = answer else { return Err(unexpected("a registration")) };
    context.print.show("process", || shown::registered(&info), || ProcessView::of(&info));
    Ok(())
}

async fn processes(context: &mut Context, node: Option<NodeName>) -> Done<Vec<ProcessInfo>> {
    known(context, node.as_ref()).await?;
    match context.ask(ApiRequest::Processes { node }).await? {
        ApiResponse::Processes(processes) => Ok(processes),
        _ => Err(unexpected("the processes")),
    }
}

/// A node that is named must be there: the error names those that are.
async fn known(context: &mut Context, node: Option<&NodeName>) -> Done<()> {
    if let Some(node) = node {
        context.node(node).await?;
    }
    Ok(())
}
