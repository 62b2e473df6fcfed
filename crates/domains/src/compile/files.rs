//! Files of resources, and what of the table before is taken over when some of them change.
//!
//! A file *touches* the domains that it declares and those of the addresses that it declares. When
//! a file is new, changed or gone, every domain that it touches or touched is changed, and so is
//! what else the files touch that touch one of these. The rest is as it was: no file has to be read
//! for it but for the domains declared there, of which all are known at any time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use mail_types::Domain;

use super::Compiler;
use crate::problem::Problem;
use crate::storage;
use crate::table::{Settings, Table};

/// A table that was made of files, with what the next one is made faster by.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    pub table: Arc<Table>,
    shares: HashMap<String, Arc<Share>>,
}

impl Compiled {
    /// Compiles files, by their names for messages. Nearly all are read twice, first for domains
    /// and then for the mailboxes in them, so that no more than one is in memory: there may be a
    /// million mailboxes, and any may be before its domain. Those that are as they were `before`
    /// and have nothing to do with others are read once.
    ///
    /// # Errors
    /// That of `read`; or else all that is wrong.
    pub fn of_files<E>(
        names: &[String],
        before: Option<&Self>,
        settings: &Settings,
        mut read: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<Result<Self, Vec<Problem>>, E> {
        let files = Files { before, ..Files::default() };
        let mut compiler = Compiler { files, ..Compiler::default() };
        for name in names {
            let text = read(name)?;
            compiler.files.see(name, &text);
            compiler.survey(name, &text);
        }
        compiler.connect_domains();
        compiler.files.all_seen();
        while let Some(name) = compiler.files.next() {
            let text = read(&name)?;
            compiler.files.begin(&name, &text);
            compiler.read_mailboxes(&name, &text);
        }
        Ok(compiler.finish(settings))
    }
}

/// What a file has to do with others.
#[derive(Clone, Debug, Default)]
struct Share {
    /// Of its text; `None` for one that is read each time.
    digest: Option<Digest>,
    /// All that it touches.
    domains: HashSet<Domain>,
    /// Of the names of its Mailboxes, a hash each. Those of different names may be the same.
    names: Vec<u32>,
}

type Digest = [u8; storage::HALF];

/// What is read, and what is taken over.
#[derive(Default)]
pub(super) struct Files<'a> {
    before: Option<&'a Compiled>,
    /// As they were before, with nothing to do with those that are not.
    kept: HashMap<&'a str, &'a Arc<Share>>,
    /// Those of each domain.
    touching: HashMap<&'a Domain, Vec<&'a str>>,
    /// Those that are to be read for mailboxes.
    waiting: BTreeSet<String>,
    /// Of those that are not kept.
    shares: HashMap<String, Share>,
    changed: HashSet<Domain>,
    /// Changed domains whose files may still be kept.
    unsettled: Vec<Domain>,
}

impl<'a> Files<'a> {
    /// There is such a file.
    fn see(&mut self, name: &str, text: &str) {
        let digest = Some(storage::half(text));
        let before = self.before.and_then(|before| before.shares.get_key_value(name));
        match before.filter(|(_, share)| share.digest == digest) {
            Some((name, share)) => _ = self.kept.insert(name, share),
            None => self.read(name, Share { digest, ..Share::default() }),
        }
    }

    /// It is to be read for mailboxes.
    fn read(&mut self, name: &str, share: Share) {
        self.waiting.insert(name.to_owned());
        self.shares.insert(name.to_owned(), share);
    }

    /// There are no other files.
    fn all_seen(&mut self) {
        for (&name, share) in &self.kept {
            for domain in &share.domains {
                self.touching.entry(domain).or_default().push(name);
            }
        }
        let before = self.before.iter().flat_map(|before| &before.shares);
        let others = before.filter(|(name, _)| !self.kept.contains_key(name.as_str()));
        self.unsettled.extend(others.flat_map(|(_, share)| share.domains.iter().cloned()));
    }

    /// The file that is to be read next.
    fn next(&mut self) -> Option<String> {
        loop {
            self.settle();
            if let Some(name) = self.waiting.pop_first() {
                return Some(name);
            }
            let alike = self.with_names_of_others();
            if alike.is_empty() {
                return None;
            }
            alike.into_iter().for_each(|name| self.keep_no_more(name));
        }
    }

    /// It is read for mailboxes, and may have changed since it was seen.
    fn begin(&mut self, name: &str, text: &str) {
        if let Some(share) = self.shares.get_mut(name) {
            share.digest = share.digest.filter(|seen| *seen == storage::half(text));
        }
    }

    /// It declares something of the domain, or in it. Of a file that is kept this is known.
    pub(super) fn touches(&mut self, name: &str, domain: &Domain) {
        let Some(share) = self.shares.get_mut(name) else { return };
        if !share.domains.contains(domain) {
            share.domains.insert(domain.clone());
            self.unsettled.push(domain.clone());
        }
    }

    /// It declares a Mailbox whose name has this hash.
    pub(super) fn has_mailbox(&mut self, name: &str, hash: u128) {
        if let Some(share) = self.shares.get_mut(name) {
            // Any of its octets are as good as others.
            #[expect(clippy::cast_possible_truncation)]
            share.names.push(hash as u32);
        }
    }

    /// It declares what is compared with that of all others: it is read each time.
    pub(super) fn is_read_always(&mut self, name: &str) {
        if let Some(share) = self.shares.get_mut(name) {
            share.digest = None;
        }
    }

    /// Keeps no file that touches a domain that is changed.
    fn settle(&mut self) {
        while let Some(domain) = self.unsettled.pop() {
            for name in self.touching.remove(&domain).unwrap_or_default() {
                self.keep_no_more(name);
            }
            self.changed.insert(domain);
        }
    }

    fn keep_no_more(&mut self, name: &str) {
        let Some(share) = self.kept.remove(name) else { return };
        self.unsettled.extend(share.domains.iter().cloned());
        // What it says of domains was read when it was kept, and is not told again.
        self.read(name, Share { names: Vec::new(), ..Share::clone(share) });
    }

    /// The kept files that may have Mailboxes of the same names as those that were read.
    fn with_names_of_others(&self) -> Vec<&'a str> {
        if self.kept.is_empty() {
            return Vec::new();
        }
        let read: HashSet<u32> =
            self.shares.values().flat_map(|share| share.names.iter().copied()).collect();
        let is_alike = |share: &Share| share.names.iter().any(|name| read.contains(name));
        let alike = self.kept.iter().filter(|(_, share)| is_alike(share));
        alike.map(|(name, _)| *name).collect()
    }

    /// Puts what is as it was in the place of what is known of it by the domains alone.
    pub(super) fn take_over(&self, table: &mut Table) {
        let Some(before) = self.before else { return };
        for (domain, declaration) in &before.table.domains {
            if self.changed.contains(domain) {
                continue;
            }
            table.domains.insert(domain.clone(), Arc::clone(declaration));
            if let Some(keyring) = before.table.keyrings.get(domain) {
                table.keyrings.insert(domain.clone(), Arc::clone(keyring));
            }
        }
    }

    pub(super) fn compiled(self, table: Table) -> Compiled {
        let kept = self.kept.into_iter().map(|(name, share)| (name.to_owned(), Arc::clone(share)));
        let read = self.shares.into_iter().map(|(name, mut share)| {
            share.names.shrink_to_fit();
            (name, Arc::new(share))
        });
        Compiled { table: Arc::new(table), shares: kept.chain(read).collect() }
    }
}
