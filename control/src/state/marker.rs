//! The record of dedicated overlays that the replaced daemon keeps beside its data: `agent_network.json`. The store has
//! the same; the file is for others. It is read at start, for what that daemon left, and written after every change, because
//! the uninstaller of the main daemon reads it, and so does the old daemon after a roll-back.
//!
//! ```json
//! {"version":1,"networks":[{"owner":"service:pay","kind":"wg-dedicated","name":"zl-prod-0-pay-d","id":"<public key>",
//!  "subnet":"10.200.141.128/26","wg_port":51421,"wg_private_key":"<base64>","wg_public_key":"<base64>",
//!  "interface":"zl-prod-0-pay-d"}]}
//! ```
//!
//! Entries that are not ours are kept as they are. A file that cannot be read is kept under another name, and one of a
//! later version is left alone for good. It holds private keys, so unlike the original it is for its owner only.

use super::journal::checksum;
use super::records::Identity;
use crate::ipc::wire::Secret;
use crate::private_file;
use ginnel_engine::key::PrivateKey;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// Name of the file in the data directory.
const FILE_NAME: &str = "agent_network.json";

/// Its version.
const VERSION: u64 = 1;

/// The kind of our entries.
const KIND: &str = "wg-dedicated";

/// What the owner of a service's entry begins with.
const OWNER_PREFIX: &str = "service:";

/// Why the file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// It is no such record.
    #[error("{path} is no record of networks ({reason}); it is kept as {kept} and written anew from the state journal")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// Where it is kept.
        kept: PathBuf,
    },
    /// A later version wrote it.
    #[error("{path} has version {version}, which this daemon does not know: it is neither read nor written")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
    /// A system call failed.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Where the record is.
#[derive(Clone, Debug)]
pub struct Marker {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct File {
    #[serde(default = "first_version")]
    version: u64,
    #[serde(default)]
    networks: Vec<Map<String, Value>>,
}

fn first_version() -> u64 {
    VERSION
}

/// One of our entries.
#[derive(Serialize, Deserialize)]
struct Entry {
    owner: String,
    kind: String,
    name: String,
    id: String,
    subnet: String,
    wg_port: u16,
    wg_private_key: Secret,
    wg_public_key: String,
    interface: String,
}

/// What a record is to say.
pub struct MarkerText(Zeroizing<Vec<u8>>);

impl MarkerText {
    /// Its checksum, by which it is known again.
    #[must_use]
    pub fn seal(&self) -> String {
        checksum(&self.0)
    }
}

impl Marker {
    /// The record in this data directory.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join(FILE_NAME) }
    }

    /// The checksum of the file as it is; `None` where there is none.
    #[must_use]
    pub fn seal(&self) -> Option<String> {
        fs::read(&self.path).ok().map(|text| checksum(&text))
    }

    /// The identities in it; none where there is no file. Entries that lack something are left alone and not returned.
    ///
    /// # Errors
    /// [`MarkerError`].
    pub fn load(&self) -> Result<Vec<Identity>, MarkerError> {
        let mut found: Vec<Identity> = Vec::new();
        for identity in self.read()?.networks.iter().filter_map(identity) {
            found.retain(|other| other.service != identity.service);
            found.push(identity);
        }
        Ok(found)
    }

    /// What the file is to say so that it has `identities` and whatever else it has; `None` where it says that, or there
    /// is neither a file nor anything to say.
    ///
    /// # Errors
    /// [`MarkerError`].
    pub fn prepare(&self, identities: &[Identity]) -> Result<Option<MarkerText>, MarkerError> {
        let mut file = match self.read() {
            // Kept under another name by now.
            Err(error @ MarkerError::Unreadable { .. }) => {
                tracing::error!("{error}");
                File { version: VERSION, networks: Vec::new() }
            }
            read => read?,
        };
        file.networks.retain(|network| identity(network).is_none());
        file.networks.extend(identities.iter().map(entry));
        let text = serde_json::to_vec_pretty(&file).map_err(|error| self.failed("write", error.into()))?;
        let text = MarkerText(Zeroizing::new(text));
        let present = self.seal();
        let nothing = present.is_none() && file.networks.is_empty();
        Ok((!nothing && present != Some(text.seal())).then_some(text))
    }

