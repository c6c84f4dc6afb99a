//! The two networks of a node, and where they listen.
//!
//! A port that the system chooses is chosen once, when the node is made, and kept: the others of the cluster know it by it.

use tribune_p2p::network::{Admission, JoinerLimits};
use tribune_p2p::{Identity, Multiaddr, Network, NetworkConfig};

use crate::data::DataFolder;
use crate::error::NodeError;
use crate::settings::Settings;
use crate::world::Carrier;

/// The two networks of a node, with one key.
#[derive(Debug, Clone)]
pub struct Networks {
    /// Raft, sessions, questions. Unknown peers may connect in order to join.
    pub control: Network,
    /// Packages, modules, snapshots.
    pub data: Network,
}

impl Networks {
    /// Starts both.
    ///
    /// # Errors
    /// Names the address that cannot be listened at, and where it is set.
    pub async fn start(
        carrier: &Carrier,
        identity: &Identity,
        settings: &Settings,
        data: &DataFolder,
    ) -> Result<Self, NodeError> {
        let failed = |key: &'static str| {
            let setting = format!("`{key}` in {}, or --{key} when the node is made", data.settings().display());
            move |source| NodeError::Listen { setting, source }
        };
        let joiners = Admission::JoinersToo(JoinerLimits::default());
        let config = NetworkConfig::new("control", [settings.control.clone()]).admitting(joiners);
        let control = carrier.start(identity, config).await.map_err(failed("control"))?;
        match carrier.start(identity, NetworkConfig::new("data", [settings.data.clone()])).await {
            Ok(data) => Ok(Self { control, data }),
            Err(error) => {
                control.shutdown().await;
                Err(failed("data")(error))
            }
        }
    }

    /// Closes both. Their ports are free when this returns.
    pub async fn shutdown(&self) {
        self.control.shutdown().await;
        self.data.shutdown().await;
    }

    /// Puts the ports that the system chose into the settings.
    pub fn keep_ports(&self, settings: &mut Settings) {
        settings.control = with_port(&settings.control, &self.control.listening());
        settings.data = with_port(&settings.data, &self.data.listening());
    }
}

/// The address with the port that is really listened at, where the system was to choose one.
fn with_port(wanted: &Multiaddr, listening: &[Multiaddr]) -> Multiaddr {
    let text = wanted.to_string();
    let Some(front) = text.strip_suffix("/tcp/0") else { return wanted.clone() };
    let port = listening.iter().find_map(|address| Some(address.to_string().rsplit_once("/tcp/")?.1.to_owned()));
    port.and_then(|port| format!("{front}/tcp/{port}").parse().ok()).unwrap_or_else(|| wanted.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_the_system_chose_is_kept_and_one_in_use_is_named_with_its_setting() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::make(folder.path()).unwrap();
        let any: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
        let mut settings = Settings::new("n1".parse().unwrap(), None, Some(any.clone()), Some(any));
        let networks = Networks::start(&Carrier::Libp2p, &Identity::generate(), &settings, &data).await.unwrap();
        networks.keep_ports(&mut settings);
        assert_eq!(networks.control.listening(), [settings.control.clone()]);
        assert_eq!(networks.data.listening(), [settings.data.clone()]);
        let error = Networks::start(&Carrier::Libp2p, &Identity::generate(), &settings, &data).await.unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains("`control`"), "{error}");
        networks.shutdown().await;
    }
}
