//! The keys that secrets of the domain table are sealed to and opened with.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use domains_kv::{Class, Opener, Pair, Sealer, make_compare_key};
use serde::{Deserialize, Serialize};

use crate::output;

/// Files that `postrider domain keys` made.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Secrets {
    /// What `postrider domain apply` seals to: one for each class.
    pub(crate) public_keys: Vec<PathBuf>,
    /// By which it sees that a secret is the one that was published.
    pub(crate) compare_key: Option<PathBuf>,
    /// What this process opens. During a rotation the old one and the new one.
    pub(crate) private_keys: Vec<PathBuf>,
}

impl Secrets {
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { public_keys, compare_key, private_keys } = self;
        public_keys.iter_mut().chain(compare_key).chain(private_keys)
    }

    pub(crate) fn sealer(&self) -> anyhow::Result<Sealer> {
        Sealer::load(&self.public_keys, self.compare_key.as_deref()).context("secrets")
    }

    pub(crate) fn opener(&self) -> anyhow::Result<Opener> {
        Opener::load(&self.private_keys).context("secrets.privateKeys")
    }
}

/// Makes the keys of classes in a directory, and nothing if a file is there already.
pub(crate) fn make(directory: &Path, classes: &[Class]) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let (mut files, mut ids) = (vec![("compare.key".to_owned(), make_compare_key())], Vec::new());
    for &class in classes {
        let pair = Pair::make(class)?;
        files.push((format!("{class}.pub"), pair.public));
        files.push((format!("{class}.key"), pair.private));
        ids.push((class, pair.id));
    }
    for (name, _) in &files {
        let path = directory.join(name);
        anyhow::ensure!(
            !path.exists(),
            "{} is there already: make new keys in another directory",
            path.display()
        );
    }
    for (name, text) in &files {
        let path = directory.join(name);
        write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for (class, id) in ids {
        output::line(&format!("{class} {id}: {class}.pub, {class}.key"));
    }
    output::hint(
        "Where domains are applied: *.pub in secrets.publicKeys, compare.key in \
         secrets.compareKey.\n\
         Where passwords are checked (submission, and the MDA with dovecot.socket): passwords.key \
         in secrets.privateKeys.\n\
         Nobody else needs a *.key; none is needed where domains are applied.",
    );
    Ok(())
}

/// Readable by its owner only.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
