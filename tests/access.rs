//! Who may do what: keys with roles, let in and taken away again, at any peer.

use anyhow::{Context, Result, ensure};
use tribune_tests::cli::{Output, tribune};
use tribune_tests::{Cluster, PackageSource, eventually};

/// A key of its own, and what it says at a peer.
struct User<'a> {
    cluster: &'a Cluster,
    key: String,
    peer: String,
}

impl User<'_> {
    fn says(&self, args: &[&str]) -> Result<Output> {
        tribune(&[args, &["--peer", &self.peer, "--key", &self.key]].concat(), "")
    }

    /// Lets its key in with a role.
    fn let_in(&self, name: &str, role: &str) -> Result<()> {
        let public = tribune(&["admin", "key", &self.key], "")?.expect(0)?.stdout;
        let at = &self.cluster.nodes[0];
        at.cli(&["admin", "add", name, "--public-key", public.trim(), "--role", role])?.expect(0)?;
        Ok(())
    }
}

fn user<'a>(cluster: &'a Cluster, name: &str) -> Result<User<'a>> {
    let key = cluster.folder().join(format!("{name}.key")).display().to_string();
    tribune(&["admin", "key", &key], "")?.expect(0)?;
    Ok(User { cluster, key, peer: cluster.not_master()?.address()? })
}

#[test]
fn a_user_may_do_what_its_role_says_and_nothing_once_it_is_taken_away() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let file = PackageSource::new("p", "1.0.0").probe("m", "1", "").build(cluster.folder())?.display().to_string();
    let (viewer, publisher, operator) = (user(&cluster, "vic")?, user(&cluster, "pat")?, user(&cluster, "ola")?);
    let stranger = user(&cluster, "sam")?.says(&["node", "list", "--timeout", "5s"])?;
    ensure!(stranger.code == 1 && stranger.stderr.contains("tribune admin add"), "{stranger:?}");

    viewer.let_in("vic", "viewer")?;
    publisher.let_in("pat", "publisher")?;
    operator.let_in("ola", "operator")?;
    for user in [&viewer, &publisher, &operator] {
        eventually("the peer knows the key", || Ok((user.says(&["node", "list"])?.code == 0).then_some(())))?;
    }
    let refused = |output: Output, has: &str, needs: &str| -> Result<()> {
        let said = output.expect(1)?.stderr.to_lowercase();
        ensure!(said.contains(has) && said.contains(needs), "{said}");
        Ok(())
    };
    refused(viewer.says(&["package", "publish", &file])?, "viewer", "publisher")?;
    publisher.says(&["package", "publish", &file])?.expect(0)?;
    let submit = ["update", "submit", "--package", "p@1.0.0", "--node", "n2"];
    refused(publisher.says(&submit)?, "publisher", "operator")?;
    refused(viewer.says(&submit)?, "viewer", "operator")?;
    operator.says(&submit)?.expect(0)?;
    refused(operator.says(&["token", "create"])?, "operator", "admin")?;
    refused(operator.says(&["node", "remove", "n3"])?, "operator", "admin")?;

    let listed = cluster.nodes[0].json(&["admin", "list"])?;
    let names: Vec<_> = listed["items"].as_array().context("no items")?.iter().map(|item| &item["name"]).collect();
    ensure!(names == ["admin", "ola", "pat", "vic"], "{listed}");
    let refused = cluster.nodes[0].cli(&["admin", "remove", "admin"])?.expect(1)?;
    ensure!(refused.stderr.contains("admin is the only admin"), "{}", refused.stderr);
    let unknown = cluster.nodes[0].cli(&["admin", "remove", "olaf"])?.expect(1)?;
    ensure!(unknown.stderr.contains("olaf") && unknown.stderr.contains("ola"), "{}", unknown.stderr);

    cluster.nodes[0].cli(&["admin", "remove", "ola"])?.expect(0)?;
    eventually("the peer has forgotten the key", || {
        let said = operator.says(&["node", "list", "--timeout", "5s"])?;
        Ok((said.code == 1 && said.stderr.contains("tribune admin add")).then_some(()))
    })?;
    Ok(())
}

#[test]
fn a_revoked_publisher_stops_no_running_fleet_and_what_was_published_goes_nowhere_new() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    let build = |version: &str| -> Result<String> {
        Ok(PackageSource::new("p", version).probe("m", version, "").build(cluster.folder())?.display().to_string())
    };
    let (one, two) = (build("1.0.0")?, build("2.0.0")?);
    let pat = user(&cluster, "pat")?;
    pat.let_in("pat", "publisher")?;
    eventually("the peer knows the key", || Ok((pat.says(&["node", "list"])?.code == 0).then_some(())))?;
    for file in [&one, &two] {
        pat.says(&["package", "publish", file])?.expect(0)?;
    }
    let submit = |cluster: &Cluster, package: &str, node: &str, code: i32| {
        cluster.nodes[0].cli(&["update", "submit", "--package", package, "--node", node])?.expect(code)
    };
    submit(&cluster, "p@1.0.0", "n2", 0)?;
    submit(&cluster, "p@2.0.0", "n2", 0)?;
    cluster.nodes[0].cli(&["admin", "remove", "pat"])?.expect(0)?;

    let said = submit(&cluster, "p@2.0.0", "n3", 8)?.stderr;
    ensure!(said.contains("p 2.0.0 was published by key") && said.contains("publish it again"), "{said}");
    let n2 = cluster.node_mut("n2");
    n2.kill_all()?;
    n2.run()?;
    eventually("p/m runs again after a restart", || n2.pid("p/m"))?;
    let n1 = &cluster.nodes[0];
    eventually("n2 is here", || Ok((n1.json(&["node", "show", "n2"])?["connected"] == true).then_some(())))?;
    n1.cli(&["regress", "--node", "n2"])?.expect(0)?;
    n1.cli(&["package", "publish", &two])?.expect(0)?;
    submit(&cluster, "p@2.0.0", "n3", 0)?;
    Ok(())
}
