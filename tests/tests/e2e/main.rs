//! On a real Kubernetes: that of `cargo xtask cluster`, or another that `KUBECONFIG` names.

mod resources;
