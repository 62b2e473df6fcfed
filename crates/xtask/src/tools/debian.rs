//! Postfix, Exim, Dovecot, swaks, libfaketime and Chromium, unpacked from Debian's packages beside
//! the libraries that this machine lacks.
//!
//! `apt-get --simulate` says which packages are missing here, `apt-get download` brings them and
//! `dpkg -x` unpacks them: none of it needs root or changes the machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{cache, command, machine};

/// What the tests were written against. Debian replaces the last part by security updates, so only
/// the upstream version is pinned.
const POSTFIX: Pin = Pin { package: "postfix", upstream: "3.7." };
const EXIM: Pin = Pin { package: "exim4-daemon-light", upstream: "4.96-" };
const DOVECOT: Pin = Pin { package: "dovecot-core", upstream: "1:2.3." };
const SWAKS: Pin = Pin { package: "swaks", upstream: "20201014." };
const FAKETIME: Pin = Pin { package: "libfaketime", upstream: "0.9.10" };
/// Debian follows its authors from one major version to the next, for security.
const CHROMIUM: Pin = Pin { package: "chromium", upstream: "156.0." };
/// By which programs drive it; of the same version.
const CHROMIUM_DRIVER: &str = "chromium-driver";

/// What runs the containers of the test cluster.
const CONTAINERS: Pin = Pin { package: "containerd", upstream: "1.6." };
/// What it and the node's programs call, and `tini`, which is the first process of the node.
const CONTAINERS_MORE: [&str; 6] =
    ["runc", "containernetworking-plugins", "iptables", "nftables", "conntrack", "tini"];

/// The protocols that Dovecot speaks; each a package beside its core, of the same version.
const DOVECOT_PROTOCOLS: [&str; 3] = ["dovecot-imapd", "dovecot-pop3d", "dovecot-lmtpd"];

/// Of swaks: it only recommends what it needs for STARTTLS and AUTH.
const SWAKS_MODULES: [&str; 3] =
    ["libnet-ssleay-perl", "libio-socket-ssl-perl", "libauthen-sasl-perl"];

struct Pin {
    package: &'static str,
    upstream: &'static str,
}

impl Pin {
    fn stamp(&self) -> String {
        format!("{} {}", self.package, self.upstream)
    }
}

pub(super) fn bring_postfix(dir: &Path) -> Result<bool> {
    cache::ensure(&dir.join("postfix"), &POSTFIX.stamp(), |root| {
        unpack(dir, root, &POSTFIX, &[])?;
        for program in ["smtp-source", "smtp-sink"] {
            let path = root.join("usr/sbin").join(program);
            write_program(dir, program, &with_libraries(root, &["postfix"], &path)?)?;
        }
        Ok(())
    })
}

pub(super) fn bring_exim(dir: &Path) -> Result<bool> {
    cache::ensure(&dir.join("exim"), &EXIM.stamp(), |root| unpack(dir, root, &EXIM, &[]))
}

pub(super) fn bring_dovecot(dir: &Path) -> Result<bool> {
    // A cache from before a protocol was added lacks it.
    let pins = format!("{} {}", DOVECOT.stamp(), DOVECOT_PROTOCOLS.join(" "));
    cache::ensure(&dir.join("dovecot"), &pins, |root| {
        unpack(dir, root, &DOVECOT, &DOVECOT_PROTOCOLS)
    })
}

pub(super) fn bring_swaks(dir: &Path) -> Result<bool> {
    cache::ensure(&dir.join("swaks"), &SWAKS.stamp(), |root| {
        unpack(dir, root, &SWAKS, &SWAKS_MODULES)?;
        let modules = perl_modules(root)?;
        let script = format!(
            "#!/bin/sh\nPERL5LIB={modules} exec perl {} \"$@\"\n",
            quote(&root.join("usr/bin/swaks"))?
        );
        write_program(dir, "swaks", &script)
    })
}

