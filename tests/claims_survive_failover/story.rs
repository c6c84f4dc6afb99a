//! One update from its submission to its end, held at a moment, and the master killed then.

use std::collections::BTreeMap;
use std::fs;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tribune_tests::cli::tribune;
use tribune_tests::{Cluster, NodeOptions, eventually};

use crate::account::{self, Account, Names};
use crate::claim::{Claim, MEMBERS, REASON};

const FIRST: &str = MEMBERS[0];
const SECOND: &str = MEMBERS[1];
const VOTERS: [&str; 3] = ["n1", "n2", "n3"];
/// The modules that are asked.
const ASKED: [&str; 2] = ["p/m", "p/told"];
/// So many versions later a node holds a version no more.
const FORGOTTEN_AFTER: usize = 6;

/// A step of an update's life, as it is when the master is killed. The nodes of the update that are no voters go one after the other,
/// but for `Ready`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It is submitted, and waits for an update that holds its nodes.
    Queued,
    /// The first has voted, the second is asked.
    Asked,
    /// A veto waits for a user.
    Vetoed,
    /// A user has decided, and the members have not heard of it.
    Decided,
    /// The first has staged everything, the second has voted and fetches nothing.
    Distributing,
    /// The first comes to its safe point, the second has staged.
    Pending,
    /// The first is ready, the second not: both go together.
    Ready,
    /// The first may start, and its new modules do not come up.
    Go,
    /// The new modules of the first run and have to hold.
    Started,
    /// The first has settled, the second comes to its safe point.
    Settled,
    /// All have settled, and the master has not checked what is installed.
    Verifying,
    /// An ephemeral one runs, and waits for a user.
    Unpersisted,
    /// A user takes it back: the first has gone back, the second has not heard of it.
    Regressing,
}

/// A cluster on which the same update is played again and again.
pub struct Story {
    claim: Claim,
    cluster: Cluster,
    /// The versions that are rolled out, one a play, in order.
    versions: Vec<String>,
    plays: usize,
    old: String,
}

/// A play that goes on.
struct Play {
    names: Names,
    moment: Option<Moment>,
    /// The master that was killed.
    killed: Option<String>,
    /// Whether it was run again.
    back: Back,
    codes: Vec<i32>,
    /// `update watch`, as a user has it running.
    watch: JoinHandle<Result<i32>>,
}

/// Whether a node that was killed runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    No,
    Yes,
}

impl Story {
    /// Three voters, and two members that have the first version.
    pub fn begin(claim: Claim, moments: &[Moment]) -> Result<Self> {
        let [voter, member] = [NodeOptions::default(), NodeOptions::with(&["--voter", "never"])];
        let cluster = Cluster::start_with(&[voter.clone(), voter.clone(), voter, member.clone(), member])?;
        let versions = (0..=moments.len()).map(|play| format!("{}.0.0", 101 + play)).collect();
        let mut story = Self { claim, cluster, versions, plays: 0, old: "1.0.0".into() };
        story.install(&story.old.clone(), "100ms")?;
        for (source, node) in claim.others() {
            let file = source.build(story.cluster.folder())?.display().to_string();
            story.cluster.admin(story.cluster.node(SECOND), &["update", "submit", &file, "--node", node])?.expect(0)?;
        }
        if claim == Claim::Regress {
            for (version, moment) in story.versions.clone().iter().zip([&Moment::Queued].into_iter().chain(moments)) {
                story.install(version, settle(Some(*moment)))?;
            }
            for number in 0..FORGOTTEN_AFTER {
                story.install(&format!("{}.0.0", 201 + number), "100ms")?;
            }
        }
        Ok(story)
    }

    /// Rolls a version out over all targets.
    fn install(&mut self, version: &str, settle: &str) -> Result<()> {
        let submit = self.submission(version, settle, &["--strategy", "together"])?;
        self.order(&submit)?;
        self.old = version.into();
        Ok(())
    }

    fn submission(&self, version: &str, settle: &str, further: &[&str]) -> Result<Vec<String>> {
        let file = self.claim.source(version, settle).build(self.cluster.folder())?.display().to_string();
        let targets = self.claim.targets().iter().flat_map(|node| ["--node", node]);
        let args = ["update", "submit", &file].into_iter().chain(targets).chain(further.iter().copied());
        Ok(args.map(str::to_owned).collect())
    }

    /// An order of the admin at a member, which is never the master.
    fn order(&self, args: &[String]) -> Result<Value> {
        let args: Vec<&str> = args.iter().map(String::as_str).chain(["-o", "json"]).collect();
        self.cluster.admin(self.cluster.node(SECOND), &args)?.expect(0)?.json()
    }

