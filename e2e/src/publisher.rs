//! Real ZeroMQ publishers on loopback: the library inside the plugin of Jenkins, later ones of its line, and libzmq.

use crate::{cache, excused, free_port, hudson, needs, wait};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Commands, and the Debian package of each.
pub(crate) const COMMANDS: [(&str, &str); 4] = [
    ("java", "openjdk-17-jdk-headless"),
    ("javac", "openjdk-17-jdk-headless"),
    ("mvn", "maven"),
    ("setpriv", "util-linux"),
];

/// That of Debian, which has the library below: one of somebody's own may come first on the path.
const PYTHON: &str = "/usr/bin/python3";
const PYTHON_LIBRARY: &str = "/usr/lib/python3/dist-packages/zmq/__init__.py";
/// Debian's package of the library.
pub(crate) const PYTHON_PACKAGE: &str = "python3-zmq";

const BOUND: Duration = Duration::from_secs(60);

/// Who publishes.
#[derive(Clone, Copy, Debug)]
pub enum Library {
    /// jeromq 0.2.0, which is inside the ZMQ Event Publisher: ZMTP 2.0.
    Jeromq020,
    /// jeromq 0.3.6: ZMTP 2.0.
    Jeromq036,
    /// jeromq 0.6.0: ZMTP 3.
    Jeromq060,
    /// libzmq with a heartbeat every 200 ms: ZMTP 3.1.
    Libzmq,
}

impl Library {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Jeromq020, Self::Jeromq036, Self::Jeromq060, Self::Libzmq];

    /// Group and version of the Maven artifact, with its sum.
    fn artifact(self) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Self::Jeromq020 => Some((
                "org.jeromq",
                "0.2.0",
                "ffa96dbbce063390593f071c0142bd91ea74827e4308dff4df665efa616fd963",
            )),
            Self::Jeromq036 => Some((
                "org.zeromq",
                "0.3.6",
                "0e3dbcfcd590d01d6788c1cb2cd1f794bfd6667b8d2f8bd0ca0bd0cdede368f2",
            )),
            Self::Jeromq060 => Some((
                "org.zeromq",
                "0.6.0",
                "4784ff6d6e91b8eecd917b73d07b161c19a808ef870a5bdb760515bb67e208d3",
            )),
            Self::Libzmq => None,
        }
    }

    /// What starts it.
    fn command(self, port: u16) -> Result<Command> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        match self.artifact() {
            Some(artifact) => {
                command.arg("java").arg("-cp").arg(compiled(artifact)?).args(["Pub", &port.to_string()])
            }
            None => {
                let script = directory()?.join("publisher.py");
                fs::write(&script, include_str!("publisher.py"))?;
                command.arg(PYTHON).arg(script).args([&port.to_string(), "200"])
            }
        };
        Ok(command)
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/testbed/zmq/Pub.java")
}

fn directory() -> Result<PathBuf> {
    let directory = cache::directory()?.join("publishers");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// The class path of the publisher with that library, which is fetched and compiled if it is not there.
fn compiled((group, version, sum): (&str, &str, &str)) -> Result<String> {
    let _lock = cache::lock("publishers.lock")?;
    let directory = directory()?;
    let jar = directory.join(format!("jeromq-{version}.jar"));
    hudson::fetch(&format!("{group}:jeromq:{version}"), &jar, sum)?;
    let classes = directory.join(version);
    if !classes.join("Pub.class").exists() {
        fs::create_dir_all(&classes)?;
        let source = fs::read_to_string(fixture())?.replace("org.jeromq", group);
        let file = classes.join("Pub.java");
        fs::write(&file, source)?;
        let path = |path: &Path| path.display().to_string();
        hudson::run("javac", &["-cp", &path(&jar), "-d", &path(&classes), &path(&file)])?;
    }
    Ok(format!("{}:{}", classes.display(), jar.display()))
}

/// A running publisher, gone with this value, and with the thread that started it.
#[derive(Debug)]
pub struct Publisher {
    library: Library,
    port: u16,
    process: Process,
}

#[derive(Debug)]
struct Process {
    child: Child,
    input: ChildStdin,
    said: Arc<Mutex<Vec<String>>>,
}

/// The one way in which a test asks for it: `None` when this machine lacks something, after one line on stderr; with
/// `CI=true` that is an error.
///
/// # Errors
/// When it does not start, or with `CI=true` when something is missing.
pub fn publisher(library: Library) -> Result<Option<Publisher>> {
    if excused(missing(library))? {
        return Ok(None);
    }
    let port = free_port()?;
    Ok(Some(Publisher { library, port, process: start(library, port)? }))
}

fn missing(library: Library) -> Option<String> {
    match library {
        Library::Libzmq if python_library() => None,
        Library::Libzmq => Some(format!("zmq for {PYTHON} (Debian: {PYTHON_PACKAGE})")),
        _ => needs::words(needs::absent(&COMMANDS))
            .or_else(|| (!fixture().is_file()).then(|| format!("the fixture {}", fixture().display()))),
    }
}

/// Whether Debian's Python has the library.
pub(crate) fn python_library() -> bool {
    Path::new(PYTHON_LIBRARY).exists()
}

fn start(library: Library, port: u16) -> Result<Process> {
    let mut child = library
        .command(port)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run setpriv")?;
    let input = child.stdin.take().context("no pipe")?;
    let output = BufReader::new(child.stdout.take().context("no pipe")?);
    let said = Arc::new(Mutex::new(Vec::new()));
    let heard = said.clone();
    // Ends with the process, which ends with this value.
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if let Ok(mut heard) = heard.lock() {
                heard.push(line);
            }
        }
    });
    let mut process = Process { child, input, said };
    wait("bound socket of a publisher", BOUND, || {
        if let Some(status) = process.child.try_wait()? {
            bail!("the publisher ended: {status}");
        }
        Ok(process.count("bound ").ge(&1).then_some(()))
    })?;
    Ok(process)
}

impl Process {
    fn count(&self, word: &str) -> usize {
        self.said.lock().map_or(0, |said| said.iter().filter(|line| line.starts_with(word)).count())
    }
}

impl Publisher {
    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Publishes one message of one frame. Who has not subscribed yet never gets it.
    ///
    /// # Errors
    /// When it is gone.
    pub fn publish(&mut self, message: &str) -> Result<()> {
        writeln!(self.process.input, "{message}").context("the publisher is gone")?;
        Ok(self.process.input.flush()?)
    }

    /// How many lines it said that begin so; libzmq tells `connected` and `disconnected`.
    pub fn said(&self, word: &str) -> usize {
        self.process.count(word)
    }

    /// Ends it as `kill -9` does.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn kill(&mut self) -> Result<()> {
        self.process.child.kill()?;
        self.process.child.wait()?;
        Ok(())
    }

    /// Starts it again after [`Publisher::kill`], on the same port.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(&mut self) -> Result<()> {
        self.process = start(self.library, self.port)?;
        Ok(())
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
