//! What every command needs: how to print, and a client that is connected when it is first used.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tribune_messages::api::{
    ApiError, ApiRequest, ApiResponse, ClassInfo, NodeInfo, PackageInfo, Query, UpdateInfo, UpdateSummary,
};
use tribune_node::client::{Client, ClientError, Uploaded};
use tribune_raft_store::command::{Accepted, Rejection, UserCommand};
use tribune_raft_store::model::{NodeName, PackageId, PackageName, Principal, PublicKey, Unmet, UpdateId};

use crate::args::Global;
use crate::output::Printer;
use crate::places::own_key;
use crate::problem::{Done, Problem, plain};

/// How often a file is uploaded, when each time another node has become master before it was published.
const UPLOADS: u32 = 3;
/// The socket of a node, in its data folder.
const SOCKET: &str = "tribune.sock";

/// What every command needs.
pub struct Context {
    /// The global options.
    pub global: Global,
    /// How to print.
    pub print: Printer,
    client: Option<Client>,
}

impl Context {
    /// A context that has not asked anyone anything.
    pub fn new(global: Global) -> Self {
        let print = Printer::new(global.format());
        Self { global, print, client: None }
    }

    /// Refuses `--peer` where only the node on this machine can be asked.
    ///
    /// # Errors
    /// When a peer was named.
    pub fn only_here(&self) -> Done<()> {
        if self.global.peer.is_empty() {
            return Ok(());
        }
        Err(Problem::with(
            crate::exit::Exit::Usage,
            "this command speaks to the node on this machine only",
            "leave out --peer (and TRIBUNE_PEER), and name the node's folder with --data",
        ))
    }

    async fn client(&mut self) -> Done<&mut Client> {
        if self.client.is_none() {
            self.client = Some(connect(&self.global).await?);
        }
        self.client.as_mut().ok_or_else(|| plain("there is no client"))
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn ask(&mut self, request: ApiRequest) -> Done<ApiResponse> {
        let patience = self.global.patience();
        Ok(self.client().await?.ask(&request, patience).await?)
    }

    /// The same, for what takes so much longer than any patience.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask_within(&mut self, request: ApiRequest, longer: Duration) -> Done<ApiResponse> {
        let patience = self.global.patience() + longer;
        Ok(self.client().await?.ask(&request, patience).await?)
    }

    /// Gives an order.
    ///
    /// # Errors
    /// Why it was not carried out.
    pub async fn order(&mut self, command: UserCommand) -> Done<Accepted> {
        let patience = self.global.patience();
        Ok(self.client().await?.order(command, patience).await?)
    }

