//! The image of Hudson's real agent: a Java runtime cut out of this machine's JDK, the C libraries that it needs,
//! a shell, and the agent's program out of the war. No registry, no container engine.

use super::{WAR_FILE, WAR_SUM, prepare, run};
use crate::image::{self, Image};
use crate::{binaries, cache};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The name of the image, as [`agent_image`] makes it.
pub const AGENT: &str = "docker.io/kubestack/hudson-agent:testbed";

const DOCKERFILE: &str = include_str!("Dockerfile");

/// What the agent needs of Java 17, measured: without java.desktop (`java.beans`) the server's first call ends the connection,
/// without java.xml (which comes with it) the agent does not start.
const MODULES: &str = "java.base,java.logging,java.desktop";

/// Where the agent's program is in the war.
const PROGRAM: &str = "WEB-INF/slave.jar";

/// What is loaded when an agent without a screen runs, below the runtime's directory.
const LOADED: [&str; 2] = ["bin/java", "lib/server/libjvm.so"];

/// Makes the image if the cache has none of these parts whose sum is right; where the archive is.
///
/// # Errors
/// When something that it consists of is missing, or cannot be made.
pub fn agent_image() -> Result<PathBuf> {
    let cache = prepare()?;
    let _lock = cache::lock("hudson-image.lock")?;
    let shell = image::shell().context("no static busybox for the jobs' shell: install busybox-static")?;
    let java = run("java", &["--version"])?;
    let parts = [DOCKERFILE.as_bytes(), MODULES.as_bytes(), WAR_SUM.as_bytes(), &java];
    let parts = binaries::sum_of_bytes(&[parts.concat(), fs::read(&shell)?].concat());
    let archive = cache.join("agent.tar");
    if is_made(&archive, &parts) {
        return Ok(archive);
    }
    let context = cache.join("agent-image");
    if context.exists() {
        fs::remove_dir_all(&context)?;
    }
    let rootfs = context.join("rootfs");
    fs::create_dir_all(context.join("empty"))?;
    fs::create_dir_all(rootfs.join("bin"))?;
    fs::create_dir_all(rootfs.join("etc"))?;
    runtime(&rootfs)?;
    let war = cache.join(WAR_FILE).display().to_string();
    run("unzip", &["-q", "-j", &war, PROGRAM, "-d", &context.display().to_string()])?;
    fs::rename(context.join("slave.jar"), rootfs.join("agent.jar"))?;
    fs::copy(&shell, rootfs.join("bin/sh")).with_context(|| shell.display().to_string())?;
    let passwd = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/agent/passwd");
    fs::copy(&passwd, rootfs.join("etc/passwd")).with_context(|| passwd.display().to_string())?;
    fs::write(context.join("Dockerfile"), DOCKERFILE)?;
    Image::from_dockerfile(AGENT, &context)?.write(&archive)?;
    fs::write(archive.with_extension("sum"), sums(&archive, &parts)?)?;
    fs::remove_dir_all(&context)?;
    Ok(archive)
}

/// Whether the archive is whole, and of these parts.
fn is_made(archive: &Path, parts: &str) -> bool {
    let known = fs::read_to_string(archive.with_extension("sum"));
    known.is_ok_and(|known| sums(archive, parts).is_ok_and(|sums| sums == known))
}

fn sums(archive: &Path, parts: &str) -> Result<String> {
    Ok(format!("{parts} {}\n", binaries::sum_of(archive)?))
}

/// The Java runtime, and the C libraries that it loads, where the loader looks for them.
fn runtime(rootfs: &Path) -> Result<()> {
    let jre = rootfs.join("jre");
    let output = jre.display().to_string();
    let add = ["--add-modules", MODULES, "--output", &output];
    run("jlink", &[&add[..], &["--strip-debug", "--no-man-pages", "--no-header-files"]].concat())?;
    for program in LOADED {
        let told = run("ldd", &[&jre.join(program).display().to_string()])?;
        for library in libraries(&String::from_utf8_lossy(&told)) {
            let library = Path::new(library);
            // Its own ones are found beside it.
            if library.starts_with(&jre) {
                continue;
            }
            let copy = rootfs.join(library.strip_prefix("/")?);
            fs::create_dir_all(copy.parent().context("a library without a directory")?)?;
            fs::copy(library, &copy).with_context(|| library.display().to_string())?;
        }
    }
    if !rootfs.join("jre/bin/java").exists() {
        bail!("jlink made no java in {output}");
    }
    Ok(())
}

/// The paths in what ldd says: `NAME => PATH (ADDRESS)`, or for the loader `PATH (ADDRESS)`.
fn libraries(ldd: &str) -> impl Iterator<Item = &str> {
    ldd.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_archive_and_one_of_other_parts_are_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("agent.tar");
        assert!(!is_made(&archive, "parts"));
        fs::write(&archive, "whole").unwrap();
        assert!(!is_made(&archive, "parts"));
        fs::write(archive.with_extension("sum"), sums(&archive, "parts").unwrap()).unwrap();
        assert!(is_made(&archive, "parts"));
        assert!(!is_made(&archive, "others"));
        fs::write(&archive, "broken").unwrap();
        assert!(!is_made(&archive, "parts"));
    }

    #[test]
    fn the_libraries_are_those_with_a_path() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f6d)\n\
                   \tlibjvm.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f6d)\n";
        let found: Vec<&str> = libraries(ldd).collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
