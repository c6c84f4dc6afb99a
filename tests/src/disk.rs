//! A disk that a test can fill: a file system in memory, whose size is changed while it is in use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::fs::statvfs;

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
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes},mode=0700"), "tribune-test", &place])?;
        let disk = Self { folder: folder.to_owned() };
        run("cp", &["-a", &format!("{}/.", aside.display()), &place])?;
        fs::remove_dir_all(aside)?;
        Ok(disk)
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
