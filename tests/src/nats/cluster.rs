//! Several nats-servers that replicate.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use domains_kv::Buckets;
use serde_json::Value;
use tempfile::TempDir;

use super::wires::{Home, Wires};
use super::{START_MAX, Server, Settings};
use crate::{ports, wait};

/// Servers `n0`, `n1`, … that know each other by routes; one alone replicates nothing.
pub struct Cluster {
    servers: Vec<Server>,
    /// Removed after the processes are gone.
    _own_dir: Option<TempDir>,
}

impl Cluster {
    /// Starts `size` servers in a temporary directory and waits until all are current.
    pub async fn start(size: usize) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut cluster = Self::start_in(dir.path(), size, &Settings::default()).await?;
        cluster._own_dir = Some(dir);
        Ok(cluster)
    }

    /// Starts `size` servers in directories below `dir` and waits until all are current.
    pub async fn start_in(dir: &Path, size: usize, settings: &Settings) -> Result<Self> {
        let ports = ports::free(size)?;
        let mut servers = Vec::with_capacity(size);
        for (index, port) in ports.iter().enumerate() {
            let home = Home::below(dir, index);
            let others: Vec<u16> = ports.iter().copied().filter(|other| other != port).collect();
            let routes = if size == 1 { String::new() } else { routes(*port, &others, "") };
            servers.push(home.server(index, settings, &routes)?);
        }
        Self::launch(servers).await
    }

    /// Starts servers that reach each other by wires which can be cut.
    pub async fn start_wired(homes: &[Home], settings: &Settings) -> Result<(Self, Wires)> {
        let ports = ports::free(homes.len())?;
        let wires = Wires::between(&ports).await?;
        let mut servers = Vec::with_capacity(homes.len());
        for (index, home) in homes.iter().enumerate() {
            // What they tell each other of addresses would lead around the wires.
            let silent = "  advertise: \"127.0.0.1:1\"\n";
            let routes = routes(ports[index], &wires.ports_of(index), silent);
            servers.push(home.server(index, settings, &routes)?);
        }
        Ok((Self::launch(servers).await?, wires))
    }

    async fn launch(servers: Vec<Server>) -> Result<Self> {
        let mut cluster = Self { servers, _own_dir: None };
        for server in &mut cluster.servers {
            server.launch()?;
        }
        cluster.until_current(START_MAX).await?;
        Ok(cluster)
    }

    /// How many servers there are, also those that are down.
    #[allow(clippy::len_without_is_empty)] // there is always one
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    pub fn server(&self, index: usize) -> &Server {
        &self.servers[index]
    }

    /// For clients: all servers, also those that are down.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }

    pub fn monitor_urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::monitor_url).collect()
    }

    /// SIGKILL.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        self.servers[index].kill()
    }

    /// SIGSTOP.
    pub fn stop_process(&mut self, index: usize) -> Result<()> {
        self.servers[index].stop_process()
    }

    /// SIGCONT.
    pub fn resume(&mut self, index: usize) -> Result<()> {
        self.servers[index].resume()
    }

    /// Kills the server if it runs and starts it on the same ports and store. Does not wait: there
    /// may be no majority yet. See [`Cluster::until_current`].
    pub fn restart(&mut self, index: usize) -> Result<()> {
        self.servers[index].relaunch()
    }

    /// By which buckets on these servers are used, by anybody.
    pub fn buckets(&self) -> Buckets {
        Buckets {
            urls: self.urls(),
            nkey_file: None,
            ca_file: None,
            inbox_prefix: "_INBOX".to_owned(),
            replicas: self.len(),
            timeout: Duration::from_secs(5),
        }
    }

    /// Kills the server and starts it, by the same name, with an empty store.
    ///
    /// Refused while another one is not up: with two of three replicas gone what was acknowledged
    /// may be lost (nats-server issue 7545), which would be the fault of the test.
    pub fn replace(&mut self, index: usize) -> Result<()> {
        let mut others = self.servers.iter().enumerate().filter(|(other, _)| *other != index);
        ensure!(others.all(|(_, server)| server.is_up()), "another server is not up");
        let server = &mut self.servers[index];
        if server.pid().is_some() {
            server.kill()?;
        }
        fs::remove_dir_all(server.store_dir())?;
        server.launch()
    }

    /// Kills all servers and starts them with empty stores: all that was in them is lost.
    pub async fn wipe(&mut self, limit: Duration) -> Result<()> {
        for server in &mut self.servers {
            server.kill()?;
        }
        for server in &mut self.servers {
            fs::remove_dir_all(server.store_dir())?;
            server.launch()?;
        }
        self.until_current(limit).await
    }

    /// The server that leads JetStream's meta group, as one of those that are up says.
    pub async fn meta_leader(&self) -> Option<usize> {
        for server in self.servers.iter().filter(|server| server.is_up()) {
            let Ok(page) = server.monitor().json("/jsz").await else { continue };
            let leader = page["meta_cluster"]["leader"].as_str().unwrap_or_default();
            if let Some(index) = self.servers.iter().position(|server| server.name() == leader) {
                return Some(index);
            }
        }
        None
    }

    /// Waits until every server that is up is healthy, and the leaders of the meta group and of
    /// every stream see them as current.
    pub async fn until_current(&mut self, limit: Duration) -> Result<()> {
        let waited = wait::until("the cluster to be current", limit, async || {
            for server in self.servers.iter_mut().filter(|server| server.is_up()) {
                if let Err(error) = server.check_running() {
                    return Some(Err(error));
                }
            }
            self.is_current().await.then_some(Ok(()))
        });
        let result = waited.await.flatten();
        result.with_context(|| {
            let tails: Vec<String> = self.servers.iter().map(Server::log_tail).collect();
            tails.join("\n")
        })
    }

    /// Waits until every server that is up has been healthy, and has seen all whom it leads as
    /// current, if not all of them at the same moment: under load there may be none.
    pub async fn until_caught_up(&self, limit: Duration) -> Result<()> {
        let up: Vec<&Server> = self.servers.iter().filter(|server| server.is_up()).collect();
        let names: Vec<&str> = up.iter().map(|server| server.name()).collect();
        let mut behind = names.clone();
        let waited = wait::until("the servers to catch up", limit, async || {
            for server in &up {
                if behind.contains(&server.name()) && is_caught_up(server, &names).await {
                    behind.retain(|name| *name != server.name());
                }
            }
            behind.is_empty().then_some(())
        });
        let waited = waited.await;
        waited.with_context(|| format!("{behind:?} are behind"))
    }

    async fn is_current(&self) -> bool {
        if let [alone] = &self.servers[..] {
            return alone.monitor().is_healthy().await;
        }
        let up: Vec<&Server> = self.servers.iter().filter(|server| server.is_up()).collect();
        let names: Vec<&str> = up.iter().map(|server| server.name()).collect();
        let mut meta_leaders = HashSet::new();
        for server in up {
            let Ok(page) = server.monitor().json(GROUPS).await else { return false };
            if !server.monitor().is_healthy().await || !leads_current(&page, server.name(), &names)
            {
                return false;
            }
            meta_leaders.insert(page["meta_cluster"]["leader"].as_str().map(str::to_owned));
        }
        let leader = meta_leaders.iter().flatten().next();
        meta_leaders.len() == 1 && leader.is_some_and(|leader| names.contains(&leader.as_str()))
    }
}

