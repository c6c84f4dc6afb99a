//! Packages and images that were damaged, or made to do harm: refused wherever they are handed in, by name, and nothing of them is kept.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tribune_tests::cli::tribune;
use tribune_tests::{Cluster, PackageSource, eventually};

use crate::{refused, text};

/// A package of a file of 40 KB, and a folder module with one file of that name.
fn image(folder: &Path, file: &str) -> Result<Vec<u8>> {
    let place = folder.join("image");
    fs::create_dir_all(place.join("dir"))?;
    let content: Vec<u8> =
        (0..40_000u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).take(40_000).collect();
    fs::write(place.join("f"), content)?;
    fs::write(place.join("dir").join(file), "contents")?;
    let modules = "[[module]]\nname = \"m\"\npath = \"f\"\n[[module]]\nname = \"d\"\npath = \"dir\"\n";
    let manifest = place.join("tribune.toml");
    fs::write(&manifest, format!("[package]\nname = \"p\"\nversion = \"1.0.0\"\n{modules}"))?;
    let built = place.join("p.tpkg");
    tribune(&["package", "build", "--manifest", &text(&manifest), "-o", &text(&built)], "")?.expect(0)?;
    Ok(fs::read(built)?)
}

/// That this image is refused with these words wherever it is handed in, and the cluster has nothing of it.
fn refused_everywhere(cluster: &Cluster, bytes: &[u8], said: &[&str]) -> Result<()> {
    let file = cluster.folder().join("bad.tpkg");
    fs::write(&file, bytes)?;
    let file = text(&file);
    let said = [&["bad.tpkg: "], said].concat();
    let node = &cluster.nodes[0];
    refused(tribune(&["package", "inspect", &file], "")?, 1, &said)?;
    refused(node.cli(&["package", "publish", &file])?, 1, &said)?;
    refused(node.cli(&["update", "submit", &file, "--node", "n1"])?, 1, &said)?;
    ensure!(node.json(&["package", "list"])?["count"] == 0, "something was published");
    ensure!(node.json(&["update", "list"])?["count"] == 0, "something was submitted");
    Ok(())
}

#[test]
fn an_image_that_is_cut_short_or_damaged_is_refused_where_it_is_and_the_whole_one_goes_through() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let whole = image(cluster.folder(), "x")?;
    for at in (0..whole.len()).step_by(4096).chain([whole.len() - 1]) {
        let bytes = whole.get(..at).context("within")?;
        refused_everywhere(
            &cluster,
            bytes,
            &[&format!("it ends at byte {at}, within "), "it is cut short; copy or build it again"],
        )?;
    }
    let again = "copy or build it again";
    let module: &[&str] = &["module p/m is damaged: its bytes have signature ", "and its manifest says ", again];
    let cases: [(usize, &[&str]); 7] = [
        (0, &["this is no Tribune package or image"]),
        (8, &["it has container format 17; this build reads format 1, so use a newer Tribune"]),
        (20, &["its header is damaged: its hash does not match", again]),
        (400, &["its header is damaged: its hash does not match", again]),
        (whole.len() / 2, module),
        (whole.len() - 30, &["its trailer is damaged", again]),
        (whole.len() - 1, &["its trailer is damaged", again]),
    ];
    for (at, said) in cases {
        let mut bytes = whole.clone();
        *bytes.get_mut(at).context("within")? ^= 0x10;
        refused_everywhere(&cluster, &bytes, said).with_context(|| format!("byte {at}"))?;
    }
    refused_everywhere(&cluster, &[&whole[..], b"more"].concat(), &[&format!("bytes after its end, at byte {}", whole.len())])?;

    let file = cluster.folder().join("whole.tpkg");
    fs::write(&file, whole)?;
    cluster.nodes[0].cli(&["package", "publish", &text(&file)])?.expect(0)?;
    ensure!(cluster.nodes[0].json(&["package", "list"])?["count"] == 1, "the whole image was published");
    Ok(())
}

/// Where these bytes are.
fn find(bytes: &[u8], wanted: &[u8]) -> Result<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted).context("the bytes are not there")
}

/// The image with a name in its folder module's archive replaced by one as long, and every hash of it made to fit.
fn rename_inside(image: &[u8], from: &str, to: &str) -> Result<Vec<u8>> {
    const HASH: usize = blake3::OUT_LEN;
    let length = u32::from_le_bytes(image.get(12..16).context("a length")?.try_into()?) as usize;
    let (header, rest) = image.split_at_checked(16 + length).context("a header")?;
    let blobs = rest.get(HASH..rest.len() - HASH).context("blobs")?;
    let begin = find(blobs, b"TRIBDIR\x01")?;
    // Its one entry: kind, length of the path, the path, length of the contents, the contents; then the end.
    let end = begin + 8 + 1 + 2 + from.len() + 8 + "contents".len() + 1;
    let archive = blobs.get(begin..end).context("an archive")?;
    let mut changed = archive.to_vec();
    let name = find(archive, from.as_bytes())?;
    changed.splice(name..name + from.len(), to.bytes());

    let before = blake3::hash(archive).to_hex();
    let after = blake3::hash(&changed).to_hex();
    let mut header = header.to_vec();
    let at = find(&header, before.as_bytes())?;
    header.splice(at..at + before.len(), after.bytes());

    // Blobs are in the order of their signatures.
    let mut parts = [[&blobs[..begin], &blobs[end..]].concat(), changed];
    parts.sort_by_key(|part| *blake3::hash(part).as_bytes());
    let mut bytes = [&header[..], blake3::hash(&header).as_bytes(), &parts.concat()].concat();
    let trailer = blake3::hash(&bytes);
    bytes.extend_from_slice(trailer.as_bytes());
    Ok(bytes)
}

