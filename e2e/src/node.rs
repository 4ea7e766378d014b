//! The real node: kubelet and containerd in namespaces of their own, behind a bridge; see `node.sh`.

use crate::binaries;
use crate::image::Image;
use crate::slots::Slot;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What it takes besides what Debian has.
pub(crate) const PROGRAMS: [&str; 5] = ["kubelet", "containerd", "containerd-shim-runc-v2", "ctr", "pause"];

/// Where distributions keep the CNI plugins.
const CNI_DIRECTORIES: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

const PAUSE: &str = "docker.io/kubestack/pause:testbed";

pub(crate) fn cni_directory() -> Option<&'static Path> {
    CNI_DIRECTORIES.iter().map(Path::new).find(|path| path.join("bridge").exists())
}

/// containerd's socket.
pub(crate) fn socket(slot: &Slot) -> PathBuf {
    slot.directory().join("node/containerd.sock")
}

/// Makes the bridge, the cgroups and the configuration.
pub(crate) fn prepare(slot: &Slot) -> Result<()> {
    let node = slot.directory().join("node");
    fs::create_dir_all(node.join("cni"))?;
    // The supervisor removes the bridge, and the cgroup of the same name, when it finds this.
    fs::write(node.join("bridge"), slot.bridge())?;
    ip(["link", "add", "name", &slot.bridge(), "type", "bridge"])?;
    ip(["address", "add", &format!("{}/24", slot.gateway()), "dev", &slot.bridge()])?;
    ip(["link", "set", &slot.bridge(), "up"])?;
    for hierarchy in cgroup_hierarchies()? {
        match fs::create_dir(hierarchy.join(slot.bridge())) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("no cgroup in {}", hierarchy.display()));
            }
            _ => {}
        }
    }
    fs::write(node.join("node.sh"), include_str!("node.sh"))?;
    fs::write(node.join("cni/10-bridge.conflist"), network(slot))?;
    fs::write(node.join("containerd.toml"), containerd_config(slot)?)?;
    Ok(fs::write(node.join("kubelet.yaml"), kubelet_config(slot))?)
}

/// The command of the node's first process.
pub(crate) fn command(binaries: &Path, slot: &Slot) -> Vec<String> {
    let program = |name: &str| binaries.join(name).display().to_string();
    let unshare = "unshare --net --mount --pid --fork --kill-child --mount-proc bash node/node.sh";
    let mut command: Vec<String> = unshare.split(' ').map(str::to_owned).collect();
    command.extend([slot.node_address(), slot.gateway(), program("containerd"), program("kubelet")]);
    command.extend([
        "--config=node/kubelet.yaml".to_owned(),
        "--kubeconfig=pki/system:node:real-node.kubeconfig".to_owned(),
        "--root-dir=".to_owned() + &slot.directory().join("node/kubelet").display().to_string(),
        "--cert-dir=node/kubelet/pki".to_owned(),
        "--hostname-override=real-node".to_owned(),
        format!("--node-ip={}", slot.node_address()),
    ]);
    command
}

/// Connects the namespace of a node that was just started.
pub(crate) fn attach(slot: &Slot, unshare: u32) -> Result<()> {
    // Its child lives in the new namespaces.
    let children = format!("/proc/{unshare}/task/{unshare}/children");
    let child = crate::wait("process in the node's namespaces", std::time::Duration::from_secs(10), || {
        let children = fs::read_to_string(&children).context("the node ended at its start")?;
        Ok(children.split_whitespace().next().map(str::to_owned))
    })?;
    let end = format!("{}v", slot.bridge());
    ip(["link", "add", &end, "type", "veth", "peer", "name", "eth0", "netns", &child])?;
    ip(["link", "set", &end, "master", &slot.bridge(), "up"])
}

/// Loads the images of an archive (OCI or docker) into the real node of the cluster in this slot.
///
/// # Errors
/// When it has no real node, or that does not take the archive.
pub fn load_image(slot: &Slot, archive: &Path) -> Result<()> {
    let socket = socket(slot);
    if !socket.exists() {
        bail!("this cluster has no real node to load an image into");
    }
    let mut ctr = Command::new(binaries::directory()?.join("ctr"));
    ctr.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
    run(&mut ctr).map(drop)
}

/// Loads the image of the process that holds a pod's namespaces.
pub(crate) fn load_pause(binaries: &Path, slot: &Slot) -> Result<()> {
    let context = slot.directory().join("node/pause");
    fs::create_dir_all(&context)?;
    fs::copy(binaries.join("pause"), context.join("pause"))?;
    fs::write(
        context.join("Dockerfile"),
        "FROM scratch\nCOPY pause /pause\nUSER 65535\nENTRYPOINT [\"/pause\"]\n",
    )?;
    let archive = context.with_extension("tar");
    Image::from_dockerfile(PAUSE, &context)?.write(&archive)?;
    load_image(slot, &archive)
}

/// All mounted hierarchies of version 1, or the one of version 2.
fn cgroup_hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_owned()]);
    }
    Ok(fs::read_dir(root)?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

fn network(slot: &Slot) -> String {
    serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "testbed",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods",
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": slot.pod_network()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

fn containerd_config(slot: &Slot) -> Result<String> {
    let node = slot.directory().join("node");
    let cni = cni_directory().context("no CNI plugins")?;
    // A process without CAP_SYS_RESOURCE cannot lower oom_score_adj; runc dies of it, unless it need not try.
    Ok(format!(
        r#"version = 3
root = "{node}/containerd"
state = "/run/containerd"
[grpc]
  address = "{socket}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{cni}"]
    conf_dir = "{node}/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
[plugins.'io.containerd.grpc.v1.cri']
  stream_server_address = "127.0.0.1"
"#,
        node = node.display(),
        socket = socket(slot).display(),
        cni = cni.display(),
    ))
}

fn kubelet_config(slot: &Slot) -> String {
    let (directory, address) = (slot.directory().display(), slot.node_address());
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
healthzPort: 0
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: false}}, x509: {{clientCAFile: {directory}/pki/ca.crt}}}}
authorization: {{mode: AlwaysAllow}}
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://{socket}
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
podLogsDir: {directory}/node/pod-logs
resolvConf: ''
nodeStatusUpdateFrequency: 5s
syncFrequency: 5s
maxPods: 50
",
        cgroup = slot.bridge(),
        socket = socket(slot).display(),
    )
}

fn ip<const N: usize>(args: [&str; N]) -> Result<()> {
    run(Command::new("ip").args(args)).map(drop)
}

fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        let args: Vec<&OsStr> = command.get_args().collect();
        bail!(
            "{name} {}: {}",
            args.join(OsStr::new(" ")).display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
