use serde_json::{Value, json};
use tribune_messages::api::{ProcessInfo, Status, UpdateSummary};
use tribune_messages::registration::{FoundBy, Registration};
use tribune_raft_store::model::{
    Blocker, ClusterId, Event, EventKind, Manifest, Outcome, Phase, Plan, ProcessRef, Silent, Span, Timestamp, UpdateId,
};

use super::*;
use crate::exit::Exit;
use crate::names::Names;
use crate::sample;

/// What is documented.
const DOCUMENTED: &str = include_str!("../../../docs/JSON.md");

fn document<T: Serialize>(name: &'static str, body: T) -> Value {
    let value: Value = serde_json::from_str(&Document::new(name, body).to_line()).unwrap();
    assert!(DOCUMENTED.contains(&format!("## `{name}`")), "document {name} is not in docs/JSON.md");
    check_documented(&value);
    value
}

/// Every field is described. Keys that are names of nodes and the like are not fields.
fn check_documented(value: &Value) {
    const NAMES: [&str; 9] = ["n1", "n2", "billing", "billing/billingd", "role", "edge", "u7", "", "rates"];
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                assert!(
                    NAMES.contains(&key.as_str()) || DOCUMENTED.contains(&format!("`{key}`")),
                    "field {key} is not in docs/JSON.md"
                );
                check_documented(value);
            }
        }
        Value::Array(items) => items.iter().for_each(check_documented),
        _ => {}
    }
}

fn same(value: &Value, expected: &Value) {
    assert_eq!(value, expected, "\n{}", serde_json::to_string_pretty(value).unwrap());
}

#[test]
fn a_status_is_this_document() {
    let status = Status {
        cluster: ClusterId::new([1; 16]),
        node: "n1".parse().unwrap(),
        version: "0.1.0".into(),
        master: None,
        no_master_for: Some(Span::from_secs(3)),
        role: "voter".into(),
        nodes: 3,
        voters: vec!["n1".parse().unwrap()],
        age: Span::from_millis(250),
        generation: 4,
        open_updates: vec![UpdateId(7)],
        problems: vec!["the disk is full".into()],
    };
    same(
        &document("status", StatusView::of(&status)),
        &json!({
            "format": 1, "document": "status", "cluster": "01".repeat(16), "node": "n1", "version": "0.1.0", "master": null,
            "no_master_for_ms": 3000, "role": "voter", "nodes": 3, "voters": ["n1"], "age_ms": 250, "generation": 4,
            "open_updates": ["u7"], "problems": ["the disk is full"]
        }),
    );
}

#[test]
fn a_vetoed_update_is_this_document() {
    let change = json!({ "package": "billing", "from": "1.0.0", "to": "2.0.0" });
    let planned = json!({ "changes": [change], "modules": { "billing/billingd": "07".repeat(32) }, "from_local_storage": false });
    let node = |ballots: Value| {
        json!({
            "step": "voted", "since_at": 5000, "round": 1, "changed": false, "generation_before": 3, "failure": null, "restarted": false, "gone": false, "left_behind": false,
            "changes": [change], "ballots": ballots
        })
    };
    let ballot = json!({
        "process": "billing/billingd", "pid": 412, "answer": "veto", "reason": "the day is being closed", "lapsed": false,
        "overruled": false
    });
    let veto = json!({
        "node": "n2", "process": "billing/billingd", "pid": 412, "reason": "the day is being closed", "lapsed": false,
        "overruled": false
    });
    same(
        &document("update", UpdateView::of(&sample::vetoed())),
        &json!({
            "format": 1, "document": "update", "update": "u7", "kind": "install", "phase": "vetoed", "wave": null, "outcome": null,
            "exit": 3, "submitted_by": "ada", "submitted_at": 1000, "since_at": 5000, "now_at": 65000, "ballot_revision": 2,
            "targets": { "nodes": { "n1": ["billing@2.0.0"], "n2": ["billing@2.0.0"] }, "classes": {} },
            "options": {
                "strategy": "rolling", "on_failure": "regress_all", "decide_within_ms": 604_800_000, "max_defer_ms": 600_000,
                "skip_away": false, "accept_discrepancies": [], "again": false, "allow_drift": false, "force": null,
                "ephemeral": false
            },
            "waiting": {
                "waiting_for": "decision", "since_at": 5000, "updates": [], "nodes": [],
                "processes": [], "about": ["billing/billingd (pid 412) on node n2: the day is being closed"], "away": [],
                "can": ["tribune update decide u7 --abort"]
            },
            "nodes": { "n1": node(json!([])), "n2": node(json!([ballot])) },
            "vetoes": [veto], "decisions": [], "discrepancies": [],
            "plan": {
                "revision": 1, "nodes": { "n1": planned, "n2": planned }, "waves": [["n1"], ["n2"]], "blockers": [],
                "accepted_discrepancies": [], "left_out": {}
            },
            "reason": null
        }),
    );
}

#[test]
fn a_list_of_updates_is_this_document() {
    let update = sample::update(Phase::Ended { outcome: Outcome::CompletedWithDiscrepancies });
    let summary = UpdateSummary { update, nodes: 2, packages: vec!["billing 2.0.0".into()] };
    same(
        &document("updates", [summary].iter().map(SummaryView::of).collect::<Many<_>>()),
        &json!({
            "format": 1, "document": "updates", "count": 1, "items": [{
                "update": "u7", "kind": "install", "phase": "ended", "wave": null, "outcome": "completed_with_discrepancies",
                "submitted_by": "ada", "submitted_at": 1000, "since_at": 5000, "node_count": 2, "packages": ["billing 2.0.0"],
                "reason": null
            }]
        }),
    );
}

