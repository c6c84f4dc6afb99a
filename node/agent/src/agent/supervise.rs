//! What to do about the node's children now. Its one idea: a changeover, the way back from it, the start of a node and its
//! everyday life are one pure function, from what should run and what does run to the next actions. It is asked again
//! after everything that happens, so that a new agent goes on where the last one was, without knowing how far it came.
//!
//! A module is where it should be when one child with a wanted label is up and no other child of it is left.
//!
//! | strategy | old and new |
//! | --- | --- |
//! | overlap | the new child starts, comes up; then the old one hands over and is stopped |
//! | stop-first | the old child hands over and is stopped; then the new one starts |
//! | reload | the old child stays while it runs |

use std::collections::{BTreeMap, BTreeSet};

use tribune_keeper::{ChildId, ChildState, ChildStatus};
use tribune_raft_store::model::{Span, Strategy};

use crate::processes::ballot::Moment;

/// One module that should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `package/module`: the key of its children.
    pub module: String,
    /// The labels of children that will do: started from this generation, or from another in which the module is the same.
    pub labels: BTreeSet<String>,
    /// How old and new follow each other.
    pub strategy: Strategy,
    /// How long an old child may take to hand over, and again to end.
    pub drain_within: Span,
    /// The modules that must be up before it starts. They form no cycle.
    pub after: BTreeSet<String>,
    /// Children that are to be replaced although their label is right: it is restarted.
    pub restarted: BTreeSet<ChildId>,
}

/// How far an old child is with handing over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandingOver {
    /// It was told, and has until then.
    Told {
        /// The moment.
        until: Moment,
    },
    /// It has.
    Done,
}

/// Everything that decides what to do.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What the keeper has.
    pub children: &'a [ChildStatus],
    /// The children that do their work.
    pub up: &'a BTreeSet<ChildId>,
    /// The children that have a process which speaks: it is told to hand over.
    pub speaking: &'a BTreeSet<ChildId>,
    /// Those that were told.
    pub handing_over: &'a BTreeMap<ChildId, HandingOver>,
    /// Modules that are not started now: their start failed and is tried again later.
    pub held: &'a BTreeSet<String>,
    /// The time.
    pub now: Moment,
}

/// What to do about children. Each may be done twice without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a child of this module, with this number.
    Start(ChildId),
    /// Tell an old child to hand over, and note until when.
    HandOver {
        /// Which.
        child: ChildId,
        /// How long it may take.
        within: Span,
    },
    /// Stop a child.
    Stop {
        /// Which.
        child: ChildId,
        /// How long it may take.
        within: Span,
    },
    /// Forget a child that does not run.
    Remove(ChildId),
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// A new child has to come up.
    Up(ChildId),
    /// An old child has to hand over.
    HandOver(ChildId),
    /// An old child has to end.
    End(ChildId),
    /// A module whose start failed is tried again.
    Retry(String),
    /// A module waits for those it depends on.
    Dependencies(String),
}

impl Wait {
    /// What is waited for, as part of a sentence.
    pub fn describe(&self) -> String {
        match self {
            Wait::Up(child) => format!("{} to come up", child.key),
            Wait::HandOver(child) => format!("the old {} to hand over", child.key),
            Wait::End(child) => format!("the old {} to end", child.key),
            Wait::Retry(module) => format!("another try to start {module}"),
            Wait::Dependencies(module) => format!("what {module} depends on"),
        }
    }
}

/// What to do now, and what is waited for after that. With neither, everything is where it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Next {
    /// To be done now, in this order.
    pub actions: Vec<Action>,
    /// What is waited for.
    pub waits: Vec<Wait>,
}

impl Next {
    /// Whether everything is where it should be.
    pub fn is_settled(&self) -> bool {
        self.actions.is_empty() && self.waits.is_empty()
    }
}

/// What is to be done so that `wanted`, and nothing else, runs.
pub fn next(wanted: &[Wanted], view: View<'_>) -> Next {
    let mut next = Next::default();
    let mut came_up = BTreeSet::new();
    for want in wanted {
        let own = Own::of(want, view.children);
        if own.child.is_some_and(|child| view.up.contains(&child.id)) {
            came_up.insert(want.module.as_str());
        }
    }
    for want in wanted {
        let free = want.after.iter().all(|module| came_up.contains(module.as_str()));
        bring(want, view, free, &mut next);
    }
    // What nothing takes the place of ends last, when whatever depended on it has been replaced.
    if next.waits.is_empty() && !next.actions.iter().any(|action| matches!(action, Action::Start(_))) {
        let unwanted = view.children.iter().filter(|child| !wanted.iter().any(|want| want.module == child.id.key));
        for child in unwanted {
            retire(child, Span::from_secs(30), view, &mut next);
        }
    }
    next
}

/// The child of this module that counts as the wanted one; none when it is not there.
pub fn child_of<'a>(want: &Wanted, children: &'a [ChildStatus]) -> Option<&'a ChildStatus> {
    Own::of(want, children).child
}