    /// Submits the update that the claim is about. Gives its number.
    fn submit(&self, names: &Names, moment: Option<Moment>) -> Result<String> {
        let strategy = if moment == Some(Moment::Ready) { "together" } else { "rolling" };
        let args = if self.claim == Claim::Regress {
            let held = self.cluster.node(FIRST).json(&["local", "show"])?["kept"].to_string();
            ensure!(!held.contains(&names.new), "the node still holds {}: {held}", names.new);
            let package = format!("p@{}", names.new);
            let args = ["regress", "--package", &package, "--node", FIRST, "--node", SECOND, "--detach"];
            args.map(str::to_owned).to_vec()
        } else {
            let further = [self.claim.options(), &["--strategy", strategy, "--detach"]].concat();
            self.submission(&names.new, settle(moment), &further)?
        };
        Ok(self.order(&args)?["update"].as_str().context("no update was submitted")?.to_owned())
    }

    /// Plays the update once; kills the master at this moment.
    pub fn play(&mut self, moment: Option<Moment>) -> Result<Account> {
        let new = self.versions.get(self.plays).context("no version is left")?.clone();
        self.plays += 1;
        let mut names = Names { update: String::new(), old: self.old.clone(), new };
        let targets = self.claim.targets();
        let logged: Vec<_> = each(targets, |node, module| Ok(self.cluster.node(node).log(module).len()))?;
        let before = targets.iter().map(|node| self.look(node)).collect::<Result<Vec<_>>>()?;

        let blocker = if moment == Some(Moment::Queued) { Some(self.block(&names)?) } else { None };
        self.hold(moment)?;
        names.update = self.submit(&names, moment)?;
        let watch = self.watch(&names.update);
        let mut play = Play { names, moment, killed: None, back: Back::No, codes: Vec::new(), watch };
        self.asking(&mut play, blocker)?;
        if self.claim.is_vetoed() {
            self.deciding(&mut play)?;
        }
        self.changing(&mut play)?;
        let unpersisted = if self.claim == Claim::Ephemeral { self.taking_back(&mut play)? } else { Vec::new() };
        ensure!(moment.is_none() || play.killed.is_some(), "it never came to {moment:?}");
        let Play { names, killed, back, mut codes, watch, .. } = play;
        codes.push(joined(watch)?);
        if let (Some(killed), Back::No) = (killed, back) {
            self.cluster.node_mut(&killed).run()?;
            self.cluster.settle()?;
        }
        let mut nodes = BTreeMap::new();
        for (node, before) in targets.iter().zip(before) {
            self.all_told(node)?;
            let after = self.look(node)?;
            let same: Vec<bool> = before.iter().zip(&after).map(|(before, after)| before == after).collect();
            let has = self.cluster.node(node).json(&["node", "show", node])?;
            let has =
                json!({ "same": same, "packages": has["packages"], "should": has["should"], "ephemeral": has["ephemeral"] });
            nodes.insert((*node).to_owned(), names.plain(&has)?);
        }
        let mut logged = logged.into_iter();
        let processes = each(targets, |node, module| {
            let before = logged.next().context("a log")?;
            let said = account::said(&names, &self.cluster.node(node).log(module), before)?;
            Ok((format!("{node} {module}"), said))
        })?;
        let first = self.cluster.node(FIRST);
        let update = first.json(&["update", "show", &names.update])?;
        let events = first.cli(&["events", "-n", "500", "-o", "json"])?.expect(0)?.stdout;
        if nodes[FIRST]["packages"]["p"] == "NEW" {
            self.old.clone_from(&names.new);
        }
        Ok(Account {
            codes,
            update: account::shown(&names, &update)?,
            events: account::events(&names, &events)?,
            processes: processes.into_iter().collect(),
            nodes,
            unpersisted,
        })
    }

    /// The processes of a node, and what is in its local storage.
    fn look(&self, node: &str) -> Result<[Value; 3]> {
        let node = self.cluster.node(node);
        let [m, told] = ASKED.map(|module| eventually(&format!("{module} runs on {}", node.name), || node.pid(module)));
        let local = node.json(&["local", "show"])?;
        Ok([json!(m?), json!(told?), json!([local["current"], local["kept"]])])
    }

    /// Every process that was asked on a node, and lives, has heard how every update ended.
    fn all_told(&self, node: &str) -> Result<()> {
        eventually(&format!("{node} has no open update"), || {
            let local = self.cluster.node(node).json(&["local", "show"])?;
            ensure!(local["open"].as_object().is_some_and(serde_json::Map::is_empty), "{}", local["open"]);
            Ok(Some(()))
        })
    }