#[test]
fn a_blocked_plan_is_this_document() {
    let plan = Plan { revision: 1, blockers: vec![Blocker::NodeAway { node: "n2".parse().unwrap() }], ..Plan::default() };
    same(
        &document("plan", PlanView::of(&plan, &Names::default())),
        &json!({
            "format": 1, "document": "plan", "revision": 1, "nodes": {}, "waves": [],
            "blockers": [{ "kind": "node_away", "text": "node n2 is away; wait for it, or leave it out with --skip-away" }],
            "accepted_discrepancies": [], "left_out": {}
        }),
    );
}

#[test]
fn nodes_processes_and_events_are_these_documents() {
    let nodes = document("nodes", [sample::node("n1", &[1, 2])].iter().map(NodeView::of).collect::<Many<_>>());
    same(
        &nodes["items"][0],
        &json!({
            "name": "n1", "peer": "peer", "connected": true, "master": true, "role": "voter", "class": null,
            "platform": "linux/amd64", "version": "0.1.0", "generation": 2, "kept_generations": [1],
            "packages": { "billing": "2.0.0" }, "ephemeral": null, "should": { "billing": "2.0.0" }, "apart": false, "drift": [],
            "modules": {},
            "desired": { "role": { "value": "edge", "required": false } }, "discovered": {}, "control_addresses": [],
            "data_addresses": [], "joined_at": 500, "voter": null, "leaving_at": null
        }),
    );
    let registration = Registration {
        name: "clock".parse().unwrap(),
        found_by: FoundBy::Unit("clock.service".into()),
        hook: Some(vec!["/usr/bin/ask".into(), "clock".into()]),
        depends_on: vec!["billing/billingd@^2".parse().unwrap()],
        consumes: vec!["ledger.api@^1.4".parse().unwrap()],
        silent: Silent::Veto,
        within: Span::from_secs(5),
        ready_within: Span::from_secs(10),
    };
    let process = ProcessInfo {
        name: "billing/billingd".into(),
        state: "running".into(),
        process: Some(ProcessRef { name: "billing/billingd".into(), pid: 412, start_time: 99 }),
        since: Some(Span::from_secs(5)),
        version: Some("2.0.0".into()),
        endings: 0,
        said_hello: true,
        log: Some("/logs/billing.billingd.log".into()),
        detail: None,
        registered: Some(registration),
    };
    let processes = document("processes", [process].iter().map(ProcessView::of).collect::<Many<_>>());
    same(
        &processes["items"][0],
        &json!({
            "name": "billing/billingd", "state": "running", "pid": 412, "start_time": 99, "since_ms": 5000, "version": "2.0.0",
            "endings": 0, "said_hello": true, "log": "/logs/billing.billingd.log", "detail": null,
            "registered": {
                "pid_file": null, "unit": "clock.service", "hook": ["/usr/bin/ask", "clock"], "depends_on": ["billing/billingd@^2"],
                "consumes": ["ledger.api@^1.4"], "silent": "veto", "within_ms": 5000, "ready_within_ms": 10000
            }
        }),
    );
    let event = Event {
        seq: 12,
        at: Timestamp(9),
        kind: EventKind::UpdatePhase,
        update: Some(UpdateId(7)),
        node: None,
        text: "u7 is vetoed".into(),
    };
    same(
        &document("event", EventView::of(&event)),
        &json!({
            "format": 1, "document": "event", "seq": 12, "at": 9, "kind": "update_phase", "update": "u7", "node": null,
            "text": "u7 is vetoed"
        }),
    );
}

#[test]
fn a_package_says_its_modules_needs_and_apis() {
    let manifest: Manifest = serde_json::from_value(json!({
        "format": 1, "name": "billing", "version": "2.0.0", "summary": "Bills", "module": [{
            "name": "billingd", "platform": "linux/amd64", "signature": "07".repeat(32), "size": 10, "run": ["billingd"],
            "depends-on": ["rates/table@^1"], "provides": ["billing.api@2.0.0"], "consumes": ["ledger.api@^1 on node"]
        }]
    }))
    .unwrap();
    same(
        &document("package", PackageView::of(manifest.id(), &manifest)),
        &json!({
            "format": 1, "document": "package", "id": manifest.id().to_string(), "name": "billing", "version": "2.0.0",
            "summary": "Bills", "upgrade_from": null, "can_regress": true, "modules": [{
                "name": "billingd", "platform": "linux/amd64", "signature": "07".repeat(32), "size": 10, "kind": "file",
                "characteristics": {}, "run": ["billingd"], "listen": [], "depends_on": ["rates/table@^1"],
                "provides": ["billing.api@2.0.0"], "consumes": ["ledger.api@^1 on node"], "when_affected": "notify",
                "changeover": "overlap", "ask": "auto"
            }], "provides": ["billing.api@2.0.0"], "consumes": ["ledger.api@^1 on node"]
        }),
    );
}

#[test]
fn an_error_is_this_document() {
    let problem = Problem::with(Exit::Blocked, "the plan has 1 blocker", "remove it").detailed(vec!["node n2 is away".into()]);
    same(
        &document("error", ErrorView::of(&problem)),
        &json!({
            "format": 1, "document": "error", "exit": 8, "what": "the plan has 1 blocker", "todo": "remove it",
            "details": ["node n2 is away"]
        }),
    );
}
