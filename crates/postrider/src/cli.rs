//! The command line.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use domains_kv::Class;
use mail_types::{Domain, Mailbox, QueueId, TenantId};
use queue::{Filter, Phase};

use crate::check::clock::sntp::TimeServer;
use crate::nats_command::NatsCommand;
use crate::serve::Role;

/// A mail transfer cluster: receives, queues durably, delivers, retries and bounces mail.
#[derive(Debug, Parser)]
#[command(name = "postrider", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run every role in one process, on a queue in a local directory or on JetStream.
    ///
    /// Stops on SIGTERM or SIGINT: finishes what is in flight, keeps the rest for the next start.
    Serve(Start),
    /// Run the ingress alone: receive mail into the queue on JetStream.
    Ingress(Start),
    /// Run a delivery worker alone: send mail from the queue on JetStream to other servers.
    Worker(Start),
    /// Run the MDA alone: write mail from the queue on JetStream into mailboxes.
    Mda(Start),
    /// Serve operators alone: no role, and all commands on the queue on JetStream.
    ///
    /// Where no role runs, such as in a pod of its own, `postrider queue` and others ask this
    /// process, and it asks those that have the mail.
    Admin(Start),
    /// Check the configuration and all resources; change nothing.
    ///
    /// Exits with 64 if they are wrong. With `--live` it exits with 1 if a try ends in an error; a
    /// warning is none.
    Check(Check),
    /// Look into the queue of a running process, and act on it.
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Print a message's way: connection, envelope, jobs with their attempts, and its DSNs.
    ///
    /// Also of a message that has left the queue, as far as the history goes back
    /// (`history.maxBytes`).
    Trace(TraceArgs),
    /// The hosted domains: list them, publish them.
    #[command(subcommand)]
    Domain(DomainCommand),
    /// Have the running process read its configuration again.
    ///
    /// It does so by itself when `postrider.yaml` changes, and on SIGHUP. What is wrong, or needs a
    /// restart, changes nothing: exits with 1 and says why.
    Reload(Target),
    /// Copy queue, mailboxes, domains, keys and configuration into a new directory, while mail
    /// flows.
    ///
    /// What was accepted before it began is in it, unless it was done with. Without a running
    /// process it copies what is on the disk. With a queue on JetStream it copies the rest. Run it
    /// as the user that serves. The copy has mail and private keys.
    Backup {
        /// The directory to make; nothing may be in it.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// Put a backup into place: compare all of it with what was saved, then copy it.
    ///
    /// `dataDir` must be empty. Configuration and domains that are there stay as they are. What was
    /// delivered after the backup began is in its queue and is delivered again. Run it as the user
    /// that serves.
    Restore {
        /// What `postrider backup` has made.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Hold all mail in the queue until `postrider queue release`.
        #[arg(long)]
        hold: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Helpers for Mailbox resources.
    #[command(subcommand)]
    Mailbox(MailboxCommand),
    /// Helpers for the configuration of nats-server.
    #[command(subcommand)]
    Nats(NatsCommand),
    /// What Dovecot's driver `checkpassword` runs for each login.
    ///
    /// Asks the process that writes the Maildirs by the socket of `dovecot.socket`, whether the
    /// password is one of the mailbox's, and where that is. docs/operations.md has the
    /// configuration of Dovecot.
    DovecotLogin(DovecotLogin),
    /// Print a script by which a shell completes commands and options.
    ///
    /// For bash: `source <(postrider completions bash)`.
    Completions { shell: Shell },
    /// Write the manual pages, one for each command; read one with `man ./postrider-queue.1`.
    Man {
        /// Where the files are made; it must be there.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// What Dovecot wants to know, by the interface of its driver `checkpassword`.
#[derive(Debug, Args)]
pub(crate) struct DovecotLogin {
    /// The socket of `dovecot.socket`.
    pub(crate) socket: PathBuf,
    /// What tells Dovecot of the mailbox: `checkpassword-reply`, which Dovecot adds.
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    pub(crate) reply: Vec<OsString>,
    #[arg(long, env = "TCPREMOTEIP", hide = true)]
    pub(crate) client: Option<IpAddr>,
    #[arg(long, env = "AUTHORIZED", hide = true)]
    authorized: Option<String>,
    #[arg(long, env = "CREDENTIALS_LOOKUP", hide = true)]
    pub(crate) credentials_lookup: Option<String>,
}

impl DovecotLogin {
    /// Whether it is only asked where a mailbox is, with no password.
    pub(crate) fn is_lookup(&self) -> bool {
        self.authorized.is_some()
    }
}

/// How a process is started.
#[derive(Debug, Args)]
pub(crate) struct Start {
    #[command(flatten)]
    pub(crate) directory: Directory,
    /// How log lines are written to stderr; the default is for people on a terminal, else JSON.
    #[arg(long, value_enum)]
    pub(crate) log: Option<LogFormat>,
}

/// What is checked.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) directory: Directory,
    /// Also try what mail depends on: certificates, disk, postmaster, clock, DNS, the own name, the
    /// way out, NATS.
    ///
    /// Sends no mail and changes nothing. Run it as the user that serves, on the machine that does.
    #[arg(long)]
    pub(crate) live: bool,
    /// Try what this role depends on, with its login at the NATS servers; the default is a process
    /// that is all of them.
    #[arg(long, value_enum, requires = "live")]
    pub(crate) role: Option<Role>,
    /// Try the way out to this domain's mail exchangers: greeting, TLS, QUIT. May be repeated.
    #[arg(long, value_name = "DOMAIN", requires = "live")]
    pub(crate) to: Vec<Domain>,
    /// Compare the clock with this time server's, which is asked once by SNTP.
    #[arg(long, value_name = "HOST[:PORT]", requires = "live")]
    pub(crate) time_server: Option<TimeServer>,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// Which message is looked for.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// As the `250` named it, or the log.
    #[arg(value_name = "QUEUE-ID")]
    pub(crate) id: QueueId,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub(crate) struct Directory {
    /// The directory that holds `postrider.yaml`.
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) path: PathBuf,
}

/// Where the running process is, and how to answer.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The directory that the process serves.
    #[arg(long, value_name = "DIR", default_value = ".", env = "POSTRIDER_CONFIG", global = true)]
    pub(crate) config: PathBuf,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Json,
    Human,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns, for people.
    Table,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List jobs: one line for each message and next hop.
    List {
        #[command(flatten)]
        filter: FilterArgs,
        #[command(flatten)]
        target: Target,
    },
    /// Show a message: its envelope, recipients and attempts.
    Show {
        id: QueueId,
        #[command(flatten)]
        target: Target,
    },
    /// Print a message itself, as it is delivered: header, then body.
    ///
    /// Nothing else shows content. That it was asked for is logged by the process.
    Message {
        id: QueueId,
        /// The directory that the process serves.
        #[arg(long, value_name = "DIR", default_value = ".", env = "POSTRIDER_CONFIG")]
        config: PathBuf,
    },
    /// Count messages by phase.
    Stats {
        #[command(flatten)]
        target: Target,
    },
    /// Stop trying the matching jobs until released.
    Hold(ActArgs),
    /// End a hold or a quarantine; due at once.
    Release(ActArgs),
    /// Try the matching jobs now.
    Retry(ActArgs),
    /// Give the matching jobs up; their senders get a DSN.
    Cancel {
        #[command(flatten)]
        act: ActArgs,
        /// Drop them without telling the senders.
        #[arg(long)]
        silently: bool,
    },
}

/// Which jobs are acted on.
#[derive(Debug, Args)]
pub(crate) struct ActArgs {
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Act on the whole queue; needed when no filter is given.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// Narrows a list or an action.
#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Only this message.
    #[arg(long, value_name = "QUEUE-ID")]
    id: Option<QueueId>,
    /// Only this tenant's: the namespace of the domain that was sent from, or else to.
    #[arg(long)]
    tenant: Option<String>,
    /// Only this reverse-path; `@domain` for a whole domain, an empty text for the null sender.
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// Only jobs with a recipient in this domain.
    #[arg(long, value_name = "DOMAIN")]
    recipient_domain: Option<Domain>,
    /// Only jobs that are in this phase now.
    #[arg(long, value_enum)]
    phase: Option<PhaseArg>,
    /// Only what arrived longer ago than this, such as `90s`, `15m`, `4h` or `2d`.
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    older_than: Option<std::time::Duration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PhaseArg {
    Ready,
    Active,
    Deferred,
    Held,
    Quarantined,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DomainCommand {
    /// List the hosted domains.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Tell where a mailbox's mail is kept, how much it is and how much it may be.
    ///
    /// Run it on the machine that has the mailboxes: what it holds is counted there.
    Mailbox {
        /// Its address.
        #[arg(value_name = "ADDRESS")]
        address: Mailbox,
        #[command(flatten)]
        target: Target,
    },
    /// Publish the files' domains and mailboxes to every process that takes them from NATS KV.
    ///
    /// They are checked as `check` does. All become known at once, or nothing changes.
    Apply {
        /// The directory that holds `postrider.yaml`; by default that of `--config`.
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
        /// Publish although more than half of the domains would be gone.
        #[arg(long)]
        confirm_shrink: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Show the passwords by which somebody logs in: names, schemes, when each was used last.
    ///
    /// Asks the running process, which must be one with submission listeners. What it shows may be
    /// a minute old. A password is revoked by removing it from the Mailbox.
    Passwords {
        /// The mailbox's address.
        address: String,
        #[command(flatten)]
        target: Target,
    },
    /// Make the keys that secrets in NATS KV are sealed to: a pair for each class.
    ///
    /// CLASS.pub seals and is for where domains are applied, and compare.key with it; CLASS.key
    /// opens and is for the roles that need the class. To replace a key, make another pair, name
    /// the new CLASS.key beside the old one in every role, then the new CLASS.pub where domains are
    /// applied, and apply: all is sealed anew, and the old CLASS.key is needed no longer.
    Keys {
        /// Where the files are made; files that are there are not written over.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// What the keys are for: passwords (hashes of mailboxes' passwords), tls, dkim.
        #[arg(long = "class", value_name = "CLASS", default_values_t = Class::ALL)]
        classes: Vec<Class>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MailboxCommand {
    /// Read a password from standard input and print its hash for `spec.passwords`.
    HashPassword {
        /// How the hash is made. With scram-sha-256 clients may log in without sending the
        /// password, also by PLAIN and LOGIN; a mailbox has one such password.
        #[arg(long, value_enum, default_value_t = HashScheme::Argon2id)]
        scheme: HashScheme,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HashScheme {
    Argon2id,
    #[value(name = "scram-sha-256")]
    ScramSha256,
}

impl From<FilterArgs> for Filter {
    fn from(args: FilterArgs) -> Self {
        Self {
            message: args.id,
            tenant: args.tenant.map(TenantId::new),
            sender: args.sender,
            recipient_domain: args.recipient_domain,
            phase: args.phase.map(|phase| match phase {
                PhaseArg::Ready => Phase::Ready,
                PhaseArg::Active => Phase::Active,
                PhaseArg::Deferred => Phase::Deferred,
                PhaseArg::Held => Phase::Held,
                PhaseArg::Quarantined => Phase::Quarantined,
            }),
            older_than: args.older_than,
        }
    }
}

/// Reads a number with a unit: `s`, `m`, `h` or `d`.
fn parse_age(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is not an age such as 90s, 15m, 4h or 2d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number = text[..text.len() - 1].parse::<u64>().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).ok_or_else(wrong)?;
    Ok(std::time::Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The help of a command and of all below it.
    fn help(command: &mut clap::Command, path: &str, text: &mut String) {
        *text += &format!("$ {path} --help\n{}\n\n", command.render_long_help());
        for below in command.get_subcommands_mut().filter(|below| below.get_name() != "help") {
            let path = format!("{path} {}", below.get_name());
            help(below, &path, text);
        }
    }

    /// Scripts and habits depend on it: a change is made on purpose, with
    /// `POSTRIDER_GOLDEN=write cargo test -p postrider`.
    #[test]
    fn the_help_is_what_was_agreed() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/help.txt");
        let mut text = String::new();
        help(&mut Cli::command().term_width(100), "postrider", &mut text);
        if std::env::var_os("POSTRIDER_GOLDEN").is_some_and(|wish| wish == "write") {
            std::fs::write(file, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(file).unwrap(), text);
    }

    #[test]
    fn ages() {
        assert_eq!(parse_age("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_age("2d"), Ok(Duration::from_secs(172_800)));
        for wrong in ["", "90", "h", "-1h", "4 h", "1w", "99999999999999999999d", "4ä"] {
            assert!(parse_age(wrong).is_err(), "{wrong}");
        }
    }
}
