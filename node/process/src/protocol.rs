//! The messages between a process and its node: one JSON object a line, at most [`MAX_LINE`] bytes with its newline,
//! told apart by the field `"type"`. Its one idea: **every message may be repeated**, and a repeat means the same as
//! the first, so that either side may lose the connection at any moment.
//!
//! | the process says | when |
//! | --- | --- |
//! | `hello` `protocol` `name?` `version?` | first, on every connection |
//! | `accept` `update` `revision` | to a `proposal` |
//! | `veto` `update` `revision` `reason` | to a `proposal`, and later, until it has said `ready` |
//! | `defer` `update` `revision` `for_ms` `reason` | to a `proposal`: ask me again after so long |
//! | `ready` `update` `attempt?` | to `changeover-pending`: I am at a safe point and can hand over; I go on serving |
//! | `handed-over` `update` `attempt?` `state?` | to `hand-over`: I no longer accept work; `state` is for my successor |
//! | `health` `status` `detail?` | whenever it changes: `healthy` or `unhealthy` |
//! | `seen` `update` | to `outcome`, which is otherwise repeated on the next connection |
//!
//! | the node says | meaning |
//! | --- | --- |
//! | `welcome` `protocol` `node` `module?` | answer to `hello`; `protocol` is the version both speak |
//! | `proposal` `update` `revision` `packages` `modules` `role` `within_ms` | may this update touch you? |
//! | `overruled` `update` `by` `why` | the user went past your veto |
//! | `changeover-pending` `update` `role` `within_ms` `attempt` | come to a safe point, then say `ready` |
//! | `hand-over` `update` `attempt` | stop accepting, finish, say `handed-over`; then you are stopped |
//! | `resume` `update` `attempt` | it did not come to the changeover: go on as before |
//! | `changeover-done` `update` `attempt` | what you depend on has changed |
//! | `aborted` `update` `reason` | the update was given up; you will not be touched |
//! | `outcome` `update` `outcome` `reason?` | how the update ended: the same for everyone that was asked, said at least once |
//! | `error` `message` | your last line was refused, and why |
//!
//! Fields that a reader does not know are ignored. A node answers a `type` that it does not know with `error`; a
//! process ignores one. `attempt` counts the changeovers tried for one update, those back to the old modules included; a
//! repeat has the same number, and a process that leaves it out means the newest.

use serde::{Deserialize, Serialize};

/// The version of this protocol. A `hello` with a higher one is answered with this one.
pub const PROTOCOL: u32 = 1;
/// The longest line either side sends or takes, in bytes, with its newline.
pub const MAX_LINE: usize = 64 * 1024;
/// The longest state that `handed-over` carries, in bytes before JSON escapes it.
pub const MAX_STATE: usize = 48 * 1024;
/// The longest reason or detail, in bytes; a longer one is cut.
pub const MAX_REASON: usize = 4 * 1024;
/// The environment variable with the path of the node's socket.
pub const SOCKET_VARIABLE: &str = "TRIBUNE_SOCKET";

/// What a process says to its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ProcessMessage {
    /// The first line of every connection. Who speaks, the node asks the kernel (`SO_PEERCRED`).
    Hello {
        /// The highest protocol version the process speaks.
        protocol: u32,
        /// What an operator should call a process that is not one of the node's modules.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The process's own version, for display.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// The update may go on as far as this process is concerned.
    Accept {
        /// The update that was proposed.
        update: String,
        /// The revision of the proposal this answers.
        revision: u64,
    },
    /// The update may not go on.
    Veto {
        /// The update that was proposed.
        update: String,
        /// The revision of the proposal this answers.
        revision: u64,
        /// For the operator, who reads it word for word.
        reason: String,
    },
    /// Not now: ask again.
    Defer {
        /// The update that was proposed.
        update: String,
        /// The revision of the proposal this answers.
        revision: u64,
        /// After how many milliseconds to ask again.
        for_ms: u64,
        /// For the operator, who reads it word for word.
        reason: String,
    },
    /// At a safe point: can hand over.
    Ready {
        /// The update whose changeover is pending.
        update: String,
        /// Which attempt this answers; none: the newest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<u32>,
    },
    /// Has stopped accepting work and finished what it had.
    HandedOver {
        /// The update whose changeover is under way.
        update: String,
        /// Which attempt this answers; none: the newest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<u32>,
        /// What the successor should know, at most [`MAX_STATE`] bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<String>,
    },
    /// How the process is, as it sees it itself.
    Health {
        /// Healthy or not.
        status: HealthStatus,
        /// More for the operator.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// The outcome of this update has been heard: it need not be repeated.
    Seen {
        /// The update that ended.
        update: String,
    },
}

/// How a process says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthStatus {
    /// Does its work.
    Healthy,
    /// Does not do its work, or not well.
    Unhealthy,
}

