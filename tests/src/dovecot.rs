//! A real Dovecot from Debian's packages, in a mount namespace of its own. Needs root.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio::process::Child;

use crate::{namespace, ports, tools, wait};

/// The user whose files the Maildirs are; Dovecot serves none that are root's.
pub const MAIL_USER: u32 = 12_345;

/// A running Dovecot; dropped, it and all its processes end.
pub struct Dovecot {
    imap: SocketAddr,
    pop3: SocketAddr,
    lmtp: SocketAddr,
    log: PathBuf,
    _master: Child,
}

/// Somebody who may log in.
pub struct Login<'a> {
    pub name: &'a str,
    /// With its `{SCHEME}`.
    pub hash: &'a str,
    pub maildir: &'a Path,
    /// Octets that its mailbox may hold; `None` for any number.
    pub quota_bytes: Option<u64>,
}

/// Lays the packages over `/usr`, users over `/etc`, and becomes Dovecot. Nothing outside of
/// `$STATE` is written.
const SCRIPT: &str = r#"
set -eu
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$PACKAGES/usr:/usr" /usr
mount -t overlay overlay -o "lowerdir=$STATE/etc:/etc" /etc
export LD_LIBRARY_PATH=/usr/lib/dovecot
exec /usr/sbin/dovecot -F -c "$STATE/dovecot.conf"
"#;

impl Dovecot {
    /// Starts it on free ports.
    pub async fn start(dir: &Path, logins: &[Login<'_>]) -> Result<Self> {
        let packages = tools::path("dovecot")?;
        let state = dir.join("dovecot");
        let passwd = "dovecot:x:702:702::/:/bin/false\ndovenull:x:703:703::/:/bin/false\n";
        namespace::add_users(&state, passwd, "dovecot:x:702:\ndovenull:x:703:\n")?;
        let line = |login: &Login<'_>| {
            let Login { name, hash, maildir, quota_bytes } = login;
            let rule = quota_bytes.map(|bytes| format!("userdb_quota_rule=*:bytes={bytes}"));
            let rule = rule.unwrap_or_default();
            format!("{name}:{hash}::::{}::{rule}\n", maildir.display())
        };
        fs::write(state.join("users"), logins.iter().map(line).collect::<String>())?;
        let (imap, pop3) = (ports::free_address()?, ports::free_address()?);
        let lmtp = ports::free_address()?;
        fs::write(state.join("dovecot.conf"), configuration(&state, imap, pop3, lmtp))?;
        let master = namespace::start("Dovecot", &packages, &state, SCRIPT)?;
        let dovecot = Self { imap, pop3, lmtp, log: state.join("log"), _master: master };
        for address in [imap, pop3, lmtp] {
            wait::until("Dovecot to listen", Duration::from_secs(30), async || {
                TcpStream::connect(address).await.ok()
            })
            .await
            .with_context(|| dovecot.log())?;
        }
        Ok(dovecot)
    }

    pub fn imap(&self) -> SocketAddr {
        self.imap
    }

    pub fn pop3(&self) -> SocketAddr {
        self.pop3
    }

    pub fn lmtp(&self) -> SocketAddr {
        self.lmtp
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn configuration(state: &Path, imap: SocketAddr, pop3: SocketAddr, lmtp: SocketAddr) -> String {
    let (state, imap, pop3, lmtp) = (state.display(), imap.port(), pop3.port(), lmtp.port());
    let listener = |service: &str, name: &str, port: u16| {
        format!(
            "service {service}-login {{\n  inet_listener {service} {{\n    port = {port}\n  }}\n  \
             inet_listener {name} {{\n    port = 0\n  }}\n}}\n"
        )
    };
    let users = "driver = passwd-file\n";
    format!(
        "protocols = imap pop3 lmtp\n\
         listen = 127.0.0.1\n\
         base_dir = {state}/run\n\
         state_dir = {state}/state\n\
         log_path = {state}/log\n\
         ssl = no\n\
         disable_plaintext_auth = no\n\
         mail_location = maildir:%h\n\
         mail_uid = {MAIL_USER}\n\
         mail_gid = {MAIL_USER}\n\
         passdb {{\n  {users}  args = {state}/users\n}}\n\
         userdb {{\n  {users}  args = {state}/users\n}}\n\
         mail_plugins = quota\n\
         plugin {{\n  quota = maildir:quota\n}}\n\
         service lmtp {{\n  inet_listener lmtp {{\n    port = {lmtp}\n  }}\n}}\n\
         {}{}",
        listener("imap", "imaps", imap),
        listener("pop3", "pop3s", pop3),
    )
}
