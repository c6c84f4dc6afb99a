//! Single things in words: times, sizes, roles, names.

use tribune_raft_store::model::{Outcome, Phase, Role, Span, Timestamp, Update};

/// A text without control characters: what programs say must not move the cursor.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `1 node`, `2 nodes`.
pub fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// A length of time by its two largest units: `3m 20s`.
pub fn span(span: Span) -> String {
    millis(span.as_millis())
}

/// A length of time in milliseconds by its two largest units.
pub fn millis(millis: u64) -> String {
    let seconds = millis / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes, seconds % 60) {
        (0, 0, 0, 0) if millis > 0 => format!("{millis}ms"),
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, _, _) => format!("{days}d {hours}h"),
    }
}

/// How long ago something was, seen from `now`.
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    format!("{} ago", millis(now.since(then)))
}

/// A point in time in UTC: `2026-05-07 09:30:00`.
pub fn time(at: Timestamp) -> String {
    let seconds = at.0 / 1000;
    let (year, month, day) = date(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// Year, month and day of a day counted from 1970-01-01 (H. Hinnant's `civil_from_days`, for days that are not negative).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// The master's time as far as this machine can tell, for lists that do not carry it.
pub fn now() -> Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// A size: `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10 / 1024;
    while tenths >= 10_240 && unit < UNITS.len() - 1 {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A role.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Publisher => "publisher",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}

/// `-` for nothing.
pub fn or_dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "-".into() } else { text }
}

/// Names, with commas; `-` for none.
pub fn list<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    or_dash(names.into_iter().map(|name| name.to_string()).collect::<Vec<_>>().join(", "))
}

/// Where an update is, for a list.
pub fn phase(update: &Update) -> String {
    match &update.phase {
        Phase::Queued { behind } if !behind.is_empty() => format!("queued behind {}", list(behind)),
        Phase::Vetoed => "vetoed, waits for a decision".into(),
        Phase::Held { .. } => "held, waits for a decision".into(),
        Phase::Paused { by, .. } => format!("paused by {}", clean(by)),
        Phase::Unpersisted => "unpersisted, runs until the nodes are restarted".into(),
        phase => phase.to_string(),
    }
}

/// Where an update is, as the rest of a sentence that begins with its name.
pub fn stands(update: &Update) -> String {
    match &update.phase {
        Phase::Wave { wave } => format!("is in wave {}", wave + 1),
        Phase::Ended { outcome: Outcome::RegressFailed } => "could not go back".into(),
        Phase::Ended { outcome: outcome @ (Outcome::Aborted | Outcome::Regressed | Outcome::Rejected) } => {
            format!("was {outcome}")
        }
        Phase::Ended { outcome } => outcome.to_string(),
        _ => format!("is {}", phase(update)),
    }
}

/// The name of an outcome in documents.
pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::CompletedInPart => "completed_in_part",
        Outcome::CompletedWithDiscrepancies => "completed_with_discrepancies",
        Outcome::Aborted => "aborted",
        Outcome::Regressed => "regressed",
        Outcome::RegressFailed => "regress_failed",
        Outcome::Rejected => "rejected",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_update_stands_ends_a_sentence() {
        for (phase, text) in [
            (Phase::Wave { wave: 1 }, "is in wave 2"),
            (Phase::Asking, "is asking"),
            (Phase::Ended { outcome: Outcome::Completed }, "completed"),
            (Phase::Ended { outcome: Outcome::Aborted }, "was aborted"),
            (Phase::Ended { outcome: Outcome::RegressFailed }, "could not go back"),
        ] {
            assert_eq!(stands(&crate::sample::update(phase)), text);
        }
    }

    #[test]
    fn times_and_sizes_are_short_and_exact() {
        for (given, text) in
            [(0, "0s"), (250, "250ms"), (59_999, "59s"), (200_000, "3m 20s"), (7_260_000, "2h 1m"), (180_000_000, "2d 2h")]
        {
            assert_eq!(millis(given), text);
        }
        for (given, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 << 10, "1.5 MiB"), (u64::MAX, "16383.9 PiB")]
        {
            assert_eq!(size(given), text);
        }
        assert_eq!(time(Timestamp(0)), "1970-01-01 00:00:00");
        assert_eq!(time(Timestamp(951_782_400_000)), "2000-02-29 00:00:00");
        assert_eq!(time(Timestamp(1_779_960_599_000)), "2026-05-28 09:29:59");
        assert_eq!(count(1, "node"), "1 node");
        assert_eq!(clean("a\nb\u{1b}"), "a b ");
    }
}