/// What a node says to a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum NodeMessage {
    /// Answer to `hello`.
    Welcome(Welcome),
    /// May this update touch you?
    Proposal(Proposal),
    /// Your veto was gone past.
    Overruled(Overruled),
    /// Come to a safe point.
    ChangeoverPending(ChangeoverPending),
    /// Stop accepting and hand over.
    HandOver(HandOver),
    /// Go on as before.
    Resume(Resume),
    /// What you depend on has changed.
    ChangeoverDone(ChangeoverDone),
    /// The update was given up.
    Aborted(Aborted),
    /// How the update ended.
    Outcome(OutcomeTold),
    /// Your last line was refused.
    Error {
        /// What was wrong and what would be right.
        message: String,
    },
}

impl NodeMessage {
    /// The update this message is about; none for `welcome` and `error`.
    #[must_use]
    pub fn update(&self) -> Option<&str> {
        match self {
            NodeMessage::Welcome(_) | NodeMessage::Error { .. } => None,
            NodeMessage::Proposal(m) => Some(&m.update),
            NodeMessage::Overruled(m) => Some(&m.update),
            NodeMessage::ChangeoverPending(m) => Some(&m.update),
            NodeMessage::HandOver(m) => Some(&m.update),
            NodeMessage::Resume(m) => Some(&m.update),
            NodeMessage::ChangeoverDone(m) => Some(&m.update),
            NodeMessage::Aborted(m) => Some(&m.update),
            NodeMessage::Outcome(m) => Some(&m.update),
        }
    }
}

/// A node's answer to `hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol version both sides speak from here on.
    pub protocol: u32,
    /// The node's name.
    pub node: String,
    /// The module this process was started from, as `package/module`, when the node knows it as one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
}

/// What an update does to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A new version takes its place.
    Replaced,
    /// Something it depends on changes.
    Affected,
    /// It is stopped, and nothing takes its place.
    Removed,
    /// Something that a later node says and this reader does not know.
    #[serde(other)]
    Other,
}

/// One package that an update changes on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageChange {
    /// The package's name.
    pub name: String,
    /// The version installed now; none: it is new here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The version it changes to; none: it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The id (BLAKE3 of the canonical manifest) of the package it changes to, or that is removed.
    pub id: String,
    /// What its modules depend on, as `package/module` or `package/module@requirement`.
    #[serde(default)]
    pub depends_on: Vec<String>,
}

/// An update that is proposed to a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The update's id.
    pub update: String,
    /// Counts the times this update was asked about anew: after a change of its plan, and when the user asks again.
    pub revision: u64,
    /// What changes on this node.
    #[serde(default)]
    pub packages: Vec<PackageChange>,
    /// The modules that change on this node, as `package/module`.
    #[serde(default)]
    pub modules: Vec<String>,
    /// How many packages and modules are not listed above, because the line would be too long.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// What it does to the process that is asked.
    pub role: Role,
    /// How long the process has to answer, in milliseconds.
    pub within_ms: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Proposal {
    /// The same proposal with as many packages and modules as one line holds, the rest counted in `left_out`.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        // Room for the other fields: ids and names are short words.
        const ROOM: usize = MAX_LINE - 8 * 1024;
        let mut used = 0usize;
        let mut fits = |bytes: usize| {
            used = used.saturating_add(bytes.saturating_add(1));
            used <= ROOM
        };
        let before = self.packages.len() + self.modules.len();
        // Serializing plain data to JSON cannot fail; if it did, the entry is left out.
        let size = |json: Result<String, serde_json::Error>| json.map_or(usize::MAX, |text| text.len());
        let packages = self.packages.iter().take_while(|p| fits(size(serde_json::to_string(p)))).count();
        self.packages.truncate(packages);
        let modules = self.modules.iter().take_while(|m| fits(size(serde_json::to_string(m)))).count();
        self.modules.truncate(modules);
        self.left_out = self.left_out.saturating_add((before - packages - modules) as u64);
        self
    }
}

/// The user went past a process's veto.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overruled {
    /// The update that goes on.
    pub update: String,
    /// Who decided.
    pub by: String,
    /// Why, in that user's words.
    pub why: String,
}

/// The changeover comes: the process should bring itself to a safe point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeoverPending {
    /// The update.
    pub update: String,
    /// Which attempt this is, from 0.
    #[serde(default)]
    pub attempt: u32,
    /// What happens to this process.
    pub role: Role,
    /// How long it has to become ready, in milliseconds.
    pub within_ms: u64,
}

/// The process should stop accepting work and hand over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandOver {
    /// The update.
    pub update: String,
    /// Which attempt this is, from 0.
    #[serde(default)]
    pub attempt: u32,
}

/// The changeover did not happen: the process should go on as before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The update.
    pub update: String,
    /// Which attempt ended, from 0.
    #[serde(default)]
    pub attempt: u32,
}

/// The changeover has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeoverDone {
    /// The update.
    pub update: String,
    /// Which attempt it was, from 0.
    #[serde(default)]
    pub attempt: u32,
}

