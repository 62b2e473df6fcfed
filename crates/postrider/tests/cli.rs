//! The command line as people meet it: what it says when something is wrong.
#![allow(clippy::unwrap_used)] // helpers of tests, outside of a #[test] function

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/quickstart");

fn postrider(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

/// A copy of the quickstart with one text of one file replaced.
fn changed(dir: &Path, file: &str, from: &str, to: &str) -> PathBuf {
    let copy = dir.join("etc");
    fs::create_dir_all(copy.join("domains")).unwrap();
    for name in ["postrider.yaml", "domains/example.org.yaml"] {
        let text = fs::read_to_string(Path::new(QUICKSTART).join(name)).unwrap();
        let text = if name == file { text.replacen(from, to, 1) } else { text };
        fs::write(copy.join(name), text).unwrap();
    }
    copy
}

fn refused(directory: &Path, verb: &str) -> String {
    let output = postrider(&[verb, &directory.display().to_string()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(output.stdout.is_empty());
    assert!(!directory.join("data").exists(), "{verb} made something");
    said
}

#[test]
fn the_quickstart_is_in_order() {
    let output = postrider(&["check", QUICKSTART]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "ok: 1 domains, 2 mailboxes, 3 listeners\n");
}

#[test]
fn bash_completes_commands_and_options() {
    let script = String::from_utf8(postrider(&["completions", "bash"]).stdout).unwrap();
    for (words, wants) in
        [("postrider que", "queue"), ("postrider queue list --recip", "--recipient-domain")]
    {
        let last = words.split(' ').count() - 1;
        let ask = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD={last}\n\
             _postrider postrider \"${{COMP_WORDS[COMP_CWORD]}}\"\necho \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["-c", &ask]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.trim(), wants, "{words}: {:?}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let dir = tempfile::tempdir().unwrap();
    let output = postrider(&["man", &dir.path().display().to_string()]);
    assert!(output.status.success(), "{output:?}");
    for page in ["postrider.1", "postrider-queue.1", "postrider-queue-cancel.1"] {
        let text = fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    let nowhere = dir.path().join("none").display().to_string();
    let output = postrider(&["man", &nowhere]);
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains(&nowhere));
}

#[test]
fn mistakes_name_the_place_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let resource = "domains/example.org.yaml";
    for (file, from, to, wants) in [
        ("postrider.yaml", "dataDir: data", "dataDri: data", vec!["postrider.yaml:4:", "dataDri"]),
        ("postrider.yaml", "hostname: mail", "hostname: ma il", vec!["hostname: ", "ma il"]),
        ("postrider.yaml", "port: 2526", "port: 0", vec!["delivery.routes[0].port: is zero"]),
        ("postrider.yaml", "dataDir: data", "log: {filter: a=b=c}", vec!["log.filter: "]),
        (
            "postrider.yaml",
            "ingress:",
            "ingress:\n  limits: {contentTotalSeconds: 0}",
            vec!["ingress.limits.contentTotalSeconds is zero"],
        ),
        (
            "postrider.yaml",
            "delivery:",
            "delivery:\n  retry: {expireSeconds: 0}",
            vec!["delivery.retry: "],
        ),
        (
            "postrider.yaml",
            "dataDir: data",
            "queue: {leaseSeconds: 60}",
            vec!["delivery.", "a lease of 60 s is shorter"],
        ),
        (
            "postrider.yaml",
            "dataDir: data",
            "admin: {listen: \"127.0.0.1:0\"}",
            vec!["admin.tokenFile: is not set", "openssl rand"],
        ),
        (
            "postrider.yaml",
            "dataDir: data",
            "admin: {listen: \"127.0.0.1:0\", tokenFile: postrider.yaml}",
            vec!["admin.tokenFile: ", "etc/postrider.yaml has mode 644", "chmod 600"],
        ),
        (
            "postrider.yaml",
            "dataDir: data",
            "admin: {listen: \"0.0.0.0:8026\", tokenFile: postrider.yaml}",
            vec!["admin.listen: 0.0.0.0:8026 is not a loopback address", "tunnel"],
        ),
        (
            "postrider.yaml",
            "dataDir: data",
            "srs: {keyFiles: [none.key]}",
            vec!["srs.keyFiles: ", "etc/none.key: No such file", "openssl rand"],
        ),
        (
            "postrider.yaml",
            "dataDir: data",
            "srs: {keyFiles: [domains/../postrider.yaml, /dev/null]}",
            vec!["srs.keyFiles: a key for forwarding has at least 16 octets"],
        ),
        (
            resource,
            "to: [alice@",
            "to: [nobody@",
            vec!["example.org.yaml:", "spec.inbound.aliases[0].to[0]: ", "goes nowhere: "],
        ),
        (resource, "domain: example.org", "domian: example.org", vec!["domian"]),
    ] {
        let directory = changed(dir.path(), file, from, to);
        for verb in ["check", "serve"] {
            let said = refused(&directory, verb);
            for want in &wants {
                assert!(said.contains(want), "{verb} with {to:?} did not say {want:?}: {said}");
            }
        }
    }
}

#[test]
fn a_port_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = changed(dir.path(), "postrider.yaml", "127.0.0.1:2525", &address);
    let output = postrider(&["serve", &directory.display().to_string()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on {address}")) && said.contains("in use"));
}

#[test]
fn a_queue_without_its_process_says_what_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let directory = changed(dir.path(), "postrider.yaml", "", "").display().to_string();
    let output = postrider(&["queue", "list", "--config", &directory]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is `postrider serve` running on this directory?"), "{said}");
}

/// A process that serves, ended with the test.
struct Serving {
    child: Child,
    /// Open as long as it runs: it writes on after it is ready.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Serving {
    fn start(directory: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command.args(["serve", directory]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let is_ready = stdout.by_ref().map_while(Result::ok).any(|line| line == "ready");
        let serving = Self { child, _stdout: stdout };
        assert!(is_ready, "it ended before it was ready");
        serving
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Every file below a directory, in order.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn a_second_process_on_the_same_data_leaves_the_first_alone() {
    let dir = tempfile::tempdir().unwrap();
    let etc = changed(dir.path(), "postrider.yaml", "", "");
    let settings = "hostname: mx.example.org\nhttp: { address: \"127.0.0.1:0\" }\n";
    fs::write(etc.join("postrider.yaml"), settings).unwrap();
    let directory = etc.display().to_string();
    let _first = Serving::start(&directory);
    let before = files(&etc.join("data"));
    let second = postrider(&["serve", &directory]);
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another process uses") && said.contains("stop it"), "{said}");
    assert_eq!(files(&etc.join("data")), before);
    let asked = postrider(&["queue", "stats", "--config", &directory]);
    assert!(asked.status.success(), "the first no longer answers: {asked:?}");
}

#[test]
fn nobody_means_the_whole_queue_by_forgetting() {
    let output = postrider(&["queue", "cancel", "--config", QUICKSTART]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("--all"), "{said}");
}

#[test]
fn a_hashed_password_verifies() {
    use argon2::{Argon2, PasswordVerifier};
    let mut child = Command::new(env!("CARGO_BIN_EXE_postrider"))
        .args(["mailbox", "hash-password"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse\n").unwrap();
    let hash = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let hash = argon2::PasswordHash::new(hash.trim()).unwrap();
    assert!(Argon2::default().verify_password(b"correct horse", &hash).is_ok());
    assert!(Argon2::default().verify_password(b"wrong horse", &hash).is_err());
}

#[test]
fn help_names_every_command() {
    let said = String::from_utf8(postrider(&["--help"]).stdout).unwrap();
    for command in ["serve", "check", "queue", "domain", "mailbox"] {
        assert!(said.contains(command), "{said}");
    }
}
