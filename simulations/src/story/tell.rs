//! Tells a story on a cluster: carries its statements out one after the other, and prints what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tribune_agent::launch::ChildLabel;
use tribune_messages::api::{ApiRequest, ApiResponse, Query};
use tribune_node::client::Client;
use tribune_raft_store::command::{Accepted, UserCommand};
use tribune_raft_store::model::{
    Decision, NodeName, PackageId, Phase, Span, Targets, Update, UpdateId, UpdateKind, UpdateOptions, UpdateRequest,
};

use super::{Choice, Statement, Story, Until, Wish};
use crate::catalogue::{self, Item, Version};
use crate::faults::Planned;
use crate::machine;
use crate::seen::Seen;
use crate::trace::{Event, Trace};
use crate::users::Users;
use crate::users::wishes::{is_unknown, why};

/// Where the trace has what a story says of itself.
pub const PLACE: &str = "story";
/// How long a statement may wait.
const WITHIN: Duration = Duration::from_secs(240);

/// What the teller, who lives in the cluster, and the run, which is outside of it, share. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Tale {
    wanted: Arc<Mutex<Vec<Wanted>>>,
    seen: Arc<watch::Sender<Option<Seen>>>,
    over: Arc<AtomicBool>,
    wrong: Arc<Mutex<Option<String>>>,
}

/// What the teller wants of the run.
#[derive(Debug)]
pub enum Wanted {
    Fault(Planned),
    Heal,
}

impl Tale {
    /// What the teller wants since this was last asked.
    pub fn wanted(&self) -> Vec<Wanted> {
        std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn want(&self, wanted: Wanted) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).push(wanted);
    }

    /// Lets the teller see how the cluster is.
    pub fn show(&self, seen: &Seen) {
        self.seen.send_replace(Some(seen.clone()));
    }

    /// Whether the last statement was carried out.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Which statement could not be carried out, if any, and why.
    pub fn wrong(&self) -> Option<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Builds a story's packages.
///
/// # Errors
/// One cannot be built.
pub fn build(story: &Story, folder: &Path) -> Result<Vec<Item>> {
    let one = |package: &super::Package| {
        let fields = package.needs.as_ref().map(|other| format!("depends-on = [\"{other}/{other}\"]")).unwrap_or_default();
        let version = Version { package: &package.name, version: &package.version, script: &package.script, fields: &fields };
        catalogue::one(folder, &version)
    };
    story.packages.iter().map(one).collect()
}

