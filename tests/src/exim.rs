//! A real Exim from Debian's packages, in a mount namespace of its own. Needs root.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;

use crate::exchange::Peer;
use crate::{namespace, ports, tools, wait};

/// A running Exim; dropped, it and all its processes end.
pub struct Exim {
    address: SocketAddr,
    state: PathBuf,
    _daemon: namespace::Running,
}

/// Lays the packages over `/usr`, its configuration over `/etc`, puts the state in the place of
/// `/var`, and becomes Exim, which looks at its queue every second. Nothing outside of `$STATE` is
/// written.
const SCRIPT: &str = r#"
set -eu
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$PACKAGES/usr:/usr" /usr
mount -t overlay overlay -o "lowerdir=$STATE/etc:/etc" /etc
mount --bind "$STATE/var" /var
chown Debian-exim /var/spool/exim4 /var/log/exim4
exec /usr/sbin/exim4 -bdf -q1s
"#;

impl Exim {
    /// Starts it on a free port; it relays all it takes to `next_hop`. `main` are settings of the
    /// first part of its configuration, `transport` such of its SMTP client.
    pub async fn start(
        dir: &Path,
        next_hop: SocketAddr,
        main: &str,
        transport: &str,
    ) -> Result<Self> {
        let packages = tools::path("exim")?;
        let address = ports::free_address()?;
        let state = dir.join("exim");
        for sub in ["etc/exim4", "var/spool/exim4", "var/log/exim4"] {
            fs::create_dir_all(state.join(sub))?;
        }
        let passwd = "Debian-exim:x:704:704::/nonexistent:/usr/sbin/nologin\n";
        namespace::add_users(&state, passwd, "Debian-exim:x:704:\n")?;
        let configuration = configuration(address, next_hop, main, transport);
        fs::write(state.join("etc/exim4/exim4.conf"), configuration)?;
        let daemon = namespace::start("Exim", &packages, &state, SCRIPT)?;
        let exim = Self { address, state, _daemon: daemon };
        wait::until("Exim to listen", Duration::from_secs(30), async || {
            TcpStream::connect(address).await.ok()
        })
        .await
        .with_context(|| exim.log())?;
        Ok(exim)
    }
}

impl Peer for Exim {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn log(&self) -> String {
        fs::read_to_string(self.state.join("var/log/exim4/mainlog")).unwrap_or_default()
    }
}

fn configuration(address: SocketAddr, next_hop: SocketAddr, main: &str, transport: &str) -> String {
    format!(
        "primary_hostname = exim.test\n\
         exim_user = Debian-exim\n\
         exim_group = Debian-exim\n\
         spool_directory = /var/spool/exim4\n\
         log_file_path = /var/log/exim4/%slog\n\
         log_selector = +all\n\
         keep_environment =\n\
         host_lookup =\n\
         rfc1413_hosts =\n\
         dsn_advertise_hosts = *\n\
         local_interfaces = 127.0.0.1\n\
         daemon_smtp_ports = {}\n\
         acl_smtp_rcpt = take\n\
         {main}\n\
         begin acl\n\
         take:\n  accept hosts = 127.0.0.1\n\
         begin routers\n\
         onward:\n  driver = manualroute\n  route_list = * 127.0.0.1::{}\n  self = send\n  \
         transport = smtp\n\
         begin transports\n\
         smtp:\n  driver = smtp\n  {transport}\n\
         begin retry\n* * F,1h,1s\n",
        address.port(),
        next_hop.port()
    )
}
