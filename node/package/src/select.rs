//! Which modules of a package a node gets.
//!
//! One idea: a pure function from a manifest and what a node is like to modules, or to every reason why not.
//!
//! Of the variants of a module, those suit that are for the node's platform and whose characteristics all match. The
//! most specific one is taken: more characteristics first, then the exact platform over `any`. If none suits, the
//! module is *missing* when the package has it for nodes like this one but for no such platform, else it is *not for
//! this node*.

use std::collections::{BTreeMap, BTreeSet};

use tribune_raft_store::model::{CharacteristicKey, Desired, Facts, Manifest, Module, ModuleName, PackageName, Platform};

/// What a node is like: its platform, and its characteristics by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Characteristics {
    /// The platform it declares.
    pub platform: Platform,
    /// Its characteristics. `required` ones exclude modules that do not name them.
    pub values: BTreeMap<CharacteristicKey, Desired>,
}

impl Characteristics {
    /// What a node found out about itself, and what a user wants it to be like; the latter wins. `os` and `arch` are those
    /// of its platform unless either says otherwise.
    pub fn of(facts: &Facts, desired: &BTreeMap<CharacteristicKey, Desired>) -> Self {
        let fact = |value: &str| Desired { value: value.to_owned(), required: false };
        let mut values = BTreeMap::new();
        if let Platform::Exactly { os, arch } = &facts.platform {
            for (key, value) in [("os", os), ("arch", arch)] {
                // Both keys keep the rule of names, so nothing is left out here.
                values.extend(CharacteristicKey::new(key).ok().map(|key| (key, fact(value))));
            }
        }
        values.extend(facts.discovered.iter().map(|(key, value)| (key.clone(), fact(value))));
        values.extend(desired.iter().map(|(key, value)| (key.clone(), value.clone())));
        Self { platform: facts.platform.clone(), values }
    }

    /// Whether all characteristics of a module match, and it names all that are required.
    fn match_those_of(&self, module: &Module) -> bool {
        module.characteristics.iter().all(|(key, value)| self.values.get(key).is_some_and(|own| own.value == *value))
            && self.values.iter().all(|(key, own)| !own.required || module.characteristics.contains_key(key))
    }
}

/// A module that a node gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selected<'a> {
    /// Its place in the manifest's list of modules.
    pub index: u32,
    /// The module.
    pub module: &'a Module,
}

/// Why the modules for a node cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The node's platform has no variant of a module.
    #[error("module {module} is missing for {platform}; the package has it for {}", list(available))]
    Missing {
        /// The module.
        module: ModuleName,
        /// The node's platform.
        platform: Platform,
        /// The platforms that have it.
        available: BTreeSet<Platform>,
    },
    /// Two variants suit equally well.
    #[error("two variants of module {module} suit equally well: {first} and {second}; give one of them a further characteristic")]
    Tie {
        /// The module.
        module: ModuleName,
        /// One of them, by its platform and characteristics.
        first: String,
        /// The other.
        second: String,
    },
    /// A module is for this node, and needs one that is not.
    #[error("module {module} needs module {needs}, whose characteristics do not match this node")]
    Dependency {
        /// The module that needs.
        module: ModuleName,
        /// What it needs.
        needs: ModuleName,
    },
}

fn list(platforms: &BTreeSet<Platform>) -> String {
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A module's platform and characteristics in words, such as `linux/amd64 with role = edge`.
pub fn describe(module: &Module) -> String {
    let mut text = module.platform.to_string();
    for (place, (key, value)) in module.characteristics.iter().enumerate() {
        text.push_str(if place == 0 { " with " } else { ", " });
        text.push_str(&format!("{key} = {value}"));
    }
    text
}

/// The modules of a package that a node gets, in the manifest's order. They may be none: then the package has nothing
/// for this node. The errors are all there are, in the order of the modules' names.
///
/// Dependencies on other packages are not looked at: what else the node has is not known here.
pub fn select<'a>(manifest: &'a Manifest, node: &Characteristics) -> Result<Vec<Selected<'a>>, Vec<SelectError>> {
    let mut variants: BTreeMap<&ModuleName, Vec<Selected<'a>>> = BTreeMap::new();
    for (index, module) in (0..).zip(&manifest.modules) {
        variants.entry(&module.name).or_default().push(Selected { index, module });
    }
    let mut taken = Vec::new();
    let mut not_here = BTreeSet::new();
    let mut errors = Vec::new();
    for (name, variants) in variants {
        match choose(name, &variants, node) {
            Ok(Some(selected)) => taken.push(selected),
            Ok(None) => {
                not_here.insert(name);
            }
            Err(error) => errors.push(error),
        }
    }
    for Selected { module, .. } in &taken {
        let needs = own_dependencies(module, &manifest.name).filter(|needs| not_here.contains(needs));
        errors.extend(needs.map(|needs| SelectError::Dependency { module: module.name.clone(), needs: needs.clone() }));
    }
    taken.sort_by_key(|selected| selected.index);
    if errors.is_empty() { Ok(taken) } else { Err(errors) }
}

