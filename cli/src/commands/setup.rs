//! Commands that make, join and run a node.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tribune_node::client::new_token;
use tribune_node::init::{InitOptions, init as make};
use tribune_node::join::{JoinOptions, join as come_in};
use tribune_raft_store::command::{JoinAs, UserCommand};
use tribune_raft_store::model::Signature;

use crate::args::{Global, InitArgs, JoinArgs, TokenCommand, TokenCreateArgs};
use crate::context::Context;
use crate::exit::Exit;
use crate::json::{InitialisedView, JoinedView, TokenView};
use crate::output::words::{list, span};
use crate::places::{no_file, no_folder};
use crate::problem::{Done, Problem, plain};

/// The longest join token that is read.
const LONGEST_TOKEN: u64 = 1024;

/// `run`: this node, until it is told to stop.
pub fn run(global: &Global) -> ExitCode {
    tribune_node::run::run(&global.data)
}

/// `agent`: everything of a node but its keeper, which starts it.
pub fn agent(global: &Global) -> ExitCode {
    tribune_node::run::run_agent(&global.data)
}

/// `init`.
pub async fn init(context: &mut Context, args: InitArgs) -> Done {
    let InitArgs { name, node, admin, admin_key } = args;
    let data = context.global.data.clone();
    no_file(&data)?;
    let options = InitOptions {
        admin_key: admin_key.unwrap_or_else(|| data.join("admin.key")),
        data,
        name: name.clone(),
        control: node.control,
        data_address: node.data_address,
        platform: node.platform,
        runners: node.runner.into_iter().collect(),
        process_group: node.process_group,
        admin: admin.clone(),
        voter: node.voter.into(),
    };
    let made = make(options).map_err(plain)?;
    let view = InitialisedView {
        cluster: made.cluster.to_string(),
        node: name.to_string(),
        peer: made.peer.to_string(),
        addresses: made.addresses,
        admin: admin.to_string(),
        admin_public_key: made.admin.to_string(),
        admin_key_file: made.admin_key.display().to_string(),
    };
    let text = || {
        format!(
            "cluster {} has its first node, {}\nothers join at  {}\nkey of {}  {} (keep it safe)\nstart the node with: tribune run --data {}",
            view.cluster,
            view.node,
            list(&view.addresses),
            view.admin,
            view.admin_key_file,
            context.global.data.display()
        )
    };
    context.print.show("initialised", text, || &view);
    Ok(Exit::Done)
}

/// `join`.
pub async fn join(context: &mut Context, args: JoinArgs) -> Done {
    let JoinArgs { name, replace, node, token_file } = args;
    let place = if replace.is_some() { JoinAs::Replacement } else { JoinAs::New };
    let Some(name) = name.or(replace) else {
        return Err(Problem::with(Exit::Usage, "the node has no name", "name it with --name, or --replace one that there was"));
    };
    let Some(peer) = context.global.peer.first() else {
        return Err(Problem::with(
            Exit::Usage,
            "no node of the cluster was named",
            "name one with --peer; `tribune init` printed its address",
        ));
    };
    no_file(&context.global.data)?;
    let options = JoinOptions {
        data: context.global.data.clone(),
        name,
        place,
        control: node.control,
        data_address: node.data_address,
        platform: node.platform,
        runners: node.runner.into_iter().collect(),
        process_group: node.process_group,
        voter: node.voter.into(),
        peer: peer.full_address(),
        token: read_token(token_file.as_deref())?,
    };
    let joined = come_in(options).await.map_err(plain)?;
    let view = JoinedView {
        cluster: joined.cluster.to_string(),
        node: joined.name.to_string(),
        peer: joined.peer.to_string(),
        others: joined.others.iter().map(ToString::to_string).collect(),
    };
    let text = || {
        let data = context.global.data.display();
        format!("node {} is in cluster {}\nstart it with: tribune run --data {data}", view.node, view.cluster)
    };
    context.print.show("joined", text, || &view);
    Ok(Exit::Done)
}

/// The join token: from a file, standard input or the environment, never from an argument.
fn read_token(file: Option<&Path>) -> Done<String> {
    if let Some(path) = file {
        no_folder(path, "the file that `tribune token create --token-file` wrote")?;
    }
    let text = match file {
        Some(path) if path == Path::new("-") => read_short(std::io::stdin()),
        Some(path) => std::fs::File::open(path).and_then(read_short),
        None => match std::env::var("TRIBUNE_TOKEN") {
            Ok(token) => Ok(token),
            Err(_) => {
                let todo = "give it with --token-file FILE, --token-file - for standard input, or in TRIBUNE_TOKEN";
                return Err(Problem::with(Exit::Usage, "there is no join token", todo));
            }
        },
    };
    let text = text.map_err(|error| Problem::new(format!("the join token cannot be read: {error}"), ""))?;
    match text.trim() {
        "" => Err(Problem::new("the join token is empty", "make one with `tribune token create`")),
        token => Ok(token.to_owned()),
    }
}

fn read_short(source: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    source.take(LONGEST_TOKEN).read_to_string(&mut text)?;
    Ok(text)
}

/// `token …`.
pub async fn token(context: &mut Context, command: TokenCommand) -> Done {
    let TokenCommand::Create(TokenCreateArgs { valid, node, token_file }) = command;
    let token = new_token();
    let hash = Signature::of(token.as_bytes());
    context.order(UserCommand::CreateToken { hash, valid, node: node.clone() }).await?;
    if let Some(file) = &token_file {
        write_secret(file, &token)?;
    }
    let shown = token_file.is_none().then(|| token.clone());
    let view = TokenView {
        token: shown.clone(),
        file: token_file.as_ref().map(|file| file.display().to_string()),
        node: node.map(|node| node.to_string()),
        valid_ms: valid.as_millis(),
    };
    let text = || shown.unwrap_or_else(|| format!("the token is in {}, good for {}", display(token_file.as_ref()), span(valid)));
    context.print.show("token", text, || view);
    Ok(Exit::Done)
}

fn display(file: Option<&PathBuf>) -> String {
    file.map(|file| file.display().to_string()).unwrap_or_default()
}

fn write_secret(path: &Path, secret: &str) -> Done<()> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{secret}")?;
        file.sync_all()
    };
    let failed =
        |error: std::io::Error| Problem::new(format!("{} cannot be written: {error}", path.display()), "name a new file");
    write().map_err(failed)
}