/// Carries a story out.
pub async fn tell(story: Story, tale: Tale, users: Users) {
    let mut teller = Teller { story, tale: tale.clone(), users, update: None, client: None };
    if let Err(why) = teller.all().await {
        *tale.wrong.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{why:#}"));
    }
    tale.over.store(true, Ordering::Relaxed);
}

struct Teller {
    story: Story,
    tale: Tale,
    users: Users,
    /// What is spoken of: the last one that was submitted, unless the story says another.
    update: Option<UpdateId>,
    client: Option<Client>,
}

impl Teller {
    async fn all(&mut self) -> Result<()> {
        self.users.until_up().await;
        self.client = Some(self.users.client().await?);
        for line in self.story.lines.clone() {
            self.say(format!("> {}", line.text));
            self.carry_out(line.statement).await.with_context(|| format!("line {}: {}", line.number, line.text))?;
        }
        Ok(())
    }

    fn say(&self, text: String) {
        self.users.trace.note(PLACE, text);
    }

    async fn carry_out(&mut self, statement: Statement) -> Result<()> {
        match statement {
            Statement::Submit(wish) => {
                let request = self.request(&wish)?;
                if let Accepted::Update { update } = self.order(UserCommand::Submit { request }).await? {
                    self.update = Some(update);
                }
            }
            Statement::Refused(wish) => {
                let request = self.request(&wish)?;
                self.users.history.submits();
                let client = self.client.as_mut().context("nobody to speak to")?;
                match client.order(UserCommand::Submit { request }, WITHIN).await {
                    Err(error) if !is_unknown(&error) => self.say(format!("refused: {}", why(&error))),
                    Err(error) => return Err(error.into()),
                    Ok(accepted) => bail!("it was not refused: {accepted:?}"),
                }
            }
            Statement::Decide(choice) => {
                let command = self.command(choice).await?;
                self.order(command).await?;
            }
            Statement::Of(update) => self.update = Some(update),
            Statement::Fault(when, fault) => self.tale.want(Wanted::Fault(Planned { when, fault })),
            Statement::Remove(node) => {
                let name = self.users.nodes[node].clone();
                let node = name.parse().map_err(|error| anyhow!("{error}"))?;
                self.order(UserCommand::RemoveNode { node }).await?;
                // It serves nobody from then on.
                self.users.common.lock().peers.remove(&name);
                self.client = Some(self.users.client().await?);
            }
            Statement::LetIn(node) => {
                let name = self.users.nodes[node].clone();
                let client = self.client.as_mut().context("nobody to speak to")?;
                self.users.let_in(0, client, &name).await;
            }
            Statement::Heal => self.tale.want(Wanted::Heal),
            Statement::Wait(time) => sleep(time).await,
            Statement::Until(until) => self.wait_for(&until).await?,
            Statement::Show => {
                let seen = self.tale.seen.borrow().clone().ok_or_else(|| anyhow!("nothing was seen"))?;
                self.show(&seen);
            }
        }
        Ok(())
    }

    async fn order(&mut self, command: UserCommand) -> Result<Accepted> {
        if matches!(command, UserCommand::Submit { .. }) {
            self.users.history.submits();
        }
        let client = self.client.as_mut().context("nobody to speak to")?;
        Ok(client.order(command, WITHIN).await?)
    }

    fn update(&self) -> Result<UpdateId> {
        self.update.ok_or_else(|| anyhow!("no update was submitted yet"))
    }

    fn names(&self, nodes: &BTreeSet<usize>) -> Result<BTreeSet<NodeName>> {
        nodes.iter().map(|node| self.users.nodes[*node].parse().map_err(|error| anyhow!("{error}"))).collect()
    }

    fn request(&self, wish: &Wish) -> Result<UpdateRequest> {
        let mut packages: BTreeSet<PackageId> = BTreeSet::new();
        for (name, version) in &wish.packages {
            let item = self.users.items.iter().find(|item| item.name == *name && item.version == *version);
            packages.insert(item.with_context(|| format!("there is no {name} {version}"))?.id);
        }
        let kind = if packages.is_empty() { UpdateKind::Regress } else { UpdateKind::Install };
        let nodes = self.names(&wish.nodes)?.into_iter().map(|node| (node, packages.clone())).collect();
        let options = UpdateOptions {
            strategy: wish.strategy,
            on_failure: wish.on_failure,
            ephemeral: wish.ephemeral,
            again: wish.again,
            skip_away: wish.skip_away,
            max_defer: Span::from_secs(20),
            ..UpdateOptions::default()
        };
        Ok(UpdateRequest { kind, targets: Targets { nodes, classes: BTreeMap::new() }, options })
    }

    async fn command(&mut self, choice: Choice) -> Result<UserCommand> {
        let update = self.update()?;
        let decision = match choice {
            Choice::Cancel => return Ok(UserCommand::Cancel { update }),
            Choice::Persist => return Ok(UserCommand::Persist { update }),
            Choice::Pause => return Ok(UserCommand::Pause { update }),
            Choice::Resume => return Ok(UserCommand::Resume { update }),
            Choice::Force => Decision::Force { why: "the story says so".into() },
            Choice::Abort => Decision::Abort,
            Choice::AskAgain => Decision::AskAgain,
            Choice::Only(nodes) => Decision::Only { nodes: self.names(&nodes)? },
        };
        let client = self.client.as_mut().context("nobody to speak to")?;
        match client.ask(&ApiRequest::Query(Query::Update { update, after: None }), WITHIN).await? {
            ApiResponse::Update(info) => {
                Ok(UserCommand::Decide { update, ballot_revision: info.update.ballot_revision, decision })
            }
            other => bail!("a question was answered with {other:?}"),
        }
    }

    async fn wait_for(&self, until: &Until) -> Result<()> {
        let mut seen = self.tale.seen.subscribe();
        let update = self.update;
        let is_so = |seen: &Option<Seen>| {
            let Some(seen) = seen else { return false };
            match until {
                Until::Quiet => seen.is_at_rest(),
                Until::Phase(name) => {
                    let updates = seen.updates();
                    update.and_then(|update| updates.get(&update)).is_some_and(|update| is_named(&update.phase, name))
                }
            }
        };
        let waited = timeout(WITHIN, seen.wait_for(is_so)).await.map(|_| ());
        waited.map_err(|_| {
            let now = self.tale.seen.borrow().as_ref().and_then(|seen| Some(seen.updates().get(&update?)?.phase.to_string()));
            anyhow!("{WITHIN:?} later that is not so: the update is {}", now.unwrap_or_else(|| "not there".into()))
        })
    }

    fn show(&self, seen: &Seen) {
        // The first update brought the nodes what they have at first.
        for (id, update) in seen.updates().into_iter().skip(1) {
            self.say(describe(id, update));
        }
        for node in &seen.nodes {
            let Some(truth) = &seen.truth else { continue };
            let record = truth.state.nodes().values().find(|known| known.name.as_str() == node.name);
            let has = record.map(|record| self.titles(record.current.packages.values())).unwrap_or_default();
            let inner = node.machine.lock();
            let runs = inner.kids.iter().filter(|(_, kid)| matches!(kid.phase, machine::Phase::Running { .. }));
            let runs: Vec<String> = runs.map(|(id, kid)| title_of(&id.key, &kid.spec.label)).collect();
            self.say(format!("{} has {}, and runs {}", node.name, list(&has), list(&runs)));
        }
    }

    fn titles<'a>(&self, packages: impl Iterator<Item = &'a PackageId>) -> Vec<String> {
        let title = |id: &PackageId| {
            let item = self.users.items.iter().find(|item| item.id == *id);
            item.map_or_else(|| id.short().to_string(), |item| format!("{} {}", item.name, item.version))
        };
        packages.map(title).collect()
    }
}

