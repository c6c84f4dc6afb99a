//! Joins what was built on different machines into one package.
//!
//! One idea: what says something of the package as a whole must be the same in all files, and a module that is in several must be the
//! same in each. So the outcome does not depend on their order, and says nothing that one of them does not say.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};
use tribune_raft_store::model::{Manifest, Module};

use super::{BuildError, Built, Input, open_package, save, write_from};
use crate::container::Header;

/// Joins package files of one version into one `.tpkg` file with the modules of all. The files are verified while they are read; their
/// order does not matter.
pub fn merge_packages(packages: &[impl AsRef<Path>], output: &Path) -> Result<Built, BuildError> {
    let mut inputs: Vec<Input<'_>> = Vec::new();
    let mut joined: Option<Joined<'_>> = None;
    for path in packages.iter().map(AsRef::as_ref) {
        let (package, reader) = open_package(path)?;
        match &mut joined {
            Some(joined) => joined.add(path, package)?,
            None => joined = Some(Joined::first(path, package)),
        }
        inputs.push((path, reader));
    }
    let manifest = joined.ok_or(BuildError::NoPackages)?.manifest()?;
    let header = Header::new(vec![manifest.clone()], None)?;
    let size = save(output, |file| write_from(&header, &mut inputs, file))?;
    Ok(Built { id: manifest.id(), manifest, path: output.into(), size })
}

/// What tells modules of one package apart.
type Key = (String, String, Vec<(String, String)>);

/// What the files read so far make together.
struct Joined<'a> {
    first: &'a Path,
    package: Manifest,
    modules: BTreeMap<Key, (&'a Path, Module)>,
}

impl<'a> Joined<'a> {
    fn first(path: &'a Path, package: Manifest) -> Self {
        let modules = package.modules.iter().map(|module| (key(module), (path, module.clone()))).collect();
        Self { first: path, package, modules }
    }

    fn add(&mut self, path: &'a Path, package: Manifest) -> Result<(), BuildError> {
        let apart = |first: &Path, what: String| BuildError::Apart { first: first.into(), second: path.into(), what };
        let whole = |package: &Manifest| Manifest { modules: Vec::new(), ..package.clone() };
        if let Some(differs) = difference(&whole(&self.package), &whole(&package)) {
            return Err(apart(self.first, differs));
        }
        for module in package.modules {
            let named = format!("module {} for {}", module.name, module.platform);
            match self.modules.get(&key(&module)) {
                Some((other, known)) => {
                    if let Some(differs) = difference(known, &module) {
                        return Err(apart(other, format!("{named} is in both, and {differs}")));
                    }
                }
                None => drop(self.modules.insert(key(&module), (path, module))),
            }
        }
        Ok(())
    }

    /// The manifest of all together, with its modules in the order that every manifest has.
    fn manifest(self) -> Result<Manifest, BuildError> {
        let mut modules: Vec<Module> = self.modules.into_values().map(|(_, module)| module).collect();
        modules.sort_by(|a, b| (&a.name, &a.platform, &a.characteristics).cmp(&(&b.name, &b.platform, &b.characteristics)));
        let manifest = Manifest { modules, ..self.package };
        // Each was checked alone; together they may be too many, or depend on each other in a circle.
        Ok(Manifest::parse(&manifest.canonical())?)
    }
}

fn key(module: &Module) -> Key {
    let characteristics = module.characteristics.iter().map(|(key, value)| (key.to_string(), value.clone()));
    (module.name.to_string(), module.platform.to_string(), characteristics.collect())
}

/// The first field in which two differ, as the description of a package names it, with what it is in each.
fn difference(a: &impl Serialize, b: &impl Serialize) -> Option<String> {
    let (a, b) = (fields_of(a), fields_of(b));
    let name = a.keys().chain(b.keys()).find(|name| a.get(*name) != b.get(*name))?;
    let shown = |fields: &Map<String, Value>| fields.get(name).map_or_else(|| "not there".to_owned(), ToString::to_string);
    Some(format!("{name} is {} in the first and {} in the second", shown(&a), shown(&b)))
}

fn fields_of(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}
