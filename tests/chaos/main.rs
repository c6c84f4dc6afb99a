//! Chaos: real processes are killed, stopped, cut off from each other and robbed of their disks, while users ask for one update after
//! another; and what users and processes were told stays true.
//!
//! One idea: storms and calms. In a storm faults come by a schedule that a seed makes, and what must hold always is looked at all the time.
//! Then everything is mended, and the cluster has a stated time in which all the rest must hold too, before the next storm.
//!
//! - [`schedule`], [`faults`], [`damage`]: what is broken, and how it is mended;
//! - [`disasters`]: what is lost for good after a calm, and how the cluster goes on;
//! - [`users`], [`apart`], [`guest`], [`software`], [`told`]: what is asked for, what is rolled out, and what was answered;
//! - [`world`], [`record`], [`heard`]: what is seen from outside;
//! - [`checks`], [`calm`]: what must hold;
//! - [`settings`], [`random`], [`chronicle`], [`masterless`], [`report`]: how a run is made and told.
//!
//! `TRIBUNE_CHAOS_SEED` and `TRIBUNE_CHAOS_MINUTES` set how; `make chaos MINUTES=30` runs it alone. As root each node has a host of its own,
//! in a network namespace, and two have disks that can be filled; otherwise all are on the loopback of this machine.

mod apart;
mod calm;
mod checks;
mod chronicle;
mod damage;
mod disasters;
mod faults;
mod guest;
mod heard;
mod masterless;
mod random;
mod record;
mod report;
mod schedule;
mod settings;
mod software;
mod told;
mod users;
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tribune_tests::cluster::LogInTheEnd;
use tribune_tests::{Cluster, Net, NodeOptions, SmallDisk};

use crate::checks::Evidence;
use crate::chronicle::{Chronicle, say};
use crate::disasters::Backup;
use crate::faults::{Hand, ROOM};
use crate::guest::Guest;
use crate::random::Random;
use crate::schedule::{Means, Network, schedule};
use crate::settings::Settings;
use crate::software::{BROKEN, BYSTANDER, CHAIN, Software, VERSIONS};
use crate::told::Told;
use crate::users::User;
use crate::world::World;

const NODES: u8 = 5;
/// The nodes with disks that can be filled.
const DISKS: [usize; 2] = [1, 3];
const USERS: u64 = 4;
const STORM: Duration = Duration::from_secs(75);
/// There are disasters after the last storm; and so often after one before it, in percent.
const DISASTERS_BEFORE: usize = 25;
/// Of the whole time, what is left to the last calm.
const LAST_CALM: Duration = Duration::from_secs(50);

/// Streams of chance. Each storm has some of its own.
const SHAPE: u64 = 1;
const SCHEDULE: u64 = 100;
const HAND: u64 = 10_000;
const BACKUP: u64 = 20_000;
const DISASTERS: u64 = 30_000;
const GUEST: u64 = 40_000;
const USER: u64 = 1_000_000;

#[test]
fn whatever_breaks_what_users_and_processes_were_told_stays_true() -> Result<()> {
    let settings = Settings::of_environment()?;
    say(&format!("seed {}: {}", settings.seed, settings.again()));
    let net = Net::possible().inspect_err(|why| say(why)).is_ok().then(|| Net::start(NODES)).transpose()?;
    let options = NodeOptions::default();
    let mut cluster = match &net {
        Some(net) => Cluster::start_on(net, &options)?,
        None => Cluster::start_with(&vec![options; NODES.into()])?,
    };
    cluster.nodes.iter_mut().for_each(|node| node.log_in_the_end(LogInTheEnd::Left));
    let disks = give_disks(&mut cluster)?;
    let world = World::of(&cluster, Software::new(cluster.folder()), Chronicle::begin(&cluster.folder().join("chronicle"))?)?;
    let told = Told::default();
    let mut evidence = Evidence::new(&world, &told);
    let voters = make_ready(&world, &told, settings)?;
    let network = if net.is_some() { Network::Cables } else { Network::Loopback };
    let means = Means { nodes: world.nodes.len(), network, disks: disks.keys().copied().collect() };
    let (storms, without_master) = weather(&mut cluster, &disks, &mut evidence, &means, (settings, voters))?;
    report::figures(&evidence, storms, without_master);
    if let Some(violation) = world.violation() {
        report::violation(&evidence, &violation, &settings)?;
        bail!("{}: {}", violation.sentence, violation.seen);
    }
    Ok(())
}

/// Storms and calms, until the time is over or something does not hold, and disasters after the last and some others; gives how many, and
/// the longest time without a master.
fn weather(
    cluster: &mut Cluster,
    disks: &BTreeMap<usize, SmallDisk>,
    evidence: &mut Evidence<'_>,
    means: &Means,
    (settings, voters): (Settings, usize),
) -> Result<(u32, Duration)> {
    let begun = Instant::now();
    let (mut storms, mut longest) = (0, Duration::ZERO);
    let has_time = || begun.elapsed() + STORM + LAST_CALM <= settings.length();
    while evidence.world.violation().is_none() && (storms == 0 || has_time()) {
        storms += 1;
        let length = STORM.min(settings.length().saturating_sub(LAST_CALM)).max(Duration::from_secs(10));
        let (without_master, backup) = storm(cluster, disks, evidence, means, (settings, storms.into(), length))?;
        longest = longest.max(without_master);
        let storm_over = Instant::now();
        calm::calm(evidence, voters);
        say(&format!("storm {storms}, and {:.1} s until everything was looked at", storm_over.elapsed().as_secs_f64()));
        let mut random = Random::new(settings.seed, DISASTERS + u64::from(storms));
        if random.percent(DISASTERS_BEFORE) || !has_time() {
            disasters::strike(cluster, evidence, voters, backup, random);
        }
    }
    Ok((storms, longest))
}

