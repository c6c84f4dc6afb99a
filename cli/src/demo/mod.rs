//! `tribune demo`: five nodes on this machine, and the life of some updates, told step by step.
//!
//! One idea: everything it does, it does with the same commands that an operator has, on real node processes, and it prints what they
//! say. It leaves no process and no file behind, also when it is cut short.

mod cut;
mod fleet;
mod processes;
mod shelf;
mod traffic;

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, ensure};

pub use cut::Cut;
use cut::{Waiter, tell};
use fleet::Fleet;
use shelf::{ALMANAC, QUOTES, READER, Shelf};
use traffic::Traffic;

/// How many nodes there are.
const NODES: usize = 5;
const WEB: &str = "quotes/web";

/// Tells the whole story.
///
/// # Errors
/// The step that did not go as it should, and what was seen.
pub fn run() -> Result<()> {
    let shelf = Shelf::find()?;
    let begun = Instant::now();
    let waiter = Rc::new(Waiter::new()?);
    say("Five nodes start on this machine; each is a keeper and an agent. They elect a master.")?;
    let mut fleet = Fleet::start(NODES, waiter.clone())?;
    let all: Vec<String> = fleet.names().iter().flat_map(|name| ["--node".to_owned(), name.clone()]).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let quotes = [shelf.build(&fleet, &QUOTES[0])?, shelf.build(&fleet, &QUOTES[1])?];

    say("Version 1 of a small service is installed on all five: a web server, a daemon behind it, and its catalogue.")?;
    fleet.show_all(&[&["update", "submit", &quotes[0]], &all[..]].concat(), 0)?;
    tell("  (From here on, the steps of a node between the first and the last are left out.)")?;
    trial(&mut fleet, &quotes[1])?;
    let webs = fleet.names().into_iter().map(|name| Ok((name.clone(), fleet.address(&name, WEB)?))).collect::<Result<_>>()?;
    let traffic = Traffic::start(webs);
    traffic.seen(&waiter, "web 1.0.0")?;
    one_veto(&mut fleet, &traffic, &quotes[1], &all)?;
    traffic.seen(&waiter, "web 2.0.0")?;
    there_and_back(&fleet, &traffic, &all)?;
    incompatible(&fleet, &shelf)?;

    say("What each node runs now, and how the users of the service have fared since it was first installed:")?;
    fleet.show(&["node", "list"], 0)?;
    let failed = traffic.stop()?;
    for node in &failed {
        fleet.tell_logs(node)?;
    }
    ensure!(failed.is_empty(), "requests failed on {}, and none should: their logs are above", failed.join(" and "));
    fleet.stop()?;
    say(&format!("Done in {:.0} s. Every process was stopped, every file removed.", begun.elapsed().as_secs_f64()))?;
    Ok(())
}

/// An update that is not kept, and a restart of its node.
fn trial(fleet: &mut Fleet, version: &str) -> Result<()> {
    say("Version 2 is tried on n5: an ephemeral update. It runs, and nothing is installed.")?;
    fleet.answers("n5", WEB, "web 1.0.0")?;
    let trial = fleet.submit(&[version, "--node", "n5", "--ephemeral"], 0)?;
    fleet.answers("n5", WEB, "web 2.0.0")?;
    say("n5 loses its power: keeper, agent and services are killed with -9. Started again, it runs what is installed there.")?;
    fleet.kill("n5")?;
    fleet.run_again("n5")?;
    fleet.has_ended(&trial)?;
    fleet.show(&["update", "watch", &trial], 5)?;
    fleet.answers("n5", WEB, "web 1.0.0")
}

/// A veto, which is asked again, and a master that dies.
fn one_veto(fleet: &mut Fleet, traffic: &Traffic, version: &str, all: &[&str]) -> Result<()> {
    say("On n3 the daemon recalculates. Version 2 is submitted, and that one process vetoes: nothing changes anywhere.")?;
    traffic.post("n3", "/recalculate")?;
    let update = fleet.submit(&[&[version], all].concat(), 3)?;
    fleet.show(&["update", "show", &update], 0)?;

    say(
        "It has finished. The user has it asked again; all accept; the nodes change over one by one. In the middle the master is killed.",
    )?;
    traffic.post("n3", "/finish")?;
    fleet.run(&["update", "decide", &update, "--ask-again"], 0)?;
    let killed = fleet.kill_master_during(&update)?;
    say(&format!(
        "{killed} was the master. Its services go on, another master goes on with the update, and {killed} comes back."
    ))?;
    fleet.run_again(&killed)?;
    fleet.show(&["update", "watch", &update], 0)?;
    Ok(())
}

/// An update that is forced, and a regress.
fn there_and_back(fleet: &Fleet, traffic: &Traffic, all: &[&str]) -> Result<()> {
    say(
        "Back to version 1, by an update. The daemon on n2 recalculates and vetoes; this time the user forces it, and says why.",
    )?;
    traffic.post("n2", "/recalculate")?;
    let update = fleet.submit(&[&["--package", "quotes@1.0.0"], all].concat(), 3)?;
    let seen = fleet.ballots(&update)?;
    let why = "the new catalogue has a wrong quote";
    fleet.show(&["update", "decide", &update, "--force", "--seen", &seen, "--why", why, "--watch"], 0)?;

    say("And a regress: the nodes go back to what they had before, from their own local storage.")?;
    fleet.show(&[&["regress"], all].concat(), 0)?;
    Ok(())
}

/// A class of nodes, and an API that changes under who uses it.
fn incompatible(fleet: &Fleet, shelf: &Shelf) -> Result<()> {
    let almanac = [shelf.build(fleet, &ALMANAC[0])?, shelf.build(fleet, &ALMANAC[1])?];
    say("n1 gets an almanac. n2 and n4 are made a class of nodes, and the class gets a reader, which asks the almanac on n1.")?;
    fleet.submit(&[&almanac[0], "--node", "n1"], 0)?;
    let address = fleet.address("n1", "almanac/almanacd")?.to_string();
    let readers = [shelf.build_asking(fleet, &READER[0], &address)?, shelf.build_asking(fleet, &READER[1], &address)?];
    fleet.show(&["class", "set", "readers", "--add", "n2", "--add", "n4"], 0)?;
    fleet.submit(&[&readers[0], "--class", "readers", "--strategy", "together"], 0)?;
    fleet.answers("n2", "reader/reader", "(web 1.0.0)")?;

    say("The almanac's next version has another API, and would leave both readers without one. The plan refuses it.")?;
    fleet.show(&["update", "submit", &almanac[1], "--node", "n1"], 8)?;
    say("The user accepts that, by the API's name: it is done, and what is not met is found, from what is really installed.")?;
    let update = fleet.submit(&[&almanac[1], "--node", "n1", "--accept-discrepancy", "almanac.api"], 4)?;
    fleet.answers("n2", "reader/reader", "404")?;
    fleet.show(&["check"], 4)?;

    say("It is repaired: the class gets the reader that goes with the new API.")?;
    fleet.submit(&[&readers[1], "--class", "readers", "--strategy", "together"], 0)?;
    fleet.answers("n4", "reader/reader", "(web 2.0.0)")?;
    fleet.show(&["check"], 0)?;
    fleet.show(&["update", "show", &update], 0)?;
    Ok(())
}

fn say(text: &str) -> Result<()> {
    tell(&format!("\n== {text}"))
}