/// A browser, and what drives it. A window, sound and a printer are not asked for.
pub(super) fn bring_chromium(dir: &Path) -> Result<bool> {
    cache::ensure(&dir.join("chromium"), &CHROMIUM.stamp(), |root| {
        unpack(dir, root, &CHROMIUM, &[CHROMIUM_DRIVER])?;
        let own = ["chromium", "x86_64-linux-gnu/pulseaudio", "aarch64-linux-gnu/pulseaudio"];
        for (name, place) in
            [("chromium", "usr/lib/chromium/chromium"), ("chromedriver", "usr/bin/chromedriver")]
        {
            write_program(dir, name, &with_libraries(root, &own, &root.join(place))?)?;
        }
        Ok(())
    })
}

/// A script that runs a program with the libraries that were unpacked beside it, and those in its
/// own directories of `usr/lib`.
fn with_libraries(root: &Path, own: &[&str], program: &Path) -> Result<String> {
    let libraries = root.join("usr/lib");
    let dirs = own.iter().chain(&["x86_64-linux-gnu", "aarch64-linux-gnu"]);
    let dirs: Result<Vec<String>> = dirs.map(|dir| quote(&libraries.join(dir))).collect();
    let (dirs, program) = (dirs?.join(":"), quote(program)?);
    Ok(format!("#!/bin/sh\nLD_LIBRARY_PATH={dirs} exec {program} \"$@\"\n"))
}

pub(super) fn containers_stamp() -> String {
    format!("{} {}", CONTAINERS.stamp(), CONTAINERS_MORE.join(" "))
}

pub(super) fn unpack_containers(dir: &Path, root: &Path) -> Result<()> {
    unpack(dir, root, &CONTAINERS, &CONTAINERS_MORE)?;
    for program in ["usr/bin/tini", "usr/sbin/runc", "usr/lib/cni/bridge"] {
        ensure!(
            root.join(program).exists(),
            "the package of {program} is installed on this machine and was not unpacked: the \
             cluster wants one of its own; remove it, or use a container"
        );
    }
    Ok(())
}

/// A library to be loaded before others: it steps the clock of a process.
pub(super) fn bring_faketime(dir: &Path) -> Result<bool> {
    cache::ensure(&dir.join("faketime"), &FAKETIME.stamp(), |root| {
        unpack(dir, root, &FAKETIME, &[])
    })
}

