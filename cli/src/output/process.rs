//! Processes as text.

use tribune_messages::api::ProcessInfo;
use tribune_messages::registration::Registration;
use tribune_raft_store::model::Silent;

use super::table::Table;
use super::words::{list, or_dash, span};

/// `process list`.
pub fn processes(processes: &[ProcessInfo]) -> String {
    let mut table = Table::new(["process", "version", "state", "pid", "for", "ended", "asked", "detail"]);
    for info in processes {
        let pid = info.process.as_ref().map(|process| process.pid.to_string()).unwrap_or_default();
        table.row([
            info.name.clone(),
            or_dash(info.version.clone().unwrap_or_default()),
            info.state.clone(),
            or_dash(pid),
            or_dash(info.since.map(span).unwrap_or_default()),
            info.endings.to_string(),
            asked(info).into(),
            or_dash(info.detail.clone().unwrap_or_default()),
        ]);
    }
    table.to_string()
}

/// How it would be asked.
fn asked(info: &ProcessInfo) -> &'static str {
    match &info.registered {
        _ if info.said_hello => "socket",
        Some(Registration { hook: Some(_), .. }) => "hook",
        Some(_) | None => "-",
    }
}

/// `process show`.
pub fn process(info: &ProcessInfo) -> String {
    let ProcessInfo { name, state, process, since, version, endings, said_hello: _, log, detail, registered } = info;
    let mut text = format!("process {name} is {state}");
    text.extend(process.as_ref().map(|process| format!(", pid {}", process.pid)));
    text.extend(since.map(|since| format!(", for {}", span(since))));
    text.extend(version.as_ref().map(|version| format!(", version {version}")));
    text.push('\n');
    let mut row = |what: &str, value: String| text.push_str(&format!("  {what}: {value}\n"));
    row("asked by", asked(info).replace('-', "nobody: it does not speak"));
    if *endings > 0 {
        row("ended", format!("{endings} times"));
    }
    log.iter().for_each(|log| row("log", log.clone()));
    detail.iter().for_each(|detail| row("detail", detail.clone()));
    if let Some(Registration { name: _, found_by, hook, depends_on, consumes, silent, within, ready_within }) = registered {
        row("found by", found_by.to_string());
        hook.iter().for_each(|hook| row("hook", hook.join(" ")));
        if !depends_on.is_empty() {
            row("depends on", list(depends_on));
        }
        if !consumes.is_empty() {
            row("consumes", list(consumes));
        }
        let silence = match silent {
            Silent::Veto => "a veto",
            Silent::Accept => "consent",
        };
        row("answers within", format!("{within}; silence is {silence}"));
        row("ready within", ready_within.to_string());
    }
    text.trim_end().to_owned()
}

/// `process register`.
pub fn registered(info: &ProcessInfo) -> String {
    let now = match &info.process {
        Some(process) => format!("it runs as pid {}", process.pid),
        None => "it does not run now".into(),
    };
    let detail = info.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    format!("process {} is registered; {now}{detail}", info.name)
}