fn list(what: &[String]) -> String {
    if what.is_empty() { "nothing".into() } else { what.join(", ") }
}

fn title_of(key: &str, label: &str) -> String {
    match label.parse::<ChildLabel>() {
        Ok(label) => format!("{key} {}", label.version),
        Err(_) => label.to_owned(),
    }
}

fn is_named(phase: &Phase, name: &str) -> bool {
    let text = phase.to_string();
    (name == "ended" && phase.ended()) || text == name || text.split_whitespace().next() == Some(name)
}

fn describe(id: UpdateId, update: &Update) -> String {
    let why = update.reason.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
    let nodes: Vec<String> = update.nodes.iter().map(|(name, node)| format!("{name} {}", node.step)).collect();
    format!("{id} is {}{why}: {}", update.phase, nodes.join(", "))
}

/// What is printed of a story: its statements, what moved in the record, and what went wrong; no times.
pub fn transcript(trace: &Trace) -> Vec<String> {
    let shown = |event: &Event| match event.place.as_str() {
        PLACE => Some(match event.text.starts_with("> ") {
            true => event.text.clone(),
            false => format!("    {}", event.text),
        }),
        "record" if event.text.contains(" is ") => Some(format!("    {}", event.text)),
        "fault" => Some(format!("    {}", event.text)),
        node if event.text.contains("the master") => Some(format!("    {node} {}", event.text)),
        node if event.text.contains("is started again") => Some(format!("    {node} {}", event.text)),
        _ => None,
    };
    let events = trace.events();
    // How the cluster came up is no part of the story, nor what comes after its last statement.
    let told: Vec<usize> = (0..events.len()).filter(|at| events[*at].place == PLACE).collect();
    let (Some(first), Some(last)) = (told.first(), told.last()) else { return Vec::new() };
    events[*first..=*last].iter().filter_map(shown).collect()
}
