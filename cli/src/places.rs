//! Files and folders that were named. One idea: what is there is looked at before it is used, so that a folder in the place of a file
//! is called that.

use std::path::Path;

use tribune_p2p::Identity;
use tribune_p2p::identity::IdentityError;

use crate::problem::{Done, Problem, plain};

const OWN_KEY: &str = "name the admin's key that `tribune init` wrote (admin.key in its data folder), or one that an admin let in: \
    `tribune admin key FILE` makes it, `tribune admin add` lets it in";

/// Refuses a folder where a file is meant.
pub fn no_folder(path: &Path, meant: &str) -> Done<()> {
    if path.is_dir() {
        return Err(Problem::new(format!("{} is a folder", path.display()), format!("name {meant}")));
    }
    Ok(())
}

/// Refuses a file where a node's data folder is meant. It need not be there.
pub fn no_file(path: &Path) -> Done<()> {
    if path.exists() && !path.is_dir() {
        return Err(Problem::new(
            format!("{} is a file", path.display()),
            "name the node's data folder with --data; it is made if it is not there",
        ));
    }
    Ok(())
}

/// The user's key.
pub fn own_key(file: &Path) -> Done<Identity> {
    if file.is_dir() {
        return Err(Problem::new(format!("{} is a folder, not a key file", file.display()), OWN_KEY));
    }
    Identity::load(file).map_err(|error| match error {
        IdentityError::Missing(file) => Problem::new(format!("there is no key file {}", file.display()), OWN_KEY),
        other => plain(other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_the_place_of_a_file_is_called_that_and_the_other_way_round() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();

        assert!(no_folder(folder.path(), "a file").unwrap_err().what.ends_with("is a folder"));
        assert!(no_file(&file).unwrap_err().what.ends_with("is a file"));
        assert_eq!((no_folder(&file, "a file"), no_file(folder.path()), no_file(&file.join("new"))), (Ok(()), Ok(()), Ok(())));

        let problem = own_key(folder.path()).unwrap_err();
        assert!(problem.what.ends_with("is a folder, not a key file") && problem.todo.contains("tribune init"), "{problem:?}");
        let problem = own_key(&folder.path().join("nope")).unwrap_err();
        assert!(problem.what.starts_with("there is no key file") && problem.todo.contains("tribune admin add"), "{problem:?}");
    }
}
