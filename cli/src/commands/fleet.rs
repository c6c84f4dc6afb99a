//! Commands about the cluster, its nodes, classes and users.

use std::collections::{BTreeMap, BTreeSet};

use tribune_messages::api::{ApiRequest, ApiResponse, ClassInfo, NodeInfo};
use tribune_p2p::Identity;
use tribune_raft_store::command::UserCommand;
use tribune_raft_store::model::{CharacteristicKey, ClassName, Desired, Node, NodeName, Principal, PrincipalName, PublicKey};

use crate::args::{AdminCommand, ClassCommand, NodeCommand};
use crate::context::{Context, unexpected};
use crate::exit::Exit;
use crate::json::{ClassView, KeyView, Many, NodeView, PrincipalView, StatusView, UnmetView};
use crate::output::fleet;
use crate::output::words::list;
use crate::places::no_folder;
use crate::problem::{Done, Problem, plain};

use super::show_done;

/// `status`.
pub async fn status(context: &mut Context) -> Done {
    let ApiResponse::Status(status) = context.ask(ApiRequest::Status).await? else { return Err(unexpected("how it is")) };
    context.print.show("status", || fleet::status(&status), || StatusView::of(&status));
    Ok(Exit::Done)
}

/// `check`.
pub async fn check(context: &mut Context) -> Done {
    let unmet = context.unmet().await?;
    context.print.show("unmet", || fleet::unmet(&unmet), || unmet.iter().map(UnmetView::of).collect::<Many<_>>());
    Ok(if unmet.is_empty() { Exit::Done } else { Exit::Discrepancies })
}

/// `node …`.
pub async fn node(context: &mut Context, command: NodeCommand) -> Done {
    match command {
        NodeCommand::List => {
            let nodes = context.nodes().await?;
            context.print.show("nodes", || fleet::nodes(&nodes), || nodes.iter().map(NodeView::of).collect::<Many<_>>());
            Ok(Exit::Done)
        }
        NodeCommand::Show { node } => {
            let node = context.node(&node).await?;
            context.print.show("node", || fleet::node(&node), || NodeView::of(&node));
            Ok(Exit::Done)
        }
        NodeCommand::Release { node } => {
            context.node(&node).await?;
            let what = format!("node {node} takes part in updates again, and comes to what it should have");
            context.order(UserCommand::ReleaseNode { node }).await?;
            show_done(context, &what);
            Ok(Exit::Done)
        }
        NodeCommand::Remove { node } => super::members::remove(context, node).await,
        NodeCommand::SetVoter { node, voter } => super::members::set_voter(context, node, voter.into()).await,
        NodeCommand::Label { node, set, remove, required } => {
            once_each(&set, &remove)?;
            has_labels(&context.node(&node).await?.node, &remove)?;
            let set: BTreeMap<_, _> = set.into_iter().map(|(key, value)| (key, Desired { value, required })).collect();
            let what = format!("labelled node {node}");
            context.order(UserCommand::LabelNode { node, set, unset: remove.into_iter().collect() }).await?;
            show_done(context, &what);
            Ok(Exit::Done)
        }
    }
}

/// `class …`.
pub async fn class(context: &mut Context, command: ClassCommand) -> Done {
    match command {
        ClassCommand::List => {
            let classes = context.classes().await?;
            context.print.show("classes", || fleet::classes(&classes), || classes.iter().map(ClassView::of).collect::<Many<_>>());
        }
        ClassCommand::Show { class } => {
            let found = known_class(context, &class).await?;
            context.print.show("class", || fleet::classes(std::slice::from_ref(&found)), || ClassView::of(&found));
        }
        ClassCommand::Remove { class } => {
            known_class(context, &class).await?;
            let what = format!("class {class} is no more; its nodes keep what they have");
            context.order(UserCommand::RemoveClass { class }).await?;
            show_done(context, &what);
        }
        ClassCommand::Set { class, add, remove } => {
            let nodes = context.nodes().await?;
            let names: Vec<String> = nodes.iter().map(|info| info.node.name.to_string()).collect();
            if let Some(node) = add.iter().chain(&remove).find(|node| !names.contains(&node.to_string())) {
                return Err(Problem::unknown("node", node, &names));
            }
            if let Some(both) = add.iter().find(|node| remove.contains(node)) {
                return Err(Problem::with(Exit::Usage, format!("node {both} is both added and removed"), "name it once"));
            }
            let what = changes(&class, &add, &remove, &nodes)?;
            let (add, remove): (BTreeSet<_>, BTreeSet<_>) = (add.into_iter().collect(), remove.into_iter().collect());
            context.order(UserCommand::SetClass { class, add, remove }).await?;
            show_done(context, &what);
        }
    }
    Ok(Exit::Done)
}

/// A class, or an error that names those there are.
async fn known_class(context: &mut Context, class: &ClassName) -> Done<ClassInfo> {
    let classes = context.classes().await?;
    let names: Vec<String> = classes.iter().map(|info| info.class.name.to_string()).collect();
    classes.into_iter().find(|info| info.class.name == *class).ok_or_else(|| Problem::unknown("class", class, &names))
}

