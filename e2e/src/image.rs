//! OCI images without a daemon: one layer, written as an archive that `ctr`, `docker load` and `podman load` take.
//! The same content gives the same bytes: entries are sorted, and there is no time in them.
//! The format: <https://github.com/opencontainers/image-spec>.

use crate::cache;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tar::{EntryType, Header};

/// The name of the image of the queue's agent, as [`agent`] makes it.
pub const AGENT: &str = "docker.io/kubestack/agent:dev";

/// Numbers of user and group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Owner {
    user: u64,
    group: u64,
}

#[derive(Debug)]
enum Content {
    Directory,
    File(Vec<u8>),
}

#[derive(Debug)]
struct Entry {
    content: Content,
    mode: u32,
    owner: Owner,
}

/// An image in the making.
#[derive(Debug)]
pub struct Image {
    name: String,
    /// By path, without the leading slash; so parents come before their children.
    entries: BTreeMap<String, Entry>,
    config: serde_json::Map<String, Value>,
}

impl Image {
    /// An empty one; `name` is a full reference such as `docker.io/kubestack/agent:dev`.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), entries: BTreeMap::new(), config: serde_json::Map::new() }
    }

    /// From a directory with a `Dockerfile` and what that copies. Only what needs no container to run in: `FROM scratch`, `COPY`
    /// (with `--chown`), `ENV`, `USER`, `WORKDIR`, `ENTRYPOINT` and `CMD` as JSON.
    ///
    /// # Errors
    /// When it has another instruction, or names a file that is not there; with the line.
    pub fn from_dockerfile(name: &str, context: &Path) -> Result<Self> {
        let dockerfile = context.join("Dockerfile");
        let text = fs::read_to_string(&dockerfile).with_context(|| dockerfile.display().to_string())?;
        let mut image = Self::new(name);
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                image
                    .instruction(line, context)
                    .with_context(|| format!("{}:{}: `{line}`", dockerfile.display(), number + 1))?;
            }
        }
        Ok(image)
    }

    fn instruction(&mut self, line: &str, context: &Path) -> Result<()> {
        let (verb, rest) = line.split_once(' ').context("an instruction takes an argument")?;
        match verb {
            "FROM" if rest == "scratch" => {}
            "FROM" => bail!("only `scratch` can be built upon without a registry"),
            "COPY" => {
                let mut words: Vec<&str> = rest.split_whitespace().collect();
                let mut owner = Owner::default();
                if let Some(chown) = words.first().and_then(|word| word.strip_prefix("--chown=")) {
                    let (user, group) =
                        chown.split_once(':').context("--chown takes USER:GROUP, as numbers")?;
                    owner = Owner { user: user.parse()?, group: group.parse()? };
                    words.remove(0);
                }
                let [source, target] = words.as_slice() else { bail!("COPY takes a source and a target") };
                self.copy(&context.join(source), target, owner)?;
            }
            "ENV" => {
                let variables = rest.split_whitespace().map(Value::from).collect();
                self.config.insert("Env".to_owned(), variables);
            }
            "USER" => drop(self.config.insert("User".to_owned(), rest.into())),
            "WORKDIR" => drop(self.config.insert("WorkingDir".to_owned(), rest.into())),
            "ENTRYPOINT" => drop(self.config.insert("Entrypoint".to_owned(), words(rest)?)),
            "CMD" => drop(self.config.insert("Cmd".to_owned(), words(rest)?)),
            _ => bail!("`{verb}` takes a container to build in; see the list in image.rs"),
        }
        Ok(())
    }

    /// Adds a file, or a directory with all that is in it. Programs stay programs.
    fn copy(&mut self, source: &Path, target: &str, owner: Owner) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let about = || source.display().to_string();
        let path = target.trim_matches('/').to_owned();
        let metadata = fs::metadata(source).with_context(about)?;
        for (slash, _) in path.match_indices('/') {
            let parent = path.get(..slash).unwrap_or_default().to_owned();
            let directory = Entry { content: Content::Directory, mode: 0o755, owner: Owner::default() };
            self.entries.entry(parent).or_insert(directory);
        }
        if metadata.is_dir() {
            // The root is there in any image.
            if !path.is_empty() {
                self.entries.insert(path, Entry { content: Content::Directory, mode: 0o755, owner });
            }
            for entry in fs::read_dir(source).with_context(about)? {
                let entry = entry?;
                let name = entry.file_name().into_string().ok().with_context(about)?;
                self.copy(&entry.path(), &format!("{target}/{name}"), owner)?;
            }
            return Ok(());
        }
        let mode = if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
        let content = Content::File(fs::read(source).with_context(about)?);
        self.entries.insert(path, Entry { content, mode, owner });
        Ok(())
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let layer = self.layer()?;
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        })
        .to_string()
        .into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        })
        .to_string()
        .into_bytes();
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest(&manifest),
                "size": manifest.len(),
                "annotations": {"io.containerd.image.name": self.name},
                "platform": {"architecture": architecture(), "os": "linux"},
            }],
        });
        // What docker looked for before it took OCI archives.
        let docker = json!([{"Config": blob(&config), "RepoTags": [self.name], "Layers": [blob(&layer)]}]);
        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut tar, "index.json", index.to_string().as_bytes())?;
        append(&mut tar, "manifest.json", docker.to_string().as_bytes())?;
        let blobs: BTreeMap<String, &[u8]> =
            [&config, &layer, &manifest].into_iter().map(|bytes| (blob(bytes), bytes.as_slice())).collect();
        for (path, bytes) in blobs {
            append(&mut tar, &path, bytes)?;
        }
        if let Some(directory) = archive.parent() {
            fs::create_dir_all(directory)?;
        }
        // Whoever reads the one before goes on reading it.
        let fresh = archive.with_extension("fresh");
        fs::write(&fresh, tar.into_inner()?)
            .and_then(|()| fs::rename(&fresh, archive))
            .with_context(|| archive.display().to_string())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let (kind, bytes): (_, &[u8]) = match &entry.content {
                Content::Directory => (EntryType::Directory, &[]),
                Content::File(bytes) => (EntryType::Regular, bytes),
            };
            let mut header = header(kind, entry.mode, bytes.len());
            header.set_uid(entry.owner.user);
            header.set_gid(entry.owner.group);
            tar.append_data(&mut header, path, bytes)?;
        }
        Ok(tar.into_inner()?)
    }
}