    /// Gives an order that the record may reject.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn try_order(&mut self, command: UserCommand) -> Done<Result<Accepted, Rejection>> {
        let patience = self.global.patience();
        match self.client().await?.order(command, patience).await {
            Ok(accepted) => Ok(Ok(accepted)),
            Err(ClientError::Api(ApiError::Rejected(rejection))) => Ok(Err(*rejection)),
            Err(error) => Err(error.into()),
        }
    }

    /// Uploads a package or image file, and publishes its packages. If the master changed in between, the new one gets the file too.
    ///
    /// # Errors
    /// Why it was not published.
    pub async fn publish(&mut self, file: &Path, size: u64) -> Done<(BTreeSet<PackageId>, u32)> {
        let patience = self.global.patience();
        let live = self.print.is_live();
        let progress = move |sent: u64| {
            if live {
                crate::output::live(&format!(
                    "uploading {} of {}",
                    crate::output::words::size(sent),
                    crate::output::words::size(size)
                ));
            }
        };
        let client = self.client().await?;
        let mut left = UPLOADS;
        loop {
            left -= 1;
            let uploaded = client.upload(file, patience, progress).await;
            if live {
                crate::output::live("");
            }
            let Uploaded { packages, copies: _ } = uploaded?;
            match client.order(UserCommand::Publish { packages }, patience).await {
                Ok(Accepted::Published { packages, copies }) => return Ok((packages, copies)),
                Ok(_) => return Err(unexpected("a publication")),
                Err(ClientError::Api(ApiError::NotUploaded { .. })) if left > 0 => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes a backup of the cluster to a file.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn backup(&mut self, to: impl tokio::io::AsyncWrite + Unpin) -> Done<()> {
        let (patience, live) = (self.global.patience(), self.print.is_live());
        let came = move |came: u64, of: u64| {
            if live {
                use crate::output::words::size;
                crate::output::live(&format!("{} of {}", size(came), size(of)));
            }
        };
        let written = self.client().await?.backup(to, patience, came).await;
        if live {
            crate::output::live("");
        }
        Ok(written?)
    }

    /// Whether a node takes connections on the socket of the data folder.
    pub async fn has_node(&self) -> bool {
        tokio::net::UnixStream::connect(self.global.data.join(SOCKET)).await.is_ok()
    }

    /// The nodes.
    ///
    /// # Errors
    /// Why there is no answer; so for the others.
    pub async fn nodes(&mut self) -> Done<Vec<NodeInfo>> {
        match self.ask(ApiRequest::Query(Query::Nodes)).await? {
            ApiResponse::Nodes(nodes) => Ok(nodes),
            _ => Err(unexpected("the nodes")),
        }
    }

    /// A node, or an error that names those there are.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn node(&mut self, name: &NodeName) -> Done<NodeInfo> {
        let nodes = self.nodes().await?;
        let names: Vec<String> = nodes.iter().map(|info| info.node.name.to_string()).collect();
        nodes.into_iter().find(|info| info.node.name == *name).ok_or_else(|| Problem::unknown("node", name, &names))
    }

    /// The classes.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn classes(&mut self) -> Done<Vec<ClassInfo>> {
        match self.ask(ApiRequest::Query(Query::Classes)).await? {
            ApiResponse::Classes(classes) => Ok(classes),
            _ => Err(unexpected("the classes")),
        }
    }

    /// Who may do what, by name.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn principals(&mut self) -> Done<Vec<(PublicKey, Principal)>> {
        match self.ask(ApiRequest::Query(Query::Principals)).await? {
            ApiResponse::Principals(principals) => Ok(principals),
            _ => Err(unexpected("who may do what")),
        }
    }

    /// The needs that are not met.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn unmet(&mut self) -> Done<Vec<Unmet>> {
        match self.ask(ApiRequest::Query(Query::Unmet)).await? {
            ApiResponse::Unmet(unmet) => Ok(unmet),
            _ => Err(unexpected("the needs that are not met")),
        }
    }

    /// The packages, or those of a name.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn packages(&mut self, name: Option<PackageName>) -> Done<Vec<PackageInfo>> {
        match self.ask(ApiRequest::Query(Query::Packages { name })).await? {
            ApiResponse::Packages(packages) => Ok(packages),
            _ => Err(unexpected("the packages")),
        }
    }

    /// The updates, newest first.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn updates(&mut self, limit: u32) -> Done<Vec<UpdateSummary>> {
        match self.ask(ApiRequest::Query(Query::Updates { limit })).await? {
            ApiResponse::Updates(updates) => Ok(updates),
            _ => Err(unexpected("the updates")),
        }
    }

    /// An update; with `after`, when it is newer than this log index, or as it is after some time.
    ///
    /// # Errors
    /// When it is not there: the error names the last ones.
    pub async fn update(&mut self, update: UpdateId, after: Option<u64>) -> Done<UpdateInfo> {
        let patience = self.global.patience();
        let asked = self.client().await?.ask(&ApiRequest::Query(Query::Update { update, after }), patience).await;
        match asked {
            Ok(ApiResponse::Update(info)) => Ok(*info),
            Ok(_) => Err(unexpected("the update")),
            Err(error) if names_nothing(&error) => {
                let last: Vec<String> = self.updates(10).await?.iter().map(|info| info.update.id.to_string()).collect();
                Err(Problem::unknown("update", update, &last))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn names_nothing(error: &ClientError) -> bool {
    match error {
        ClientError::Api(ApiError::NotFound { .. }) => true,
        ClientError::Api(ApiError::Rejected(rejection)) => matches!(**rejection, Rejection::UnknownUpdate { .. }),
        _ => false,
    }
}

/// The peer answered something else than was asked.
pub fn unexpected(what: &'static str) -> Problem {
    ClientError::Unexpected(what).into()
}

async fn connect(global: &Global) -> Done<Client> {
    if global.peer.is_empty() {
        return Ok(Client::over_socket(&global.data.join(SOCKET)));
    }
    let Some(key) = &global.key else {
        return Err(Problem::with(
            crate::exit::Exit::Usage,
            "a peer was named, and no key",
            "name the file with your key with --key (or TRIBUNE_KEY)",
        ));
    };
    let key = own_key(key)?;
    Ok(Client::over_network(key, global.peer.clone()).await?)
}
