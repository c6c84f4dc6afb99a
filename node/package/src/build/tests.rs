//! Files built, joined, inspected and damaged.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// A folder with a package of a program, in several parts of 4 KiB, and a folder of data.
fn project(name: &str, version: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let text = format!(
        "[package]\nname = \"{name}\"\nversion = \"{version}\"\n\
         [[module]]\nname = \"data\"\npath = \"data\"\n\
         [[module]]\nname = \"daemon\"\npath = \"daemon\"\nplatform = \"linux/amd64\"\nrun = [\"daemon\"]\ndepends-on = [\"data\"]\n\
         [[module]]\nname = \"daemon\"\npath = \"daemon\"\nplatform = \"linux/arm64\"\n"
    );
    fs::write(at.join("tribune.toml"), text).unwrap();
    fs::write(at.join("daemon"), format!("{name} {version} ").repeat(1000)).unwrap();
    fs::create_dir_all(at.join("data/deep")).unwrap();
    fs::write(at.join("data/deep/table"), "the same rows in every package").unwrap();
    symlink("deep/table", at.join("data/current")).unwrap();
    folder
}

fn build(project: &TempDir, output: &Path) -> Built {
    build_package(&project.path().join("tribune.toml"), output).unwrap()
}

fn message(result: Result<impl std::fmt::Debug, BuildError>, folder: &TempDir) -> String {
    result.unwrap_err().to_string().replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn a_package_that_was_built_is_inspected_as_it_was_described() {
    let (project, out) = (project("billing", "2.3.1"), tempfile::tempdir().unwrap());
    let path = out.path().join("billing.tpkg");
    let built = build(&project, &path);
    let inspected = inspect(&path).unwrap();
    assert_eq!(inspected.packages, [InspectedPackage { id: built.id, manifest: built.manifest.clone() }]);
    assert_eq!((inspected.size, inspected.targets), (built.size, None));
    assert_eq!(built.size, fs::metadata(&path).unwrap().len());
    assert_eq!(inspected.blobs.len(), 2, "both platforms' daemons have the same bytes here");
    let daemon = Signature::of(&fs::read(project.path().join("daemon")).unwrap());
    let blob = inspected.blobs.iter().find(|blob| blob.signature == daemon).unwrap();
    assert_eq!(blob.modules, ["billing/daemon (linux/amd64)", "billing/daemon (linux/arm64)"]);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1, "nothing else is left there");
}

#[test]
fn the_same_input_makes_the_same_bytes_elsewhere_and_later() {
    let out = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| {
        let project = project("billing", "1.0.0");
        let path = out.path().join(name);
        build(&project, &path);
        (path, project)
    });
    assert_eq!(fs::read(first.0).unwrap(), fs::read(second.0).unwrap());
}