/// The modules of its own package that a module needs.
fn own_dependencies<'a>(module: &'a Module, package: &PackageName) -> impl Iterator<Item = &'a ModuleName> {
    module.depends_on.iter().filter(move |d| d.package.as_ref().is_none_or(|p| p == package)).map(|d| &d.module)
}

/// Of the variants of one module, the one for the node; `None` if the module is not for it.
fn choose<'a>(name: &ModuleName, variants: &[Selected<'a>], node: &Characteristics) -> Result<Option<Selected<'a>>, SelectError> {
    let alike: Vec<_> = variants.iter().filter(|v| node.match_those_of(v.module)).collect();
    if !alike.is_empty() && !variants.iter().any(|v| v.module.platform.suits(&node.platform)) {
        return Err(SelectError::Missing {
            module: name.clone(),
            platform: node.platform.clone(),
            available: variants.iter().map(|v| v.module.platform.clone()).collect(),
        });
    }
    let rank = |v: &Selected<'_>| (v.module.characteristics.len(), v.module.platform != Platform::Any);
    let suiting = || alike.iter().filter(|v| v.module.platform.suits(&node.platform));
    let Some(best) = suiting().max_by_key(|v| rank(v)) else { return Ok(None) };
    match suiting().find(|v| rank(v) == rank(best) && v.index != best.index) {
        None => Ok(Some(**best)),
        Some(other) => {
            Err(SelectError::Tie { module: name.clone(), first: describe(other.module), second: describe(best.module) })
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tribune_raft_store::model::Signature;

    /// Name, platform, characteristics and what it depends on.
    type Described<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

    fn package(modules: &[Described<'_>]) -> Manifest {
        let modules: Vec<_> = modules
            .iter()
            .map(|(name, platform, characteristics, needs)| {
                serde_json::json!({
                    "name": name, "platform": platform, "signature": Signature::of(name.as_bytes()), "size": 1,
                    "characteristics": characteristics.iter().copied().collect::<BTreeMap<_, _>>(), "depends-on": needs,
                })
            })
            .collect();
        serde_json::from_value(serde_json::json!({ "format": 1, "name": "billing", "version": "1.0.0", "module": modules }))
            .unwrap()
    }

    fn node(platform: &str, values: &[(&str, &str)]) -> Characteristics {
        let values = values.iter().map(|(key, value)| {
            let required = value.ends_with('!');
            (CharacteristicKey::new(*key).unwrap(), Desired { value: value.trim_end_matches('!').into(), required })
        });
        Characteristics { platform: platform.parse().unwrap(), values: values.collect() }
    }

    fn indices(manifest: &Manifest, node: &Characteristics) -> Result<Vec<u32>, Vec<String>> {
        select(manifest, node)
            .map(|selected| selected.iter().map(|s| s.index).collect())
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_node_gets_the_variant_of_its_platform_and_what_is_for_any() {
        let both = package(&[("d", "linux/amd64", &[], &[]), ("d", "linux/arm64", &[], &[]), ("data", "any", &[], &[])]);
        assert_eq!(indices(&both, &node("linux/amd64", &[])), Ok(vec![0, 2]));
        assert_eq!(indices(&both, &node("linux/arm64", &[])), Ok(vec![1, 2]));
    }

    #[test]
    fn a_platform_without_a_variant_is_missing() {
        let one = package(&[("d", "linux/amd64", &[], &[]), ("d", "linux/riscv64", &[], &[])]);
        let message = "module d is missing for linux/arm64; the package has it for linux/amd64, linux/riscv64";
        assert_eq!(indices(&one, &node("linux/arm64", &[])), Err(vec![message.into()]));
    }

    #[test]
    fn other_characteristics_that_do_not_match_mean_not_for_this_node() {
        let edge = package(&[("d", "linux/amd64", &[("role", "edge")], &[]), ("data", "any", &[], &[])]);
        assert_eq!(indices(&edge, &node("linux/amd64", &[("role", "core")])), Ok(vec![1]));
        assert_eq!(indices(&edge, &node("linux/amd64", &[])), Ok(vec![1]));
        // Nor is it missing where neither platform nor role is right.
        assert_eq!(indices(&edge, &node("linux/arm64", &[("role", "core")])), Ok(vec![1]));
        assert!(indices(&edge, &node("linux/arm64", &[("role", "edge")])).is_err());
    }

    #[test]
    fn the_most_specific_variant_wins() {
        let variants = package(&[
            ("d", "any", &[], &[]),
            ("d", "linux/amd64", &[], &[]),
            ("d", "any", &[("role", "edge")], &[]),
            ("d", "any", &[("role", "edge"), ("site", "oslo")], &[]),
        ]);
        assert_eq!(indices(&variants, &node("linux/arm64", &[])), Ok(vec![0]));
        assert_eq!(indices(&variants, &node("linux/amd64", &[])), Ok(vec![1]));
        assert_eq!(indices(&variants, &node("linux/amd64", &[("role", "edge")])), Ok(vec![2]));
        assert_eq!(indices(&variants, &node("linux/amd64", &[("role", "edge"), ("site", "oslo")])), Ok(vec![3]));
    }

    #[test]
    fn a_tie_names_both() {
        let tie = package(&[("d", "any", &[("role", "edge")], &[]), ("d", "any", &[("site", "oslo")], &[])]);
        let message = "two variants of module d suit equally well: any with role = edge and any with site = oslo; \
                       give one of them a further characteristic";
        assert_eq!(indices(&tie, &node("linux/amd64", &[("role", "edge"), ("site", "oslo")])), Err(vec![message.into()]));
        assert_eq!(indices(&tie, &node("linux/amd64", &[("role", "edge")])), Ok(vec![0]));
    }

    #[test]
    fn a_required_characteristic_excludes_modules_that_do_not_name_it() {
        let gpu = package(&[("d", "any", &[], &[]), ("d", "any", &[("gpu", "yes")], &[]), ("plain", "any", &[], &[])]);
        assert_eq!(indices(&gpu, &node("linux/amd64", &[("gpu", "yes!")])), Ok(vec![1]));
        assert_eq!(indices(&gpu, &node("linux/amd64", &[("gpu", "no!")])), Ok(vec![]));
        assert_eq!(indices(&gpu, &node("linux/amd64", &[("gpu", "no")])), Ok(vec![0, 2]));
    }

    #[test]
    fn a_module_that_needs_one_that_is_not_for_the_node_is_an_error() {
        let needing = package(&[("d", "any", &[], &["billing/rates@^1"]), ("rates", "any", &[("role", "edge")], &[])]);
        let message = "module d needs module rates, whose characteristics do not match this node";
        assert_eq!(indices(&needing, &node("linux/amd64", &[])), Err(vec![message.into()]));
        assert_eq!(indices(&needing, &node("linux/amd64", &[("role", "edge")])), Ok(vec![0, 1]));
    }

    #[test]
    fn what_a_user_desires_wins_over_what_a_node_discovered() {
        let key = |text| CharacteristicKey::new(text).unwrap();
        let facts = Facts {
            platform: "linux/arm64".parse().unwrap(),
            discovered: [(key("cpus"), "4".to_owned()), (key("role"), "core".to_owned())].into(),
            ..Facts::default()
        };
        let desired = [(key("role"), Desired { value: "edge".into(), required: true })].into();
        let node = Characteristics::of(&facts, &desired);
        let values: Vec<_> = node.values.iter().map(|(k, v)| (k.as_str(), v.value.as_str(), v.required)).collect();
        assert_eq!(values, [("arch", "arm64", false), ("cpus", "4", false), ("os", "linux", false), ("role", "edge", true)]);
    }
}
