//! An image of containers as an OCI archive, made without an engine. The same files give the same
//! octets.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A file of the image, which is read when the image is written.
pub(crate) struct File {
    from: PathBuf,
    /// Relative to the root of the image.
    path: PathBuf,
    mode: u32,
}

impl File {
    /// A program, at a path that begins with `/`.
    pub(crate) fn program(from: &Path, path: &str) -> Self {
        let path = PathBuf::from(path.trim_start_matches('/'));
        Self { from: from.to_owned(), path, mode: 0o755 }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// An image of one layer.
pub(crate) struct Image<'a> {
    /// With registry and tag: containerd compares whole names.
    name: &'a str,
    files: &'a [File],
    entry: Vec<String>,
}

impl<'a> Image<'a> {
    pub(crate) fn new(name: &'a str, files: &'a [File], entry: Vec<String>) -> Self {
        Self { name, files, entry }
    }

    pub(crate) fn write(&self, archive: &Path) -> Result<()> {
        let mut blobs = Blobs::default();
        let layer = blobs.add(self.layer()?);
        let config = blobs.add_json(&json!({
            "architecture": architecture(),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Entrypoint": self.entry},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        }));
        let manifest = blobs.add_json(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": blobs.descriptor(&config, CONFIG),
            "layers": [blobs.descriptor(&layer, LAYER)],
        }));
        let mut descriptor = blobs.descriptor(&manifest, MANIFEST);
        descriptor["platform"] = json!({"architecture": architecture(), "os": "linux"});
        let tag = self.name.rsplit(':').next().unwrap_or_default();
        descriptor["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": tag,
        });
        let index =
            json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}).to_string();
        let file = fs::File::create(archive)
            .with_context(|| format!("cannot write {}", archive.display()))?;
        let mut tar = tar::Builder::new(std::io::BufWriter::new(file));
        append(&mut tar, Path::new("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        append(&mut tar, Path::new("index.json"), index.as_bytes(), 0o644)?;
        for (digest, octets) in &blobs.0 {
            append(&mut tar, &Path::new("blobs/sha256").join(digest), octets, 0o644)?;
        }
        tar.into_inner()?.flush()?;
        Ok(())
    }

    /// Directories come before what is in them.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut made: Vec<&Path> = Vec::new();
        for file in self.files {
            let mut above: Vec<&Path> = file.path.ancestors().skip(1).collect();
            above.reverse();
            for directory in above {
                if !directory.as_os_str().is_empty() && !made.contains(&directory) {
                    append_directory(&mut tar, directory)?;
                    made.push(directory);
                }
            }
            let octets = fs::read(&file.from)
                .with_context(|| format!("cannot read {}", file.from.display()))?;
            append(&mut tar, &file.path, &octets, file.mode)?;
        }
        Ok(tar.into_inner()?)
    }
}

/// By their digests.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    fn add(&mut self, octets: Vec<u8>) -> String {
        let sum = digest(&SHA256, &octets);
        let digest: String = sum.as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
        self.0.insert(digest.clone(), octets);
        digest
    }

    fn add_json(&mut self, value: &serde_json::Value) -> String {
        self.add(value.to_string().into_bytes())
    }

    fn descriptor(&self, digest: &str, media_type: &str) -> serde_json::Value {
        let size = self.0.get(digest).map_or(0, Vec::len);
        json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
    }
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &Path,
    octets: &[u8],
    mode: u32,
) -> Result<()> {
    let mut header = header(mode, octets.len() as u64);
    Ok(tar.append_data(&mut header, path, octets)?)
}

fn append_directory<W: Write>(tar: &mut tar::Builder<W>, path: &Path) -> Result<()> {
    let mut header = header(0o755, 0);
    header.set_entry_type(tar::EntryType::Directory);
    Ok(tar.append_data(&mut header, path, std::io::empty())?)
}

/// Root's, of no time.
fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// As OCI names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_make_the_same_archive() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "octets").unwrap();
        let write = |name: &str| {
            let files = [File::program(&program, "/usr/bin/program")];
            let archive = dir.path().join(name);
            let entry = vec!["/usr/bin/program".to_owned()];
            Image::new("registry.test/program:1", &files, entry).write(&archive).unwrap();
            fs::read(archive).unwrap()
        };
        assert_eq!(write("a.tar"), write("b.tar"));
        let mut archive = tar::Archive::new(fs::File::open(dir.path().join("a.tar")).unwrap());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert_eq!(names[..2], ["oci-layout", "index.json"]);
    }
}
