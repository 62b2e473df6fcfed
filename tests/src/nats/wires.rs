//! The connections between the servers of a cluster, each of which can be cut.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Server, Settings};
use crate::forwarder::Forwarder;

/// Where a server keeps what it has.
#[derive(Debug, Clone)]
pub struct Home {
    /// Its configuration and its log.
    pub dir: PathBuf,
    /// Its store; it may be on another file system.
    pub store: PathBuf,
}

impl Home {
    /// All below `dir`, in a directory of the server's name.
    pub(super) fn below(dir: &Path, index: usize) -> Self {
        let dir = dir.join(name(index));
        Self { store: dir.join("store"), dir }
    }

    pub(super) fn server(&self, index: usize, settings: &Settings, routes: &str) -> Result<Server> {
        Server::new(&name(index), &self.dir, &self.store, settings, routes)
    }
}

fn name(index: usize) -> String {
    format!("n{index}")
}

/// A forwarder from each server to each other.
pub struct Wires {
    wires: Vec<Wire>,
}

struct Wire {
    from: usize,
    to: usize,
    forwarder: Forwarder,
}

impl Wires {
    /// Between servers that listen for each other at these ports.
    pub(super) async fn between(ports: &[u16]) -> Result<Self> {
        let mut wires = Vec::new();
        for from in 0..ports.len() {
            for (to, port) in ports.iter().enumerate().filter(|(to, _)| *to != from) {
                let target = SocketAddr::from(([127, 0, 0, 1], *port));
                wires.push(Wire { from, to, forwarder: Forwarder::start(target).await? });
            }
        }
        Ok(Self { wires })
    }

    /// Where server `from` finds the others.
    pub(super) fn ports_of(&self, from: usize) -> Vec<u16> {
        let own = self.wires.iter().filter(|wire| wire.from == from);
        own.map(|wire| wire.forwarder.address().port()).collect()
    }

    /// These two hear nothing of each other.
    pub fn cut(&self, one: usize, other: usize) {
        let pair = [(one, other), (other, one)];
        for wire in self.wires.iter().filter(|wire| pair.contains(&(wire.from, wire.to))) {
            wire.forwarder.cut();
        }
    }

    pub fn heal_all(&self) {
        self.wires.iter().for_each(|wire| wire.forwarder.heal());
    }
}
