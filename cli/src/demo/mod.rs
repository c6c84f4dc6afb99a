//! `tribune demo`: five nodes on this machine, and the life of some updates, told step by step.
//!
//! One idea: everything it does, it does with the same commands that an operator has, on real node processes, and it prints what they
//! say. It leaves no process and no file behind, also when it is cut short.

mod cut;
mod fleet;
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

pub use cut::Cut;
use cut::{Waiter, tell};
use fleet::Fleet;
use traffic::Traffic;

/// How many nodes there are.
const NODES: usize = 5;
/// The service in two versions: description, catalogue, and the programs beside this one.
const VERSIONS: [Version; 2] = [
    Version {
        number: "1",
        description: include_str!("packages/quotes-1.toml"),
        catalogue: include_str!("packages/catalogue-1.txt"),
        programs: ["quoted-1", "quote-web-1"],
    },
    Version {
        number: "2",
        description: include_str!("packages/quotes-2.toml"),
        catalogue: include_str!("packages/catalogue-2.txt"),
        programs: ["quoted-2", "quote-web-2"],
    },
];

struct Version {
    number: &'static str,
    description: &'static str,
    catalogue: &'static str,
    programs: [&'static str; 2],
}

/// Tells the whole story.
///
/// # Errors
/// The step that did not go as it should, and what was seen.
pub fn run() -> Result<()> {
    let beside = programs()?;
    let begun = Instant::now();
    let waiter = Rc::new(Waiter::new()?);
    say("Five nodes start on this machine; each is a keeper and an agent. They elect a master.")?;
    let mut fleet = Fleet::start(NODES, waiter.clone())?;
    let packages = build(&fleet, &beside)?;
    let all: Vec<String> = fleet.names().iter().flat_map(|name| ["--node".to_owned(), name.clone()]).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();

    say("Version 1 of a small service is installed on all five: a web server, a daemon behind it, and its catalogue.")?;
    fleet.show(&[&["update", "submit", &packages[0]], &all[..]].concat(), 0)?;
    let traffic = Traffic::start(fleet.web_addresses()?);
    traffic.seen(&waiter, "web 1.0.0")?;

    say("On n3 the daemon recalculates. Version 2 is submitted, and that one process vetoes: nothing changes anywhere.")?;
    traffic.post("n3", "/recalculate")?;
    fleet.show(&[&["update", "submit", &packages[1]], &all[..]].concat(), 3)?;
    fleet.show(&["update", "show", "u2"], 0)?;

    say(
        "It has finished. The user has it asked again; all accept; the nodes change over one by one. In the middle the master is killed.",
    )?;
    traffic.post("n3", "/finish")?;
    fleet.run(&["update", "decide", "u2", "--ask-again"], 0)?;
    let killed = fleet.kill_master_during("u2")?;
    say(&format!(
        "{killed} was the master. Its services go on, another master goes on with the update, and {killed} comes back."
    ))?;
    fleet.run_again(&killed)?;
    fleet.show(&["update", "watch", "u2"], 0)?;
    traffic.seen(&waiter, "web 2.0.0")?;

    say(
        "Back to version 1, by an update. The daemon on n2 recalculates and vetoes; this time the user forces it, and says why.",
    )?;
    traffic.post("n2", "/recalculate")?;
    fleet.show(&[&["update", "submit", "--package", "quotes@1.0.0"], &all[..]].concat(), 3)?;
    fleet.show(&["update", "decide", "u3", "--force", "--why", "the new catalogue has a wrong quote", "--watch"], 0)?;

    say("And a regress: the nodes go back to what they had before, from their own local storage.")?;
    fleet.show(&[&["regress"], &all[..]].concat(), 0)?;

    say("What each node runs now:")?;
    fleet.show(&["node", "list"], 0)?;
    for line in traffic.stop() {
        tell(&format!("  {line}"))?;
    }
    fleet.stop()?;
    say(&format!("Done in {:.0} s. Every process was stopped, every file removed.", begun.elapsed().as_secs_f64()))?;
    Ok(())
}

fn say(text: &str) -> Result<()> {
    tell(&format!("\n== {text}"))
}

/// The folder of this program, with the service's programs in it.
fn programs() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let beside = here.parent().context("this program has no folder")?;
    for program in VERSIONS.iter().flat_map(|version| version.programs) {
        let program = beside.join(program);
        ensure!(
            program.is_file(),
            "{} is not there; build the whole workspace with `make build`, and run the program that it makes where it is",
            program.display()
        );
    }
    Ok(beside.to_owned())
}

/// Builds both packages from the programs in this folder; gives their files.
fn build(fleet: &Fleet, beside: &Path) -> Result<Vec<String>> {
    VERSIONS.iter().map(|version| build_one(version, beside, fleet)).collect()
}

fn build_one(version: &Version, beside: &Path, fleet: &Fleet) -> Result<String> {
    let folder = fleet.folder();
    let source = folder.join(format!("quotes-{}", version.number));
    fs::create_dir_all(&source)?;
    fs::write(source.join("tribune.toml"), version.description)?;
    fs::write(source.join(format!("catalogue-{}.txt", version.number)), version.catalogue)?;
    for program in version.programs {
        fs::copy(beside.join(program), source.join(program))?;
    }
    let file = folder.join(format!("quotes-{}.tpkg", version.number)).display().to_string();
    let description = source.join("tribune.toml").display().to_string();
    let built = fleet.tribune(&["package", "build", "--manifest", &description, "-o", &file])?;
    if built.code != 0 {
        bail!("the package could not be built: {}", built.text);
    }
    Ok(file)
}
