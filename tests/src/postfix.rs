//! A real Postfix from Debian's packages, in a mount namespace of its own. Needs root.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;

use crate::exchange::Peer;
use crate::{namespace, ports, tools, wait};

/// A running Postfix; dropped, it and all its daemons end.
pub struct Postfix {
    address: SocketAddr,
    state: PathBuf,
    _master: namespace::Running,
}

/// Lays the packages over `/usr` and `/etc`, puts the state in the place of `/var`, and becomes
/// Postfix. Nothing outside of `$STATE` is written.
const SCRIPT: &str = r#"
set -eu
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$PACKAGES/usr:/usr" /usr
mount -t overlay overlay -o "lowerdir=$STATE/etc:$PACKAGES/etc:/etc" /etc
mount --bind "$STATE/var" /var
chown postfix /var/lib/postfix
exec /usr/sbin/postfix -c /var/lib/postfix-conf start-fg
"#;

impl Postfix {
    /// Starts it on a free port; it relays all it takes to `next_hop`. `settings` are lines of
    /// `main.cf`.
    pub async fn start(dir: &Path, next_hop: SocketAddr, settings: &str) -> Result<Self> {
        let packages = tools::path("postfix")?;
        let address = ports::free_address()?;
        let state = dir.join("postfix");
        for sub in ["var/spool/postfix", "var/lib/postfix", "var/lib/postfix-conf", "var/log"] {
            fs::create_dir_all(state.join(sub))?;
        }
        let passwd = "postfix:x:700:700::/nonexistent:/usr/sbin/nologin\n";
        namespace::add_users(&state, passwd, "postfix:x:700:\npostdrop:x:701:\n")?;
        let conf = state.join("var/lib/postfix-conf");
        fs::write(conf.join("main.cf"), main_cf(next_hop, settings))?;
        let master = fs::read_to_string(packages.join("usr/share/postfix/master.cf.dist"))?;
        fs::write(conf.join("master.cf"), master_cf(&master, address.port()))?;
        let master = namespace::start("Postfix", &packages, &state, SCRIPT)?;
        let postfix = Self { address, state, _master: master };
        wait::until("Postfix to listen", Duration::from_secs(30), async || {
            TcpStream::connect(address).await.ok()
        })
        .await
        .with_context(|| postfix.log())?;
        Ok(postfix)
    }
}

impl Peer for Postfix {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn log(&self) -> String {
        fs::read_to_string(self.state.join("var/log/postfix.log")).unwrap_or_default()
    }
}

/// Ours, but for what `settings` say: of a setting that is there twice every daemon warns when it
/// starts, `postlogd` by its own socket. When that is full, all wait for each other.
fn main_cf(next_hop: SocketAddr, settings: &str) -> String {
    let name = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let given: Vec<String> = settings.lines().map(name).collect();
    let ours = ours(next_hop);
    let lines = ours.lines().filter(|line| !given.contains(&name(line)));
    lines.chain(settings.lines()).map(|line| format!("{line}\n")).collect()
}

fn ours(next_hop: SocketAddr) -> String {
    format!(
        "compatibility_level = 3.6\n\
         queue_directory = /var/spool/postfix\n\
         command_directory = /usr/sbin\n\
         daemon_directory = /usr/lib/postfix/sbin\n\
         data_directory = /var/lib/postfix\n\
         meta_directory = /etc/postfix\n\
         shlib_directory = /usr/lib/postfix\n\
         mail_owner = postfix\n\
         setgid_group = postdrop\n\
         myhostname = postfix.test\n\
         inet_interfaces = 127.0.0.1\n\
         inet_protocols = ipv4\n\
         mydestination =\n\
         local_recipient_maps =\n\
         alias_maps =\n\
         alias_database =\n\
         mynetworks = 127.0.0.0/8\n\
         relayhost = [127.0.0.1]:{}\n\
         maillog_file = /var/log/postfix.log\n\
         smtpd_recipient_restrictions = permit_mynetworks, reject\n",
        next_hop.port()
    )
}

/// No daemon in a chroot, and the SMTP server on our port.
fn master_cf(shipped: &str, port: u16) -> String {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["smtp", "inet", private, unprivileged, _, ref rest @ ..] => {
                format!("127.0.0.1:{port} inet {private} {unprivileged} n {}\n", rest.join(" "))
            }
            [name, kind, private, unprivileged, _, ref rest @ ..]
                if rest.len() >= 3 && !line.starts_with([' ', '#']) =>
            {
                format!("{name} {kind} {private} {unprivileged} n {}\n", rest.join(" "))
            }
            _ => format!("{line}\n"),
        }
    };
    shipped.lines().map(line).collect()
}
