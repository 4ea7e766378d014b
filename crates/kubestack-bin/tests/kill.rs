//! The daemon is killed (-9) at random moments under load and started again: every job ends, and nothing is left.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where its own set-up fails, and prints figures"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a real daemon in real time; the moments of the kills are what is tested"
)]

use kubestack_queue::client::QueueClient;
use kubestack_queue::model::{Job, JobState, Submission};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const JOBS: usize = 200;
const KILLS: usize = 20;
/// Far more than it takes; what is not done by then hangs.
const PATIENCE: Duration = Duration::from_secs(400);

struct Daemon<'a> {
    root: &'a Path,
    child: Child,
}

impl<'a> Daemon<'a> {
    fn start(root: &'a Path) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(root.join("daemon.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubestack"));
        command.arg("-c").arg(root.join("config.yaml")).arg("run");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { root, child }
    }

    /// SIGKILL, and another one in its place.
    fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        *self = Self::start(self.root);
    }

    /// SIGTERM; it must end by itself.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "the daemon does not end in good order");
    }
}

fn list(root: &Path) -> Option<serde_json::Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubestack"));
    let output =
        command.arg("-c").arg(root.join("config.yaml")).args(["list", "-o", "json"]).output().unwrap();
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

fn config(root: &Path, port: u16) -> String {
    let dir = root.display();
    format!(
        "instance: kill
state_dir: {dir}/state
masters:
  - {{name: queue, type: queue, url: 'http://127.0.0.1:{port}', token: t0ken, embedded: {{listen: '127.0.0.1:{port}', lease: 5s}}}}
providers:
  - {{name: local, type: local}}
limits: {{agents: 10}}
policy: {{step_deadline: 1s, lost_grace: 2s}}
labels:
  - {{name: a, idle_timeout: 2s}}
  - {{name: b, idle_timeout: 2s, max: 3}}
"
    )
}

/// Processes that work below `root`.
fn processes(root: &Path) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let below =
        all.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(root)));
    below.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_job_ends_and_nothing_is_left_when_the_daemon_is_killed_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    fs::write(root.join("config.yaml"), config(&root, port)).unwrap();
    let mut daemon = Daemon::start(&root);
    let client = QueueClient::new(&format!("http://127.0.0.1:{port}"), "t0ken".into()).unwrap();
    let began = Instant::now();
    let retry = async |what: &str| {
        assert!(
            began.elapsed() < PATIENCE,
            "{what}; daemon:\n{}",
            fs::read_to_string(root.join("daemon.log")).unwrap()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    while client.waiting().await.is_err() {
        retry("the queue does not come up").await;
    }
    for index in 0..JOBS {
        let script = format!("echo x >> {}/ran-{index}; sleep 0.{:02}", root.display(), index * 7 % 60);
        let label = if index % 3 == 0 { "b" } else { "a" }.to_owned();
        let command = ["sh", "-c", &script].map(str::to_owned).to_vec();
        client.submit(&Submission { label, command, env: BTreeMap::new(), timeout_ms: None }).await.unwrap();
    }
    let mut kills = 0;
    let mut spread = 0x2545_f491_4f6c_dd1d_u64;
    let jobs: Vec<Job> = loop {
        // Until the last kill at some moment within two seconds; then just looking on.
        spread = spread.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if kills < KILLS {
            tokio::time::sleep(Duration::from_millis((spread >> 33) % 2_000)).await;
            daemon.kill_and_restart();
            kills += 1;
            continue;
        }
        if let Ok(jobs) = client.jobs().await
            && jobs.iter().all(|job| job.state.has_ended())
            && list(&root).is_some_and(|status| status["agents"].as_array().unwrap().is_empty())
        {
            break jobs;
        }
        retry("jobs or agents do not come to an end").await;
    };
    assert_eq!(jobs.len(), JOBS, "an acknowledged job was lost");
    let mut again = 0;
    for (index, job) in jobs.iter().enumerate() {
        let ran = fs::read_to_string(root.join(format!("ran-{index}"))).unwrap_or_default().lines().count();
        assert_eq!(job.state, JobState::Succeeded, "{job:?}");
        assert!(ran >= 1, "{job:?} counts as done and never ran");
        assert!(ran as u32 <= job.attempts, "{job:?} ran {ran} times");
        again += usize::from(job.attempts > 1);
    }
    daemon.stop();
    let left = fs::read_dir(root.join("state/local/local")).unwrap().count();
    assert_eq!(left, 0, "directories are left");
    assert_eq!(processes(&root), Vec::<String>::new(), "processes are left");
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "the port is left open");
    println!(
        "{JOBS} jobs, {kills} kills, {again} jobs queued again, 0 left, {:.0} s",
        began.elapsed().as_secs_f32()
    );
}