/// The page that tells of streams and their replicas.
const GROUPS: &str = "/jsz?accounts=1&streams=1";

async fn is_caught_up(server: &Server, up: &[&str]) -> bool {
    let Ok(page) = server.monitor().json(GROUPS).await else { return false };
    leads_current(&page, server.name(), up) && server.monitor().is_healthy().await
}

/// The block of the server at `port`, which finds others at these ports. Clients know all servers
/// and are told of none.
fn routes(port: u16, others: &[u16], more: &str) -> String {
    let others: Vec<String> =
        others.iter().map(|other| format!("\"nats://127.0.0.1:{other}\"")).collect();
    format!(
        "cluster {{\n  name: test\n  listen: \"127.0.0.1:{port}\"\n  no_advertise: true\n  \
         routes: [{}]\n{more}}}\n",
        others.join(", ")
    )
}

/// Whether the groups that `server` leads are current at the servers in `up`, by its `page`
/// `/jsz?accounts=1&streams=1`: the meta group at all of them, a stream where it has replicas.
fn leads_current(page: &Value, server: &str, up: &[&str]) -> bool {
    let meta = &page["meta_cluster"];
    let has_all = || up.iter().all(|name| *name == server || is_replica(meta, name));
    if meta["leader"] == server && !has_all() {
        return false;
    }
    let accounts = page["account_details"].as_array().into_iter().flatten();
    let streams = accounts.flat_map(|a| a["stream_detail"].as_array().into_iter().flatten());
    let mut led = streams
        .map(|stream| &stream["cluster"])
        .chain([meta])
        .filter(|group| group["leader"] == server);
    led.all(|group| replicas(group).all(|r| !up.iter().any(|n| r["name"] == *n) || is_current(r)))
}

fn replicas(group: &Value) -> impl Iterator<Item = &Value> {
    group["replicas"].as_array().into_iter().flatten()
}

fn is_replica(group: &Value, name: &str) -> bool {
    replicas(group).any(|replica| replica["name"] == name)
}

fn is_current(replica: &Value) -> bool {
    replica["current"] == true && replica["offline"] != true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(meta: Value, stream: Value) -> Value {
        let groups = |replicas| json!({"leader": "n0", "replicas": replicas});
        json!({
            "meta_cluster": groups(meta),
            "account_details": [{"stream_detail": [{"cluster": groups(stream)}]}],
        })
    }

    #[test]
    fn waits_for_what_is_up() {
        let (n1, n2) = (json!({"name": "n1", "current": true}), json!({"name": "n2"}));
        let lagging = page(json!([n1, n2]), json!([]));
        assert!(leads_current(&lagging, "n0", &["n0", "n1"]));
        assert!(!leads_current(&lagging, "n0", &["n0", "n1", "n2"]));
        assert!(leads_current(&lagging, "n1", &["n0", "n1", "n2"]), "others judge what they lead");
    }

    #[test]
    fn waits_for_the_replicas_of_streams() {
        let current = json!([{"name": "n1", "current": true}]);
        let offline = json!([{"name": "n1", "current": true, "offline": true}]);
        assert!(leads_current(&page(current.clone(), json!([])), "n0", &["n0", "n1"]));
        assert!(!leads_current(&page(current, offline), "n0", &["n0", "n1"]));
    }

    #[test]
    fn waits_until_the_meta_group_knows_all() {
        let nobody = page(json!([]), json!([]));
        assert!(!leads_current(&nobody, "n0", &["n0", "n1"]));
    }
}
