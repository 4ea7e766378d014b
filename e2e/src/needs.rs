//! What a machine must have.

use crate::components::Options;
use crate::{binaries, gearman, hudson, image, node, publisher};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// Commands, and the Debian package of each.
const COMMANDS: [(&str, &str); 4] =
    [("bash", "bash"), ("flock", "util-linux"), ("setpriv", "util-linux"), ("openssl", "openssl")];

/// What the real node takes besides.
const NODE_COMMANDS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("iptables", "iptables"), ("runc", "runc"), ("unshare", "util-linux")];

/// What this machine lacks for a cluster, in words that follow "needs"; `None` if nothing.
///
/// # Errors
/// When a program in the cache is not the one that was built.
pub fn missing(options: &Options) -> Result<Option<String>> {
    if !cfg!(target_os = "linux") {
        return Ok(Some("Linux".to_owned()));
    }
    let mut lacks = absent(&COMMANDS);
    if options.real_node {
        if !rustix::process::geteuid().is_root() {
            return Ok(Some("root, for a real node".to_owned()));
        }
        lacks.extend(absent(&NODE_COMMANDS));
        if node::cni_directory().is_none() {
            lacks.push(("CNI plugins", "containernetworking-plugins"));
        }
    }
    if let Some(words) = words(lacks) {
        return Ok(Some(words));
    }
    let programs = binaries::missing(&options.programs())?;
    if !programs.is_empty() {
        return Ok(Some(format!(
            "{}, not built yet: `cargo xtask testbed build` (needs Go; a quarter of an hour, once)",
            programs.join(", ")
        )));
    }
    if options.real_node && !namespaces_work() {
        return Ok(Some(
            "namespaces and overlay mounts, for a real node; this machine does not allow them".to_owned(),
        ));
    }
    Ok(None)
}

/// Installs what is missing, as root with apt; elsewhere only says what it is. Silent if all is there.
///
/// # Errors
/// When apt fails.
pub fn install_packages(said: impl FnOnce(&str)) -> Result<()> {
    let commands: [&[_]; 5] =
        [&COMMANDS, &NODE_COMMANDS, &hudson::COMMANDS, &gearman::COMMANDS, &publisher::COMMANDS];
    let absent = commands.into_iter().flat_map(absent);
    let mut packages: Vec<&str> = absent.map(|(_, package)| package).collect();
    if node::cni_directory().is_none() {
        packages.push("containernetworking-plugins");
    }
    if image::shell().is_none() {
        packages.push("busybox-static");
    }
    // For a client of Jenkins that nobody here wrote; python3 alone makes no environments on Debian.
    if !runs("python3", &["-c", "import ensurepip, venv"]) {
        packages.push("python3-venv");
    }
    if !publisher::python_library() {
        packages.push(publisher::PYTHON_PACKAGE);
    }
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let missing = packages.join(" ");
    if !is_command("apt-get") || !rustix::process::geteuid().is_root() {
        said(&format!("missing, to be installed by root (names of Debian packages): {missing}"));
        return Ok(());
    }
    said(&format!("installing {missing}"));
    for args in [vec!["update"], [vec!["install", "--yes", "--no-install-recommends"], packages].concat()] {
        let status = Command::new("apt-get")
            .arg("--quiet=2")
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status()
            .context("cannot run apt-get")?;
        if !status.success() {
            bail!("apt-get could not install {missing}");
        }
    }
    Ok(())
}

/// Those commands, with their packages, that are not there.
pub(crate) fn absent(commands: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    commands.iter().copied().filter(|(command, _)| !is_command(command)).collect()
}

/// What is absent, in words that follow "needs"; `None` if nothing.
pub(crate) fn words(absent: Vec<(&str, &str)>) -> Option<String> {
    let (what, packages): (Vec<&str>, Vec<&str>) = absent.into_iter().unzip();
    (!what.is_empty()).then(|| format!("{} (Debian: {})", what.join(", "), packages.join(" ")))
}

pub(crate) fn is_command(name: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    // Where iptables and runc are, for those who are not always root.
    let more = [Path::new("/usr/sbin"), Path::new("/sbin")].map(Path::to_owned);
    std::env::split_paths(&paths).chain(more).any(|directory| directory.join(name).is_file())
}

/// Whether a command ends well, in silence.
fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether a node's namespaces can be made, tried out.
fn namespaces_work() -> bool {
    let mounts = "mount -t tmpfs tmpfs /run && mkdir -p /run/upper /run/work &&
         mount -t overlay -o lowerdir=/var,upperdir=/run/upper,workdir=/run/work overlay /var";
    let own = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    runs("unshare", &[&own[..], &["sh", "-c", mounts]].concat())
}