/// One storm; gives the longest time in it without a master, and a backup that was taken in it.
fn storm(
    cluster: &mut Cluster,
    disks: &BTreeMap<usize, SmallDisk>,
    evidence: &mut Evidence<'_>,
    means: &Means,
    (settings, number, length): (Settings, u64, Duration),
) -> Result<(Duration, Option<Backup>)> {
    let (world, told) = (evidence.world, evidence.told);
    world.chronicle.note(format!("storm {number} of {length:?}"));
    world.begin_storm();
    let chance = |stream| Random::new(settings.seed, stream + number);
    let planned = schedule(chance(SCHEDULE), length, means);
    let host = chance(GUEST).below(cluster.nodes.len());
    let guest = Guest::beside(world, &cluster.nodes[host], number, chance(GUEST));
    let (seen, guest) = std::thread::scope(|scope| -> Result<_> {
        let masterless = scope.spawn(|| masterless::longest(world));
        for user in 0..USERS {
            let user = User::new(world, told, chance(USER * (1 + user)));
            scope.spawn(move || user.run());
        }
        let backup = scope.spawn(|| Backup::under_load(world, told, chance(BACKUP), length));
        let guest = scope.spawn(move || guest.come_and_go(world, told, host, length));
        scope.spawn(|| evidence.watch());
        let broken = Hand::new(world, cluster, disks, chance(HAND)).carry_out(planned);
        world.end_storm();
        broken?;
        let masterless = masterless.join().ok().context("a thread panicked")?;
        let backup = backup.join().ok().context("a thread panicked")?;
        Ok(((masterless, backup), guest.join().ok().context("a thread panicked")?))
    })?;
    if let Err(error) = guest.see_off(world) {
        world.violated("a node that is removed is gone within 60 s when faults end, and knows it", format!("{error:#}"));
    }
    Ok(seen)
}

/// Puts the data of some nodes on disks of their own.
fn give_disks(cluster: &mut Cluster) -> Result<BTreeMap<usize, SmallDisk>> {
    let mut disks = BTreeMap::new();
    if let Err(why) = SmallDisk::possible() {
        say(&why);
        return Ok(disks);
    }
    SmallDisk::sweep()?;
    for number in DISKS {
        let node = &mut cluster.nodes[number];
        node.stop()?;
        disks.insert(number, SmallDisk::mount(&node.data, ROOM)?);
        node.run()?;
    }
    cluster.settle()?;
    Ok(disks)
}

/// Publishes what there is, and installs the first versions on every node; gives how many voters there are to be.
fn make_ready(world: &World, told: &Told, settings: Settings) -> Result<usize> {
    let within = Duration::from_secs(60);
    let mut random = Random::new(settings.seed, SHAPE);
    let voters = if random.percent(50) { 5 } else { 3 };
    let away_after = *random.pick(&["15s", "10m"]);
    let set = ["cluster", "settings", "--voters", &voters.to_string(), "--standbys", "1", "--away-after", away_after];
    world.admin(0, &set, within)?.expect(0)?;
    world.chronicle.note(format!("{voters} voters, a node is away after {away_after}"));
    let versions = VERSIONS.iter().flat_map(|version| CHAIN.iter().map(move |(package, ..)| (*package, *version)));
    for (package, version) in versions.chain([("billing", BROKEN), (BYSTANDER.0, VERSIONS[0])]) {
        let file = world.software.build(package, version)?.display().to_string();
        world.admin(0, &["package", "publish", &file], within)?.expect(0)?;
        told.has_published(package, version);
    }
    // The bystander first: whoever goes back to what was before the others still has it.
    install_everywhere(world, told, &[BYSTANDER.0])?;
    install_everywhere(world, told, &CHAIN.map(|(package, ..)| package))?;
    Ok(voters)
}

/// Installs the first versions of some packages on every node.
fn install_everywhere(world: &World, told: &Told, packages: &[&str]) -> Result<()> {
    let mut args: Vec<String> = ["update", "submit", "--strategy", "together"].map(Into::into).to_vec();
    args.extend(packages.iter().flat_map(|package| ["--package".into(), format!("{package}@{}", VERSIONS[0])]));
    args.extend(world.nodes.iter().flat_map(|node| ["--node".into(), node.name.clone()]));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let update = told.submit(world, 0, &args)?.context("the first versions were refused")?;
    world.try_ask(0, &["update", "watch", &update], Duration::from_secs(90))?.expect(0)?;
    Ok(())
}