#[test]
fn an_image_whose_hashes_are_right_and_whose_archive_leads_out_is_refused_and_nothing_is_written() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let outside = format!("/tmp/tribune-out-{}", std::process::id());
    let harmless = "x".repeat(outside.len());
    let whole = image(cluster.folder(), &harmless)?;
    let other = "y".repeat(outside.len());
    let renamed = cluster.folder().join("renamed.tpkg");
    fs::write(&renamed, rename_inside(&whole, &harmless, &other)?)?;
    tribune(&["package", "inspect", &text(&renamed)], "")?.expect(0).context("a harmless name is accepted")?;

    let climbing = format!("../{}", "y".repeat(outside.len() - 3));
    let hidden = format!("x/../../{}", "y".repeat(outside.len() - 8));
    for (name, said) in
        [(&outside, "has an absolute path"), (&climbing, "has \"..\" in its path"), (&hidden, "has \"..\" in its path")]
    {
        let bytes = rename_inside(&whole, &harmless, name)?;
        let named = format!("\"{name}\" {said}");
        refused_everywhere(&cluster, &bytes, &["module p/d", "is not valid", &named, "the module's folder"])?;
    }
    ensure!(!Path::new(&outside).exists(), "{outside} was written");
    Ok(())
}

/// The image with another text in its header, and every hash of it made to fit.
fn with_header(image: &[u8], change: impl FnOnce(String) -> String) -> Result<Vec<u8>> {
    const HASH: usize = blake3::OUT_LEN;
    let length = u32::from_le_bytes(image.get(12..16).context("a length")?.try_into()?) as usize;
    let header = String::from_utf8(image.get(16..16 + length).context("a header")?.to_vec())?;
    let blobs = image.get(16 + length + HASH..image.len() - HASH).context("blobs")?;
    let changed = change(header.clone());
    ensure!(changed != header, "nothing was changed in {header}");
    let mut bytes = [&image[..12], &u32::try_from(changed.len())?.to_le_bytes(), changed.as_bytes()].concat();
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes.extend_from_slice(blobs);
    let trailer = blake3::hash(&bytes);
    bytes.extend_from_slice(trailer.as_bytes());
    Ok(bytes)
}

/// The image with this entry alone in the archive of its folder module, and every hash of it made to fit.
fn with_entry(image: &[u8], kind: u8, path: &str, rest: &[u8]) -> Result<Vec<u8>> {
    const HASH: usize = blake3::OUT_LEN;
    let length = u32::from_le_bytes(image.get(12..16).context("a length")?.try_into()?) as usize;
    let (before, after) = (16 + length + HASH, image.len() - HASH);
    let blobs = image.get(before..after).context("blobs")?;
    let begin = find(blobs, b"TRIBDIR\x01")?;
    let end = begin + 8 + 1 + 2 + "x".len() + 8 + "contents".len() + 1;
    let old = blobs.get(begin..end).context("an archive")?;
    let path_length = u16::try_from(path.len())?.to_le_bytes();
    let archive = [b"TRIBDIR\x01".as_slice(), &[kind], &path_length, path.as_bytes(), rest, &[0]].concat();
    // Blobs are in the order of their signatures.
    let mut parts = [[&blobs[..begin], &blobs[end..]].concat(), archive.clone()];
    parts.sort_by_key(|part| *blake3::hash(part).as_bytes());
    let bytes = [&image[..before], &parts.concat(), &image[after..]].concat();
    with_header(&bytes, |header| {
        let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
        let size = |bytes: &[u8]| format!("\\\"size\\\":{}", bytes.len());
        header.replace(&hash(old), &hash(&archive)).replace(&size(old), &size(&archive))
    })
}