#[test]
fn an_image_has_its_packages_and_targets_whatever_their_order() {
    let out = tempfile::tempdir().unwrap();
    let files = ["billing", "rates", "audit"].map(|name| {
        let path = out.path().join(name);
        build(&project(name, "1.0.0"), &path);
        path
    });
    let targets: Targets = serde_json::from_str(r#"{"nodes":{"n1":["billing"]},"classes":{"edge":["rates","audit"]}}"#).unwrap();
    let (image, other) = (out.path().join("a.timg"), out.path().join("b.timg"));
    let built = build_image(&files, Some(targets.clone()), &image).unwrap();
    let inspected = inspect(&image).unwrap();
    assert_eq!(inspected.targets, Some(targets.clone()));
    let names: Vec<_> = inspected.packages.iter().map(|package| package.manifest.name.as_str()).collect();
    assert_eq!(names, ["audit", "billing", "rates"]);
    assert_eq!(inspected.blobs.len(), 4, "three daemons, and the data that all share once");
    assert_eq!(inspected.size, built.size);
    let reversed: Vec<_> = files.iter().rev().collect();
    build_image(&reversed, Some(targets), &other).unwrap();
    assert_eq!(fs::read(image).unwrap(), fs::read(other).unwrap());
    // An inspection is a document of its own.
    let text = serde_json::to_string(&inspected).unwrap();
    assert_eq!(serde_json::from_str::<Inspection>(&text).unwrap(), inspected);
}

#[test]
fn an_image_of_what_does_not_fit_is_refused_and_leaves_nothing() {
    let out = tempfile::tempdir().unwrap();
    let (first, second, image) = (out.path().join("a.tpkg"), out.path().join("b.tpkg"), out.path().join("x.timg"));
    build(&project("billing", "1.0.0"), &first);
    build(&project("billing", "1.0.0"), &second);
    let none: [&Path; 0] = [];
    let refused = |result| message(result, &out);
    assert_eq!(refused(build_image(&none, None, &image)), "an image has at least one package; give package files (.tpkg)");
    assert_eq!(
        refused(build_image(&[&first, &second], None, &image)),
        "a.tpkg and b.tpkg are both billing@1.0.0; give one of them"
    );
    let targets: Targets = serde_json::from_str(r#"{"nodes":{"n1":["rates"]}}"#).unwrap();
    assert_eq!(
        refused(build_image(&[&first], Some(targets), &image)),
        "node n1 gets package rates in the target list, which the image does not have; it has billing@1.0.0"
    );
    assert_eq!(
        refused(build_image(&[&first, &out.path().join("c.tpkg")], None, &image)),
        "c.tpkg cannot be opened: No such file or directory (os error 2)"
    );
    let targets: Targets = serde_json::from_str(r#"{"nodes":{"n1":["billing"]}}"#).unwrap();
    build_image(&[&first], Some(targets), &second).unwrap();
    assert_eq!(
        refused(build_image(&[&second], None, &image)),
        "b.tpkg is an image; an image is built from package files (.tpkg)"
    );
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 2);
}

#[test]
fn a_damaged_package_file_is_named_and_makes_no_image() {
    let out = tempfile::tempdir().unwrap();
    let (package, image) = (out.path().join("a.tpkg"), out.path().join("x.timg"));
    build(&project("billing", "1.0.0"), &package);
    let whole = fs::read(&package).unwrap();
    let mut damaged = whole.clone();
    let at = damaged.windows(13).rposition(|window| window == b"billing 1.0.0").unwrap();
    damaged[at] ^= 1;
    fs::write(&package, damaged).unwrap();
    for error in [message(build_image(&[&package], None, &image), &out), message(inspect(&package), &out)] {
        assert!(
            error.starts_with("a.tpkg: module billing/daemon (linux/amd64) and billing/daemon (linux/arm64) is damaged"),
            "{error}"
        );
    }
    for at in (0..whole.len()).step_by(4096) {
        fs::write(&package, &whole[..at]).unwrap();
        for error in [message(build_image(&[&package], None, &image), &out), message(inspect(&package), &out)] {
            assert!(error.starts_with(&format!("a.tpkg: it ends at byte {at}, within ")), "{error}");
        }
    }
    assert!(!image.exists());
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
}

#[test]
fn a_package_is_not_written_into_its_own_module() {
    let project = project("billing", "1.0.0");
    let error =
        message(build_package(&project.path().join("tribune.toml"), &project.path().join("data/deep/out.tpkg")), &project);
    assert!(error.starts_with("data/deep/out.tpkg lies in the folder of a module, "), "{error}");
}

#[test]
fn a_package_replaces_the_file_that_was_there_only_when_it_is_whole() {
    let (project, out) = (project("billing", "1.0.0"), tempfile::tempdir().unwrap());
    let path = out.path().join("a.tpkg");
    fs::write(&path, "what was there").unwrap();
    fs::remove_file(project.path().join("daemon")).unwrap();
    build_package(&project.path().join("tribune.toml"), &path).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), b"what was there");
}

