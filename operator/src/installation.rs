//! What the parts of an installation know each other by, and seal to: made once, never changed.
//!
//! Each is a Secret of the operator's namespace. One that is there is used as it is. Several
//! replicas may begin at once: whoever makes a Secret first has made it for all. The operator can
//! get and create Secrets there, and change none but the servers' permissions, which follow its own
//! version.

use std::collections::BTreeMap;

use anyhow::Context;
use domains_kv::{Class, Pair, make_compare_key};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use nkeys::KeyPair;
use queue_jetstream::permissions::{self, Role, User};
use runtime::private_file::write_whole;

use crate::config::Config;

mod authority;

use authority::Authority;

/// The fields of a Secret.
type Fields = BTreeMap<String, String>;

/// Makes what is not there, and puts the operator's own share into its directory.
pub(crate) async fn ensure(client: &Client, config: &Config) -> anyhow::Result<()> {
    let vault = Vault {
        secrets: Api::namespaced(client.clone(), &config.namespace),
        release: &config.release,
    };
    let public = vault.keys().await?;
    vault.ensure("srs", || Ok(fields([("srs.key", random_hex())]))).await?;
    let own = match config.nats.bundled {
        true => vault.logins(config).await?,
        false => vault.get(Role::Admin.name()).await?.with_context(|| {
            format!("Secret {}-admin is not there: make it with nkey.seed, ca.crt", vault.release)
        })?,
    };
    for (name, text) in public.iter().chain(&own) {
        write_whole(&config.file(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

/// The Secrets of the installation.
struct Vault<'a> {
    secrets: Api<Secret>,
    release: &'a str,
}

impl Vault<'_> {
    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.release)
    }

    async fn get(&self, what: &str) -> anyhow::Result<Option<Fields>> {
        let name = self.name(what);
        let found = self.secrets.get_opt(&name).await;
        let found = found.with_context(|| format!("Secret {name} cannot be read"))?;
        Ok(found.map(fields_of))
    }

    /// The Secret as it is, or as it was made now.
    async fn ensure(
        &self,
        what: &str,
        make: impl FnOnce() -> anyhow::Result<Fields>,
    ) -> anyhow::Result<Fields> {
        if let Some(found) = self.get(what).await? {
            return Ok(found);
        }
        let name = self.name(what);
        let made = make().with_context(|| format!("Secret {name} cannot be made"))?;
        let labels = [("app.kubernetes.io/managed-by", "postrider-operator")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let metadata = ObjectMeta {
            name: Some(name.clone()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        };
        let data = Some(bytes_of(&made));
        let secret = Secret { metadata, data, ..Secret::default() };
        match self.secrets.create(&PostParams::default(), &secret).await {
            Ok(_) => {
                tracing::info!(event = "secret_made", name);
                Ok(made)
            }
            // Another replica was quicker.
            Err(kube::Error::Api(error)) if error.code == 409 => self
                .get(what)
                .await?
                .with_context(|| format!("Secret {name} was there, and is not")),
            Err(error) => Err(error).with_context(|| format!("Secret {name} is not taken")),
        }
    }

    /// The keys that secrets of the table are sealed to; gives the public ones.
    async fn keys(&self) -> anyhow::Result<Fields> {
        let mut public = Fields::new();
        for class in Class::ALL {
            let (file, pair) = (format!("{class}.key"), Pair::make(class)?);
            let make = || Ok(fields([(file.as_str(), pair.private)]));
            let made = self.ensure(&format!("keys-{class}"), make).await?;
            let private = made.get(&file).with_context(|| format!("{file} is not there"))?;
            public.insert(
                format!("{class}.pub"),
                domains_kv::public_of(private).context("no private key")?,
            );
        }
        let wanted = public.clone();
        public.insert("compare.key".to_owned(), make_compare_key());
        let made = self.ensure("keys-public", || Ok(public)).await?;
        let is_pair = wanted.iter().all(|(name, key)| made.get(name) == Some(key));
        anyhow::ensure!(
            is_pair,
            "Secret {0}-keys-public does not go with {0}-keys-passwords, -tls and -dkim: restore \
             all of them, or delete all of them and have the passwords sealed anew",
            self.release
        );
        Ok(made)
    }

    /// What the servers know the roles by, and the roles the servers; gives the operator's own.
    async fn logins(&self, config: &Config) -> anyhow::Result<Fields> {
        let authority = self.ensure("nats-authority", Authority::make).await?;
        let authority = Authority::read(&authority)?;
        let (mut users, mut own) = (Vec::new(), None);
        for role in Role::ALL {
            let make = || {
                let seed = KeyPair::new_user().seed()?;
                Ok(fields([("nkey.seed", seed), ("ca.crt", authority.certificate.clone())]))
            };
            let made = self.ensure(role.name(), make).await?;
            let seed = made.get("nkey.seed").context("nkey.seed is not there")?;
            let key = KeyPair::from_seed(seed.trim())?.public_key();
            users.push(format!("{role}={key}").parse::<User>()?);
            if role == Role::Admin {
                own = Some(made);
            }
        }
        self.servers(config, &authority, &users).await?;
        own.context("there is no admin")
    }

    async fn servers(
        &self,
        config: &Config,
        authority: &Authority,
        users: &[User],
    ) -> anyhow::Result<()> {
        let wanted = permissions::authorization(users, config.nats.partitions);
        let make = || {
            let (certificate, key) = authority.issue(&config.nats.server_names)?;
            Ok(fields([
                ("tls.crt", certificate),
                ("tls.key", key),
                ("ca.crt", authority.certificate.clone()),
                (PERMISSIONS, wanted.clone()),
            ]))
        };
        let made = self.ensure("nats-server", make).await?;
        if made.get(PERMISSIONS) == Some(&wanted) {
            return Ok(());
        }
        let name = self.name("nats-server");
        let data = serde_json::json!({"stringData": {PERMISSIONS: wanted}});
        let patched = self.secrets.patch(&name, &PatchParams::default(), &Patch::Merge(data)).await;
        patched.with_context(|| format!("Secret {name} is not changed"))?;
        tracing::info!(event = "permissions_changed", "the servers have to read them again");
        Ok(())
    }
}

/// What each user of the servers may do.
const PERMISSIONS: &str = "authorization.conf";

fn fields<const N: usize>(fields: [(&str, String); N]) -> Fields {
    fields.map(|(name, text)| (name.to_owned(), text)).into()
}

fn fields_of(secret: Secret) -> Fields {
    let fields = secret.data.unwrap_or_default().into_iter();
    fields.map(|(name, octets)| (name, String::from_utf8_lossy(&octets.0).into_owned())).collect()
}

fn bytes_of(fields: &Fields) -> BTreeMap<String, ByteString> {
    let octets = |text: &String| ByteString(text.clone().into_bytes());
    fields.iter().map(|(name, text)| (name.clone(), octets(text))).collect()
}

fn random_hex() -> String {
    rand::random::<[u8; 32]>().iter().map(|octet| format!("{octet:02x}")).collect()
}
