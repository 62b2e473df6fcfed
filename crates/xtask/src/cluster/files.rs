//! The files that the daemons read.

use std::fs;

use anyhow::Result;
use serde_json::json;

use super::place::{self, DNS_SERVICE, NAME, NODE, PODS, Place};

/// What containerd has and a node does not need.
const NOT_USED: [&str; 7] = [
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.internal.v1.restart",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing",
];

pub(super) fn write(place: &Place) -> Result<()> {
    let state = &place.state;
    fs::write(state.join("resolv.conf"), format!("nameserver {DNS_SERVICE}\n"))?;
    fs::write(state.join("containerd.toml"), containerd(place))?;
    // YAML is a superset of JSON.
    fs::write(state.join("kubelet.yaml"), kubelet(place).to_string())?;
    fs::write(state.join("proxy.yaml"), proxy(place).to_string())?;
    fs::write(state.join("cni/10-test.conflist"), pod_network().to_string())?;
    Ok(())
}

/// `restrict_oom_score_adj`: root of a container may lack `CAP_SYS_RESOURCE`, and every sandbox
/// would fail by a negative score.
fn containerd(place: &Place) -> String {
    let state = place.state.display();
    let (socket, cni) = (place.socket(), place.containers().join("usr/lib/cni"));
    format!(
        r#"version = 2
root = "{state}/containers/root"
state = "{state}/containers/state"
disabled_plugins = {NOT_USED:?}
[grpc]
  address = {socket:?}
[plugins."io.containerd.internal.v1.opt"]
  path = "{state}/containers/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {cni:?}
    conf_dir = "{state}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#,
        pause = place::image("pause"),
    )
}

fn kubelet(place: &Place) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", place.socket().display()),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": place.identity("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": place.identity("kubelet.crt"),
        "tlsPrivateKeyFile": place.identity("kubelet.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{NAME}"),
        // True by default from 1.35 on.
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": place.state.join("resolv.conf"),
        "podLogsDir": place.state.join("pods-log"),
        "volumePluginDir": place.state.join("plugins"),
        "serializeImagePulls": false,
        // An image that was removed could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "maxPods": 200,
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
    })
}

/// What it would set of the machine's table of connections is the machine's.
fn proxy(place: &Place) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": PODS,
        "hostnameOverride": NODE,
        "clientConnection": {"kubeconfig": place.identity("proxy.conf")},
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
    })
}

fn pod_network() -> serde_json::Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "test",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": PODS}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}
