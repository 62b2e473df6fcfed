//! The daemons of the one node, and how each is started.

use super::place::{API_SERVICE, NODE, NODE_ADDRESS, Place, SERVICES};

/// Found by its name.
pub(super) struct Daemon {
    pub(super) name: &'static str,
    pub(super) arguments: Vec<String>,
}

/// A setting for each line: `--name=value`. `@` stands for the directory of keys and certificates.
fn daemon(place: &Place, name: &'static str, lines: &str) -> Daemon {
    let identity = place.identity("");
    let identity = identity.display().to_string();
    let state = place.state.display().to_string();
    let fill = |line: &str| line.trim().replace('@', &identity).replace('~', &state);
    let lines = lines.lines().map(fill).filter(|line| !line.is_empty());
    Daemon { name, arguments: lines.collect() }
}

/// Those that the others need.
pub(super) fn first(place: &Place) -> Vec<Daemon> {
    vec![etcd(place), containerd(place), api_server(place)]
}

/// Those that need the API server, and the images of the first pods.
pub(super) fn second(place: &Place) -> Vec<Daemon> {
    vec![
        controller_manager(place),
        daemon(
            place,
            "kube-scheduler",
            "--kubeconfig=@scheduler.conf
             --leader-elect=false
             --bind-address=127.0.0.1
             --profiling=false",
        ),
        daemon(
            place,
            "kubelet",
            &format!(
                "--config=~/kubelet.yaml
                 --kubeconfig=@kubelet.conf
                 --root-dir=~/kubelet
                 --cert-dir=~/kubelet/pki
                 --hostname-override={NODE}
                 --node-ip={NODE_ADDRESS}
                 --v=1"
            ),
        ),
        daemon(place, "kube-proxy", "--config=~/proxy.yaml\n--v=1"),
        daemon(place, "cloud", &format!("-kubeconfig=@cloud.conf\n-dir=~/volumes\n-node={NODE}")),
    ]
}

/// Nothing of it outlives the cluster: it need not sync.
fn etcd(place: &Place) -> Daemon {
    daemon(
        place,
        "etcd",
        "--name=node
         --data-dir=~/etcd
         --unsafe-no-fsync
         --log-level=warn
         --listen-client-urls=https://127.0.0.1:2379
         --advertise-client-urls=https://127.0.0.1:2379
         --listen-peer-urls=http://127.0.0.1:2380
         --initial-advertise-peer-urls=http://127.0.0.1:2380
         --initial-cluster=node=http://127.0.0.1:2380
         --cert-file=@etcd.crt
         --key-file=@etcd.key
         --client-cert-auth
         --trusted-ca-file=@ca.crt
         --quota-backend-bytes=2147483648
         --auto-compaction-retention=1h",
    )
}

fn containerd(place: &Place) -> Daemon {
    daemon(place, "containerd", "--config=~/containerd.toml\n--log-level=warn")
}

fn api_server(place: &Place) -> Daemon {
    debug_assert!(SERVICES.starts_with(API_SERVICE.trim_end_matches(".0.1")));
    daemon(
        place,
        "kube-apiserver",
        &format!(
            "--advertise-address={NODE_ADDRESS}
             --bind-address=0.0.0.0
             --secure-port=6443
             --etcd-servers=https://127.0.0.1:2379
             --etcd-cafile=@ca.crt
             --etcd-certfile=@apiserver-etcd.crt
             --etcd-keyfile=@apiserver-etcd.key
             --client-ca-file=@ca.crt
             --tls-cert-file=@apiserver.crt
             --tls-private-key-file=@apiserver.key
             --service-cluster-ip-range={SERVICES}
             --service-account-issuer=https://kubernetes.default.svc.cluster.local
             --service-account-key-file=@accounts.pub
             --service-account-signing-key-file=@accounts.key
             --authorization-mode=Node,RBAC
             --enable-admission-plugins=NodeRestriction
             --allow-privileged
             --kubelet-certificate-authority=@ca.crt
             --kubelet-client-certificate=@apiserver-kubelet.crt
             --kubelet-client-key=@apiserver-kubelet.key
             --kubelet-preferred-address-types=InternalIP
             --requestheader-client-ca-file=@front-ca.crt
             --requestheader-allowed-names=front-proxy-client
             --requestheader-username-headers=X-Remote-User
             --requestheader-group-headers=X-Remote-Group
             --requestheader-extra-headers-prefix=X-Remote-Extra-
             --proxy-client-cert-file=@front.crt
             --proxy-client-key-file=@front.key
             --profiling=false"
        ),
    )
}

/// By default its controllers share 20 requests a second, and take 5 s to start.
fn controller_manager(place: &Place) -> Daemon {
    daemon(
        place,
        "kube-controller-manager",
        "--kubeconfig=@controller-manager.conf
         --leader-elect=false
         --use-service-account-credentials
         --kube-api-qps=300
         --kube-api-burst=500
         --root-ca-file=@ca.crt
         --service-account-private-key-file=@accounts.key
         --cluster-signing-cert-file=@ca.crt
         --cluster-signing-key-file=@ca.key
         --bind-address=127.0.0.1
         --profiling=false",
    )
}
