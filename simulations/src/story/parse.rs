//! Reads a story.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use tribune_raft_store::model::{OnFailure, RolloutStrategy, Span};

use super::{Choice, Line, Package, Statement, Story, Until, Wish};
use crate::faults::{Fault, STEPS, When, Who};

/// How many nodes a story may have.
const NODES: std::ops::RangeInclusive<usize> = 1..=9;
/// How long faults last for which nothing is said.
const FOR: Duration = Duration::from_secs(2);
/// A step is waited for from the statement on.
const FROM_NOW: Duration = Duration::ZERO;

impl FromStr for Story {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut story =
            Self { nodes: 3, members: BTreeSet::new(), packages: Vec::new(), installed: Vec::new(), lines: Vec::new() };
        for (at, line) in text.lines().enumerate() {
            let number = at + 1;
            story.line(number, line.trim()).map_err(|why| format!("line {number}: {line:?}: {why}"))?;
        }
        if story.lines.is_empty() {
            return Err("nothing happens in it: there is no statement".into());
        }
        Ok(story)
    }
}

impl Story {
    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        if line.starts_with('#') {
            return Ok(());
        }
        let (word, rest) = line.split_once(' ').map_or((line, ""), |(word, rest)| (word, rest.trim()));
        match word {
            "" => {}
            "nodes" => {
                self.nodes = rest.parse().ok().filter(|count| NODES.contains(count)).ok_or("give a number of nodes, 1 to 9")?;
            }
            "members" => self.members = self.some_nodes(rest)?,
            "package" => {
                let package = package(rest)?;
                self.packages.push(package);
            }
            "installed" => self.installed = self.named_packages(rest)?,
            _ => {
                let statement = self.statement(word, rest)?;
                self.lines.push(Line { number, text: line.to_owned(), statement });
            }
        }
        Ok(())
    }

    fn statement(&self, word: &str, rest: &str) -> Result<Statement, String> {
        Ok(match word {
            "cancel" | "persist" | "pause" | "resume" | "heal" | "show" if !rest.is_empty() => {
                return Err(format!("say `{word}` alone; `of uN` says which update is meant"));
            }
            "of" => Statement::Of(rest.parse().map_err(|error| format!("say which update: `of uN` ({error})"))?),
            "submit" => Statement::Submit(self.wish(rest)?),
            "refused" => Statement::Refused(self.wish(rest)?),
            "regress" => Statement::Submit(self.wish(&format!("on {}", rest.trim_start_matches("on ")))?),
            "decide" => Statement::Decide(self.choice(rest)?),
            "cancel" => Statement::Decide(Choice::Cancel),
            "persist" => Statement::Decide(Choice::Persist),
            "pause" => Statement::Decide(Choice::Pause),
            "resume" => Statement::Decide(Choice::Resume),
            "when" => {
                let (step, fault) =
                    rest.split_once(':').ok_or("say it as `when STEP: FAULT` or `when STEP, TIME later: FAULT`")?;
                let (step, then) = match step.split_once(',') {
                    Some((step, later)) => {
                        (step, span(later.trim_end().strip_suffix("later").ok_or("say how much later: `TIME later`")?)?)
                    }
                    None => (step, Duration::ZERO),
                };
                let step = STEPS.into_iter().find(|known| *known == step.trim());
                let step = step.ok_or_else(|| format!("there is no such step; there are {}", STEPS.join(", ")))?;
                Statement::Fault(When::Step { after: FROM_NOW, step, then }, self.fault(fault.trim())?)
            }
            "remove" => Statement::Remove(self.node(rest)?),
            "let-in" => Statement::LetIn(self.node(rest)?),
            "until" if rest == "quiet" => Statement::Until(Until::Quiet),
            "until" => Statement::Until(Until::Phase(rest.to_owned())),
            "wait" => Statement::Wait(span(rest)?),
            "heal" => Statement::Heal,
            "show" => Statement::Show,
            _ => Statement::Fault(When::At(Duration::ZERO), self.fault(&format!("{word} {rest}"))?),
        })
    }

    fn fault(&self, text: &str) -> Result<Fault, String> {
        let (what, for_) = match text.rsplit_once(" for ") {
            Some((what, time)) => (what, span(time)?),
            None => (text, FOR),
        };
        let (word, whom) = what.split_once(' ').unwrap_or((what, ""));
        Ok(match word {
            "kill" => Fault::Killed { who: self.who(whom)?, after: for_ },
            "cut-power" => Fault::PowerCut { who: self.who(whom)?, after: for_ },
            "cut-off" => Fault::CutOff { who: self.who(whom)?, for_ },
            "part" => Fault::Partition { side: self.some_nodes(whom)?, for_ },
            "lose-disk" => Fault::DiskLost { who: self.who(whom)?, after: for_ },
            "fill-disk" => Fault::DiskFull { who: self.who(whom)?, for_ },
            "turn-a-bit" => Fault::BitTurned { who: self.who(whom)?, local: true },
            "slow" => Fault::Slow { most: span(whom)?, for_ },
            _ => {
                return Err(format!(
                    "there is no statement or fault {word:?}; there are submit, refused, regress, of, decide, cancel, persist, pause, resume, remove, \
                     let-in, when, until, wait, heal, show; kill, cut-power, cut-off, part, lose-disk, fill-disk, turn-a-bit, slow"
                ));
            }
        })
    }

    fn who(&self, text: &str) -> Result<Who, String> {
        match text {
            "the master" => Ok(Who::Master),
            "the node" => Ok(Who::Mover(0)),
            node => self.node(node).map(Who::Node),
        }
    }

    fn node(&self, text: &str) -> Result<usize, String> {
        let number = text.strip_prefix('n').and_then(|number| number.parse::<usize>().ok());
        let known = number.filter(|number| (1..=self.nodes).contains(number));
        known.map(|number| number - 1).ok_or_else(|| format!("{text:?} is no node; there are n1 to n{}", self.nodes))
    }

    fn some_nodes(&self, text: &str) -> Result<BTreeSet<usize>, String> {
        if text == "all" {
            return Ok((0..self.nodes).collect());
        }
        let nodes: BTreeSet<usize> = text.split_whitespace().map(|node| self.node(node)).collect::<Result<_, _>>()?;
        if nodes.is_empty() { Err("name some nodes".into()) } else { Ok(nodes) }
    }

    fn named_packages(&self, text: &str) -> Result<Vec<(String, String)>, String> {
        let one = |text: &str| {
            let (name, version) = text.trim().split_once(' ').ok_or_else(|| format!("{text:?} is no NAME VERSION"))?;
            let known = self.packages.iter().any(|package| package.name == name && package.version == version);
            if known {
                Ok((name.to_owned(), version.to_owned()))
            } else {
                Err(format!("no package {name} {version} was described"))
            }
        };
        text.split(',').filter(|text| !text.trim().is_empty()).map(one).collect()
    }

    /// `NAME VERSION, NAME VERSION on NODES, OPTION, OPTION`
    fn wish(&self, text: &str) -> Result<Wish, String> {
        let (packages, rest) = match text.strip_prefix("on ") {
            Some(rest) => ("", rest),
            None => text.split_once(" on ").ok_or("say on which nodes: `submit NAME VERSION on n1 n2`")?,
        };
        let mut words = rest.split(',');
        let nodes = self.some_nodes(words.next().unwrap_or_default().trim())?;
        let mut wish = Wish {
            packages: self.named_packages(packages)?,
            nodes,
            strategy: RolloutStrategy::Together,
            on_failure: OnFailure::RegressAll,
            ephemeral: false,
            again: false,
            skip_away: false,
        };
        for option in words {
            match option.trim() {
                "rolling" => wish.strategy = RolloutStrategy::Rolling,
                "ephemeral" => wish.ephemeral = true,
                "again" => wish.again = true,
                "skip-away" => wish.skip_away = true,
                "hold" => wish.on_failure = OnFailure::Hold,
                "regress-node" => wish.on_failure = OnFailure::RegressNode,
                other => {
                    return Err(format!(
                        "there is no option {other:?}; there are rolling, ephemeral, again, skip-away, hold, regress-node"
                    ));
                }
            }
        }
        Ok(wish)
    }

    fn choice(&self, text: &str) -> Result<Choice, String> {
        Ok(match text {
            "force" => Choice::Force,
            "abort" => Choice::Abort,
            "ask-again" => Choice::AskAgain,
            _ => match text.strip_prefix("only ") {
                Some(nodes) => Choice::Only(self.some_nodes(nodes)?),
                None => return Err("decide one of force, abort, ask-again, only NODES".into()),
            },
        })
    }
}

/// `NAME VERSION [needs NAME][: SCRIPT; SCRIPT]`
fn package(text: &str) -> Result<Package, String> {
    let (what, script) = text.split_once(':').unwrap_or((text, ""));
    let words: Vec<&str> = what.split_whitespace().collect();
    let (name, version, needs) = match words[..] {
        [name, version] => (name, version, None),
        [name, version, "needs", other] => (name, version, Some(other.to_owned())),
        _ => return Err("say it as `package NAME VERSION [needs NAME][: SCRIPT; SCRIPT]`".into()),
    };
    let script: Vec<&str> = script.split(';').map(str::trim).collect();
    Ok(Package { name: name.to_owned(), version: version.to_owned(), script: script.join("\n"), needs })
}

/// A time such as `500ms` or `2s`.
fn span(text: &str) -> Result<Duration, String> {
    let span: Span = text.trim().parse().map_err(|error| format!("{error}"))?;
    Ok(Duration::from_millis(span.as_millis()))
}
