//! Who a node or a person is: one ed25519 key, kept in one file that only its owner can read.
//!
//! The [`PeerId`] is made from the public key and holds all of it, so either gives the other and no
//! directory of keys is needed.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};

/// First line of an identity file: what it is, and the version of its format.
const HEADER: &str = "tribune-identity 1";
/// An identity file is some 160 bytes; anything beyond this is another file.
const MAX_FILE: u64 = 4096;
/// The multihash code of "identity": the bytes that follow are the key itself, not a hash of it.
const IDENTITY_HASH: u64 = 0;

/// What can go wrong with an identity file.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no file at this path.
    #[error("no identity at {0}: create one with `tribune init` or `tribune join`")]
    Missing(PathBuf),
    /// A file is there already; an identity is never overwritten.
    #[error("{0} exists already, and an identity is never overwritten: choose another path")]
    Exists(PathBuf),
    /// The file's mode lets others read or write it. `mode` is its permission bits.
    #[error("{path} may be read or written by others (mode {mode:04o}): run `chmod 600 {path}`", path = path.display())]
    Exposed {
        /// The identity file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file's content is not an identity.
    #[error("{path} is not an identity file: {why}", path = path.display())]
    Malformed {
        /// The identity file.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
    /// Reading or writing failed.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// A secret key and what it makes public. Cloning it shares the secret; printing it shows only the [`PeerId`].
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
    peer_id: PeerId,
    public_key: [u8; 32],
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.peer_id)
    }
}

impl Identity {
    /// Makes a new identity from the system's randomness. It is nowhere on disk.
    pub fn generate() -> Self {
        Self::from_ed25519(ed25519::Keypair::generate())
    }

    fn from_ed25519(key: ed25519::Keypair) -> Self {
        let public_key = key.public().to_bytes();
        let keypair = Keypair::from(key);
        let peer_id = keypair.public().to_peer_id();
        Self { keypair, peer_id, public_key }
    }

    /// Makes a new identity and writes it to `path` with mode 0600, fsynced.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] when something lies at `path`; the file there is not touched.
    pub fn create(path: &Path) -> Result<Self, IdentityError> {
        let identity = Self::generate();
        identity.write_new(path)?;
        Ok(identity)
    }

