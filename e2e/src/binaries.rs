//! Kubernetes and what belongs to it, built from Go modules. The versions stand in `modules/*/go.mod`, the hashes of
//! all sources in the `go.sum` beside it; nothing else is downloaded.

use crate::cache;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program, the module of ours that pins it, and its Go package.
struct Target {
    name: &'static str,
    module: &'static str,
    package: &'static str,
}

const fn target(name: &'static str, module: &'static str, package: &'static str) -> Target {
    Target { name, module, package }
}

/// In the order in which they are wanted: what a control plane without nodes needs first.
const TARGETS: [Target; 11] = [
    target("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    target("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    target("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
    target("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
    target("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    target("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    target("kubelet", "kubernetes", "k8s.io/kubernetes/cmd/kubelet"),
    target("containerd", "containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    target(
        "containerd-shim-runc-v2",
        "containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    ),
    target("ctr", "containerd", "github.com/containerd/containerd/v2/cmd/ctr"),
    target("pause", "pause", "."),
];

/// The modules, by what they require.
const MODULES: [(&str, &str); 4] = [
    ("kubernetes", "k8s.io/kubernetes"),
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kwok", "sigs.k8s.io/kwok"),
    ("containerd", "github.com/containerd/containerd/v2"),
];

/// The sums of what is built, in the form of `sha256sum`.
const SUMS: &str = "SHA256SUMS";

/// Names of all programs that [`build`] knows.
pub fn targets() -> impl Iterator<Item = &'static str> {
    TARGETS.iter().map(|target| target.name)
}

/// Where the programs of these versions are.
///
/// # Errors
/// When there is no cache directory, or the versions cannot be read.
pub fn directory() -> Result<PathBuf> {
    let key: Result<Vec<String>> =
        MODULES.iter().map(|(module, _)| Ok(format!("{module}-{}", version(module)?))).collect();
    Ok(cache::directory()?.join("bin").join(key?.join("_")))
}

/// Looks at programs in the cache: those that are not built yet, by name.
///
/// # Errors
/// When a program is not the one that was built.
pub fn missing(names: &[&str]) -> Result<Vec<String>> {
    missing_in(&directory()?, names)
}

fn missing_in(directory: &Path, names: &[&str]) -> Result<Vec<String>> {
    let sums = read_sums(directory)?;
    let mut missing = Vec::new();
    for name in names {
        let path = directory.join(name);
        match sums.get(*name) {
            Some(sum) if path.exists() => {
                if sum_of(&path)? != *sum {
                    bail!(
                        "{} does not match {SUMS} beside it; `cargo xtask testbed build` builds it anew",
                        path.display()
                    );
                }
            }
            _ => missing.push((*name).to_owned()),
        }
    }
    Ok(missing)
}

/// Builds programs that are not in the cache, or are there but broken; `said` hears of each one's begin and end.
/// Builds of several processes wait for each other.
///
/// # Errors
/// When a name is unknown, Go is missing, or a build fails.
pub fn build(names: &[&str], mut said: impl FnMut(&str)) -> Result<PathBuf> {
    let directory = directory()?;
    let targets: Result<Vec<&Target>> = names
        .iter()
        .map(|name| {
            TARGETS.iter().find(|target| target.name == *name).with_context(|| {
                let known: Vec<&str> = targets().collect();
                format!("no target `{name}`; there are {}", known.join(", "))
            })
        })
        .collect();
    fs::create_dir_all(&directory)?;
    let _lock = cache::lock("build.lock")?;
    for target in targets? {
        if missing_in(&directory, &[target.name]).is_ok_and(|missing| missing.is_empty()) {
            continue;
        }
        said(&format!("building {} {}", target.name, version(target.module)?));
        let fresh = directory.join(format!(".{}", target.name));
        compile(target, &fresh)?;
        let mut sums = read_sums(&directory)?;
        sums.insert(target.name.to_owned(), sum_of(&fresh)?);
        // The sum goes first: whatever ends us between the two leaves a program that does not match.
        write_sums(&directory, &sums)?;
        fs::rename(&fresh, directory.join(target.name))?;
    }
    Ok(directory)
}

fn compile(target: &Target, output: &Path) -> Result<()> {
    let go = cache::directory()?.join("go");
    let done = Command::new("go")
        .current_dir(modules().join(target.module))
        .args(["build", "-trimpath", "-buildvcs=false"])
        // Of containerd's plugins only those for the file systems that we use; the others want C headers.
        .args(["-tags", "no_btrfs no_zfs no_devmapper no_aufs urfave_cli_no_docs"])
        .arg("-ldflags")
        .arg(link_flags(target.module)?)
        .arg("-o")
        .args([output, Path::new(target.package)])
        .env("GOFLAGS", "-mod=readonly")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
        .env("GOMODCACHE", go.join("mod"))
        .env("GOCACHE", go.join("build"))
        .status();
    match done {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("go could not build {}; it said why above", target.name),
        Err(error) => Err(error)
            .context("cannot run `go`: the testbed is built with the Go toolchain, https://go.dev/dl"),
    }
}

/// What the release builds of these projects write into their programs; clients ask the server for its version.
fn link_flags(module: &str) -> Result<String> {
    let mut flags = "-s -w".to_owned();
    let version = version(module)?;
    match module {
        "kubernetes" => {
            let mut parts = version.trim_start_matches('v').split('.');
            let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                for (name, value) in [
                    ("gitVersion", version.as_str()),
                    ("gitMajor", major),
                    ("gitMinor", minor),
                    ("gitTreeState", "clean"),
                    ("gitCommit", "gomod"),
                    ("buildDate", "1970-01-01T00:00:00Z"),
                ] {
                    flags.push_str(&format!(" -X {package}.{name}={value}"));
                }
            }
        }
        "kwok" => flags.push_str(&format!(" -X sigs.k8s.io/kwok/pkg/consts.Version={version}")),
        "containerd" => {
            flags.push_str(&format!(" -X github.com/containerd/containerd/v2/version.Version={version}"));
        }
        _ => {}
    }
    Ok(flags)
}

/// The version of a module's one requirement; empty for `pause`, which is ours.
fn version(module: &str) -> Result<String> {
    let Some((_, requirement)) = MODULES.iter().find(|(name, _)| *name == module) else {
        return Ok(String::new());
    };
    let path = modules().join(module).join("go.mod");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    text.lines()
        .find_map(|line| line.strip_prefix("require ")?.strip_prefix(requirement)?.strip_prefix(' '))
        .map(|version| version.trim().to_owned())
        .with_context(|| format!("{} does not require {requirement}", path.display()))
}

fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("modules")
}

fn read_sums(directory: &Path) -> Result<BTreeMap<String, String>> {
    let path = directory.join(SUMS);
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(sum, name)| (name.to_owned(), sum.to_owned()))
        .collect())
}