    /// Submits an update that is vetoed, so that it holds the nodes. Gives its number.
    fn block(&self, names: &Names) -> Result<String> {
        self.cluster.node(FIRST).tell("p/told", "veto I was first")?;
        let submit = if self.claim == Claim::Regress {
            // It would not wait for anything else.
            ["regress", "--node", FIRST, "--node", SECOND, "--detach"].map(str::to_owned).to_vec()
        } else {
            let version = names.new.replace(".0.0", ".5.0");
            self.submission(&version, "100ms", &[self.claim.options(), &["--detach"]].concat())?
        };
        let update = self.order(&submit)?["update"].as_str().context("no update was submitted")?.to_owned();
        self.reached(&update, "vetoed", |shown| shown["phase"] == "vetoed")?;
        Ok(update)
    }

    /// Tells processes what holds the update at a moment.
    fn hold(&self, moment: Option<Moment>) -> Result<()> {
        let [first, second] = MEMBERS.map(|node| self.cluster.node(node));
        let answer = if self.claim.is_vetoed() { format!("veto {REASON}") } else { "accept".into() };
        first.tell("p/told", &answer)?;
        match moment {
            Some(Moment::Asked) => second.tell("p/told", "hold-answer"),
            Some(Moment::Distributing) => first.tell("p/told", "hold-answer"),
            Some(Moment::Pending) => first.tell("p/told", "hold-ready"),
            Some(Moment::Ready | Moment::Settled) => second.tell("p/told", "hold-ready"),
            Some(Moment::Go) => Ok(fs::write(first.data.join("home/closed"), "")?),
            Some(Moment::Verifying) => VOTERS.iter().try_for_each(|node| {
                let folder = self.cluster.node(node).held_back();
                fs::create_dir(&folder)?;
                Ok(fs::write(folder.join("verified"), "")?)
            }),
            _ => Ok(()),
        }
    }

    /// Until all have answered.
    fn asking(&mut self, play: &mut Play, blocker: Option<String>) -> Result<()> {
        if let Some(blocker) = blocker {
            self.kill(play, Moment::Queued, |shown| shown["phase"] == "queued")?;
            if let Some(killed) = play.killed.clone().filter(|killed| self.claim.targets().contains(&killed.as_str())) {
                // A node that is away when its turn has come would block it.
                self.cluster.node_mut(&killed).run()?;
                self.cluster.settle()?;
                play.back = Back::Yes;
            }
            self.order(&["update", "cancel", &blocker].map(str::to_owned))?;
        }
        self.kill(play, Moment::Asked, steps("voted", "asked"))?;
        if play.moment == Some(Moment::Asked) {
            self.cluster.node(SECOND).tell("p/told", "go-on")?;
        }
        if play.moment == Some(Moment::Distributing) {
            self.reached(&play.names.update, "asking", steps("asked", "voted"))?;
            self.cluster.node(SECOND).pause_agent()?;
            self.cluster.node(FIRST).tell("p/told", "go-on")?;
            self.kill(play, Moment::Distributing, steps("staged", "voted"))?;
            self.cluster.node(SECOND).resume_agent()?;
        }
        Ok(())
    }

    /// The veto, and what a user decides about it at a node that is not the one it was submitted to.
    fn deciding(&mut self, play: &mut Play) -> Result<()> {
        self.kill(play, Moment::Vetoed, |shown| shown["phase"] == "vetoed")?;
        let update = play.names.update.clone();
        self.reached(&update, "vetoed", |shown| shown["phase"] == "vetoed")?;
        let at = self.cluster.node(VOTERS.into_iter().find(|voter| play.killed.as_deref() != Some(voter)).context("no voter")?);
        let seen = at.ballots(&update)?;
        let decide = [&["update", "decide", &update], &self.claim.decision(&seen)[..]].concat();
        if play.moment == Some(Moment::Decided) {
            MEMBERS.iter().try_for_each(|node| self.cluster.node(node).pause_agent())?;
        }
        self.cluster.admin(at, &decide)?.expect(0)?;
        if play.moment == Some(Moment::Decided) {
            self.kill_now(play)?;
            MEMBERS.iter().try_for_each(|node| self.cluster.node(node).resume_agent())?;
        }
        self.next_watch(play)
    }

    /// From the safe points on.
    fn changing(&mut self, play: &mut Play) -> Result<()> {
        let Some(moment) = play.moment else { return Ok(()) };
        if moment == Moment::Verifying {
            self.kill(play, moment, |shown| shown["phase"] == "verifying")?;
            return VOTERS.iter().try_for_each(|node| Ok(fs::remove_dir_all(self.cluster.node(node).held_back())?));
        }
        let [first, second] = match moment {
            Moment::Pending => ["pending", "staged"],
            Moment::Ready => ["ready", "pending"],
            Moment::Go => ["go", "staged"],
            Moment::Started => ["started", "staged"],
            Moment::Settled => ["settled", "pending"],
            _ => return Ok(()),
        };
        self.kill(play, moment, steps(first, second))?;
        MEMBERS.iter().try_for_each(|node| self.cluster.node(node).tell("p/told", "go-on"))?;
        let closed = self.cluster.node(FIRST).data.join("home/closed");
        if closed.exists() { Ok(fs::remove_file(closed)?) } else { Ok(()) }
    }