    /// Reads the identity at `path`.
    ///
    /// # Errors
    /// Refuses a file that others may read, and one that is not exactly an identity file, saying what is wrong.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let io_error = |action| {
            move |source: io::Error| match source.kind() {
                io::ErrorKind::NotFound => IdentityError::Missing(path.to_owned()),
                _ => IdentityError::Io { action, path: path.to_owned(), source },
            }
        };
        let file = File::open(path).map_err(io_error("open"))?;
        let metadata = file.metadata().map_err(io_error("inspect"))?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(io_error("read"))?;
        if text.len() as u64 > MAX_FILE {
            let why = format!("it is longer than {MAX_FILE} bytes");
            return Err(IdentityError::Malformed { path: path.to_owned(), why });
        }
        parse(&text).map_err(|why| IdentityError::Malformed { path: path.to_owned(), why })
    }

    /// The id by which others know this key.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// The ed25519 public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    /// The ed25519 signature of `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.keypair
            .sign(message)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            // Only RSA signing can fail, and this key was made as ed25519, whose signatures are 64 bytes.
            .expect("ed25519 signs every message with 64 bytes")
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    /// Written beside its place and then linked there: `link` refuses to overwrite, and a crash leaves either no
    /// identity or a whole one.
    fn write_new(&self, path: &Path) -> Result<(), IdentityError> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let draft = parent.join(format!(".{name}.{:016x}", rand::random::<u64>()));
        let io_error = |action| move |source: io::Error| IdentityError::Io { action, path: path.to_owned(), source };

        let written = write_private(&draft, &self.render()).map_err(io_error("write")).and_then(|()| {
            fs::hard_link(&draft, path).map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => IdentityError::Exists(path.to_owned()),
                _ => IdentityError::Io { action: "create", path: path.to_owned(), source },
            })
        });
        let removed = match fs::remove_file(&draft) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(io_error("tidy up beside")),
        };
        written.and(removed)?;
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(io_error("fsync the folder of"))
    }

    fn render(&self) -> String {
        // Infallible here: the key was made as ed25519.
        let secret = self.keypair.clone().try_into_ed25519().map(|key| key.secret()).expect("an ed25519 key");
        format!("{HEADER}\npeer {}\nsecret {}\n", self.peer_id, to_hex(secret.as_ref()))
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The text of an identity file, or what is wrong with it. Never repeats the secret.
fn parse(text: &str) -> Result<Identity, String> {
    let lines: Vec<&str> = text.lines().collect();
    let [header, peer, secret] = lines[..] else {
        return Err(format!("it has {} lines instead of 3", lines.len()));
    };
    if header != HEADER {
        return Err(format!("line 1 is not `{HEADER}`"));
    }
    let peer = peer.strip_prefix("peer ").ok_or("line 2 is not `peer <peer id>`")?;
    let secret = secret.strip_prefix("secret ").ok_or("line 3 is not `secret <64 hex digits>`")?;
    let mut bytes = from_hex(secret).ok_or("the secret in line 3 is not 64 hex digits")?;
    let secret = ed25519::SecretKey::try_from_bytes(&mut bytes).map_err(|_| "the secret in line 3 is not a key")?;
    let identity = Identity::from_ed25519(ed25519::Keypair::from(secret));
    if identity.peer_id.to_string() != peer {
        return Err("the peer id in line 2 is not that of the secret in line 3".to_owned());
    }
    Ok(identity)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    // blake3's parser takes exactly 64 hex digits to 32 bytes.
    blake3::Hash::from_hex(text).ok().map(Into::into)
}

/// The peer id of an ed25519 public key; `None` when the bytes are not a point of the curve.
pub fn peer_id_of(public_key: &[u8; 32]) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(public_key).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The ed25519 public key in a peer id; `None` for a peer id made of another kind of key.
pub fn public_key_of(peer_id: &PeerId) -> Option<[u8; 32]> {
    let hash: &libp2p::multihash::Multihash<64> = peer_id.as_ref();
    if hash.code() != IDENTITY_HASH {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?;
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

/// Whether `signature` over `message` was made by the key of `public_key`.
pub fn verify(public_key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Verdict {
    match ed25519::PublicKey::try_from_bytes(public_key) {
        Ok(key) if key.verify(message, signature) => Verdict::Genuine,
        _ => Verdict::Forged,
    }
}

/// What [`verify`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The holder of the key made this signature over this message.
    Genuine,
    /// Somebody else did, or the message was changed.
    Forged,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_identity_is_written_for_its_owner_only_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let created = Identity::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let loaded = Identity::load(&path).unwrap();
        assert_eq!(loaded.peer_id(), created.peer_id());
        let signature = loaded.sign(b"a command");
        assert_eq!(verify(&created.public_key(), b"a command", &signature), Verdict::Genuine);
        assert_eq!(verify(&created.public_key(), b"another", &signature), Verdict::Forged);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn an_identity_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let first = Identity::create(&path).unwrap();
        assert!(matches!(Identity::create(&path), Err(IdentityError::Exists(_))));
        assert_eq!(Identity::load(&path).unwrap().peer_id(), first.peer_id());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn an_identity_that_others_may_read_is_refused_with_the_command_to_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        Identity::create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let message = Identity::load(&path).unwrap_err().to_string();
        assert!(message.contains("mode 0640") && message.contains("chmod 600"), "{message}");
    }

    #[test]
    fn a_malformed_identity_is_refused_and_its_secret_is_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let text = Identity::generate().render();
        let secret = text.lines().nth(2).unwrap().strip_prefix("secret ").unwrap().to_owned();
        let other = Identity::generate().peer_id();
        let peer_line = text.lines().nth(1).unwrap();
        for (bad, expected) in [
            (String::new(), "0 lines"),
            (text.replace("tribune-identity 1", "tribune-identity 9"), "line 1"),
            (text.replace("secret ", "sceret "), "line 3"),
            (text.replace(&secret, &secret[1..]), "64 hex digits"),
            (text.replace(peer_line, &format!("peer {other}")), "line 2"),
            ("x".repeat(5000), "longer"),
        ] {
            write_private(&path, &bad).unwrap();
            let message = Identity::load(&path).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert!(!message.contains(&secret[1..]), "{message}");
            fs::remove_file(&path).unwrap();
        }
        assert!(matches!(Identity::load(&path), Err(IdentityError::Missing(_))));
    }

    #[test]
    fn a_peer_id_and_its_public_key_give_each_other() {
        let identity = Identity::generate();
        assert_eq!(peer_id_of(&identity.public_key()), Some(identity.peer_id()));
        assert_eq!(public_key_of(&identity.peer_id()), Some(identity.public_key()));
        assert_eq!(public_key_of(&PeerId::random()), None);
        assert!(!format!("{identity:?}").contains("keypair"));
    }
}
