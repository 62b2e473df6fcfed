//! On a real Kubernetes: that of `cargo xtask cluster`, or another that `KUBECONFIG` names and that
//! has the images of `cargo xtask image`.

mod certificate;
mod chaos;
mod mail;
mod operator;
mod resources;
mod scale;
mod tenancy;
