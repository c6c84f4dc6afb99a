//! What a simulated process does, as its module's bytes say.
//!
//! A module is a text of lines `WORD VALUE` (times in milliseconds); what is not said is as [`Script::default`] has it. `vary` makes bytes differ that mean the same.

use std::time::Duration;

/// What a process answers when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vote {
    Accept,
    Veto,
    /// It defers once, and then accepts.
    Defer,
    /// It never answers.
    Silent,
    /// It takes a while, and accepts.
    Slow,
    /// It crashes.
    Crash,
    /// It accepts, and vetoes when it should come to a safe point.
    LateVeto,
    /// It accepts, unless it was started again after it had fallen: then it vetoes.
    Wary,
    /// Any of these, by chance.
    Moody,
}

impl Vote {
    /// What it comes to for a process that fell before, or did not.
    pub fn after(self, fell: bool) -> Self {
        match self {
            Self::Wary if fell => Self::Veto,
            Self::Wary => Self::Accept,
            other => other,
        }
    }
}

/// When it is ready to hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    AtOnce,
    Late,
    Never,
}

/// When it first speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    AtOnce,
    /// Up to three seconds after it was started.
    Late,
    /// So long after it was started.
    After(Duration),
}

/// How it does once it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Well,
    /// It says after a while that it is not well.
    Unhealthy,
    /// It crashes soon after every start.
    CrashLoop,
    /// It crashes now and then.
    Frail,
    /// It crashes once, some seconds after it was first started.
    Faints,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    pub vote: Vote,
    pub ready: Ready,
    pub health: Health,
    /// Whether it speaks the process socket.
    pub speaks: bool,
    /// How long after it was started it says hello.
    pub hello: Hello,
    /// How long it takes to stop.
    pub stop: Duration,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            vote: Vote::Accept,
            ready: Ready::AtOnce,
            health: Health::Well,
            speaks: true,
            hello: Hello::AtOnce,
            stop: Duration::from_millis(30),
        }
    }
}

impl Script {
    /// The script in a module's bytes; one that is not a script runs and says nothing.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut script = Self::default();
        for line in String::from_utf8_lossy(bytes).lines() {
            match line.split_once(' ') {
                Some(("vote", "veto")) => script.vote = Vote::Veto,
                Some(("vote", "defer")) => script.vote = Vote::Defer,
                Some(("vote", "silent")) => script.vote = Vote::Silent,
                Some(("vote", "slow")) => script.vote = Vote::Slow,
                Some(("vote", "crash")) => script.vote = Vote::Crash,
                Some(("vote", "late-veto")) => script.vote = Vote::LateVeto,
                Some(("vote", "wary")) => script.vote = Vote::Wary,
                Some(("vote", "moody")) => script.vote = Vote::Moody,
                Some(("ready", "late")) => script.ready = Ready::Late,
                Some(("ready", "never")) => script.ready = Ready::Never,
                Some(("health", "unhealthy")) => script.health = Health::Unhealthy,
                Some(("health", "crash-loop")) => script.health = Health::CrashLoop,
                Some(("health", "faints")) => script.health = Health::Faints,
                Some(("health", "frail")) => script.health = Health::Frail,
                Some(("speaks", "no")) => script.speaks = false,
                Some(("hello", "late")) => script.hello = Hello::Late,
                Some(("hello", after)) => {
                    script.hello = after.parse().map_or(Hello::AtOnce, |after| Hello::After(Duration::from_millis(after)));
                }
                _ => {}
            }
        }
        script
    }
}
