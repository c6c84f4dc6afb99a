//! A peer that has a member's key and means harm.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::de::IgnoredAny;
use tokio::time::timeout;
use tribune_messages::{
    ADMIN_PROTOCOL, FORWARD_PROTOCOL, JOIN_PROTOCOL, PEER_PROTOCOL, RAFT_PROTOCOL, SESSION_PROTOCOL, SNAPSHOT_PROTOCOL,
};
use tribune_p2p::transfer::BLOB_PROTOCOL;
use tribune_p2p::{Channel, Identity, Limits, Multiaddr, Network, NetworkConfig, PeerId};
use tribune_tests::{Cluster, eventually};

use crate::memory;

/// The most that a node's memory may grow by, in KiB: far less than what was declared.
const GROWTH: u64 = 64 << 10;
/// The streams on which frames are declared, at the same time.
const STREAMS: usize = 8;
const WITHIN: Duration = Duration::from_secs(20);

/// Declares a frame of 4 GiB, sends what the other takes of it, and waits until the other has closed the stream.
async fn declare_4_gib(channel: Channel) -> Result<()> {
    let (mut sender, mut receiver) = channel.split();
    sender.begin_body(u64::MAX)?;
    let send = async {
        // It may have closed the connection already, because of another of these streams.
        let _ = sender.write_body(&u32::MAX.to_be_bytes()).await;
        let rubbish = vec![0xAA; 64 << 10];
        while sender.write_body(&rubbish).await.is_ok() {}
        // What the other does not take is of no interest to it.
        std::future::pending::<()>().await;
    };
    let closed = async {
        // Whatever it still says: it says nothing more after that.
        while let Ok(Some(_)) = receiver.recv::<IgnoredAny>().await {}
    };
    let ended = async {
        tokio::select! {
            () = closed => {}
            () = send => {}
        }
    };
    timeout(WITHIN, ended).await.context("the stream was not closed")
}

/// Opens a stream, also when the connection is just being closed because of an earlier one.
async fn open(network: &Network, to: PeerId, address: &Multiaddr, protocol: &'static str) -> Result<Channel> {
    let limits = Limits { max_frame: u32::MAX, send_time: WITHIN, recv_time: Some(WITHIN) };
    let mut tries = 0;
    loop {
        match network.open(to, std::slice::from_ref(address), protocol, limits).await {
            Err(_) if tries < 5 => tries += 1,
            opened => return opened.with_context(|| protocol.to_owned()),
        }
    }
}

#[test]
fn a_member_that_declares_frames_of_4_gib_is_refused_on_every_protocol_and_the_node_goes_on() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    let shown = cluster.nodes[0].json(&["node", "show", "n1"])?;
    let text = |field: &str| shown[field][0].as_str().context("no address").map(str::to_owned);
    let (control, data): (Multiaddr, Multiaddr) = (text("control_addresses")?.parse()?, text("data_addresses")?.parse()?);
    let victim: PeerId = shown["peer"].as_str().context("no identity")?.parse()?;
    // Its key, while the node itself is down.
    cluster.node_mut("n3").kill_all()?;
    let key = Identity::load(&cluster.node("n3").data.join("identity.key"))?;
    let agent = cluster.nodes[0].agent()?.context("no agent")?;
    let before = memory(agent)?;

    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let on_control = Network::start(&key, NetworkConfig::new("control", [])).await?;
        let on_data = Network::start(&key, NetworkConfig::new("data", [])).await?;
        let controls = [RAFT_PROTOCOL, SESSION_PROTOCOL, PEER_PROTOCOL, JOIN_PROTOCOL, ADMIN_PROTOCOL, FORWARD_PROTOCOL]
            .map(|name| (name, &on_control, &control));
        let datas = [SNAPSHOT_PROTOCOL, BLOB_PROTOCOL].map(|name| (name, &on_data, &data));
        for (protocol, network, address) in controls.into_iter().chain(datas) {
            let mut declared = Vec::new();
            for _ in 0..STREAMS {
                let channel = open(network, victim, address, protocol).await?;
                declared.push(tokio::spawn(declare_4_gib(channel)));
            }
            for one in declared {
                one.await?.with_context(|| protocol.to_owned())?;
            }
        }
        anyhow::Ok(())
    })?;

    let after = memory(agent)?;
    ensure!(after < before + GROWTH, "the agent had {before} KiB and has {after} KiB");
    ensure!(cluster.nodes[0].agent()? == Some(agent), "the agent was restarted");
    cluster.nodes[0].cli(&["node", "label", "n1", "after=x"])?.expect(0)?;
    cluster.node_mut("n3").run()?;
    eventually("the node whose key it was is there again", || {
        Ok((cluster.nodes[0].json(&["node", "show", "n3"])?["connected"] == true).then_some(()))
    })
}
