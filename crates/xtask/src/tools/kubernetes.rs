//! Kubernetes with all that it needs, as programs: its own from their Go modules, what runs
//! containers from Debian's packages.
//!
//! `kubernetes/` has the Go modules at pinned versions. etcd, the servers of the control plane, the
//! kubelet, kube-proxy and kubectl are one program, `kubeall`: they share most of their code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};

use super::{debian, nats};
use crate::{cache, command, machine, workspace};

/// The names by which `kubeall` is called.
const PROGRAMS: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
];

/// Packages of our own module.
const OWN: [&str; 4] = ["kubeall", "coredns", "cloud", "pause"];
const HELM: &str = "helm.sh/helm/v3";
const FLAGS: &str = "-trimpath -buildvcs=false -tags=grpcnotrace";

/// By which names the one program of iptables is called.
const IPTABLES: [&str; 6] = [
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
];

pub(super) fn bring(dir: &Path) -> Result<bool> {
    let containers = cache::ensure(&dir.join("containers"), &debian::containers_stamp(), |root| {
        debian::unpack_containers(dir, root)?;
        let bin = root.join("bin");
        fs::create_dir_all(&bin)?;
        for name in IPTABLES {
            std::os::unix::fs::symlink("../usr/sbin/xtables-nft-multi", bin.join(name))?;
        }
        Ok(())
    })?;
    let sources = workspace::root().join("crates/xtask/kubernetes");
    let built = cache::ensure(&dir.join("kubernetes"), &stamp(&sources)?, |root| {
        println!("building Kubernetes, once, for about 10 minutes");
        ensure!(
            machine::find("go").is_some(),
            "`go` is missing: Kubernetes is built from source with Go 1.26 or newer, unpacked from \
             https://go.dev/dl"
        );
        let build = root.join("build");
        fs::create_dir_all(&build)?;
        let built = build_all(&sources, root, &build);
        fs::remove_dir_all(&build).with_context(|| format!("cannot empty {}", build.display()))?;
        built
    })?;
    Ok(containers || built)
}

/// What is built is told by the files that it is built from, and by how.
fn stamp(sources: &Path) -> Result<String> {
    let mut stamp = format!("{PROGRAMS:?} {FLAGS}\n");
    let mains = OWN.map(|own| format!("{own}/main.go"));
    for file in ["go.mod", "go.sum"].into_iter().map(str::to_owned).chain(mains) {
        let path = sources.join(&file);
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        stamp += &format!("{file} {:?}\n", digest(&SHA256, &text));
    }
    Ok(stamp)
}

fn build_all(sources: &Path, root: &Path, build: &Path) -> Result<()> {
    let modules = fs::read_to_string(sources.join("go.mod"))?;
    let kubernetes = version(&modules, "k8s.io/kubernetes")?;
    let bin = root.join("bin");
    fs::create_dir_all(&bin)?;
    for own in OWN {
        let package = format!("./{own}");
        go_build(sources, build, &bin.join(own), &package, &stamps_of(&kubernetes))?;
    }
    let helm = version(&modules, HELM)?;
    let flags = format!("-X {HELM}/internal/version.version={helm}");
    go_build(sources, build, &bin.join("helm"), &format!("{HELM}/cmd/helm"), &flags)?;
    for name in PROGRAMS {
        std::os::unix::fs::symlink("kubeall", bin.join(name))?;
    }
    Ok(())
}

/// The version of a module that `go.mod` names.
fn version(modules: &str, module: &str) -> Result<String> {
    let mut lines = modules.lines().map(str::trim);
    let found = lines.find_map(|line| line.strip_prefix(module)?.strip_prefix(' '));
    let version = found.and_then(|rest| rest.split_whitespace().next());
    Ok(version.with_context(|| format!("go.mod does not name {module}"))?.to_owned())
}

/// What Kubernetes' own build tells its programs. Without it the API server is of version 0.0.0,
/// and clients refuse it.
fn stamps_of(version: &str) -> String {
    let minor = version.split('.').nth(1).unwrap_or_default();
    let values = [
        ("gitVersion", version),
        ("gitMajor", "1"),
        ("gitMinor", minor),
        ("gitTreeState", "archive"),
        ("gitCommit", "0000000000000000000000000000000000000000"),
        ("buildDate", "1970-01-01T00:00:00Z"),
    ];
    let packages = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];
    let all = packages.iter().flat_map(|package| {
        values.iter().map(move |(name, value)| format!("-X {package}.{name}={value}"))
    });
    all.collect::<Vec<_>>().join(" ")
}

fn go_build(
    sources: &Path,
    build: &Path,
    program: &PathBuf,
    package: &str,
    flags: &str,
) -> Result<()> {
    let mut go = Command::new("go");
    nats::settle(&mut go, build)?;
    // By its environment, so that the command is short enough to be shown.
    let flags =
        format!("-modcacherw -trimpath -buildvcs=false -tags=grpcnotrace '-ldflags=-s -w {flags}'");
    go.current_dir(sources).env("GOFLAGS", flags);
    go.arg("build").arg("-o").arg(program).arg(package);
    command::run(&mut go).with_context(|| {
        format!("{package} could not be built: is there a network, is Go new enough?")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_module_file() {
        let modules = "require (\n\tk8s.io/kubernetes v1.34.4\n\thelm.sh/helm/v3 v3.19.5 // x\n)\n";
        assert_eq!(version(modules, "k8s.io/kubernetes").unwrap(), "v1.34.4");
        assert_eq!(version(modules, HELM).unwrap(), "v3.19.5");
        assert!(version(modules, "k8s.io/kube").is_err());
        assert!(stamps_of("v1.34.4").contains("k8s.io/component-base/version.gitMinor=34 "));
    }
}
