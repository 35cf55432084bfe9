//! How the installers of Karmada start karmada-search: their argument lists and the files they mount.
//!
//! The lists are those of the dev scripts, `karmadactl addons enable`, the Karmada chart and its operator. Files stand below
//! a folder that takes the place of the container's root.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::etcd::SecureCluster;
use crate::pki::Pair;

/// An installer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installer {
    /// `hack/deploy-karmada.sh` and its manifests.
    DevelopmentScripts,
    /// `karmadactl addons enable karmada-search`.
    Karmadactl,
    /// The Karmada chart with the etcd it brings.
    Chart,
    /// The Karmada chart with an etcd of its own.
    ChartWithExternalEtcd,
    /// The Karmada operator.
    Operator,
}

/// What an installation provides.
#[derive(Debug)]
pub struct Provided<'a> {
    /// The control plane's kubeconfig.
    pub kubeconfig: &'a Path,
    /// The serving certificate.
    pub serving: &'a Pair,
    /// Where registries are stored.
    pub etcd: &'a SecureCluster,
}

/// Where each file of an installation is mounted.
struct Mounts {
    kubeconfig: &'static str,
    serving: (&'static str, &'static str),
    etcd: (&'static str, &'static str, &'static str),
}

impl Installer {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::DevelopmentScripts, Self::Karmadactl, Self::Chart, Self::ChartWithExternalEtcd, Self::Operator];

    fn mounts(self) -> Mounts {
        let karmada = "/etc/karmada/config/karmada.config";
        let pair = ("/etc/karmada/pki/karmada.crt", "/etc/karmada/pki/karmada.key");
        let chart_pair = ("/etc/kubernetes/pki/karmada.crt", "/etc/kubernetes/pki/karmada.key");
        match self {
            Self::DevelopmentScripts => Mounts {
                kubeconfig: karmada,
                serving: ("/etc/karmada/pki/server/tls.crt", "/etc/karmada/pki/server/tls.key"),
                etcd: (
                    "/etc/karmada/pki/etcd-client/ca.crt",
                    "/etc/karmada/pki/etcd-client/tls.crt",
                    "/etc/karmada/pki/etcd-client/tls.key",
                ),
            },
            Self::Karmadactl => Mounts {
                kubeconfig: karmada,
                serving: pair,
                etcd: (
                    "/etc/karmada/pki/etcd-ca.crt",
                    "/etc/karmada/pki/etcd-client.crt",
                    "/etc/karmada/pki/etcd-client.key",
                ),
            },
            Self::Chart => Mounts {
                kubeconfig: "/etc/kubeconfig",
                serving: chart_pair,
                etcd: ("/etc/etcd/pki/server-ca.crt", "/etc/etcd/pki/karmada.crt", "/etc/etcd/pki/karmada.key"),
            },
            Self::ChartWithExternalEtcd => Mounts {
                kubeconfig: "/etc/kubeconfig",
                serving: chart_pair,
                etcd: ("/etc/etcd/pki/ca.crt", "/etc/etcd/pki/tls.crt", "/etc/etcd/pki/tls.key"),
            },
            Self::Operator => Mounts {
                kubeconfig: karmada,
                serving: pair,
                etcd: (
                    "/etc/karmada/pki/etcd-client/etcd-ca.crt",
                    "/etc/karmada/pki/etcd-client/etcd-client.crt",
                    "/etc/karmada/pki/etcd-client/etcd-client.key",
                ),
            },
        }
    }

    /// Flags that only this installer passes.
    fn further_flags(self) -> &'static [&'static str] {
        match self {
            Self::DevelopmentScripts => &["--logging-format=json"],
            Self::Karmadactl => &["--etcd-prefix=/registry"],
            Self::Chart => &["--v=2", "--feature-gates=APIPriorityAndFairness=false"],
            Self::ChartWithExternalEtcd => {
                &["--etcd-prefix=/registry", "--v=2", "--feature-gates=APIPriorityAndFairness=false"]
            }
            Self::Operator => &[],
        }
    }

    /// Puts the files in their places below `root`; returns the argument list, with `root` before each path.
    ///
    /// # Errors
    /// If a file can't be written.
    pub fn lay_out(self, root: &Path, provided: &Provided<'_>) -> Result<Vec<String>> {
        let mounts = self.mounts();
        let place = |source: &Path, path: &str| -> Result<String> {
            let target: PathBuf = root.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(target.parent().context("a file at the root")?)?;
            std::fs::copy(source, &target).with_context(|| format!("{} to {}", source.display(), target.display()))?;
            Ok(target.display().to_string())
        };
        let kubeconfig = place(provided.kubeconfig, mounts.kubeconfig)?;
        let client = &provided.etcd.client;
        let mut arguments = vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            format!("--etcd-servers={}", provided.etcd.urls.join(",")),
            format!("--etcd-cafile={}", place(&provided.etcd.authority, mounts.etcd.0)?),
            format!("--etcd-certfile={}", place(&client.certificate, mounts.etcd.1)?),
            format!("--etcd-keyfile={}", place(&client.key, mounts.etcd.2)?),
            format!("--tls-cert-file={}", place(&provided.serving.certificate, mounts.serving.0)?),
            format!("--tls-private-key-file={}", place(&provided.serving.key, mounts.serving.1)?),
            "--tls-min-version=VersionTLS13".to_owned(),
            "--audit-log-path=-".to_owned(),
            "--audit-log-maxage=0".to_owned(),
            "--audit-log-maxbackup=0".to_owned(),
            // What `$(POD_IP)` stands for.
            "--bind-address=127.0.0.1".to_owned(),
        ];
        arguments.extend(self.further_flags().iter().map(ToString::to_string));
        Ok(arguments)
    }
}