    /// An ephemeral one waits for its user, who takes it back. Gives what is installed and what runs meanwhile.
    fn taking_back(&mut self, play: &mut Play) -> Result<Vec<Value>> {
        let runs = |shown: &Value| shown["phase"] == "unpersisted";
        self.kill(play, Moment::Unpersisted, runs)?;
        let update = play.names.update.clone();
        self.reached(&update, "unpersisted", runs)?;
        let mut unpersisted = Vec::new();
        for node in MEMBERS {
            let has = self.cluster.node(node).json(&["node", "show", node])?;
            unpersisted.push(play.names.plain(&json!([has["packages"]["p"], has["ephemeral"]["packages"]["p"]]))?);
        }
        let pauses = play.moment == Some(Moment::Regressing);
        if pauses {
            self.cluster.node(SECOND).pause_agent()?;
        }
        self.cluster.admin(self.cluster.node(FIRST), &["update", "cancel", &update])?.expect(0)?;
        self.kill(play, Moment::Regressing, steps("regressed", "settled"))?;
        if pauses {
            self.cluster.node(SECOND).resume_agent()?;
        }
        self.next_watch(play)?;
        Ok(unpersisted)
    }

    /// Waits until the update is so, and kills the master, if this is the moment.
    fn kill(&mut self, play: &mut Play, moment: Moment, is: impl Fn(&Value) -> bool) -> Result<()> {
        if play.moment != Some(moment) {
            return Ok(());
        }
        self.reached(&play.names.update, &format!("{moment:?}"), is)?;
        self.kill_now(play)
    }

    /// Kills everything that the master's node runs; where it is updated itself, all but the processes that this is about.
    fn kill_now(&mut self, play: &mut Play) -> Result<()> {
        let master = self.cluster.master()?;
        let has_processes = self.claim.targets().contains(&master.as_str());
        let node = self.cluster.node_mut(&master);
        if has_processes {
            node.kill_node_processes()?
        } else {
            node.kill_all()?
        }
        // A member may be stopped.
        let other = self.cluster.node(VOTERS.into_iter().find(|voter| *voter != master).context("no other voter")?);
        eventually("another master", || {
            let seen = other.json(&["status"])?["master"].as_str().map(str::to_owned);
            Ok(seen.filter(|seen| *seen != master))
        })?;
        play.killed = Some(master);
        Ok(())
    }

    /// Waits until an update is as it should be.
    fn reached(&self, update: &str, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
        let mut ended = None;
        eventually(&format!("{update} is {what}"), || {
            let shown = self.cluster.node(FIRST).json(&["update", "show", update])?;
            if shown["phase"] == "ended" {
                ended = Some(shown.clone());
            }
            let there = is(&shown) || ended.is_some();
            ensure!(there, "{} {}", shown["phase"], shown["nodes"]);
            Ok(Some(()))
        })?;
        ended.map_or(Ok(()), |shown| bail!("{update} has ended before it was {what}: {shown}"))
    }

    /// Watches the update as a user does, at a member, beside everything else.
    fn watch(&self, update: &str) -> JoinHandle<Result<i32>> {
        let (data, update) = (self.cluster.node(FIRST).data.display().to_string(), update.to_owned());
        std::thread::spawn(move || Ok(tribune(&["update", "watch", &update, "--timeout", "90s", "--data", &data], "")?.code))
    }

    /// The first watch has told what it waits for; another waits for the end.
    fn next_watch(&self, play: &mut Play) -> Result<()> {
        let next = self.watch(&play.names.update);
        play.codes.push(joined(std::mem::replace(&mut play.watch, next))?);
        Ok(())
    }
}

/// How long the new modules have to hold: long where the master is killed meanwhile.
fn settle(moment: Option<Moment>) -> &'static str {
    if moment == Some(Moment::Started) { "3s" } else { "100ms" }
}

/// Whether the members are at these steps.
fn steps(first: &'static str, second: &'static str) -> impl Fn(&Value) -> bool {
    move |shown| [first, second].iter().zip(MEMBERS).all(|(step, node)| shown["nodes"][node]["step"] == *step)
}

fn joined(watch: JoinHandle<Result<i32>>) -> Result<i32> {
    watch.join().unwrap_or_else(|_| bail!("the watch has panicked"))
}

/// Something of each module that is asked on each of these nodes.
fn each<T>(nodes: &[&str], mut look: impl FnMut(&str, &str) -> Result<T>) -> Result<Vec<T>> {
    nodes.iter().flat_map(|node| ASKED.map(|module| (*node, module))).map(|(node, module)| look(node, module)).collect()
}
