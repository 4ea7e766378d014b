//! A real server of the line that became Jenkins: Hudson 1.395 with the real ZMQ Event Publisher, on loopback, with
//! real agents. Today's Jenkins is not where Java programs are published; this one is.
//!
//! What makes it run on Java 17, and the plugin, are a fixture beside the repository (`../shared/testbed/jenkins`).

mod image;
mod relay;

pub use image::{AGENT, agent_image};

use crate::supervisor::Supervisor;
use crate::{binaries, cache, excused, free_port, needs, supervisor, wait};
use anyhow::{Context, Result, bail};
use relay::Relay;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Of Maven Central, with its sum.
const WAR: &str = "org.jvnet.hudson.main:hudson-war:1.395:war";
const WAR_FILE: &str = "hudson-war-1.395.war";
const WAR_SUM: &str = "20b7099d04a97462f45aefbf533f6c03f238c553ab82cec5aeda38c2825a8af0";
/// What fetches a program of Java.
const MAVEN_COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy";

const PUBLISHER: &str = "org.jenkinsci.plugins.ZMQEventPublisher.HudsonNotificationProperty.xml";

/// Far more than a start takes on a busy machine.
const BOUND: Duration = Duration::from_secs(180);

/// Commands, and the Debian package of each.
pub(crate) const COMMANDS: [(&str, &str); 9] = [
    ("bash", "bash"),
    ("curl", "curl"),
    ("gcc", "gcc"),
    ("java", "openjdk-17-jdk-headless"),
    ("javac", "openjdk-17-jdk-headless"),
    ("jlink", "openjdk-17-jdk-headless"),
    ("mvn", "maven"),
    ("setpriv", "util-linux"),
    ("unzip", "unzip"),
];

/// A running server, gone with this value.
#[derive(Debug)]
pub struct Hudson {
    directory: PathBuf,
    port: u16,
    publisher: u16,
    supervisor: Supervisor,
    relays: Vec<Relay>,
}

/// The one way in which a test asks for it: `None` when this machine lacks something, after one line on stderr; with
/// `CI=true` that is an error.
///
/// # Errors
/// When it does not start, or with `CI=true` when something is missing.
pub fn hudson() -> Result<Option<Hudson>> {
    if excused(missing())? { Ok(None) } else { Hudson::start().map(Some) }
}

fn missing() -> Option<String> {
    if let Some(words) = needs::words(needs::absent(&COMMANDS)) {
        return Some(words);
    }
    let fixture = fixture();
    (!fixture.is_dir()).then(|| format!("the fixture of Hudson in {}", fixture.display()))
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/testbed/jenkins")
}

/// Fetches and compiles what is not in the cache.
fn prepare() -> Result<PathBuf> {
    let directory = cache::directory()?.join("hudson");
    fs::create_dir_all(&directory)?;
    let _lock = cache::lock("hudson.lock")?;
    fetch(WAR, &directory.join(WAR_FILE), WAR_SUM)?;
    let path = |name: &str| directory.join(name).display().to_string();
    let source = |name: &str| fixture().join(name).display().to_string();
    if !directory.join("Launcher.class").exists() {
        run("javac", &["-d", &path(""), &source("Launcher.java")])?;
    }
    if !directory.join("bindlo.so").exists() {
        run("gcc", &["-shared", "-fPIC", "-o", &path("bindlo.so"), &source("bindlo.c"), "-ldl"])?;
    }
    Ok(directory)
}

/// Fetches from Maven Central what is not there, and checks its sum.
pub(crate) fn fetch(artifact: &str, file: &Path, expected: &str) -> Result<()> {
    if !file.exists() {
        let directory = file.parent().context("no directory")?.display();
        let output = format!("-DoutputDirectory={directory}");
        run("mvn", &["-q", "-B", MAVEN_COPY, &format!("-Dartifact={artifact}"), &output])?;
    }
    let sum = binaries::sum_of(file)?;
    if sum != expected {
        bail!("{} has the sum {sum}, not {expected}; remove it", file.display());
    }
    Ok(())
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&said));
    }
    Ok(output.stdout)
}