#[test]
fn an_image_that_was_made_to_do_harm_is_refused_and_its_names_cannot_write_on_the_terminal() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let whole = image(cluster.folder(), "x")?;
    let size = 10_u64 << 30;
    let large = size.to_le_bytes();
    let link = |target: &str| [&u16::try_from(target.len()).unwrap_or(0).to_le_bytes()[..], target.as_bytes()].concat();
    let (file, executable, folder, to) = (2, 3, 1, 4);
    let cases: [(&str, Vec<u8>, &[&str]); 11] = [
        (
            "a declared size of 10 GiB",
            with_header(&whole, |header| header.replace("\\\"size\\\":40000", &format!("\\\"size\\\":{size}")))?,
            &["within module p/", "it is cut short; copy or build it again"],
        ),
        (
            "sizes beyond all numbers",
            with_header(&whole, |header| header.replace("\\\"size\\\":40000", &format!("\\\"size\\\":{}", u64::MAX - 1)))?,
            &["its package number 1 is not valid", "module m: size has more than 2^53 bytes"],
        ),
        (
            "a package's name with a control character",
            with_header(&whole, |header| header.replace("\\\"name\\\":\\\"p\\\"", "\\\"name\\\":\\\"p\\\\u001b[2J\\\""))?,
            &["its package number 1 is not valid", "package name", "is not valid: use 1 to 64 of a-z"],
        ),
        (
            "a module's name with a control character",
            with_header(&whole, |header| header.replace("\\\"name\\\":\\\"m\\\"", "\\\"name\\\":\\\"m\\\\u0007\\\""))?,
            &["its package number 1 is not valid", "module name", "is not valid: use 1 to 64 of a-z"],
        ),
        (
            "a file's name with a control character",
            with_entry(&whole, file, "a\u{1b}[2Jb", &0_u64.to_le_bytes())?,
            &["module p/d", "is not valid", "has a control character in its name; rename it"],
        ),
        (
            "a link to an absolute path",
            with_entry(&whole, to, "l", &link("/etc/passwd"))?,
            &["module p/d", "\"l\" is a link to the absolute path /etc/passwd; make it relative"],
        ),
        (
            "a link out of the folder",
            with_entry(&whole, to, "l", &link("../outside"))?,
            &["module p/d", "\"l\" is a link to ../outside, out of the module's folder"],
        ),
        (
            "a link out of the folder by a way round",
            with_entry(&whole, to, "l", &link("a/../../outside"))?,
            &["module p/d", "\"..\" is allowed only at the beginning of a link's target"],
        ),
        (
            "a folder out of the folder",
            with_entry(&whole, folder, "..", &[])?,
            &["module p/d", "has \"..\" in its path, which could lead out of the module's folder"],
        ),
        (
            // Nothing is compressed: what comes out of an archive is never more than what went in.
            "a file in the archive that says it has 10 GiB",
            with_entry(&whole, executable, "f", &large)?,
            &["module p/d", "it ends here, within an entry; it is cut short"],
        ),
        ("no known kind of entry", with_entry(&whole, 9, "f", &[])?, &["module p/d", "\"f\" is of the unknown kind 9"]),
    ];
    let blobs = || fs::read_dir(cluster.nodes[0].data.join("packages")).map(|entries| entries.count());
    let before = blobs()?;
    for (what, bytes, said) in cases {
        refused_everywhere(&cluster, &bytes, said).context(what)?;
        let output = tribune(&["package", "inspect", &text(&cluster.folder().join("bad.tpkg"))], "")?;
        let raw = output.stderr.chars().find(|letter| letter.is_control() && *letter != '\n');
        ensure!(raw.is_none(), "{what}: {raw:?} came to the terminal:\n{}", output.stderr);
    }
    eventually("nothing of them is left", || Ok((blobs()? == before).then_some(())))?;
    let good = with_entry(&whole, to, "l", &link("x/y"))?;
    let file = cluster.folder().join("good.tpkg");
    fs::write(&file, good)?;
    cluster.nodes[0]
        .cli(&["package", "publish", &text(&file)])?
        .expect(0)
        .context("one that is made the same way, and harmless")?;
    Ok(())
}

#[test]
fn a_target_list_that_names_what_is_not_there_is_refused_whole() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let node = &cluster.nodes[0];
    let package = text(&PackageSource::new("p", "1.0.0").file("m", "1", "").build(cluster.folder())?);
    let list = cluster.folder().join("targets.toml");
    let image = text(&cluster.folder().join("fleet.timg"));
    let build = || tribune(&["image", "build", "--targets", &text(&list), "-o", &image, &package], "");
    let cases: [(&str, &[&str]); 2] = [
        ("[nodes]\nn1 = [\"p\"]\nn9 = [\"p\"]\n", &["there is no node n9", "there are: n1"]),
        ("[nodes]\nn1 = [\"p\"]\n[classes]\nedge = [\"p\"]\n", &["there is no class edge", "there is no class at all yet"]),
    ];
    for (targets, said) in cases {
        fs::write(&list, targets)?;
        build()?.expect(0)?;
        refused(node.cli(&["update", "submit", &image])?, 1, said)?;
        ensure!(node.json(&["update", "list"])?["count"] == 0, "an update was begun");
        ensure!(node.json(&["node", "show", "n1"])?["packages"] == serde_json::json!({}), "n1 got its part");
    }
    for (targets, said) in [
        ("[nodes]\nn1 = [\"q\"]\n", "n1 gets package q in the target list, which the image does not have; it has p@1.0.0"),
        ("[nodes]\nn1 = [\"p@2.0.0\"]\n", "p@2.0.0"),
    ] {
        fs::write(&list, targets)?;
        refused(build()?, 1, &[said])?;
    }
    Ok(())
}
