//! The names and identities that everything else is written in.
//!
//! One idea: a value of one of these types has been checked. It cannot be made from text that breaks its rule, not
//! even by deserialising it, so no other code checks again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not the identity it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct IdError {
    /// What was being read, such as `node name`.
    pub what: &'static str,
    /// The text that was given, cut at 80 characters.
    pub text: String,
    /// What would be right.
    pub rule: &'static str,
}

impl IdError {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), rule }
    }
}

const NAME_RULE: &str = "use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit";

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=64).contains(&bytes.len())
        && (bytes[0].is_ascii_lowercase() || bytes[0].is_ascii_digit())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks and wraps a text.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                if is_name(&text) { Ok(Self(text)) } else { Err(IdError::new($what, &text, NAME_RULE)) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// The name an operator gave a node; unique in its cluster.
    NodeName, "node name"
);
name!(
    /// The name of a class of nodes.
    ClassName, "class name"
);
name!(
    /// The name of a package, the same in all its versions.
    PackageName, "package name"
);
name!(
    /// The name of a module within its package.
    ModuleName, "module name"
);
name!(
    /// The name of an API that modules provide and consume, such as `billing.api`.
    ApiName, "API name"
);
name!(
    /// The key of a characteristic, such as `role` or `arch`.
    CharacteristicKey, "characteristic"
);
name!(
    /// The name of an admin or publisher.
    PrincipalName, "principal name"
);
name!(
    /// The name of a process that was registered with its node. It has no `/`, so it is never that of a module.
    ProcessName, "process name"
);

macro_rules! bytes {
    ($(#[$doc:meta])* $type:ident, $size:literal, $what:literal, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type([u8; $size]);

        impl $type {
            /// Wraps the bytes.
            pub const fn new(bytes: [u8; $size]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $size] {
                &self.0
            }

            /// The first eight hexadecimal digits, for people's eyes.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let mut text = String::with_capacity(2 * $size);
                for byte in self.0 {
                    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
                    text.push(char::from(DIGITS[usize::from(byte & 15)]));
                }
                f.pad(&text)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self)
            }
        }

        impl FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let wrong = || IdError::new($what, text, $rule);
                let digits = text.as_bytes();
                if digits.len() != 2 * $size {
                    return Err(wrong());
                }
                let mut bytes = [0u8; $size];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    let digit = |d: u8| match d {
                        b'0'..=b'9' => Some(d - b'0'),
                        b'a'..=b'f' => Some(d - b'a' + 10),
                        _ => None,
                    };
                    let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
                        return Err(wrong());
                    };
                    *byte = high << 4 | low;
                }
                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}

bytes!(
    /// The BLAKE3 of some bytes: the name of a module's bytes everywhere.
    Signature, 32, "signature", "use 64 lower-case hexadecimal digits, the BLAKE3 of the bytes"
);
bytes!(
    /// The BLAKE3 of a package's canonical manifest.
    PackageId, 32, "package id", "use 64 lower-case hexadecimal digits"
);
bytes!(
    /// An ed25519 public key of a node or a principal.
    PublicKey, 32, "public key", "use 64 lower-case hexadecimal digits"
);
bytes!(
    /// An ed25519 signature made with a key.
    KeySignature, 64, "key signature", "use 128 lower-case hexadecimal digits"
);
bytes!(
    /// What a client calls one request, so that a repeat of it is known.
    RequestId, 16, "request id", "use 32 lower-case hexadecimal digits"
);
bytes!(
    /// What tells this cluster from every other.
    ClusterId, 16, "cluster id", "use 32 lower-case hexadecimal digits"
);

impl Signature {
    /// The signature of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl PackageId {
    /// The id of the package with this canonical manifest.
    pub fn of(canonical_manifest: &str) -> Self {
        Self(*blake3::hash(canonical_manifest.as_bytes()).as_bytes())
    }
}

/// The identity of a node on the network, as text. Opaque here: the network layer knows what it means.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerId(String);

impl PeerId {
    /// Checks and wraps the text of a peer id: 1 to 128 letters and digits.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        if (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            Ok(Self(text))
        } else {
            Err(IdError::new("peer id", &text, "use 1 to 128 letters and digits"))
        }
    }

    /// The peer id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PeerId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl From<PeerId> for String {
    fn from(peer: PeerId) -> String {
        peer.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The number of an update, shown as `u12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UpdateId(pub u64);

impl fmt::Display for UpdateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("u{}", self.0))
    }
}

impl FromStr for UpdateId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        text.strip_prefix('u')
            .and_then(|digits| digits.parse().ok())
            .map(Self)
            .ok_or_else(|| IdError::new("update", text, "use the letter u and a number, such as u12"))
    }
}

impl TryFrom<String> for UpdateId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<UpdateId> for String {
    fn from(id: UpdateId) -> String {
        id.to_string()
    }
}

/// A point in time: milliseconds since the Unix epoch, by the master's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// How many milliseconds lie between an earlier time and this one; 0 if it is not earlier.
    pub fn since(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The time a span later.
    pub fn after(self, span: Span) -> Timestamp {
        Timestamp(self.0.saturating_add(span.as_millis()))
    }
}

/// A length of time in whole milliseconds, written as `500ms`, `10s`, `5m`, `2h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(u64);

impl Span {
    /// A span of so many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// A span of so many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds * 1000)
    }

    /// The span in milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The span as the standard library has it.
    pub const fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = UNITS.iter().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size)).unwrap_or(&("s", 1000));
        f.pad(&format!("{}{unit}", self.0 / size))
    }
}

impl FromStr for Span {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::new("span", text, "use a whole number and ms, s, m, h or d, such as 10s; at most 365d");
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &text[digits.len()..];
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let (_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        number.checked_mul(*size).filter(|ms| *ms <= 365 * 86_400_000).map(Self).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Span {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_only_what_is_safe_in_a_path_and_on_a_terminal() {
        for good in ["a", "billing", "n1", "billing.api", "x-y_z"] {
            assert!(NodeName::new(good).is_ok(), "{good}");
        }
        let long = "a".repeat(65);
        for bad in ["", ".", "..", "-a", "A", "a/b", "a b", "a\u{1b}[31m", long.as_str()] {
            assert!(NodeName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_span_reads_back_as_it_was_written() {
        for (text, millis) in
            [("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("2h", 7_200_000), ("7d", 604_800_000), ("0s", 0)]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.as_millis(), millis);
            assert_eq!(span.to_string(), text);
        }
        for bad in ["", "s", "10", "10 s", "-1s", "1w", "99999999999999999999s", "366d", "1é"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_signature_reads_back_and_refuses_what_is_not_one() {
        let signature = Signature::of(b"tribune");
        assert_eq!(signature.to_string().parse::<Signature>().unwrap(), signature);
        assert!(signature.to_string().to_uppercase().parse::<Signature>().is_err());
        assert!("é".repeat(32).parse::<Signature>().is_err());
    }
}
