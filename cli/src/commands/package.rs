//! `package …` and `image …`.

use std::path::{Path, PathBuf};

use tribune_messages::api::PackageInfo;
use tribune_package::{Built, Inspection, PackageRef, Targets, build_image, build_package, inspect, merge_packages};
use tribune_raft_store::command::{Rejection, UserCommand};
use tribune_raft_store::model::{Manifest, PackageId, PackageName};

use super::show_done;
use crate::args::{ImageCommand, PackageCommand};
use crate::context::Context;
use crate::exit::Exit;
use crate::json::{BuiltView, FileView, Many, NeededView, PackageView, PublicationView, PublishedPackage, RetainedView};
use crate::manifests::Manifests;
use crate::names::Names;
use crate::output::package as text;
use crate::output::words::{count, size};
use crate::places::no_folder;
use crate::problem::{Done, Problem, plain};

/// `package …`.
pub async fn package(context: &mut Context, command: PackageCommand) -> Done {
    match command {
        PackageCommand::Build { manifest } => build(context, &manifest)?,
        PackageCommand::Inspect { file } => show_file(context, &file)?,
        PackageCommand::Publish { file } => publish(context, &file).await?,
        PackageCommand::Remove { package } => {
            let (id, _) = stored(context, &package).await?;
            context.order(UserCommand::RemovePackage { package: id }).await?;
            show_done(context, &format!("removed {package} from the package store"));
        }
        PackageCommand::Retain { name, last } => retain(context, name, last as usize).await?,
        PackageCommand::Merge { packages } => merge(context, &packages)?,
        PackageCommand::List { name } => {
            let packages = context.packages(name.clone()).await?;
            if let (Some(name), true) = (&name, packages.is_empty()) {
                return Err(Problem::unknown("package", name, &package_names(context).await?));
            }
            let manifests = Manifests::of_store(&packages)?;
            let view = || packages.iter().filter_map(|info| Some(PackageView::stored(info, manifests.get(&info.id)?)));
            context.print.show("packages", || text::packages(&packages, &manifests), || view().collect::<Many<_>>());
        }
        PackageCommand::Show { package } => show(context, &package).await?,
    }
    Ok(Exit::Done)
}

/// `image …`.
pub async fn image(context: &mut Context, command: ImageCommand) -> Done {
    match command {
        ImageCommand::Build { targets, packages } => {
            let output =
                context.global.file().map(Path::to_owned).ok_or_else(|| plain("name the file to write with -o FILE.timg"))?;
            no_folder(&output, "the file to write with -o FILE.timg")?;
            for file in &packages {
                no_folder(file, "a package file (.tpkg); `tribune package build` makes one")?;
            }
            if let Some(list) = &targets {
                no_folder(list, "the file with the target list")?;
            }
            let targets = targets.as_deref().map(Targets::read).transpose().map_err(plain)?;
            let built = build_image(&packages, targets, &output).map_err(plain)?;
            let view = BuiltView::image(&built);
            let what = || {
                format!(
                    "built {}: {}, {}",
                    built.path.display(),
                    count(built.header.packages().len(), "package"),
                    size(built.size)
                )
            };
            context.print.show("built", what, || &view);
        }
        ImageCommand::Inspect { file } => show_file(context, &file)?,
    }
    Ok(Exit::Done)
}

fn build(context: &Context, description: &Path) -> Done<()> {
    no_folder(description, "the description in it, such as tribune.toml")?;
    let output = match context.global.file() {
        Some(file) => file.to_owned(),
        None => {
            // Read once more by the build itself: the name is in it.
            let manifest = tribune_package::source::read(description).map_err(plain)?.manifest;
            PathBuf::from(format!("{}-{}.tpkg", manifest.name, manifest.version))
        }
    };
    no_folder(&output, "the file to write with -o FILE.tpkg")?;
    show_built(context, &build_package(description, &output).map_err(plain)?);
    Ok(())
}

fn show_built(context: &Context, built: &Built) {
    let view = BuiltView::package(built);
    let what = || {
        let modules = count(built.manifest.modules.len(), "module");
        format!(
            "built {}: {} {}, {modules}, {}, id {}",
            built.path.display(),
            built.manifest.name,
            built.manifest.version,
            size(built.size),
            built.id
        )
    };
    context.print.show("built", what, || &view);
}

fn merge(context: &Context, packages: &[PathBuf]) -> Done<()> {
    let output = context.global.file().ok_or_else(|| plain("name the file to write with -o FILE.tpkg"))?;
    no_folder(output, "the file to write with -o FILE.tpkg")?;
    for file in packages {
        no_folder(file, "a package file (.tpkg); `tribune package build` makes one")?;
    }
    show_built(context, &merge_packages(packages, output).map_err(plain)?);
    Ok(())
}