/// A module's children.
struct Own<'a> {
    /// The one that counts as the wanted one.
    child: Option<&'a ChildStatus>,
    /// The others.
    others: Vec<&'a ChildStatus>,
}

impl<'a> Own<'a> {
    fn of(want: &Wanted, children: &'a [ChildStatus]) -> Self {
        let own = || children.iter().filter(|child| child.id.key == want.module);
        let right =
            |child: &&ChildStatus| want.labels.contains(&child.label) && !want.restarted.contains(&child.id) && is_there(child);
        let child = own().filter(right).max_by_key(|child| child.id.instance).or_else(|| {
            let stays = |child: &&ChildStatus| want.strategy == Strategy::Reload && runs(child);
            own().filter(|child| !want.restarted.contains(&child.id)).filter(stays).max_by_key(|child| child.id.instance)
        });
        let others = own().filter(|other| child.is_none_or(|child| child.id != other.id)).collect();
        Self { child, others }
    }
}

/// It runs, or will by itself, or is given up by the keeper: it is not started beside itself.
fn is_there(child: &ChildStatus) -> bool {
    matches!(
        child.state,
        ChildState::Starting(_) | ChildState::Running { .. } | ChildState::Restarting { .. } | ChildState::Broken { .. }
    )
}

fn runs(child: &ChildStatus) -> bool {
    matches!(child.state, ChildState::Starting(_) | ChildState::Running { .. })
}

/// Brings one module to where it should be.
fn bring(want: &Wanted, view: View<'_>, free: bool, next: &mut Next) {
    let own = Own::of(want, view.children);
    match own.child {
        Some(child) if !view.up.contains(&child.id) => {
            next.waits.push(Wait::Up(child.id.clone()));
            if want.strategy == Strategy::StopFirst {
                own.others.iter().for_each(|other| retire(other, want.drain_within, view, next));
            }
        }
        Some(_) => own.others.iter().for_each(|other| retire(other, want.drain_within, view, next)),
        None if view.held.contains(&want.module) => next.waits.push(Wait::Retry(want.module.clone())),
        None if !free => next.waits.push(Wait::Dependencies(want.module.clone())),
        None => {
            let living =
                own.others.iter().any(|other| !matches!(other.state, ChildState::Stopped { .. } | ChildState::Broken { .. }));
            if want.strategy == Strategy::StopFirst && living {
                own.others.iter().for_each(|other| retire(other, want.drain_within, view, next));
            } else {
                next.actions.push(Action::Start(ChildId::new(&want.module, following(want, view.children))));
            }
        }
    }
}

/// The number of the module's next child: one that no child there is has.
fn following(want: &Wanted, children: &[ChildStatus]) -> u64 {
    let own = children.iter().filter(|child| child.id.key == want.module).map(|child| child.id.instance);
    let restarted = want.restarted.iter().map(|child| child.instance);
    own.chain(restarted).max().map_or(1, |last| last.saturating_add(1))
}