fn write_sums(directory: &Path, sums: &BTreeMap<String, String>) -> Result<()> {
    let text: String = sums.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect();
    let fresh = directory.join(format!(".{SUMS}"));
    fs::write(&fresh, text)?;
    Ok(fs::rename(fresh, directory.join(SUMS))?)
}

pub(crate) fn sum_of_bytes(bytes: &[u8]) -> String {
    crate::hex(&Sha256::digest(bytes))
}

pub(crate) fn sum_of(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        match buffer.get(..count) {
            None | Some([]) => break,
            Some(bytes) => hash.update(bytes),
        }
    }
    Ok(crate::hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_a_sum_counts_as_not_built_and_a_changed_one_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("etcd"), "half of it").unwrap();
        assert_eq!(missing_in(path, &["etcd"]).unwrap(), ["etcd"]);

        let sum = sum_of(&path.join("etcd")).unwrap();
        write_sums(path, &BTreeMap::from([("etcd".to_owned(), sum)])).unwrap();
        assert!(missing_in(path, &["etcd"]).unwrap().is_empty());
        assert_eq!(missing_in(path, &["etcd", "kwok"]).unwrap(), ["kwok"]);

        fs::write(path.join("etcd"), "something else").unwrap();
        let error = missing_in(path, &["etcd"]).unwrap_err().to_string();
        assert!(error.contains("does not match SHA256SUMS"), "{error}");
    }

    #[test]
    fn each_module_names_its_version_and_an_unknown_target_the_known_ones() {
        for (module, _) in MODULES {
            assert!(version(module).unwrap().starts_with('v'), "{module}");
        }
        let error = build(&["kubeadm"], |_| {}).unwrap_err().to_string();
        assert!(error.starts_with("no target `kubeadm`; there are kube-apiserver, etcd"), "{error}");
    }
}
