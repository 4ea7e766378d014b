//! Secrets from where the config points to.

use kubestack_core::config::{FileRef, SecretRef};
use kubestack_core::context::Secrets;
use kubestack_core::error::{Error, Result};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// No secret is that long; whatever is, is not one.
const MAX: u64 = 64 * 1024;

/// Reads the file each time it is asked: it is asked rarely, and the value may have been rotated.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostSecrets;

impl Secrets for HostSecrets {
    fn resolve(&self, secret: &SecretRef) -> Result<SecretString> {
        match secret {
            SecretRef::Text(text) => Ok(text.expose().into()),
            SecretRef::Env(reference) => {
                let name = &reference.env;
                let value = std::env::var(name).ok().filter(|value| !value.is_empty());
                let value = value.ok_or_else(|| {
                    Error::invalid(format!(
                        "the environment variable {name} is not set; set it before the start"
                    ))
                });
                Ok(value?.into())
            }
            SecretRef::File(reference) => {
                let path = reference.file.display();
                let wrong = |what: String| Error::invalid(format!("the secret file {path} {what}"));
                let unopened = |error: std::io::Error| {
                    wrong(format!("cannot be opened: {error}; check its path and permissions"))
                };
                // Before it is opened: to open a pipe would wait for a writer.
                if !std::fs::metadata(&reference.file).map_err(unopened)?.is_file() {
                    return Err(wrong("is not a regular file; correct its path".to_owned()));
                }
                let file = std::fs::File::open(&reference.file).map_err(unopened)?;
                let mut text = String::new();
                file.take(MAX + 1)
                    .read_to_string(&mut text)
                    .map_err(|error| wrong(format!("cannot be read: {error}")))?;
                if text.len() as u64 > MAX {
                    return Err(wrong("is larger than 64 KiB; that is no secret".to_owned()));
                }
                let value = text.trim_end_matches(['\n', '\r']);
                if value.is_empty() {
                    return Err(wrong("is empty".to_owned()));
                }
                Ok(value.into())
            }
        }
    }
}

/// The same, and notes which files were read: a plugin that keeps what it read when it was built is built
/// again once the file changes.
#[derive(Default)]
pub struct NotedSecrets(Mutex<SecretFiles>);

/// Secret files, each with a digest of what it held; none if it could not be read.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretFiles(BTreeMap<PathBuf, Option<[u8; 32]>>);

impl NotedSecrets {
    /// The files that were read so far.
    pub fn files(&self) -> SecretFiles {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Secrets for NotedSecrets {
    fn resolve(&self, secret: &SecretRef) -> Result<SecretString> {
        let value = HostSecrets.resolve(secret);
        if let SecretRef::File(reference) = secret {
            let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            files.0.insert(reference.file.clone(), digest(value.as_ref().ok()));
        }
        value
    }
}

impl SecretFiles {
    /// The same files as they are now.
    #[must_use]
    pub fn now(&self) -> Self {
        let read = |file: &PathBuf| {
            digest(HostSecrets.resolve(&SecretRef::File(FileRef { file: file.clone() })).as_ref().ok())
        };
        Self(self.0.keys().map(|file| (file.clone(), read(file))).collect())
    }
}

fn digest(value: Option<&SecretString>) -> Option<[u8; 32]> {
    value.map(|value| Sha256::digest(value.expose_secret().as_bytes()).into())
}
