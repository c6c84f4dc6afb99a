//! A disk that a test can fill: a file system in memory, whose size is changed while it is in use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::fs::statvfs;

/// What the names of all of them begin with; then comes the process that made it.
const PREFIX: &str = "tribune-test-";

/// A small disk in the place of a folder. It is taken away when this is dropped, also by a panic.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Whether this machine lets a test have one; if not, why.
    pub fn possible() -> Result<(), String> {
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        Err("only root can mount a small disk: this test is skipped".into())
    }

    /// Puts a disk of so many bytes in the place of this folder, with what is in it. Nothing may be using the folder.
    pub fn mount(folder: &Path, bytes: u64) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let aside = folder.with_extension("aside");
        fs::rename(folder, &aside)?;
        fs::create_dir(folder)?;
        let place = folder.display().to_string();
        let name = format!("{PREFIX}{}", std::process::id());
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes},mode=0700"), &name, &place])?;
        let disk = Self { folder: folder.to_owned() };
        run("cp", &["-a", &format!("{}/.", aside.display()), &place])?;
        fs::remove_dir_all(aside)?;
        Ok(disk)
    }

    /// Takes away the disks of tests that were killed.
    pub fn sweep() -> Result<()> {
        for line in fs::read_to_string("/proc/mounts")?.lines() {
            let mut words = line.split(' ');
            let (Some(name), Some(place)) = (words.next(), words.next()) else { continue };
            let Some(pid) = name.strip_prefix(PREFIX) else { continue };
            if !Path::new("/proc").join(pid).exists() {
                // Another test may be sweeping as well.
                let _ = run("umount", &["--lazy", place]);
            }
        }
        Ok(())
    }

    /// Makes it so large.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        run("mount", &["-o", &format!("remount,size={bytes}"), &self.folder.display().to_string()])
    }

    /// Makes it as small as what is on it, so that nothing more can be written.
    pub fn fill(&self) -> Result<()> {
        // What uses it may write meanwhile: then it is tried again.
        let mut last = Ok(());
        for _ in 0..100 {
            let disk = statvfs(&self.folder)?;
            let used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize;
            last = self.resize(used.max(disk.f_frsize));
            if last.is_ok() {
                return Ok(());
            }
        }
        last.with_context(|| format!("{} could not be filled", self.folder.display()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Nodes may still be using it: it goes when they do.
        if let Err(error) = run("umount", &["--lazy", &self.folder.display().to_string()]) {
            eprintln!("{error:#}");
        }
    }
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| format!("running {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {said}", args.join(" "));
    Ok(())
}
