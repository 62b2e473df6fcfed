//! Postfix from Debian with its stock limits, relaying everything to the sink. Its durability and
//! its log are as it ships.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::server::{SINK_PORT, SMTP_PORT, Setup};
use super::view;
use crate::{command, tools};

const CONFIG_DIR: &str = "/var/lib/postfix-conf";

/// Enters the view and becomes `postfix start`.
pub(super) fn serve(setup: &Setup) -> Result<()> {
    let packages = tools::bring(tools::Tool::Postfix)?.dir.join("postfix");
    view::enter(&packages, &setup.state)?;
    for dir in [CONFIG_DIR, "/var/spool/postfix", "/var/lib/postfix", "/var/log"] {
        fs::create_dir_all(dir)?;
    }
    command::output(Command::new("chown").args(["postfix", "/var/lib/postfix"]))?;
    fs::write(format!("{CONFIG_DIR}/main.cf"), main_cf(setup))?;
    let master = fs::read_to_string("/usr/share/postfix/master.cf.dist")?;
    fs::write(format!("{CONFIG_DIR}/master.cf"), master_cf(&master))?;
    let mut postfix = Command::new("/usr/sbin/postfix");
    let error = postfix.args(["-c", CONFIG_DIR, "start"]).exec();
    bail!("cannot start Postfix: {error}")
}

/// Files in the queue directories, as the harness sees them.
pub(super) fn queued(state: &Path) -> u64 {
    let spool = state.join("var/spool/postfix");
    ["incoming", "active", "deferred", "hold", "maildrop"]
        .iter()
        .map(|queue| files(&spool.join(queue)))
        .sum()
}

pub(super) fn version(state: &Path) -> String {
    let log = fs::read_to_string(state.join("var/log/postfix.log")).unwrap_or_default();
    let version = log.split("-- version ").nth(1).and_then(|rest| rest.split(',').next());
    format!("Postfix {}", version.unwrap_or("of unknown version"))
}

fn files(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let count = |path: &Path| if path.is_dir() { files(path) } else { 1 };
    entries.flatten().map(|entry| count(&entry.path())).sum()
}

fn main_cf(setup: &Setup) -> String {
    let hold = if setup.hold { "static:HOLD, " } else { "" };
    let mut config = format!(
        "compatibility_level = 3.6\n\
         queue_directory = /var/spool/postfix\n\
         command_directory = /usr/sbin\n\
         daemon_directory = /usr/lib/postfix/sbin\n\
         data_directory = /var/lib/postfix\n\
         meta_directory = /etc/postfix\n\
         shlib_directory = /usr/lib/postfix\n\
         mail_owner = postfix\n\
         setgid_group = postdrop\n\
         myhostname = mx.bench.test\n\
         inet_interfaces = 127.0.0.1\n\
         inet_protocols = ipv4\n\
         mydestination =\n\
         local_recipient_maps =\n\
         alias_maps =\n\
         alias_database =\n\
         mynetworks = 127.0.0.0/8\n\
         relayhost = [127.0.0.1]:{SINK_PORT}\n\
         maillog_file = /var/log/postfix.log\n\
         message_size_limit = 104857600\n\
         mailbox_size_limit = 0\n\
         smtpd_recipient_restrictions = {hold}permit_mynetworks, reject\n"
    );
    if setup.idle > 0 {
        config += &format!("default_process_limit = {}\n", setup.idle + 100);
    }
    config
}

/// No chroot, and the port of the bench.
fn master_cf(dist: &str) -> String {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_service = !line.starts_with([' ', '\t', '#']) && words.len() >= 8;
        if !is_service {
            return line.to_owned();
        }
        let mut words = words;
        words[4] = "n";
        let listener = format!("127.0.0.1:{SMTP_PORT}");
        if words[0] == "smtp" && words[1] == "inet" {
            words[0] = &listener;
        }
        words.join(" ")
    };
    dist.lines().map(|text| line(text) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_leave_the_chroot_and_listen_on_our_port() {
        let dist = "# comment with many words in it, more than eight\n\
                    smtp      inet  n       -       y       -       -       smtpd\n\
                    smtp      unix  -       -       y       -       -       smtp\n  \
                    -o syslog_name=postfix/$service_name\n";
        let made = master_cf(dist);
        assert!(made.contains("\n127.0.0.1:2525 inet n - n - - smtpd\n"), "{made}");
        assert!(made.contains("\nsmtp unix - - n - - smtp\n"), "{made}");
        assert!(made.contains("\n  -o syslog_name=postfix/$service_name\n"), "{made}");
    }
}