/// What lets code of that age look into the runtime of Java 17.
fn opens() -> Result<Vec<String>> {
    let text = fs::read_to_string(fixture().join("opens.txt"))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

impl Hudson {
    fn start() -> Result<Self> {
        let cache = prepare()?;
        let (port, publisher) = (free_port()?, free_port()?);
        let directory = cache.join("run").join(port.to_string());
        // Held until the supervisor has the directory's own lock: one without it counts as left behind.
        let lock = cache::lock("hudson.lock")?;
        sweep(&cache.join("run"))?;
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        for part in ["run", "log", "home/plugins"] {
            private.create(directory.join(part))?;
        }
        let supervisor = Supervisor::start(&directory)?;
        drop(lock);
        let plugin = "zmq-event-publisher.hpi";
        fs::copy(fixture().join(plugin), directory.join("home/plugins").join(plugin))?;
        let config = fs::read_to_string(fixture().join(PUBLISHER))?;
        let config = config.replace("<port>18888</port>", &format!("<port>{publisher}</port>"));
        fs::write(directory.join("home").join(PUBLISHER), config)?;
        let mut server = Self { directory, port, publisher, supervisor, relays: Vec::new() };
        server.up()?;
        Ok(server)
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Lets those reach it who reach this address of the machine, such as pods [`crate::Cluster::host`]; its address there. To be
    /// asked anew after [`Hudson::up`]: agents have another port then.
    ///
    /// # Errors
    /// When it does not answer, or a port is taken there.
    pub fn reachable_at(&mut self, host: &str) -> Result<String> {
        self.relays.clear();
        // Agents are told this port, and take the host from the address that they have.
        let page = format!("{}/tcpSlaveAgentListener/", self.url());
        let header = run("curl", &["-s", "-S", "-D", "-", "-o", "/dev/null", &page])?;
        let header = String::from_utf8_lossy(&header);
        let port = header.lines().find_map(|line| line.strip_prefix("X-Hudson-JNLP-Port: "));
        let port = port.context("Hudson tells no port for agents")?.trim().parse()?;
        let web = Relay::start((host, 0), self.port)?;
        let url = format!("http://{}", web.address());
        self.relays = vec![web, Relay::start((host, port), port)?];
        Ok(url)
    }

    /// The port on which the ZMQ Event Publisher listens from the first build on.
    pub fn publisher(&self) -> u16 {
        self.publisher
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts it, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn up(&mut self) -> Result<()> {
        let cache = cache::directory()?.join("hudson");
        let path = |name: &str| cache.join(name).display().to_string();
        let mut argv = vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", path("bindlo.so")),
            format!("HUDSON_HOME={}", self.directory.join("home").display()),
            "java".to_owned(),
        ];
        argv.extend(opens()?);
        argv.extend(
            ["-Xmx512m", "-Djava.awt.headless=true", "-Djava.net.preferIPv4Stack=true"].map(str::to_owned),
        );
        argv.extend([
            "-cp".to_owned(),
            format!("{}:{}", cache.display(), path(WAR_FILE)),
            "Launcher".to_owned(),
        ]);
        argv.extend([
            format!("--httpPort={}", self.port),
            "--httpsPort=-1".to_owned(),
            "--httpListenAddress=127.0.0.1".to_owned(),
            "--ajp13Port=-1".to_owned(),
        ]);
        self.supervisor.run(&self.directory, "hudson", &argv)?;
        let url = format!("{}/api/json", self.url());
        let ask = ["-s", "-o", "/dev/null", "-w", "%{http_code}", url.as_str()];
        wait("answer of Hudson", BOUND, || {
            if !self.supervisor.alive("hudson")? {
                bail!("Hudson ended; see {}", self.directory.join("log/hudson.log").display());
            }
            // Not before it is ready; with users, nobody in particular is refused.
            let code = run("curl", &ask).unwrap_or_default();
            Ok([&b"200"[..], b"401", b"403"].contains(&code.as_slice()).then_some(()))
        })
    }

    /// Ends it as `kill -9` does.
    ///
    /// # Errors
    /// When its supervisor is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.supervisor.stop("hudson", "KILL")
    }

    /// Gives it users with a password each, and each of them these permissions (`hudson.model.Hudson.Read`); anonymous has
    /// none, and changes take a crumb. It is to be started anew then.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn users(&self, users: &[(&str, &str, &[&str])]) -> Result<()> {
        let home = self.directory.join("home");
        let mut granted = String::new();
        for (user, password, permissions) in users {
            let hash = binaries::sum_of_bytes(format!("{password}{{salt}}").as_bytes());
            let directory = home.join("users").join(user);
            fs::create_dir_all(&directory)?;
            let details = "hudson.security.HudsonPrivateSecurityRealm_-Details";
            let text = format!(
                "<user><fullName>{user}</fullName><properties><{details}><passwordHash>salt:{hash}</passwordHash></{details}></properties></user>"
            );
            fs::write(directory.join("config.xml"), text)?;
            for permission in *permissions {
                granted.push_str(&format!("<permission>{permission}:{user}</permission>"));
            }
        }
        let text = format!(
            "<hudson><numExecutors>2</numExecutors><mode>NORMAL</mode><useSecurity>true</useSecurity>
<authorizationStrategy class=\"hudson.security.GlobalMatrixAuthorizationStrategy\">{granted}</authorizationStrategy>
<securityRealm class=\"hudson.security.HudsonPrivateSecurityRealm\"><disableSignup>true</disableSignup></securityRealm>
<crumbIssuer class=\"hudson.security.csrf.DefaultCrumbIssuer\"/><slaveAgentPort>0</slaveAgentPort></hudson>"
        );
        Ok(fs::write(home.join("config.xml"), text)?)
    }

    /// Sends a request as people do, and returns what comes back; a redirect is success.
    ///
    /// # Errors
    /// When the answer is an error.
    pub fn request(&self, method: &str, path: &str, body: Option<&str>) -> Result<String> {
        let url = format!("{}/{path}", self.url());
        let mut arguments = vec!["-g", "-s", "-S", "--fail-with-body", "-X", method];
        if let Some(body) = body {
            arguments.extend(["-H", "Content-Type: application/xml", "--data-binary", body]);
        }
        arguments.push(&url);
        Ok(String::from_utf8_lossy(&run("curl", &arguments)?).into_owned())
    }

    /// Makes a job that runs a shell script on a node with that label.
    ///
    /// # Errors
    /// When it is refused.
    pub fn job(&self, name: &str, label: &str, script: &str) -> Result<()> {
        let xml = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let job = fs::read_to_string(fixture().join("job.xml"))?;
        let job = between(&job, "<assignedNode>", "</assignedNode>", &xml(label))?;
        let job = between(&job, "<command>", "</command>", &xml(script))?;
        self.request("POST", &format!("createItem?name={name}"), Some(&job)).map(drop)
    }

    /// Puts a job into the queue.
    ///
    /// # Errors
    /// When it is refused.
    pub fn build(&self, job: &str) -> Result<()> {
        self.request("POST", &format!("job/{job}/build?delay=0sec"), None).map(drop)
    }

    /// The command of a real agent; what names its node follows.
    ///
    /// # Errors
    /// When the server does not hand out its program.
    pub fn agent(&self) -> Result<Vec<String>> {
        let jar = self.directory.join("slave.jar");
        if !jar.exists() {
            let url = format!("{}/jnlpJars/slave.jar", self.url());
            run("curl", &["-sf", "-o", &jar.display().to_string(), &url])?;
        }
        let mut argv = vec!["java".to_owned()];
        argv.extend(opens()?);
        argv.extend(
            ["-Djava.awt.headless=true", "-Djava.net.preferIPv4Stack=true", "-Xmx128m", "-jar"]
                .map(str::to_owned),
        );
        argv.push(jar.display().to_string());
        Ok(argv)
    }

    /// Starts a real agent with these arguments; it is gone with the server at the latest.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&mut self, name: &str, arguments: &[String]) -> Result<()> {
        let argv = [self.agent()?, arguments.to_vec()].concat();
        self.supervisor.run(&self.directory, name, &argv).map(drop)
    }

    /// Whether the process of that agent runs.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub fn agent_runs(&mut self, name: &str) -> Result<bool> {
        self.supervisor.alive(name)
    }

    /// Ends an agent as `kill -9` does.
    ///
    /// # Errors
    /// When its supervisor is gone.
    pub fn kill_agent(&mut self, name: &str) -> Result<()> {
        self.supervisor.stop(name, "KILL")
    }
}

/// Replaces what stands between two texts.
fn between(text: &str, before: &str, after: &str, new: &str) -> Result<String> {
    let (head, rest) = text.split_once(before).with_context(|| format!("no {before}"))?;
    let (_, tail) = rest.split_once(after).with_context(|| format!("no {after}"))?;
    Ok(format!("{head}{before}{new}{after}{tail}"))
}

/// Removes what servers left whose owner is gone.
fn sweep(run: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(run) else { return Ok(()) };
    for directory in entries.flatten().map(|entry| entry.path()) {
        if !cache::is_locked(&directory.join("lock"))? && directory.exists() {
            supervisor::clean(&directory)?;
        }
    }
    Ok(())
}