/// Unpacks the package and what it needs that is not installed here.
fn unpack(dir: &Path, root: &Path, pin: &Pin, more: &[&str]) -> Result<()> {
    println!("unpacking {} {}* from Debian", pin.package, pin.upstream);
    for program in ["apt-get", "dpkg"] {
        ensure!(
            machine::find(program).is_some(),
            "`{program}` is missing: the tests take {0} from Debian's packages; run them on Debian \
             12, for example in a container, or leave the part out by --without",
            pin.package
        );
    }
    let mut apt = Apt::new(dir)?;
    let mut packages = apt.missing(pin.package, more);
    if packages.is_err() {
        apt.update()?;
        packages = apt.missing(pin.package, more);
    }
    let packages = packages?;
    check_pin(pin, &packages)?;
    if apt.download(&packages, root).is_err() {
        // The list is older than the archive: a security update has replaced a package.
        apt.update()?;
        apt.download(&apt.missing(pin.package, more)?, root)?;
    }
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            command::output(Command::new("dpkg").arg("-x").arg(&path).arg(root))?;
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// A package at a version, as `name=version`.
fn check_pin(pin: &Pin, packages: &[String]) -> Result<()> {
    let prefix = format!("{}=", pin.package);
    let Some(version) = packages.iter().find_map(|package| package.strip_prefix(&prefix)) else {
        bail!("{} is installed on this machine: the tests want one of their own", pin.package);
    };
    if !version.starts_with(pin.upstream) {
        println!(
            "note: {} {version} is not the {}* that the tests were written against",
            pin.package, pin.upstream
        );
    }
    Ok(())
}

/// apt with this machine's lists, or after [`Apt::update`] with lists of our own.
struct Apt {
    options: Vec<String>,
    lists: std::path::PathBuf,
}

impl Apt {
    fn new(dir: &Path) -> Result<Self> {
        let archives = dir.join("apt/archives");
        fs::create_dir_all(archives.join("partial"))?;
        let options = vec![
            "--quiet=2".to_owned(),
            "--option=APT::Sandbox::User=root".to_owned(),
            "--option=APT::Get::Assume-Yes=true".to_owned(),
            // An image for containers may have it so; the archive is then not reused by us.
            "--option=Debug::NoLocking=true".to_owned(),
            format!("--option=Dir::Cache={}", dir.join("apt").display()),
        ];
        let mut apt = Self { options, lists: dir.join("apt/lists") };
        if apt.lists.join("updated").exists() {
            apt.use_own_lists();
        }
        Ok(apt)
    }

    fn use_own_lists(&mut self) {
        let option = format!("--option=Dir::State::lists={}", self.lists.display());
        if !self.options.contains(&option) {
            self.options.push(option);
        }
    }

    fn update(&mut self) -> Result<()> {
        println!("reading Debian's lists of packages");
        fs::create_dir_all(self.lists.join("partial"))?;
        self.use_own_lists();
        let mut apt = self.command();
        command::output(apt.arg("update")).context("Debian's lists cannot be read")?;
        Ok(fs::write(self.lists.join("updated"), "")?)
    }

    /// The package and its dependencies that are not installed here.
    fn missing(&self, package: &str, more: &[&str]) -> Result<Vec<String>> {
        let mut apt = self.command();
        apt.args(["--simulate", "--no-install-recommends", "install", package]).args(more);
        let plan = command::output(&mut apt)
            .with_context(|| format!("apt does not know how to install {package}"))?;
        Ok(planned(&plan))
    }

    fn download(&self, packages: &[String], into: &Path) -> Result<()> {
        let mut apt = self.command();
        command::output(apt.current_dir(into).arg("download").args(packages))
            .context("the packages could not be downloaded: is there a network?")?;
        Ok(())
    }

    fn command(&self) -> Command {
        let mut apt = Command::new("apt-get");
        apt.args(&self.options).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        apt
    }
}

/// `name=version` of each `Inst name (version …)` line.
fn planned(plan: &str) -> Vec<String> {
    let package = |line: &str| {
        let mut words = line.strip_prefix("Inst ")?.split_whitespace();
        let name = words.next()?;
        let version = words.find_map(|word| word.strip_prefix('('))?;
        Some(format!("{name}={version}"))
    };
    plan.lines().filter_map(package).collect()
}

/// The directories of Perl modules below an unpacked root, joined by colons.
fn perl_modules(root: &Path) -> Result<String> {
    let mut dirs = vec![root.join("usr/share/perl5")];
    // usr/lib/TRIPLET/perl5/VERSION holds the modules that are compiled.
    for triplet in fs::read_dir(root.join("usr/lib")).into_iter().flatten() {
        for version in fs::read_dir(triplet?.path().join("perl5")).into_iter().flatten() {
            dirs.push(version?.path());
        }
    }
    dirs.sort();
    let dirs: Result<Vec<String>> = dirs.iter().map(|dir| quote(dir)).collect();
    Ok(dirs?.join(":"))
}

fn write_program(dir: &Path, name: &str, script: &str) -> Result<()> {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin)?;
    fs::write(bin.join(name), script)?;
    Ok(fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755))?)
}

/// For a shell script: in quotes, and refused where quotes would not help.
fn quote(path: &Path) -> Result<String> {
    let path = path.to_str().filter(|path| !path.contains('\'')).context("odd cache directory")?;
    Ok(format!("'{path}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_apt_would_install() {
        let plan = "NOTE: This is only a simulation!\n\
                    Inst libnsl2 (1.3.0-2 Debian:12.11/oldstable [amd64])\n\
                    Inst ssl-cert [1.0] (1.1.2 Debian:12.11/oldstable [all])\n\
                    Conf libnsl2 (1.3.0-2 Debian:12.11/oldstable [amd64])\n";
        assert_eq!(planned(plan), ["libnsl2=1.3.0-2", "ssl-cert=1.1.2"]);
    }

    #[test]
    fn an_installed_package_is_said_to_be_so() {
        let error = check_pin(&SWAKS, &["perl=5".to_owned()]).unwrap_err();
        assert!(error.to_string().starts_with("swaks is installed"), "{error}");
        check_pin(&SWAKS, &["swaks=20201014.0-2".to_owned()]).unwrap();
    }
}