    /// Has the file say `text`. Blocks on the disk.
    ///
    /// # Errors
    /// [`MarkerError`]; the file is as before then.
    pub fn write(&self, text: &MarkerText) -> Result<(), MarkerError> {
        private_file::replace(&self.path, &text.0).map_err(|error| self.failed("write", error))
    }

    fn read(&self) -> Result<File, MarkerError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(File { version: VERSION, networks: Vec::new() });
            }
            Err(error) => return Err(self.failed("read", error)),
        };
        // The version first: of a later one nothing else may be what is known.
        let value = serde_json::from_slice::<Value>(&text);
        let version = value.as_ref().ok().and_then(|value| value.get("version")?.as_u64());
        if let Some(version) = version.filter(|version| *version > VERSION) {
            return Err(MarkerError::Newer { path: self.path.clone(), version });
        }
        let file = value.and_then(|value| match value.is_object() {
            true => serde_json::from_value(value),
            // The types would take an array for an object.
            false => Err(serde::de::Error::custom("no object")),
        });
        match file {
            Ok(file) => Ok(file),
            Err(error) => {
                let secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                let kept = self.path.with_file_name(format!("{FILE_NAME}.damaged-{secs}"));
                fs::rename(&self.path, &kept).map_err(|error| self.failed("keep a copy of", error))?;
                Err(MarkerError::Unreadable { path: self.path.clone(), reason: error.to_string(), kept })
            }
        }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> MarkerError {
        MarkerError::File { action, path: self.path.clone(), source }
    }
}

fn entry(identity: &Identity) -> Map<String, Value> {
    let entry = Entry {
        owner: format!("{OWNER_PREFIX}{}", identity.service),
        kind: KIND.to_owned(),
        name: identity.interface.clone(),
        id: identity.public_key.to_base64(),
        subnet: identity.subnet.to_string(),
        wg_port: identity.port,
        wg_private_key: identity.private_key.clone(),
        wg_public_key: identity.public_key.to_base64(),
        interface: identity.interface.clone(),
    };
    match serde_json::to_value(entry) {
        Ok(Value::Object(map)) => map,
        // A struct of strings and numbers is an object.
        _ => Map::new(),
    }
}

