//! The demo's packages, built on the spot from what lies beside this program.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::fleet::Fleet;

/// A version of a package: its description, its data, and the programs beside this one.
pub(super) struct Version {
    name: &'static str,
    description: &'static str,
    data: Option<(&'static str, &'static str)>,
    programs: &'static [&'static str],
}

const CATALOGUES: [(&str, &str); 2] = [
    ("catalogue-1.txt", include_str!("packages/catalogue-1.txt")),
    ("catalogue-2.txt", include_str!("packages/catalogue-2.txt")),
];

/// A web server, a daemon behind it, and its catalogue.
pub(super) const QUOTES: [Version; 2] = [
    Version {
        name: "quotes-1",
        description: include_str!("packages/quotes-1.toml"),
        data: Some(CATALOGUES[0]),
        programs: &["quoted-1", "quote-web-1"],
    },
    Version {
        name: "quotes-2",
        description: include_str!("packages/quotes-2.toml"),
        data: Some(CATALOGUES[1]),
        programs: &["quoted-2", "quote-web-2"],
    },
];

/// A daemon that is asked from other nodes.
pub(super) const ALMANAC: [Version; 2] = [
    Version {
        name: "almanac-1",
        description: include_str!("packages/almanac-1.toml"),
        data: Some(CATALOGUES[0]),
        programs: &["quoted-1"],
    },
    Version {
        name: "almanac-2",
        description: include_str!("packages/almanac-2.toml"),
        data: Some(CATALOGUES[1]),
        programs: &["quoted-2"],
    },
];

/// Who asks it.
pub(super) const READER: [Version; 2] = [
    Version { name: "reader-1", description: include_str!("packages/reader-1.toml"), data: None, programs: &["quote-web-1"] },
    Version { name: "reader-2", description: include_str!("packages/reader-2.toml"), data: None, programs: &["quote-web-2"] },
];

/// What builds packages.
pub(super) struct Shelf {
    beside: PathBuf,
}

impl Shelf {
    /// The folder of this program, with the service's programs in it.
    pub(super) fn find() -> Result<Self> {
        let here = std::env::current_exe()?;
        let beside = here.parent().context("this program has no folder")?;
        for program in QUOTES.iter().flat_map(|version| version.programs) {
            let program = beside.join(program);
            ensure!(
                program.is_file(),
                "{} is not there; build the whole workspace with `make build`, and run the program that it makes where it is",
                program.display()
            );
        }
        Ok(Self { beside: beside.to_owned() })
    }

    /// Builds a package that asks the almanac at this address; gives its file.
    pub(super) fn build_asking(&self, fleet: &Fleet, version: &Version, almanac: &str) -> Result<String> {
        let source = fleet.folder().join(version.name);
        fs::create_dir_all(&source)?;
        fs::write(source.join("tribune.toml"), version.description.replace("\"ALMANAC\"", &format!("{almanac:?}")))?;
        if let Some((file, text)) = version.data {
            fs::write(source.join(file), text)?;
        }
        for program in version.programs {
            fs::copy(self.beside.join(program), source.join(program))?;
        }
        let file = source.with_extension("tpkg").display().to_string();
        let description = source.join("tribune.toml").display().to_string();
        let built = fleet.tribune(&["package", "build", "--manifest", &description, "-o", &file])?;
        if built.code != 0 {
            bail!("the package could not be built: {}", built.text);
        }
        Ok(file)
    }

    /// Builds a package; gives its file.
    pub(super) fn build(&self, fleet: &Fleet, version: &Version) -> Result<String> {
        self.build_asking(fleet, version, "")
    }
}
