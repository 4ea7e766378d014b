//! Keys, certificates and tokens of one cluster.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;

/// One of those that a cluster knows from its start.
pub(crate) struct User {
    pub name: &'static str,
    group: &'static str,
}

pub(crate) const USERS: [User; 5] = [
    User { name: "admin", group: "system:masters" },
    User { name: "system:kube-controller-manager", group: "" },
    User { name: "system:kube-scheduler", group: "" },
    User { name: "kwok", group: "system:masters" },
    User { name: "system:node:real-node", group: "system:nodes" },
];

/// Makes `pki/` with a CA, the server's certificate for `address`, the server's own as a client of kubelets, the key
/// of service accounts, and a token for each user.
pub(crate) fn make(directory: &Path, address: &str) -> Result<()> {
    let pki = directory.join("pki");
    fs::create_dir(&pki)?;
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "365"];
    openssl(
        &pki,
        &[&["req", "-x509", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=testbed"], &curve[..]],
    )?;
    let server = format!("subjectAltName=IP:{address},IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc");
    for (name, subject, extension) in [
        ("apiserver", "/CN=kube-apiserver", server.as_str()),
        ("kubelet-client", "/O=system:masters/CN=kube-apiserver", "extendedKeyUsage=clientAuth"),
    ] {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        let signed =
            ["req", "-x509", "-CA", "ca.crt", "-CAkey", "ca.key", "-subj", subject, "-addext", extension];
        openssl(
            &pki,
            &[
                &signed,
                &["-addext", "basicConstraints=critical,CA:false"],
                &["-keyout", &key, "-out", &certificate],
                &curve,
            ],
        )?;
    }
    openssl(
        &pki,
        &[&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", "sa.key"]],
    )?;
    openssl(&pki, &[&["pkey", "-in", "sa.key", "-pubout", "-out", "sa.pub"]])?;
    let mut tokens = String::new();
    for User { name, group } in USERS {
        tokens.push_str(&format!("{},{name},{name},\"{group}\"\n", random()?));
    }
    Ok(fs::write(pki.join("tokens.csv"), tokens)?)
}

/// The token of one of the [`USERS`].
pub(crate) fn token(directory: &Path, user: &str) -> Result<String> {
    let tokens = fs::read_to_string(directory.join("pki/tokens.csv"))?;
    tokens
        .lines()
        .find_map(|line| line.split_once(',').filter(|(_, rest)| rest.starts_with(&format!("{user},"))))
        .map(|(token, _)| token.to_owned())
        .with_context(|| format!("no token for {user}"))
}

/// A kubeconfig with the CA and the token in it.
pub(crate) fn write_kubeconfig(directory: &Path, path: &Path, url: &str, token: &str) -> Result<()> {
    let ca = openssl(&directory.join("pki"), &[&["base64", "-A", "-in", "ca.crt"]])?;
    let text = format!(
        "apiVersion: v1
kind: Config
clusters:
- name: testbed
  cluster:
    server: {url}
    certificate-authority-data: {ca}
users:
- name: testbed
  user:
    token: {token}
contexts:
- name: testbed
  context:
    cluster: testbed
    user: testbed
current-context: testbed
"
    );
    Ok(fs::write(path, text)?)
}

fn random() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(crate::hex(&bytes))
}

fn openssl(pki: &Path, args: &[&[&str]]) -> Result<String> {
    let output = Command::new("openssl")
        .current_dir(pki)
        .args(args.concat())
        .output()
        .context("cannot run openssl")?;
    if !output.status.success() {
        bail!("openssl {} failed: {}", args.concat().join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
