//! A real Dovecot from Debian's packages, in a mount namespace of its own. Needs root.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Command;

use crate::process::binary;
use crate::{namespace, ports, tools, wait};

/// The user whose files the Maildirs are, and its group; Dovecot serves none that are root's. Where
/// Dovecot runs it is called `postrider`.
pub const MAIL_USER: u32 = 12_345;

/// How an operator lets Dovecot serve our Maildirs.
const PAGE: &str = include_str!("../../docs/operations.md");

/// Runs the script in `argv[3]`, in which `imap()` and `pop3()` begin a session.
const PYTHON: &str = "\
import imaplib, poplib, sys
user, password, script, imap_port, pop3_port = sys.argv[1:]
def imap():
    session = imaplib.IMAP4('127.0.0.1', int(imap_port))
    session.login(user, password)
    return session
def pop3():
    session = poplib.POP3('127.0.0.1', int(pop3_port))
    session.user(user)
    session.pass_(password)
    return session
exec(script)
";

/// A running Dovecot; dropped, it and all its processes end.
pub struct Dovecot {
    imap: SocketAddr,
    pop3: SocketAddr,
    lmtp: SocketAddr,
    log: PathBuf,
    /// A socket by which it tells of users.
    users: PathBuf,
    _master: namespace::Running,
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

/// Lays the packages and our binary over `/usr`, users over `/etc`, the directory of our socket
/// into `/run`, and becomes Dovecot. Nothing outside of `$STATE` is written.
const SCRIPT: &str = r#"
set -eu
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$STATE/usr:$PACKAGES/usr:/usr" /usr
mount -t overlay overlay -o "lowerdir=$STATE/etc:/etc" /etc
mount -t tmpfs tmpfs /run
mkdir /run/postrider
mount --bind "$STATE/socket" /run/postrider
export LD_LIBRARY_PATH=/usr/lib/dovecot
exec /usr/sbin/dovecot -F -c "$STATE/dovecot.conf"
"#;

impl Dovecot {
    /// Starts one with users of its own, that also takes mail by LMTP.
    pub async fn start(dir: &Path, logins: &[Login<'_>]) -> Result<Self> {
        let state = dir.join("dovecot");
        let line = |login: &Login<'_>| {
            let Login { name, hash, maildir, quota_bytes } = login;
            let rule = quota_bytes.map(|bytes| format!("userdb_quota_rule=*:bytes={bytes}"));
            let rule = rule.unwrap_or_default();
            format!("{name}:{hash}::::{}::{rule}\n", maildir.display())
        };
        fs::create_dir_all(&state)?;
        fs::write(state.join("users"), logins.iter().map(line).collect::<String>())?;
        let dovecot = Self::configured(&state, &with_own_users(&state)).await?;
        dovecot.until_it_listens(dovecot.lmtp).await?;
        Ok(dovecot)
    }

    /// Starts one that is configured as our documentation says, and asks the Postrider whose socket
    /// is [`Dovecot::socket`].
    pub async fn serving_ours(dir: &Path) -> Result<Self> {
        let blocks = PAGE.split("```\n").find(|block| block.contains("driver = checkpassword"));
        let documented = blocks.context("docs/operations.md has no configuration of Dovecot")?;
        Self::configured(&dir.join("dovecot"), documented).await
    }

    /// Where the Postrider listens that [`Dovecot::serving_ours`] asks; makes the directory.
    pub fn socket(dir: &Path) -> Result<PathBuf> {
        let directory = dir.join("dovecot/socket");
        fs::create_dir_all(&directory)?;
        chown(&directory, Some(MAIL_USER), Some(MAIL_USER))?;
        Ok(directory.join("dovecot.sock"))
    }

