//! Who may do what on the servers: one table, which the servers' configuration is written from.
//!
//! A role may publish and subscribe to what its rows list and to nothing else. In a subject
//! `{own}` stands for each partition that the role serves, `{lane}` for these and `split`,
//! `{partition}` for every partition, `{body}` for each body stream, `{stream}` for each stream,
//! `{kind}` for the letter of the role's next hops, `{inbox}` for where the role is answered.

use std::fmt;
use std::str::FromStr;

use queue::HopKind;

use Role::{Admin, Ingress, Mda, Worker};

use crate::config::Config;
use crate::names::{Partition, body_stream};
use crate::ownership;
use crate::streams::{self, BODY_STREAMS};

/// What logs in to the servers with a key of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Puts mail into the queue, and reads none.
    Ingress,
    /// Has the next hops by SMTP.
    Worker,
    /// Has the mailboxes.
    Mda,
    /// Creates streams, writes the domain table, and asks the owners of partitions.
    Admin,
}

type Rows = &'static [(&'static [Role], &'static [&'static str])];

const PUBLISH: Rows = &[
    // Accepting.
    (&[Ingress], &["in.>"]),
    (&[Ingress, Worker, Mda], &["body.*"]),
    // First attempts, and splitting.
    (
        &[Worker, Mda],
        &[
            "$JS.API.CONSUMER.INFO.intake.{lane}",
            "$JS.API.CONSUMER.CREATE.intake.{lane}.in.{lane}.>",
            "$JS.API.CONSUMER.MSG.NEXT.intake.{lane}",
            "$JS.ACK.intake.{lane}.>",
            "$JS.API.CONSUMER.INFO.intake-{lane}.{lane}",
            "$JS.API.CONSUMER.CREATE.intake-{lane}.{lane}.in.{lane}.>",
            "$JS.API.CONSUMER.MSG.NEXT.intake-{lane}.{lane}",
            "$JS.ACK.intake-{lane}.{lane}.>",
            "$JS.API.CONSUMER.INFO.reserve.{lane}",
            "$JS.API.CONSUMER.CREATE.reserve.{lane}.re.{lane}.>",
            "$JS.API.CONSUMER.MSG.NEXT.reserve.{lane}",
            "$JS.ACK.reserve.{lane}.>",
        ],
    ),
    // Records: a split makes some for any partition, and follow-ups go anywhere.
    (
        &[Worker, Mda],
        &[
            "re.>",
            "job.>",
            "$JS.API.STREAM.MSG.GET.jobs-{partition}",
            "$JS.API.DIRECT.GET.jobs-{own}",
            "$JS.API.CONSUMER.CREATE.jobs-{own}",
            "$JS.API.CONSUMER.CREATE.jobs-{own}.>",
            "$JS.API.CONSUMER.MSG.NEXT.jobs-{own}.*",
            "$JS.API.CONSUMER.DELETE.jobs-{own}.*",
        ],
    ),
    // Content.
    (
        &[Worker, Mda],
        &[
            "$JS.API.DIRECT.GET.{body}",
            "$JS.API.STREAM.MSG.GET.{body}",
            "$JS.API.STREAM.MSG.DELETE.{body}",
        ],
    ),
    // What nothing refers to is looked for by whoever has the first partition.
    (
        &[Worker],
        &[
            "$JS.API.CONSUMER.CREATE.{body}",
            "$JS.API.CONSUMER.CREATE.{body}.>",
            "$JS.API.CONSUMER.MSG.NEXT.{body}.*",
            "$JS.API.CONSUMER.DELETE.{body}.*",
        ],
    ),
    // Ownership.
    (
        &[Worker, Mda],
        &[
            "$KV.own.m.{kind}.*",
            "$KV.own.l.{own}",
            "$JS.API.STREAM.MSG.GET.KV_own",
            "$JS.API.CONSUMER.CREATE.KV_own",
            "$JS.API.CONSUMER.CREATE.KV_own.>",
            "$JS.API.CONSUMER.INFO.KV_own.*",
            "$JS.API.CONSUMER.DELETE.KV_own.*",
            "$JS.FC.KV_own.>",
            "postrider.usage",
        ],
    ),
    // Operators' questions: any owner passes on what it is asked.
    (&[Worker, Mda, Admin], &["postrider.owner.*", "postrider.answer.*"]),
    // What became of mail: each process knows what it did itself.
    (&[Worker, Mda, Admin], &["postrider.everybody"]),
    (&[Admin], &["$JS.API.STREAM.MSG.GET.KV_own"]),
    // What those who log in have sent.
    (
        &[Ingress],
        &["$KV.sending.>", "$JS.API.STREAM.MSG.GET.KV_sending", "$JS.API.STREAM.CREATE.KV_sending"],
    ),
    // When passwords were used: also by Dovecot, which asks the MDA. Who makes streams makes it.
    (&[Ingress, Mda], &["$KV.logins.>", "$JS.API.STREAM.MSG.GET.KV_logins"]),
    (&[Worker, Mda], &["$JS.API.STREAM.CREATE.KV_logins"]),
    // The domain table.
    (
        &[Admin],
        &[
            "$KV.domains.>",
            // The library asks for it before it creates a bucket.
            "$JS.API.INFO",
            "$JS.API.STREAM.CREATE.KV_domains",
            "$JS.API.STREAM.MSG.DELETE.KV_domains",
        ],
    ),
    (
        &[Ingress, Worker, Mda, Admin],
        &[
            "$JS.API.DIRECT.GET.KV_domains",
            "$JS.API.DIRECT.GET.KV_domains.>",
            "$JS.API.STREAM.MSG.GET.KV_domains",
            "$JS.API.CONSUMER.CREATE.KV_domains",
            "$JS.API.CONSUMER.CREATE.KV_domains.>",
            "$JS.API.CONSUMER.INFO.KV_domains.*",
            "$JS.API.CONSUMER.MSG.NEXT.KV_domains.*",
            "$JS.API.CONSUMER.DELETE.KV_domains.*",
            "$JS.FC.KV_domains.>",
        ],
    ),
    // Full mailboxes: told by those who store mail, heard by those who accept it.
    (
        &[Mda],
        &[
            "$KV.mailboxes.full.*",
            "$JS.API.STREAM.CREATE.KV_mailboxes",
            "$JS.API.DIRECT.GET.KV_mailboxes.>",
        ],
    ),
    (
        &[Ingress, Mda],
        &[
            "$JS.API.CONSUMER.CREATE.KV_mailboxes",
            "$JS.API.CONSUMER.CREATE.KV_mailboxes.>",
            "$JS.API.CONSUMER.INFO.KV_mailboxes.*",
            "$JS.API.CONSUMER.DELETE.KV_mailboxes.*",
            "$JS.FC.KV_mailboxes.>",
        ],
    ),
    // Streams: all look whether they are as they must be.
    (&[Ingress, Worker, Mda, Admin], &["$JS.API.STREAM.INFO.*"]),
    (&[Worker, Admin], &["$JS.API.STREAM.CREATE.{stream}"]),
];