/// Builds the program and the image of the queue's agent from `images/agent/Dockerfile`; where the archive is.
///
/// # Errors
/// When something that it consists of is missing, or the build fails.
pub fn agent() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let _lock = cache::lock("image.lock")?;
    let program = build_static(&root)?;
    let images = program
        .ancestors()
        .nth(3)
        .context("cargo put the program where no target directory is")?
        .join("images");
    let context = images.join("agent");
    fs::create_dir_all(context.join("tmp"))?;
    fs::copy(&program, context.join("kubestack")).with_context(|| program.display().to_string())?;
    let shell = shell().context("no static busybox for the jobs' shell: install busybox-static")?;
    fs::copy(&shell, context.join("busybox")).with_context(|| shell.display().to_string())?;
    for file in fs::read_dir(root.join("images/agent"))? {
        let file = file?;
        fs::copy(file.path(), context.join(file.file_name()))?;
    }
    let archive = images.join("agent.tar");
    Image::from_dockerfile(AGENT, &context)?.write(&archive)?;
    Ok(archive)
}

/// Where Debian and Alpine have it.
pub(crate) fn shell() -> Option<PathBuf> {
    ["/bin/busybox.static", "/bin/busybox"].iter().map(PathBuf::from).find(|path| path.exists())
}

/// Static, so that it needs nothing of any base image.
fn build_static(root: &Path) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    // Not in rust-toolchain.toml: whoever only builds KubeStack need not fetch it. If this fails, cargo says so below.
    let _ = Command::new("rustup").current_dir(root).args(["--quiet", "target", "add", &target]).status();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo tells the test or program that we are; a build script that reads it would run anew for each of them, and half
    // of the program be compiled again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|about| name.as_encoded_bytes().starts_with(about.as_bytes()))
        {
            cargo.env_remove(name);
        }
    }
    let output = cargo
        .current_dir(root)
        .args(["build", "--release", "--package", "kubestack-bin", "--bin", "kubestack"])
        .args(["--target", &target, "--message-format", "json-render-diagnostics"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cannot build kubestack for {target}; if the target is missing: `rustup target add {target}`");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .context("cargo does not say where it put the program")
}

fn words(json: &str) -> Result<Value> {
    let words: Vec<String> =
        serde_json::from_str(json).context("only the form [\"program\", \"argument\"]")?;
    Ok(words.into())
}

/// In the words of Go, which images use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", crate::hex(&Sha256::digest(bytes)))
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/{}", digest(bytes).replace(':', "/"))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, 0o644, bytes.len());
    Ok(tar.append_data(&mut header, path, bytes)?)
}