/// Refuses labels that are named twice: which one is meant?
fn once_each(set: &[(CharacteristicKey, String)], remove: &[CharacteristicKey]) -> Done<()> {
    let mut keys = BTreeSet::new();
    if let Some((twice, _)) = set.iter().find(|(key, _)| !keys.insert(key)) {
        return Err(Problem::with(Exit::Usage, format!("label {twice} is set twice"), "set it once"));
    }
    match remove.iter().find(|key| keys.contains(key)) {
        Some(both) => Err(Problem::with(Exit::Usage, format!("label {both} is both set and removed"), "name it once")),
        None => Ok(()),
    }
}

/// Refuses to take away what no user has set.
fn has_labels(node: &Node, remove: &[CharacteristicKey]) -> Done<()> {
    let Some(none) = remove.iter().find(|key| !node.desired.contains_key(*key)) else { return Ok(()) };
    let there_are = match node.desired.len() {
        0 => "no label of it was set".into(),
        _ => format!("its labels are: {}", list(node.desired.keys())),
    };
    Err(Problem::new(format!("node {} has no label {none}", node.name), there_are))
}

/// What setting a class changes, in words. Nodes are taken out only of the class they are in.
fn changes(class: &ClassName, add: &[NodeName], remove: &[NodeName], nodes: &[NodeInfo]) -> Done<String> {
    let class_of = |name: &NodeName| nodes.iter().find(|info| info.node.name == *name).and_then(|info| info.node.class.as_ref());
    if let Some(not_in) = remove.iter().find(|node| class_of(node) != Some(class)) {
        let members: Vec<_> = nodes.iter().map(|info| &info.node.name).filter(|node| class_of(node) == Some(class)).collect();
        let there_are = if members.is_empty() { "no node is in it".into() } else { format!("in it are: {}", list(members)) };
        return Err(Problem::new(format!("node {not_in} is not in class {class}"), there_are));
    }
    let moves = |node: &&NodeName| class_of(node).is_some_and(|old| old != class);
    let added: Vec<_> = add.iter().filter(|node| !moves(node)).collect();
    let mut changes = Vec::new();
    if !added.is_empty() {
        changes.push(format!("added {}", list(added)));
    }
    for node in add.iter().filter(moves) {
        changes.extend(class_of(node).map(|old| format!("{node} moved from {old}")));
    }
    if !remove.is_empty() {
        changes.push(format!("removed {}", list(remove)));
    }
    Ok(match changes.is_empty() {
        true => format!("class {class} is there"),
        false => format!("class {class}: {}", changes.join("; ")),
    })
}

/// `admin …`.
pub async fn admin(context: &mut Context, command: AdminCommand) -> Done {
    match command {
        AdminCommand::List => {
            let principals = context.principals().await?;
            let view = || principals.iter().map(PrincipalView::of).collect::<Many<_>>();
            context.print.show("principals", || fleet::principals(&principals), view);
        }
        AdminCommand::Remove { who } => {
            let (key, name) = named_principal(&context.principals().await?, &who)?;
            context.order(UserCommand::RemovePrincipal { key }).await?;
            show_done(context, &format!("{name} may do nothing any more"));
        }
        AdminCommand::Add { name, public_key, role } => {
            let what = format!("{name} may act as {}", crate::output::words::role(role.into()));
            context.order(UserCommand::SetPrincipal { key: public_key, name, role: role.into() }).await?;
            show_done(context, &what);
        }
        AdminCommand::Key { file } => {
            no_folder(&file, "a key file; it is made if it is not there")?;
            let key = match Identity::load(&file) {
                Err(tribune_p2p::identity::IdentityError::Missing(_)) => Identity::create(&file),
                loaded => loaded,
            };
            let key = key.map_err(plain)?;
            let public = PublicKey::new(key.public_key()).to_string();
            let view = KeyView { public_key: public.clone(), peer: key.peer_id().to_string(), file: file.display().to_string() };
            context.print.show("key", || public, || view);
        }
    }
    Ok(Exit::Done)
}

/// The principal that is meant by a name or a public key.
fn named_principal(principals: &[(PublicKey, Principal)], who: &str) -> Done<(PublicKey, PrincipalName)> {
    let meant: Vec<_> = principals
        .iter()
        .filter(|(key, principal)| principal.name.as_str() == who || key.to_string() == who)
        .map(|(key, principal)| (*key, principal.name.clone()))
        .collect();
    match meant.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            let names: Vec<String> = principals.iter().map(|(_, principal)| principal.name.to_string()).collect();
            Err(Problem::unknown("principal", who, &names))
        }
        several => {
            let keys = list(several.iter().map(|(key, _)| key));
            Err(Problem::new(format!("{} keys have the name {who}", several.len()), format!("name one of the keys: {keys}")))
        }
    }
}

#[cfg(test)]
mod tests;