const SUBSCRIBE: Rows = &[
    (&[Ingress, Worker, Mda, Admin], &["{inbox}.>"]),
    (&[Ingress, Worker, Mda, Admin], &["postrider.usage"]),
    (&[Worker, Mda], &["postrider.owner.*", "postrider.everybody"]),
    (&[Worker, Mda, Admin], &["postrider.answer.*"]),
];

/// The prefix of the subjects where a process that serves next hops of `kinds` is answered: roles
/// do not hear each other's answers. A process that is all roles is answered where anybody is.
pub(crate) fn inbox(kinds: &[HopKind]) -> String {
    match kinds {
        [] => Ingress.inbox(),
        [HopKind::Smtp] => Worker.inbox(),
        [HopKind::Mailbox] => Mda.inbox(),
        _ => "_INBOX".to_owned(),
    }
}

impl Role {
    pub const ALL: [Self; 4] = [Ingress, Worker, Mda, Admin];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Worker => "worker",
            Self::Mda => "mda",
            Self::Admin => "admin",
        }
    }

    /// The prefix of the subjects where the role is answered.
    pub fn inbox(self) -> String {
        format!("_INBOX_{self}")
    }

    /// The subjects that the role may publish to, when SMTP has so many partitions.
    pub fn publishes(self, partitions: u16) -> Vec<String> {
        self.subjects(PUBLISH, partitions)
    }

    /// The subjects that the role may subscribe to.
    pub fn subscribes(self, partitions: u16) -> Vec<String> {
        self.subjects(SUBSCRIBE, partitions)
    }

    fn subjects(self, rows: Rows, partitions: u16) -> Vec<String> {
        let mine = rows.iter().filter(|(roles, _)| roles.contains(&self));
        let patterns = mine.flat_map(|(_, patterns)| patterns.iter());
        patterns.flat_map(|pattern| self.fill(pattern, partitions)).collect()
    }

    /// A subject for each value of the pattern's placeholder.
    fn fill(self, pattern: &str, partitions: u16) -> Vec<String> {
        let Some((_, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
        let Some((placeholder, _)) = rest.split_once('}') else { return Vec::new() };
        let values = self.values(placeholder, partitions);
        let placeholder = format!("{{{placeholder}}}");
        values.iter().map(|value| pattern.replace(&placeholder, value)).collect()
    }

    fn values(self, placeholder: &str, partitions: u16) -> Vec<String> {
        let config = Config { partitions, ..Config::default() };
        let of = |kind| Partition::all(kind, config.partitions_of(kind));
        let named = |kind| of(kind).map(|partition| partition.to_string());
        let own = || self.kind().into_iter().flat_map(named);
        match placeholder {
            "own" => own().collect(),
            "lane" => own().chain(["split".to_owned()]).collect(),
            "partition" => config.all_partitions().map(|partition| partition.to_string()).collect(),
            "body" => (0..BODY_STREAMS).map(body_stream).collect(),
            "stream" => streams::names(partitions),
            "kind" => {
                self.kind().map(|kind| ownership::letter(kind).to_owned()).into_iter().collect()
            }
            "inbox" => vec![self.inbox()],
            _ => Vec::new(),
        }
    }

    fn kind(self) -> Option<HopKind> {
        match self {
            Self::Worker => Some(HopKind::Smtp),
            Self::Mda => Some(HopKind::Mailbox),
            Self::Ingress | Self::Admin => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who logs in by an nkey. Written as `ingress=U…`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    role: Role,
    /// The public key: what is secret of it only the role has.
    nkey: String,
}

/// Why a text names no [`User`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UserError {
    #[error("write it as ROLE=NKEY, such as ingress=UABC…")]
    Form,
    #[error("{0:?} is no role: ingress, worker, mda or admin")]
    Role(String),
    #[error("not the public nkey of a user: 56 of A-Z and 2-7, of which the first is U")]
    Key,
}

impl FromStr for User {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, UserError> {
        let (role, nkey) = text.split_once('=').ok_or(UserError::Form)?;
        let known = Role::ALL.into_iter().find(|known| known.name() == role);
        let role = known.ok_or_else(|| UserError::Role(role.to_owned()))?;
        let is_base32 = nkey.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'));
        if nkey.len() != 56 || !nkey.starts_with('U') || !is_base32 {
            return Err(UserError::Key);
        }
        Ok(Self { role, nkey: nkey.to_owned() })
    }
}

/// The block `authorization` of nats-server's configuration: nobody else may log in.
pub fn authorization(users: &[User], partitions: u16) -> String {
    let users: String = users.iter().map(|user| user_block(user, partitions)).collect();
    format!("authorization {{\n  users: [\n{users}  ]\n}}\n")
}

fn user_block(user: &User, partitions: u16) -> String {
    let User { role, nkey } = user;
    let publish = list(&role.publishes(partitions));
    let subscribe = list(&role.subscribes(partitions));
    format!(
        "    {{\n      # {role}\n      nkey: {nkey}\n      permissions: {{\n        \
         publish: {{ allow: [\n{publish}        ] }}\n        \
         subscribe: {{ allow: [\n{subscribe}        ] }}\n      }}\n    }}\n"
    )
}

fn list(subjects: &[String]) -> String {
    subjects.iter().map(|subject| format!("          \"{subject}\"\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_subject_is_written_out_and_once() {
        for role in Role::ALL {
            for subjects in [role.publishes(4), role.subscribes(4)] {
                let set: HashSet<_> = subjects.iter().collect();
                assert_eq!(set.len(), subjects.len(), "{role}: a subject twice");
                assert!(!subjects.iter().any(|subject| subject.contains(['{', '}', '"', ' '])));
            }
        }
        for (roles, pattern) in PUBLISH
            .iter()
            .chain(SUBSCRIBE)
            .flat_map(|(roles, patterns)| patterns.iter().map(move |pattern| (roles, pattern)))
        {
            let is_filled = |role: &Role| !role.fill(pattern, 4).is_empty();
            assert!(roles.iter().all(is_filled), "{pattern} is nothing to some of {roles:?}");
        }
    }

    #[test]
    fn partitions_are_those_of_the_role() {
        let worker = Worker.publishes(3);
        assert!(worker.contains(&"$JS.ACK.intake-s2.s2.>".to_owned()));
        assert!(!worker.contains(&"$JS.ACK.intake-m0.m0.>".to_owned()));
        assert!(Mda.publishes(3).contains(&"$JS.API.DIRECT.GET.jobs-m0".to_owned()));
        assert!(!Mda.publishes(3).contains(&"$JS.API.DIRECT.GET.jobs-s0".to_owned()));
    }

    #[test]
    fn roles_are_answered_apart() {
        let both = [HopKind::Smtp, HopKind::Mailbox];
        let inboxes = [inbox(&[]), inbox(&both[..1]), inbox(&both[1..]), inbox(&both)];
        assert_eq!(inboxes, ["_INBOX_ingress", "_INBOX_worker", "_INBOX_mda", "_INBOX"]);
    }

    #[test]
    fn users() {
        let key = format!("U{}", "A".repeat(55));
        let user: User = format!("mda={key}").parse().unwrap();
        assert_eq!(user, User { role: Mda, nkey: key.clone() });
        let block = authorization(&[user], 1);
        assert!(block.contains("\n          \"_INBOX_mda.>\"\n"), "{block}");
        let parse = |text: &str| text.parse::<User>().unwrap_err();
        assert_eq!(parse(&key), UserError::Form);
        assert_eq!(parse(&format!("root={key}")), UserError::Role("root".into()));
        for wrong in ["", "SAAA", "U\"}", &key[1..], &format!("A{}", &key[1..])] {
            assert_eq!(parse(&format!("mda={wrong}")), UserError::Key);
        }
    }
}