/// The update was given up before it touched the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aborted {
    /// The update.
    pub update: String,
    /// Why.
    pub reason: String,
}

/// How an update ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything it asked for is installed.
    Completed,
    /// Some nodes were left out by a decision.
    CompletedInPart,
    /// Installed, and some need is not met by what is installed.
    CompletedWithDiscrepancies,
    /// Given up: nothing changed.
    Aborted,
    /// What had changed was changed back.
    Regressed,
    /// Changing back failed: a person has to act.
    RegressFailed,
    /// Something that a later node says and this reader does not know.
    #[serde(other)]
    Other,
}

/// The final word on an update, the same for every process of a node that was asked. A node that an update which is not installed goes on
/// without hears an end of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeTold {
    /// The update.
    pub update: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, where that needs saying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A message that is longer than a line may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a message of {bytes} bytes is longer than the {MAX_LINE} bytes a line may have")]
pub struct TooLong {
    /// How long it would be, in bytes with its newline.
    pub bytes: usize,
}

/// One message as the line that goes over the socket, with its newline.
///
/// # Errors
/// [`TooLong`] when it is longer than [`MAX_LINE`].
pub fn encode<M: Serialize>(message: &M) -> Result<String, TooLong> {
    // These types hold strings, numbers and lists of them: JSON can express every value.
    let mut line = serde_json::to_string(message).map_err(|_| TooLong { bytes: usize::MAX })?;
    line.push('\n');
    if line.len() > MAX_LINE { Err(TooLong { bytes: line.len() }) } else { Ok(line) }
}

/// A reason as it may be stored and shown: at most [`MAX_REASON`] bytes, cut at a character, without the control
/// characters that could steer a terminal (newlines and tabs stay).
#[must_use]
pub fn clean_reason(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(MAX_REASON));
    for c in text.trim().chars() {
        if clean.len() + c.len_utf8() > MAX_REASON - '…'.len_utf8() {
            clean.push('…');
            break;
        }
        clean.push(if is_harmless(c) { c } else { ' ' });
    }
    clean.trim().to_owned()
}

/// Whether a character only shows itself: no control character, and none of those that reorder the text around them.
fn is_harmless(c: char) -> bool {
    match c {
        '\n' | '\t' => true,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        c => !c.is_control(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_the_json_that_the_documentation_shows() {
        let hello = ProcessMessage::Hello { protocol: 1, name: Some("billing".into()), version: None };
        assert_eq!(encode(&hello).unwrap(), "{\"type\":\"hello\",\"protocol\":1,\"name\":\"billing\"}\n");
        let pending = NodeMessage::ChangeoverPending(ChangeoverPending {
            update: "u1".into(),
            attempt: 0,
            role: Role::Replaced,
            within_ms: 5000,
        });
        assert_eq!(
            encode(&pending).unwrap(),
            "{\"type\":\"changeover-pending\",\"update\":\"u1\",\"attempt\":0,\"role\":\"replaced\",\"within_ms\":5000}\n"
        );
    }

    #[test]
    fn unknown_fields_are_ignored_and_unknown_roles_are_other() {
        let text = r#"{"type":"proposal","update":"u","revision":1,"role":"painted","within_ms":1,"colour":"red"}"#;
        let NodeMessage::Proposal(proposal) = serde_json::from_str(text).unwrap() else { panic!("not a proposal") };
        assert_eq!(proposal.role, Role::Other);
        assert!(serde_json::from_str::<NodeMessage>(r#"{"type":"sing"}"#).is_err());
    }

    #[test]
    fn a_proposal_with_too_many_packages_says_how_many_it_left_out() {
        let package =
            |n: u32| PackageChange { name: format!("package-{n}"), from: None, to: None, id: "f".repeat(64), depends_on: vec![] };
        let proposal = Proposal {
            update: "u".into(),
            revision: 1,
            packages: (0..5000).map(package).collect(),
            modules: (0..5000).map(|n| format!("package-{n}/m")).collect(),
            left_out: 0,
            role: Role::Affected,
            within_ms: 1,
        }
        .fitted();
        assert_eq!(proposal.left_out as usize + proposal.packages.len() + proposal.modules.len(), 10_000);
        assert!(proposal.packages.len() > 100);
        encode(&NodeMessage::Proposal(proposal)).unwrap();
    }

    #[test]
    fn a_reason_keeps_its_words_and_loses_what_steers_a_terminal() {
        assert_eq!(clean_reason("  3 calls are up, é and 漢\nwait\u{1b}[2J  "), "3 calls are up, é and 漢\nwait [2J");
        let long = clean_reason(&"é".repeat(MAX_REASON));
        assert!(long.len() <= MAX_REASON && long.ends_with('…'));
        assert_eq!(clean_reason(&long), long, "cleaning twice changes nothing");
        assert_eq!(clean_reason(" \u{7} \u{202e} "), "");
    }
}