/// The one package in the store that is meant.
async fn stored(context: &mut Context, package: &PackageRef) -> Done<(PackageId, Manifest)> {
    let manifests = Manifests::of_store(&context.packages(Some(package.name.clone())).await?)?;
    if let Some((id, manifest)) = manifests.all().find(|(_, manifest)| package.means(manifest)) {
        return Ok((*id, manifest.clone()));
    }
    let there_are = versions(&manifests);
    Err(Problem::unknown("package", package, &if there_are.is_empty() { package_names(context).await? } else { there_are }))
}

async fn retain(context: &mut Context, name: PackageName, last: usize) -> Done<()> {
    let manifests = Manifests::of_store(&context.packages(Some(name.clone())).await?)?;
    let mut versions: Vec<_> = manifests.all().map(|(id, manifest)| (manifest.version.clone(), *id)).collect();
    if versions.is_empty() {
        return Err(Problem::unknown("package", &name, &package_names(context).await?));
    }
    versions.reverse();
    let older = versions.split_off(last.min(versions.len()));
    let kept = versions.iter().map(|(version, _)| version.to_string()).collect();
    let mut view = RetainedView { package: name.to_string(), last: kept, removed: Vec::new(), needed: Vec::new() };
    for (version, package) in older {
        match context.try_order(UserCommand::RemovePackage { package }).await? {
            Err(Rejection::Pinned { needed_by, .. }) => view.needed.push(NeededView { version: version.to_string(), needed_by }),
            // Somebody else removed it meanwhile.
            Ok(_) | Err(Rejection::UnknownPackage { .. }) => view.removed.push(version.to_string()),
            Err(rejection) => return Err(rejection.into()),
        }
    }
    let text = || {
        let removed = view.removed.iter().map(|version| format!("removed {name}@{version}\n"));
        let needed = view.needed.iter().map(|kept| format!("{name}@{} stays: {}\n", kept.version, kept.needed_by.join("; ")));
        let lines: String = removed.chain(needed).collect();
        if lines.is_empty() { format!("there are no more than {} of {name}", count(view.last.len(), "version")) } else { lines }
    };
    context.print.show("retained", text, || &view);
    Ok(())
}

/// Verifies a file and says what is in it.
pub fn read_file(file: &Path) -> Done<Inspection> {
    no_folder(file, "a package file (.tpkg) or an image file (.timg)")?;
    inspect(file).map_err(plain)
}

fn show_file(context: &Context, file: &Path) -> Done<()> {
    let inspection = read_file(file)?;
    context.print.show("file", || text::file(&inspection), || FileView::of(&inspection));
    Ok(())
}

async fn publish(context: &mut Context, file: &Path) -> Done<()> {
    let inspection = read_file(file)?;
    let mut names = Names::default();
    for package in &inspection.packages {
        names.add(package.id, package.manifest.name.clone(), package.manifest.version.to_string());
    }
    let (packages, copies) = context.publish(file, inspection.size).await?;
    let all = packages.iter().map(|id| PublishedPackage { id: id.to_string(), package: names.full(id) }).collect();
    let view = PublicationView { packages: all, copies };
    let what = || {
        let lines = view.packages.iter().map(|package| format!("published {}, {}\n", package.package, count_copies(copies)));
        lines.collect()
    };
    context.print.show("published", what, || &view);
    Ok(())
}

/// On how many voters the modules are.
pub fn count_copies(copies: u32) -> String {
    if copies == 1 { "1 copy".into() } else { format!("{copies} copies") }
}

async fn package_names(context: &mut Context) -> Done<Vec<String>> {
    let packages = context.packages(None).await?;
    Ok(Manifests::of_store(&packages)?.all().map(|(_, manifest)| format!("{}@{}", manifest.name, manifest.version)).collect())
}

async fn show(context: &mut Context, package: &PackageRef) -> Done<()> {
    let packages = context.packages(Some(package.name.clone())).await?;
    let manifests = Manifests::of_store(&packages)?;
    let meant: Vec<(&PackageInfo, _)> = packages
        .iter()
        .filter_map(|info| Some((info, manifests.get(&info.id)?)))
        .filter(|(_, manifest)| package.means(manifest))
        .collect();
    if meant.is_empty() {
        let there_are = if packages.is_empty() { package_names(context).await? } else { versions(&manifests) };
        return Err(Problem::unknown("package", package, &there_are));
    }
    for (info, manifest) in meant {
        context.print.show("package", || text::stored(info, manifest), || PackageView::stored(info, manifest));
    }
    Ok(())
}

fn versions(manifests: &Manifests) -> Vec<String> {
    manifests.all().map(|(_, manifest)| format!("{}@{}", manifest.name, manifest.version)).collect()
}