/// The identity an entry holds, if it is one of a service and whole.
fn identity(network: &Map<String, Value>) -> Option<Identity> {
    let entry = Entry::deserialize(Value::Object(network.clone())).ok()?;
    let service = entry.owner.strip_prefix(OWNER_PREFIX).filter(|_| entry.kind == KIND)?;
    let key = PrivateKey::from_base64(entry.wg_private_key.expose()).ok()?;
    let public_key = key.public();
    if public_key.to_base64() != entry.wg_public_key {
        tracing::warn!(
            service,
            "the public key recorded for this service is not that of its private key, which counts"
        );
    }
    Some(Identity {
        service: service.to_owned(),
        private_key: entry.wg_private_key,
        public_key,
        port: entry.wg_port,
        interface: entry.interface,
        subnet: entry.subnet.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    const PRIVATE: &str = "wDKGH4PVlvRmmWTzQ8ddqJw1wUmwDyVb5Q0ePlkTL2E=";

    fn public() -> String {
        PrivateKey::from_base64(PRIVATE).unwrap().public().to_base64()
    }

    fn pay() -> Value {
        json!({"owner": "service:pay", "kind": "wg-dedicated", "name": "zl-prod-0-pay-d", "id": public(),
            "subnet": "10.200.141.128/26", "wg_port": 51421, "wg_private_key": PRIVATE, "wg_public_key": public(),
            "interface": "zl-prod-0-pay-d"})
    }

    fn save(marker: &Marker, identities: &[Identity]) {
        if let Some(text) = marker.prepare(identities).unwrap() {
            marker.write(&text).unwrap();
            assert_eq!(marker.seal(), Some(text.seal()));
        }
        assert!(marker.prepare(identities).unwrap().is_none(), "once is enough");
    }

    fn marker(dir: &TempDir, content: &Value) -> Marker {
        fs::write(dir.join(FILE_NAME), content.to_string()).unwrap();
        Marker::new(dir.path())
    }

    fn content(dir: &TempDir) -> Value {
        serde_json::from_slice(&fs::read(dir.join(FILE_NAME)).unwrap()).unwrap()
    }

    #[test]
    fn what_the_replaced_daemon_left_is_read() {
        let dir = TempDir::new();
        assert!(Marker::new(dir.path()).load().unwrap().is_empty());
        let half =
            json!({"owner": "service:half", "kind": "wg-dedicated", "name": "n", "id": "i", "subnet": "10.0.0.0/26"});
        let foreign = json!({"owner": "base", "kind": "hcn-internal", "name": "zlayer-overlay", "id": "GUID", "subnet": "10.200.0.0/28", "more": [1]});
        let file = json!({"version": 1, "networks": [foreign, pay(), half]});
        let marker = marker(&dir, &file);
        let found = marker.load().unwrap();
        let [pay] = &found[..] else { panic!("{found:?}") };
        assert_eq!((pay.service.as_str(), pay.port, pay.interface.as_str()), ("pay", 51421, "zl-prod-0-pay-d"));
        assert_eq!((pay.private_key.expose(), pay.public_key.to_base64()), (PRIVATE, public()));
        assert_eq!(content(&dir), file, "reading changes nothing");

        // Written again, it says the same; what is not ours stays, whatever is taken away.
        save(&marker, &found);
        assert_eq!(content(&dir)["networks"].as_array().unwrap().len(), 3);
        assert_eq!(marker.load().unwrap(), found);
        assert_eq!(fs::metadata(dir.join(FILE_NAME)).unwrap().permissions().mode() & 0o777, 0o600);
        save(&marker, &[]);
        assert_eq!(content(&dir), json!({"version": 1, "networks": [foreign, half]}));
    }

    #[test]
    fn the_file_is_the_one_the_replaced_daemon_writes() {
        let dir = TempDir::new();
        let source = TempDir::new();
        let found = marker(&source, &json!({"networks": [pay()]})).load().unwrap();
        let marker = Marker::new(dir.path());
        save(&marker, &[]);
        assert!(!dir.join(FILE_NAME).exists(), "no file for nothing");
        save(&marker, &found);
        assert_eq!(content(&dir), json!({"version": 1, "networks": [pay()]}));
    }

    #[test]
    fn a_damaged_file_is_kept_and_a_later_one_left_alone() {
        let dir = TempDir::new();
        let kept = |dir: &TempDir| {
            let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter(|name| name.to_string_lossy().contains(".damaged-")).count()
        };
        for text in ["{\"version\":1,\"netw", "[]", "{\"networks\":7}"] {
            let dir = TempDir::new();
            fs::write(dir.join(FILE_NAME), text).unwrap();
            let error = Marker::new(dir.path()).load().unwrap_err();
            assert!(matches!(error, MarkerError::Unreadable { .. }), "{error}");
            assert_eq!((kept(&dir), dir.join(FILE_NAME).exists()), (1, false));
        }
        fs::write(dir.join(FILE_NAME), "nonsense").unwrap();
        let marker = Marker::new(dir.path());
        save(&marker, &marker_identities());
        assert_eq!((kept(&dir), marker.load().unwrap().len()), (1, 1));

        let later = super::tests::marker(&dir, &json!({"version": 2, "nets": {}}));
        assert!(matches!(later.load(), Err(MarkerError::Newer { version: 2, .. })));
        assert!(matches!(later.prepare(&[]), Err(MarkerError::Newer { .. })));
        assert_eq!(content(&dir), json!({"version": 2, "nets": {}}));
    }

    fn marker_identities() -> Vec<Identity> {
        let dir = TempDir::new();
        marker(&dir, &json!({"networks": [pay()]})).load().unwrap()
    }
}