/// A package of a daemon for one platform, and of data that is the same for all.
fn for_platform(folder: &Path, platform: &str, version: &str, summary: &str) -> std::path::PathBuf {
    let project = tempfile::tempdir().unwrap();
    let at = project.path();
    let text = format!(
        "[package]\nname = \"billing\"\nversion = \"{version}\"\nsummary = \"{summary}\"\n\
         [[module]]\nname = \"daemon\"\npath = \"daemon\"\nplatform = \"{platform}\"\nrun = [\"daemon\"]\n\
         [[module]]\nname = \"data\"\npath = \"data\"\n"
    );
    fs::write(at.join("tribune.toml"), text).unwrap();
    fs::write(at.join("daemon"), format!("for {platform} ").repeat(1000)).unwrap();
    fs::write(at.join("data"), "the same everywhere").unwrap();
    let file = folder.join(format!("{}-{version}-{}.tpkg", platform.replace('/', "-"), summary.len()));
    build(&project, &file);
    file
}

#[test]
fn packages_of_different_platforms_are_joined_into_the_same_bytes_whatever_their_order() {
    let out = tempfile::tempdir().unwrap();
    let files = ["linux/amd64", "linux/arm64", "linux/riscv64"].map(|platform| for_platform(out.path(), platform, "1.0.0", "s"));
    let (one, other) = (out.path().join("one.tpkg"), out.path().join("other.tpkg"));
    let built = merge_packages(&files, &one).unwrap();
    merge_packages(&[&files[2], &files[0], &files[1], &files[0]], &other).unwrap();
    assert_eq!(fs::read(&one).unwrap(), fs::read(&other).unwrap());
    let inspected = inspect(&one).unwrap();
    assert_eq!(inspected.packages, [InspectedPackage { id: built.id, manifest: built.manifest.clone() }]);
    assert_eq!((inspected.blobs.len(), built.size), (4, inspected.size), "three daemons, and the data once");
    let modules: Vec<_> = built.manifest.modules.iter().map(|module| format!("{} {}", module.name, module.platform)).collect();
    assert_eq!(modules, ["daemon linux/amd64", "daemon linux/arm64", "daemon linux/riscv64", "data any"]);

    // As if it had been built at once.
    let again = merge_packages(&[&one], &out.path().join("again.tpkg")).unwrap();
    assert_eq!(again.id, built.id);
}

#[test]
fn packages_that_do_not_belong_together_are_not_joined_and_the_field_that_differs_is_named() {
    let out = tempfile::tempdir().unwrap();
    let amd = for_platform(out.path(), "linux/amd64", "1.0.0", "s");
    let joined = |other: &Path| message(merge_packages(&[amd.as_path(), other], &out.path().join("out.tpkg")), &out);
    for (platform, version, summary, expected) in [
        ("linux/arm64", "1.0.1", "s", "version is \"1.0.0\" in the first and \"1.0.1\" in the second"),
        ("linux/arm64", "1.0.0", "sum", "summary is \"s\" in the first and \"sum\" in the second"),
    ] {
        let error = joined(&for_platform(out.path(), platform, version, summary));
        assert!(error.contains("cannot be joined") && error.contains(expected), "{error}");
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let project = project("billing", "1.0.0");
    fs::write(
        project.path().join("tribune.toml"),
        "[package]\nname = \"billing\"\nversion = \"1.0.0\"\nsummary = \"s\"\n\
         [[module]]\nname = \"daemon\"\npath = \"daemon\"\nplatform = \"linux/amd64\"\nrun = [\"daemon\"]\n",
    )
    .unwrap();
    let other = elsewhere.path().join("other.tpkg");
    build(&project, &other);
    let error = joined(&other);
    assert!(error.contains("module daemon for linux/amd64 is in both, and signature is"), "{error}");

    let image = out.path().join("image.timg");
    let targets: Targets = serde_json::from_str(r#"{"nodes":{"n1":["billing"]}}"#).unwrap();
    build_image(&[&amd], Some(targets), &image).unwrap();
    assert!(joined(&image).contains("is an image"));
    assert!(!out.path().join("out.tpkg").exists(), "nothing is left behind");
}
