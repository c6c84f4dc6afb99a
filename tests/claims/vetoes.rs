//! Who is asked, what an answer does, and what a user can decide.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tribune_tests::probe::Said;
use tribune_tests::{Cluster, PackageSource, eventually};

use crate::{install, proposals, submit, when};

/// A chain A → B → C by module dependencies, a consumer of A's API, and a bystander.
fn chain(version: &str) -> PackageSource {
    PackageSource::new("chain", version)
        .probe("a", version, &format!("provides = [\"a.api@{version}\"]"))
        .probe("b", "the same", "depends-on = [\"a\"]")
        .probe("c", "the same", "depends-on = [\"b\"]")
}

fn others() -> PackageSource {
    PackageSource::new("others", "1.0.0").probe("consumer", "1", "consumes = [\"a.api@>=1\"]").probe("bystander", "1", "")
}

#[test]
fn claim_04_the_processes_affected_are_found_and_no_other_is_asked() -> Result<()> {
    let cluster = Cluster::start(1)?;
    install(&cluster, &chain("1.0.0"), &["n1"])?;
    install(&cluster, &others(), &["n1"])?;
    let update = install(&cluster, &chain("1.1.0"), &["n1"])?;
    let node = cluster.node("n1");
    for module in ["chain/a", "chain/b", "chain/c", "others/consumer"] {
        let asked = proposals(&node.log(module), &update);
        ensure!(!asked.is_empty(), "{module} was not asked: {:#?}", node.log(module));
    }
    ensure!(proposals(&node.log("others/bystander"), &update).is_empty(), "the bystander was asked");
    Ok(())
}

#[test]
fn claim_05_each_affected_process_hears_the_same_and_its_reason_arrives_word_for_word() -> Result<()> {
    let cluster = Cluster::start(1)?;
    install(&cluster, &chain("1.0.0"), &["n1"])?;
    let node = cluster.node("n1");
    let reason = "42 calls are \"open\" – naïve, isn't it?";
    node.tell("chain/c", &format!("veto {reason}"))?;
    let file = chain("1.1.0").build(cluster.folder())?;
    let update = submit(&cluster, node, &file.display().to_string(), &["n1"], &[], 3)?;
    let (mut a, mut c) = (proposals(&node.log("chain/a"), &update), proposals(&node.log("chain/c"), &update));
    ensure!(a.len() == 1 && c.len() == 1, "asked once each: {a:?} {c:?}");
    for proposal in a.iter_mut().chain(&mut c) {
        proposal.as_object_mut().map(|fields| fields.remove("role"));
    }
    ensure!(a == c, "they saw different proposals: {a:?} {c:?}");
    let shown = node.json(&["update", "show", &update])?;
    ensure!(shown["vetoes"][0]["process"] == "chain/c" && shown["vetoes"][0]["reason"] == reason, "{shown}");
    Ok(())
}

/// Two processes that must answer within so long, and what is asked of them with each version.
fn asked(within: &str) -> impl Fn(&str) -> PackageSource {
    let ask = format!("ask = {{ how = \"socket\", within = \"{within}\" }}");
    move |version| PackageSource::new("slow", version).probe("a", version, &ask).probe("b", version, &ask)
}

#[test]
fn claim_06_all_are_waited_for_and_silence_until_the_deadline_is_a_veto() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let source = asked("4s");
    install(&cluster, &source("1.0.0"), &["n1"])?;
    let node = cluster.node("n1");

    // A slow accept is waited for.
    node.tell("slow/a", "slow 1000")?;
    let update = install(&cluster, &source("1.1.0"), &["n1"])?;
    let shown = node.json(&["update", "show", &update])?;
    ensure!(shown["outcome"] == "completed" && answers(&shown) == [("slow/a", "accept"), ("slow/b", "accept")], "{shown}");
    let (a, b) = (node.log("slow/a"), node.log("slow/b"));
    let accepted = when(&a, "the slow answer", |said| matches!(said, Said::Answered { .. }))?;
    for log in [&a, &b] {
        let pending = when(log, "pending", |said| matches!(said, Said::Pending { update: u } if *u == update))?;
        ensure!(accepted < pending, "the changeover began at {pending}, before the slow answer at {accepted}");
    }

    // Silence until the deadline is a veto.
    node.tell("slow/a", "slow 20000")?;
    let file = source("1.2.0").build(cluster.folder())?;
    let update = submit(&cluster, node, &file.display().to_string(), &["n1"], &[], 3)?;
    let shown = node.json(&["update", "show", &update])?;
    let reason = shown["vetoes"][0]["reason"].as_str().unwrap_or_default();
    let vetoes = shown["vetoes"].as_array().map_or(0, Vec::len);
    ensure!(vetoes == 1 && shown["vetoes"][0]["process"] == "slow/a" && reason.starts_with("no answer"), "{shown}");
    ensure!(answers(&shown) == [("slow/a", "veto"), ("slow/b", "accept")], "{shown}");
    node.cli(&["update", "decide", &update, "--abort"])?.expect(0)?;
    Ok(())
}

