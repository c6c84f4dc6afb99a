//! What users were told stays so.

use anyhow::{Context, Result, ensure};

use super::Evidence;
use crate::damage::is_sound;

/// Every update that was acknowledged is there, and there are no more than were asked for.
pub fn submissions(evidence: &mut Evidence<'_>) -> Result<()> {
    let record = &evidence.record;
    for update in &record.known_before {
        ensure!(record.listed.contains(update), "{update} was acknowledged and is not there");
    }
    let by_users = record.updates.values().filter(|update| update["submitted_by"] == "admin").count();
    let asked = evidence.told.submissions();
    ensure!(by_users <= usize::try_from(asked)?, "users have {by_users} updates, and asked for {asked}");
    Ok(())
}

/// What has ended has ended.
pub fn outcomes(evidence: &mut Evidence<'_>) -> Result<()> {
    let changed = &evidence.record.changed;
    ensure!(changed.is_empty(), "{changed:?}");
    Ok(())
}

/// Every package that was acknowledged is in the store, and its module is whole on most of the voters.
pub fn packages(evidence: &mut Evidence<'_>) -> Result<()> {
    let world = evidence.world;
    let within = std::time::Duration::from_secs(10);
    let list = world.ask_any(0, &["package", "list"], within)?;
    let status = world.ask_any(0, &["status"], within)?;
    let voters: Vec<usize> =
        status["voters"].as_array().context("no voters")?.iter().filter_map(|name| world.number(name.as_str()?)).collect();
    for wanted in evidence.told.published() {
        let (name, version) = wanted.split_once('@').context("no version")?;
        let items = list["items"].as_array().context("no items")?;
        let package = items.iter().find(|package| package["name"] == name && package["version"] == version);
        let package = package.with_context(|| format!("{wanted} was acknowledged and is not in the store"))?;
        for module in package["modules"].as_array().context("no modules")? {
            let signature = module["signature"].as_str().context("no signature")?;
            let blob = |voter: &&usize| world.nodes[**voter].data.join("packages").join(&signature[..2]).join(signature);
            let whole = voters.iter().map(|voter| blob(&voter)).filter(|blob| blob.exists() && is_sound(blob)).count();
            ensure!(whole > voters.len() / 2, "{wanted} is whole on {whole} of {} voters", voters.len());
        }
    }
    Ok(())
}
