//! `local`: this node's own storage, without the cluster.

use tribune_messages::api::{ApiRequest, ApiResponse, LocalInfo};

use crate::args::LocalCommand;
use crate::context::{Context, unexpected};
use crate::exit::Exit;
use crate::json::{GenerationView, LocalView};
use crate::manifests::Manifests;
use crate::output::fleet;
use crate::problem::{Done, Problem};

/// `local …`.
pub async fn local(context: &mut Context, command: LocalCommand) -> Done {
    context.only_here()?;
    let info = show(context).await?;
    let manifests = Manifests::read(info.manifests.iter().map(|(id, text)| (*id, text.as_str())))?;
    match command {
        LocalCommand::Show => {
            context.print.show("local", || fleet::local(&info, &manifests), || LocalView::of(&info, &manifests));
        }
        LocalCommand::Regress(args) => {
            // What runs until a restart goes first: under it is what is installed.
            let before = if info.ephemeral.is_some() { Some(info.current.number) } else { info.current.replaced };
            let to = args.generation.or(before);
            let kept: Vec<String> = info.kept.keys().map(ToString::to_string).collect();
            // Named, so that a repeat after a lost answer does not go back once more.
            let generation = match to {
                Some(to) if info.kept.contains_key(&to) || Some(to) == before => to,
                Some(to) => return Err(Problem::unknown("generation", to, &kept)),
                None => {
                    return Err(Problem::new("this node has nothing to go back to", "`tribune local show` lists what it keeps"));
                }
            };
            let request = ApiRequest::LocalRegress { generation: Some(generation), force: args.why };
            let ApiResponse::Regressed { current } = context.ask(request).await? else { return Err(unexpected("a regress")) };
            let text = || format!("this node went back: {}", fleet::generation(&current, &manifests));
            context.print.show("local_regressed", text, || GenerationView::of(&current, &manifests));
        }
    }
    Ok(Exit::Done)
}

async fn show(context: &mut Context) -> Done<LocalInfo> {
    match context.ask(ApiRequest::LocalShow).await? {
        ApiResponse::Local(info) => Ok(*info),
        _ => Err(unexpected("what is in local storage")),
    }
}