fn header(kind: EntryType, mode: u32, length: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(length as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn image(dockerfile: &str) -> Result<Image> {
        let context = tempfile::tempdir().unwrap();
        let path = |name: &str| context.path().join(name);
        fs::write(path("program"), "#!").unwrap();
        fs::set_permissions(path("program"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(path("etc")).unwrap();
        fs::write(path("etc/b"), "b").unwrap();
        fs::write(path("etc/a"), "a").unwrap();
        fs::write(path("Dockerfile"), dockerfile).unwrap();
        Image::from_dockerfile("example.org/x:1", context.path())
    }

    const GOOD: &str = "# comment\nFROM scratch\nCOPY program /usr/bin/program\nCOPY --chown=1:2 etc /etc\nUSER 1:2\n\
                        ENV A=1 B=2\nENTRYPOINT [\"/usr/bin/program\", \"run\"]\n";

    #[test]
    fn the_same_content_gives_the_same_bytes_whenever_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
        image(GOOD).unwrap().write(&one).unwrap();
        image(GOOD).unwrap().write(&two).unwrap();
        assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap());

        let mut names = Vec::new();
        for entry in tar::Archive::new(fs::File::open(&one).unwrap()).entries().unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            names.push(entry.path().unwrap().display().to_string());
        }
        assert_eq!(names[..3], ["oci-layout", "index.json", "manifest.json"]);
        assert_eq!(names.len(), 6);
    }

    #[test]
    fn the_layer_has_parents_first_and_owners_and_modes_as_told() {
        let layer = image(GOOD).unwrap().layer().unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let entries: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                format!(
                    "{} {:o} {}:{}",
                    entry.path().unwrap().display(),
                    header.mode().unwrap(),
                    header.uid().unwrap(),
                    header.gid().unwrap()
                )
            })
            .collect();
        assert_eq!(
            entries,
            [
                "etc 755 1:2",
                "etc/a 644 1:2",
                "etc/b 644 1:2",
                "usr 755 0:0",
                "usr/bin 755 0:0",
                "usr/bin/program 755 0:0"
            ]
        );
    }

    #[test]
    fn an_instruction_that_needs_a_container_is_refused_with_its_line() {
        let error = format!("{:#}", image("FROM scratch\nRUN true\n").unwrap_err());
        assert!(error.contains("Dockerfile:2: `RUN true`: `RUN` takes a container to build in"), "{error}");
        let error = format!("{:#}", image("FROM debian\n").unwrap_err());
        assert!(error.contains("Dockerfile:1: `FROM debian`: only `scratch`"), "{error}");
        let error = format!("{:#}", image("COPY absent /x\n").unwrap_err());
        assert!(error.contains("absent: No such file"), "{error}");
    }
}
