//! The six updates: what is rolled out, to whom, how it is asked for, and what has to be true of it in any case.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tribune_tests::PackageSource;
use tribune_tests::cli::program;

use crate::account::Account;

/// The nodes that are no voters, so that they outlive every master.
pub const MEMBERS: [&str; 2] = ["n4", "n5"];
const ALL: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
/// Why the process on the first member vetoes.
pub const REASON: &str = "42 calls are \"open\" – naïve, isn't it?";
/// Why it is overruled.
pub const WHY: &str = "the hole is worse";

/// Whose update it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// 1: nodes go back to a version that none of them holds any more.
    Regress,
    /// 5: one process accepts, one vetoes.
    Veto,
    /// 8: an update that is not kept, taken back at the end.
    Ephemeral,
    /// 9: what is installed leaves needs unmet, within a node and between nodes.
    Check,
    /// 17: one veto among five nodes.
    VetoOfFive,
    /// 19: a veto that a user goes past.
    Force,
}

impl Claim {
    /// The nodes that are updated.
    pub fn targets(self) -> &'static [&'static str] {
        if self == Claim::VetoOfFive { &ALL } else { &MEMBERS }
    }

    /// Whether a process vetoes.
    pub fn is_vetoed(self) -> bool {
        matches!(self, Claim::Veto | Claim::VetoOfFive | Claim::Force)
    }

    /// What a user decides about the veto, who saw these ballots.
    pub fn decision(self, seen: &str) -> Vec<&str> {
        if self == Claim::Force { vec!["--force", "--seen", seen, "--why", WHY] } else { vec!["--abort"] }
    }

    /// Further arguments of its submission.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Claim::Ephemeral => &["--ephemeral"],
            Claim::Check => &["--accept-discrepancy", "ledger.api", "--accept-discrepancy", "clock.api"],
            Claim::Regress | Claim::Veto | Claim::VetoOfFive | Claim::Force => &[],
        }
    }

    /// A version: a module that is replaced, which comes up once the file `closed` is gone and has to hold for `settle`, and one that
    /// depends on it.
    pub fn source(self, version: &str, settle: &str) -> PackageSource {
        let patient = "ask = { how = \"socket\", within = \"80s\" }
            changeover = { ready-within = \"80s\" }";
        let apis = format!("provides = [\"ledger.api@{version}\", \"clock.api@{version}\"]");
        let health =
            format!("{{ exec = [\"sh\", \"-c\", \"! test -e $HOME/closed\"], every = \"200ms\", settle = \"{settle}\" }}");
        let script = format!("#!/bin/sh\n# {version}\nexec '{}' \"$@\"\n", program("tribune-probe").display());
        PackageSource::new("p", version)
            .file("m", &script, &format!("run = [\"m\"]\nhealth = {health}\n{patient}\n{apis}"))
            .probe("told", "same", &format!("depends-on = [\"m\"]\n{patient}"))
    }

    /// What is installed beside it, and where: consumers of its APIs.
    pub fn others(self) -> Vec<(PackageSource, &'static str)> {
        if self != Claim::Check {
            return Vec::new();
        }
        let near = PackageSource::new("near", "7.0.0").file("m", "near", "consumes = [\"clock.api@^1 on node\"]");
        let far = PackageSource::new("far", "7.0.0").file("m", "far", "consumes = [\"ledger.api@^1\"]");
        vec![(near, MEMBERS[0]), (far, "n1")]
    }

    /// What is true of its update without any failure: what the others are compared with says what the claim says.
    pub fn check(self, account: &Account) -> Result<()> {
        let Account { codes, update, processes, nodes, .. } = account;
        let outcome = update["outcome"].as_str().unwrap_or_default();
        let (expected, ended) = match self {
            Claim::Regress => (&[0][..], "completed"),
            Claim::Veto | Claim::VetoOfFive => (&[3, 6][..], "aborted"),
            Claim::Ephemeral => (&[0, 5][..], "regressed"),
            Claim::Check => (&[4][..], "completed_with_discrepancies"),
            Claim::Force => (&[3, 0][..], "completed"),
        };
        ensure!(codes == expected && outcome == ended, "{codes:?}, {outcome}");
        let told = &processes["n4 p/told"][0];
        let heard = |event: &str| told.iter().position(|said| said["event"] == event);
        ensure!(heard("proposal") == Some(0) && heard("outcome").is_some(), "{told:?}");
        let mut proposals = [&told[0], &processes["n4 p/m"][0][0]].map(Value::clone);
        proposals.iter_mut().filter_map(Value::as_object_mut).for_each(|fields| drop(fields.remove("role")));
        ensure!(proposals[0] == proposals[1], "they saw different proposals: {proposals:?}");
        if self.is_vetoed() {
            let veto = json!([{ "node": "n4", "process": "p/told", "reason": REASON, "lapsed": false, "overruled": self == Claim::Force }]);
            ensure!(update["vetoes"] == veto, "{}", update["vetoes"]);
        }
        if let Claim::Veto | Claim::VetoOfFive = self {
            ensure!(nodes.values().all(|node| node["same"] == json!([true, true, true])), "something changed: {nodes:#?}");
        } else {
            let order = [heard("pending"), heard("ready"), heard("done"), heard("outcome")];
            ensure!(order.is_sorted() && order[0].is_some(), "{told:?}");
            let (asked, new) = (&processes["n4 p/m"][0], &processes["n4 p/m"][1]);
            ensure!(
                asked.last().is_some_and(|said| said["event"] == "hand-over") && new[0]["version"] == "NEW",
                "{asked:?}, {new:?}"
            );
        }
        match self {
            Claim::Force => {
                ensure!(told.contains(&json!({ "event": "overruled", "update": "U", "by": "admin", "why": WHY })), "{told:?}")
            }
            Claim::Check => {
                let scopes: Vec<_> = update["discrepancies"].as_array().into_iter().flatten().map(|one| &one["scope"]).collect();
                ensure!(scopes == ["between_nodes", "within_node"], "{}", update["discrepancies"]);
            }
            Claim::Ephemeral => {
                ensure!(account.unpersisted.iter().all(|on| on == &json!(["OLD", "NEW"])), "{:?}", account.unpersisted)
            }
            Claim::Regress | Claim::Veto | Claim::VetoOfFive => {}
        }
        Ok(())
    }
}
