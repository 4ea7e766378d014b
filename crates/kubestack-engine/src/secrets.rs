//! Secrets from where the config points to.

use kubestack_core::config::SecretRef;
use kubestack_core::context::Secrets;
use kubestack_core::error::{Error, Result};
use secrecy::SecretString;
use std::io::Read;

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