    /// Starts it on free ports.
    async fn configured(state: &Path, configuration: &str) -> Result<Self> {
        let packages = tools::path("dovecot")?;
        let passwd = format!(
            "dovecot:x:702:702::/:/bin/false\ndovenull:x:703:703::/:/bin/false\n\
             postrider:x:{MAIL_USER}:{MAIL_USER}::/:/bin/false\n"
        );
        let group = format!("dovecot:x:702:\ndovenull:x:703:\npostrider:x:{MAIL_USER}:\n");
        namespace::add_users(state, &passwd, &group)?;
        fs::create_dir_all(state.join("socket"))?;
        fs::create_dir_all(state.join("usr/bin"))?;
        fs::copy(binary()?, state.join("usr/bin/postrider"))?;
        let addresses = ports::free(3)?.into_iter().map(|port| ([127, 0, 0, 1], port).into());
        let addresses: Vec<SocketAddr> = addresses.collect();
        let [imap, pop3, lmtp] = addresses[..] else { anyhow::bail!("no ports") };
        let local = local(state, imap, pop3, lmtp);
        fs::write(state.join("dovecot.conf"), format!("{configuration}{local}"))?;
        let master = namespace::start("Dovecot", &packages, state, SCRIPT)?;
        let (log, users) = (state.join("log"), state.join("run/auth-userdb"));
        let dovecot = Self { imap, pop3, lmtp, log, users, _master: master };
        for address in [imap, pop3] {
            dovecot.until_it_listens(address).await?;
        }
        Ok(dovecot)
    }

    async fn until_it_listens(&self, address: SocketAddr) -> Result<()> {
        let connect = async || TcpStream::connect(address).await.ok().map(drop);
        let listens = wait::until("Dovecot to listen", Duration::from_secs(30), connect).await;
        listens.with_context(|| self.log())
    }

    /// Runs `script`, in which `imap()` and `pop3()` log this user in; gives what it prints.
    pub async fn python(&self, user: &str, password: &str, script: &str) -> Result<String> {
        let output = Command::new(tools::path("python/bin/python3")?)
            .args(["-c", PYTHON, user, password, script])
            .args([self.imap.port().to_string(), self.pop3.port().to_string()])
            .stdin(Stdio::null())
            .output()
            .await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{script}: {error}\n{}", self.log());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What it knows of a user who does not log in, as `doveadm` asks it: a line of fields.
    pub async fn user(&self, name: &str) -> Result<String> {
        let mut stream = BufReader::new(UnixStream::connect(&self.users).await?);
        let ask = format!("VERSION\t1\t1\nUSER\t1\t{name}\tservice=doveadm\n");
        stream.write_all(ask.as_bytes()).await?;
        let mut line = String::new();
        while line.is_empty() || line.starts_with("VERSION\t") || line.starts_with("SPID\t") {
            line.clear();
            let read = stream.read_line(&mut line);
            let octets = tokio::time::timeout(Duration::from_secs(30), read).await??;
            ensure!(octets > 0, "no answer for {name}: {}", self.log());
        }
        Ok(line)
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

/// Where it is, and that a test need not wait for one who guesses passwords.
fn local(state: &Path, imap: SocketAddr, pop3: SocketAddr, lmtp: SocketAddr) -> String {
    let (state, imap, pop3, lmtp) = (state.display(), imap.port(), pop3.port(), lmtp.port());
    let listener = |service: &str, name: &str, port: u16| {
        format!(
            "service {service}-login {{\n  inet_listener {service} {{\n    port = {port}\n  }}\n  \
             inet_listener {name} {{\n    port = 0\n  }}\n}}\n"
        )
    };
    format!(
        "listen = 127.0.0.1\n\
         base_dir = {state}/run\n\
         state_dir = {state}/state\n\
         log_path = {state}/log\n\
         ssl = no\n\
         disable_plaintext_auth = no\n\
         auth_failure_delay = 0\n\
         service anvil {{\n  unix_listener anvil-auth-penalty {{\n    mode = 0\n  }}\n}}\n\
         service lmtp {{\n  inet_listener lmtp {{\n    port = {lmtp}\n  }}\n}}\n\
         {}{}",
        listener("imap", "imaps", imap),
        listener("pop3", "pop3s", pop3),
    )
}

fn with_own_users(state: &Path) -> String {
    let (state, users) = (state.display(), "driver = passwd-file\n");
    format!(
        "protocols = imap pop3 lmtp\n\
         mail_location = maildir:%h\n\
         mail_uid = {MAIL_USER}\n\
         mail_gid = {MAIL_USER}\n\
         passdb {{\n  {users}  args = {state}/users\n}}\n\
         userdb {{\n  {users}  args = {state}/users\n}}\n\
         mail_plugins = quota\n\
         plugin {{\n  quota = maildir:quota\n}}\n"
    )
}

/// Gives all of it to [`MAIL_USER`]: nothing in it needs root.
pub fn give(dir: &Path) -> Result<()> {
    chown(dir, Some(MAIL_USER), Some(MAIL_USER))?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            give(&path)?;
        } else {
            chown(&path, Some(MAIL_USER), Some(MAIL_USER))?;
        }
    }
    Ok(())
}