#[test]
fn claim_06_a_process_that_dies_while_it_is_asked_abstains() -> Result<()> {
    let cluster = Cluster::start(1)?;
    // Nobody is silent for too long before the test has ended.
    let source = asked("80s");
    install(&cluster, &source("1.0.0"), &["n1"])?;
    let node = cluster.node("n1");
    let pid = node.pid("slow/a")?.context("slow/a does not run")?;
    node.tell("slow/a", "slow 80000")?;
    let file = source("1.1.0").build(cluster.folder())?;
    let update = submit(&cluster, node, &file.display().to_string(), &["n1"], &["--detach"], 0)?;
    eventually("slow/a is asked", || Ok((!proposals(&node.log("slow/a"), &update).is_empty()).then_some(())))?;
    ensure!(node.json(&["update", "show", &update])?["phase"] == "asking", "its answer is waited for");
    node.tell("slow/a", "exit 1")?;
    ensure!(node.watch(&update)? == 0, "the update goes on: {}", node.json(&["update", "show", &update])?);

    let shown = node.json(&["update", "show", &update])?;
    ensure!(shown["outcome"] == "completed" && shown["vetoes"] == serde_json::json!([]), "{shown}");
    let ballots = shown["nodes"]["n1"]["ballots"].as_array().context("no ballots")?;
    let dead: Vec<_> = ballots.iter().filter(|ballot| ballot["pid"] == pid).collect();
    let abstained = |ballot: &Value| ballot["process"] == "slow/a" && ballot["answer"] == "abstain" && ballot["reason"].is_null();
    ensure!(dead.len() == 1 && abstained(dead[0]), "{shown}");
    ensure!(ballots.iter().any(|ballot| ballot["process"] == "slow/b" && ballot["answer"] == "accept"), "{shown}");
    ensure!(node.json(&["node", "show", "n1"])?["packages"]["slow"] == "1.1.0", "the new version is there");
    Ok(())
}

/// Who answered what on n1, as `update show` has it.
fn answers(shown: &Value) -> Vec<(&str, &str)> {
    let ballots = shown["nodes"]["n1"]["ballots"].as_array().into_iter().flatten();
    let mut answers: Vec<_> =
        ballots.filter_map(|ballot| Some((ballot["process"].as_str()?, ballot["answer"].as_str()?))).collect();
    answers.sort_unstable();
    answers
}

#[test]
fn claim_17_one_veto_anywhere_stops_the_update_everywhere() -> Result<()> {
    let cluster = Cluster::start(5)?;
    let all = ["n1", "n2", "n3", "n4", "n5"];
    let source = |version: &str| PackageSource::new("p", version).probe("m", version, "");
    let file = source("1.0.0").build(cluster.folder())?;
    submit(&cluster, &cluster.nodes[0], &file.display().to_string(), &all, &["--strategy", "together"], 0)?;
    let before: Vec<_> =
        cluster.nodes.iter().map(|node| Ok((node.pid("p/m")?, node.json(&["local", "show"])?))).collect::<Result<_>>()?;
    cluster.node("n4").tell("p/m", "veto not now")?;
    let file = source("2.0.0").build(cluster.folder())?;
    let update = submit(&cluster, &cluster.nodes[0], &file.display().to_string(), &all, &[], 3)?;
    cluster.admin(&cluster.nodes[2], &["update", "decide", &update, "--abort"])?.expect(0)?;
    for (node, (pid, local)) in cluster.nodes.iter().zip(before) {
        eventually("the node has heard of the end", || {
            Ok(node.json(&["local", "show"])?["open"].as_object().is_some_and(serde_json::Map::is_empty).then_some(()))
        })?;
        ensure!(pid.is_some() && node.pid("p/m")? == pid, "a process was restarted on {}", node.name);
        let now = node.json(&["local", "show"])?;
        ensure!(now["current"] == local["current"] && now["kept"] == local["kept"], "a generation was made on {}", node.name);
        ensure!(!node.data.join("local/generations/2").exists(), "a generation lies on the disk of {}", node.name);
    }
    Ok(())
}