/// Lets an old child hand over, end, and be forgotten.
fn retire(child: &ChildStatus, within: Span, view: View<'_>, next: &mut Next) {
    let id = child.id.clone();
    match child.state {
        ChildState::Stopped { .. } | ChildState::Broken { .. } => next.actions.push(Action::Remove(id)),
        ChildState::Stopping { .. } => next.waits.push(Wait::End(id)),
        ChildState::Restarting { .. } => {
            next.waits.push(Wait::End(id.clone()));
            next.actions.push(Action::Stop { child: id, within });
        }
        ChildState::Starting(_) | ChildState::Running { .. } => match view.handing_over.get(&id) {
            Some(HandingOver::Told { until }) if *until > view.now => next.waits.push(Wait::HandOver(id)),
            None if view.speaking.contains(&id) => {
                next.waits.push(Wait::HandOver(id.clone()));
                next.actions.push(Action::HandOver { child: id, within });
            }
            Some(HandingOver::Told { .. } | HandingOver::Done) | None => {
                next.waits.push(Wait::End(id.clone()));
                next.actions.push(Action::Stop { child: id, within });
            }
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use tribune_keeper::{Exit, ProcessId};

    fn want(module: &str, label: &str, strategy: Strategy) -> Wanted {
        Wanted {
            module: module.into(),
            labels: BTreeSet::from([label.into()]),
            strategy,
            drain_within: Span::from_secs(3),
            after: BTreeSet::new(),
            restarted: BTreeSet::new(),
        }
    }

    /// A world in which every action works at once.
    #[derive(Default)]
    struct World {
        children: Vec<ChildStatus>,
        up: BTreeSet<ChildId>,
        speaking: BTreeSet<ChildId>,
        handing_over: BTreeMap<ChildId, HandingOver>,
        log: Vec<String>,
    }

    impl World {
        fn child(&mut self, module: &str, instance: u64, label: &str) {
            let id = ChildId::new(module, instance);
            let process = ProcessId { pid: 100 + instance as u32, start_time: instance };
            let state = ChildState::Running { process, for_ms: 1 };
            self.children.push(ChildStatus { id: id.clone(), label: label.into(), state, endings: 0, log: PathBuf::new() });
            self.up.insert(id);
        }

        fn next(&self, wanted: &[Wanted]) -> Next {
            let held = BTreeSet::new();
            next(
                wanted,
                View {
                    children: &self.children,
                    up: &self.up,
                    speaking: &self.speaking,
                    handing_over: &self.handing_over,
                    held: &held,
                    now: 0,
                },
            )
        }

        /// Does what is to be done until nothing is.
        fn run(&mut self, wanted: &[Wanted]) -> Vec<String> {
            for _ in 0..100 {
                let next = self.next(wanted);
                if next.is_settled() {
                    return std::mem::take(&mut self.log);
                }
                for action in next.actions {
                    match action {
                        Action::Start(id) => {
                            self.log.push(format!("start {id}"));
                            let label = wanted.iter().find(|want| want.module == id.key).unwrap().labels.first().unwrap().clone();
                            self.child(&id.key, id.instance, &label);
                        }
                        Action::HandOver { child, .. } => {
                            self.log.push(format!("hand over {child}"));
                            self.handing_over.insert(child, HandingOver::Done);
                        }
                        Action::Stop { child, .. } => {
                            self.log.push(format!("stop {child}"));
                            let found = self.children.iter_mut().find(|other| other.id == child).unwrap();
                            found.state = ChildState::Stopped { last: Some(Exit::Code(0)) };
                        }
                        Action::Remove(child) => self.children.retain(|other| other.id != child),
                    }
                }
            }
            panic!("it does not settle: {:?}", self.next(wanted));
        }
    }

    #[test]
    fn overlap_starts_the_new_child_before_the_old_one_hands_over_and_ends() {
        let mut world = World::default();
        world.child("a/x", 1, "old");
        world.speaking.insert(ChildId::new("a/x", 1));
        let log = world.run(&[want("a/x", "new", Strategy::Overlap)]);
        assert_eq!(log, ["start a/x#2", "hand over a/x#1", "stop a/x#1"]);
        assert_eq!(world.run(&[want("a/x", "old", Strategy::Overlap)]), ["start a/x#3", "stop a/x#2"], "and the same way back");
    }

    #[test]
    fn the_way_back_keeps_the_old_child_that_still_runs() {
        let mut world = World::default();
        world.child("a/x", 1, "old");
        world.child("a/x", 2, "new");
        assert_eq!(world.run(&[want("a/x", "old", Strategy::Overlap)]), ["stop a/x#2"]);
        assert_eq!(world.children.len(), 1);
    }

    #[test]
    fn stop_first_and_reload_do_as_they_say() {
        let mut world = World::default();
        world.child("a/x", 1, "old");
        world.child("a/y", 1, "old");
        let log = world.run(&[want("a/x", "new", Strategy::StopFirst), want("a/y", "new", Strategy::Reload)]);
        assert_eq!(log, ["stop a/x#1", "start a/x#2"]);
        world.children.retain(|child| child.id.key != "a/y");
        let log = world.run(&[want("a/x", "new", Strategy::StopFirst), want("a/y", "new", Strategy::Reload)]);
        assert_eq!(log, ["start a/y#1"], "one that does not run is started");
    }

    #[test]
    fn a_module_starts_after_what_it_depends_on_and_what_is_removed_ends_last() {
        let mut world = World::default();
        world.child("a/gone", 4, "old");
        let mut above = want("a/above", "new", Strategy::Overlap);
        above.after.insert("a/below".into());
        let log = world.run(&[above, want("a/below", "new", Strategy::Overlap)]);
        assert_eq!(log, ["start a/below#1", "start a/above#1", "stop a/gone#4"]);
    }

    #[test]
    fn a_restarted_child_is_replaced_by_one_with_the_same_label_and_only_once() {
        let mut world = World::default();
        world.child("a/x", 1, "same");
        let mut wanted = want("a/x", "same", Strategy::Overlap);
        assert!(world.next(std::slice::from_ref(&wanted)).is_settled());
        wanted.restarted.insert(ChildId::new("a/x", 1));
        assert_eq!(world.run(std::slice::from_ref(&wanted)), ["start a/x#2", "stop a/x#1"]);
        assert!(world.next(&[wanted]).is_settled());
    }

    #[test]
    fn one_that_the_keeper_gave_up_is_not_started_beside_itself() {
        let mut world = World::default();
        world.child("a/x", 1, "old");
        world.children[0].state = ChildState::Broken { exits: 5, last: Exit::Code(1) };
        assert!(world.next(&[want("a/x", "old", Strategy::Overlap)]).is_settled());
        world.children[0].state = ChildState::Stopped { last: None };
        let next = world.next(&[want("a/x", "old", Strategy::Overlap)]);
        assert_eq!(next.actions, [Action::Start(ChildId::new("a/x", 2))]);
    }
}
