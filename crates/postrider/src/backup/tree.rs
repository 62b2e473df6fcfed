//! The parts of a backup: what each is a copy of.

use std::path::{Component, Path, PathBuf};

use crate::config::Config;

/// A directory of a backup, and what is in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Tree {
    /// `postrider.yaml`, and the files that it names, such as keys.
    Config,
    /// MailDomain and Mailbox resources.
    Domains,
    /// `dataDir`, but for queue and mailboxes: keys and certificates that were made there.
    Data,
    /// The embedded queue.
    Queue,
    /// Maildirs.
    Mail,
}

impl Tree {
    pub(crate) const ALL: [Self; 5] =
        [Self::Config, Self::Domains, Self::Data, Self::Queue, Self::Mail];

    /// The directory's name in a backup.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Domains => "domains",
            Self::Data => "data",
            Self::Queue => "queue",
            Self::Mail => "mail",
        }
    }

    /// Where it is in use.
    pub(crate) fn root(self, config: &Config) -> PathBuf {
        match self {
            Self::Config => config.directory.clone(),
            Self::Domains => config.domains_dir.clone(),
            Self::Data => config.data_dir.clone(),
            Self::Queue => config.queue_directory(),
            Self::Mail => config.mail_directory(),
        }
    }

    /// The tree of a path in a backup, and what is below it; `None` when the path leads elsewhere.
    pub(crate) fn split(path: &Path) -> Option<(Self, &Path)> {
        let tree = Self::ALL.into_iter().find(|tree| path.starts_with(tree.name()))?;
        let below = path.strip_prefix(tree.name()).ok()?;
        is_below(below).then_some((tree, below))
    }
}

/// Whether a relative path stays below where it begins.
pub(crate) fn is_below(path: &Path) -> bool {
    !path.as_os_str().is_empty() && path.components().all(|c| matches!(c, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out() {
        let split = |path| Tree::split(Path::new(path));
        let log = "queue/log/0000000001.seg";
        assert_eq!(split(log), Some((Tree::Queue, Path::new("log/0000000001.seg"))));
        assert_eq!(
            split("mail/a.example/b/new/x"),
            Some((Tree::Mail, Path::new("a.example/b/new/x")))
        );
        for wrong in [
            "",
            "queue",
            "mail/",
            "/etc/passwd",
            "mail/../../x",
            "../x",
            "other/x",
            "mailx/y",
            "data//",
        ] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }
}