#[test]
fn claim_18_on_a_veto_the_user_is_told_and_decides_some_all_or_abort_at_any_peer() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let all = ["n1", "n2", "n3"];
    let [first, second, third] = [0, 1, 2].map(|number| &cluster.nodes[number]);
    let source = |version: &str| PackageSource::new("p", version).probe("m", version, "");
    install(&cluster, &source("1.0.0"), &all)?;
    let has = || -> Result<Vec<Value>> {
        all.iter().map(|node| Ok(first.json(&["node", "show", node])?["packages"]["p"].take())).collect()
    };
    second.tell("p/m", "veto the gate is open")?;
    let vetoed = |version: &str| -> Result<String> {
        let file = source(version).build(cluster.folder())?.display().to_string();
        let update = submit(&cluster, first, &file, &all, &[], 3)?;
        let shown = third.json(&["update", "show", &update])?;
        let veto = &shown["vetoes"][0];
        let named = veto["node"] == "n2" && veto["process"] == "p/m" && veto["reason"] == "the gate is open";
        ensure!(named && shown["waiting"]["waiting_for"] == "decision", "{shown}");
        Ok(update)
    };

    let update = vetoed("2.0.0")?;
    let events = third.cli(&["events"])?.expect(0)?.stdout;
    ensure!(events.contains(&format!("p/m on node n2 vetoed {update}: the gate is open")), "{events}");
    cluster.admin(second, &["update", "decide", &update, "--abort", "--watch"])?.expect(6)?;
    ensure!(has()? == ["1.0.0"; 3], "an update that was called off changed something: {:?}", has()?);

    let update = vetoed("2.1.0")?;
    cluster.admin(third, &["update", "decide", &update, "--without", "n2", "--watch"])?.expect(0)?;
    ensure!(third.json(&["update", "show", &update])?["outcome"] == "completed_in_part", "it is on some nodes");
    ensure!(has()? == ["2.1.0", "1.0.0", "2.1.0"], "{:?}", has()?);

    let update = vetoed("2.2.0")?;
    let seen = first.ballots(&update)?;
    let force = ["update", "decide", &update, "--force", "--seen", &seen, "--why", "now", "--watch"];
    cluster.admin(third, &force)?.expect(0)?;
    ensure!(third.json(&["update", "show", &update])?["outcome"] == "completed", "it is on all nodes");
    ensure!(has()? == ["2.2.0"; 3], "{:?}", has()?);
    Ok(())
}

#[test]
fn claim_19_a_user_can_force_and_the_overruled_process_is_told_by_whom_and_why() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let source = |version: &str| PackageSource::new("p", version).probe("m", version, "");
    install(&cluster, &source("1.0.0"), &["n1"])?;
    let node = cluster.node("n1");
    node.tell("p/m", "veto I am busy")?;
    let file = source("2.0.0").build(cluster.folder())?;
    let update = submit(&cluster, node, &file.display().to_string(), &["n1"], &[], 3)?;
    let force = |seen: &str| node.cli(&["update", "decide", &update, "--force", "--seen", seen, "--why", "the hole is worse"]);
    let seen = node.ballots(&update)?;
    // Whoever saw other ballots than there are has to look again.
    let other = (seen.parse::<u64>()? - 1).to_string();
    let refused = force(&other)?.expect(1)?;
    ensure!(refused.stderr.contains("the ballots changed since you looked"), "{}", refused.stderr);
    ensure!(node.json(&["update", "show", &update])?["phase"] == "vetoed", "it is decided");
    force(&seen)?.expect(0)?;
    ensure!(node.watch(&update)? == 0, "it is completed");
    let told = node.log("p/m").into_iter().any(|entry| {
        matches!(entry.said, Said::Overruled { update: u, by, why } if u == update && by == "node n1" && why == "the hole is worse")
    });
    ensure!(told, "it was not told: {:#?}", node.log("p/m"));
    Ok(())
}
