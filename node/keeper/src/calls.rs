//! Reading what an agent asks. Its one idea: a request that cannot be read is refused by name, so that a newer agent learns
//! what an older keeper does not know, and nothing else happens.

use serde::Deserialize;
use serde_json::Value;

use crate::protocol::{Call, Refusal, Reply, Request};
use crate::spec::shortened;

/// The requests that this keeper knows, as they are named in JSON.
const KNOWN: [&str; 11] = [
    "hello",
    "list",
    "start",
    "stop",
    "restart",
    "signal",
    "remove",
    "open-socket",
    "release-socket",
    "list-sockets",
    "shutdown",
];

#[derive(Deserialize)]
struct Outer {
    id: u64,
    request: Value,
}

/// The call in a message; or the refusal that answers it, with its id as far as that can be read.
pub(crate) fn read(message: &[u8]) -> Result<Call, (Option<u64>, Reply)> {
    let outer: Outer =
        serde_json::from_slice(message).map_err(|error| (None, refused(Refusal::BadRequest, &error.to_string())))?;
    let name = match &outer.request {
        Value::String(name) => name.clone(),
        Value::Object(fields) => fields.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    match serde_json::from_value::<Request>(outer.request) {
        Ok(request) => Ok(Call { id: outer.id, request }),
        Err(error) if KNOWN.contains(&name.as_str()) => Err((Some(outer.id), refused(Refusal::BadRequest, &error.to_string()))),
        Err(_) => {
            let message = format!("this keeper knows no request {:?}", shortened(&name, 80));
            Err((Some(outer.id), refused(Refusal::UnknownRequest, &message)))
        }
    }
}

/// A refusal.
pub(crate) fn refused(why: Refusal, message: &str) -> Reply {
    Reply::Refused { why, message: shortened(message, 1000) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::spec::{ChildId, ChildSpec, SignalName};

    #[test]
    fn every_request_is_known_by_its_name() {
        let child = ChildId::new("a", 1);
        let address: crate::SocketAddress = "tcp://127.0.0.1:1".parse().unwrap();
        let all = [
            Request::Hello { protocol: 1, software: "x".into() },
            Request::List { after: None },
            Request::Start(Box::new(ChildSpec::new(child.clone(), "/bin/true", "/", "/l"))),
            Request::Stop { child: child.clone(), within_ms: Some(1) },
            Request::Restart { child: child.clone() },
            Request::Signal { child: child.clone(), signal: SignalName::SigHup },
            Request::Remove { child },
            Request::OpenSocket { address: address.clone() },
            Request::ReleaseSocket { address },
            Request::ListSockets,
            Request::Shutdown,
        ];
        for (request, name) in all.into_iter().zip(KNOWN) {
            let call = Call { id: 7, request };
            let text = serde_json::to_string(&call).unwrap();
            assert!(text.contains(&format!("\"{name}\"")), "{text}");
            assert_eq!(read(text.as_bytes()), Ok(call));
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_id_as_far_as_that_is_known() {
        let cases: [(&str, Option<u64>, Refusal); 5] = [
            ("not json", None, Refusal::BadRequest),
            (r#"{"id":3,"request":"fly"}"#, Some(3), Refusal::UnknownRequest),
            (r#"{"id":3,"request":{"fly":{"to":"the moon"}}}"#, Some(3), Refusal::UnknownRequest),
            (r#"{"id":3,"request":{"stop":{}}}"#, Some(3), Refusal::BadRequest),
            (r#"{"id":3,"request":[]}"#, Some(3), Refusal::UnknownRequest),
        ];
        for (text, expected_id, expected) in cases {
            match read(text.as_bytes()) {
                Err((id, Reply::Refused { why, .. })) => assert_eq!((id, why), (expected_id, expected), "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
