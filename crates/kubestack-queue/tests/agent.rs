//! The agent's promises: a real process with real jobs, against the real server over loopback.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops where its own set-up fails; real processes run in real time"
)]

use kubestack_core::context::Clock;
use kubestack_core::time::Moment;
use kubestack_queue::agent::{self, AgentConfig, NAME, TOKEN, TOKEN_FILE, URL};
use kubestack_queue::client::QueueClient;
use kubestack_queue::model::{Enrol, Job, JobState, Submission};
use kubestack_queue::server::{Queue, QueueOptions, serve};
use kubestack_queue::store::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Far more than anything here takes; what is not done by then hangs.
const PATIENCE: Duration = Duration::from_secs(60);

struct Wall;

#[kubestack_core::async_trait]
impl Clock for Wall {
    fn now(&self) -> Moment {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Moment::from_micros(u64::try_from(since.as_micros()).unwrap())
    }
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// A queue with one job, and the process of its agent.
struct Stage {
    dir: tempfile::TempDir,
    queue: Arc<Queue>,
    agent: Child,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

impl Stage {
    async fn new(command: &[&str], timeout_ms: Option<u64>, options: QueueOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("q")).unwrap();
        let queue = Queue::new(store, Arc::new(Wall), "operator".into(), options).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(queue.clone(), listener));
        let expiring = queue.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(expiring.expire()).await;
            }
        });
        let command = command.iter().map(|&word| word.to_owned()).collect();
        let env = BTreeMap::from([("DIR".to_owned(), dir.path().display().to_string())]);
        queue.submit(Submission { label: "a".into(), command, env, timeout_ms }).unwrap();
        let provides = BTreeSet::from(["a".to_owned()]);
        let operator = QueueClient::new(&url, "operator".into()).unwrap();
        let token = operator.enrol("x", &Enrol { provides, marks: None }).await.unwrap().token;
        let agent = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_agent_s_own_process", "--ignored"])
            .envs([(URL, url.as_str()), (NAME, "x"), (TOKEN, &token), (TOKEN_FILE, "/no/such/file")])
            // The harness in there must not be taken for this one.
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { dir, queue, agent }
    }

    async fn shell(script: &str, timeout_ms: Option<u64>) -> Self {
        Self::new(&["sh", "-c", script], timeout_ms, QueueOptions::default()).await
    }

    fn job(&self) -> Job {
        self.queue.job(1).unwrap()
    }

    fn log(&self) -> Vec<u8> {
        self.queue.log(1, 0, usize::MAX).unwrap()
    }

    async fn until(&self, what: &str, there: impl Fn() -> bool) {
        let began = Instant::now();
        while !there() {
            assert!(began.elapsed() < PATIENCE, "{what}: {:?}", self.job());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ended(&self) -> Job {
        self.until("the job does not end", || self.job().state.has_ended()).await;
        self.job()
    }

    async fn says(&self, word: &str) {
        self.until(word, || String::from_utf8_lossy(&self.log()).contains(word)).await;
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// No test: what the others start as the agent.
#[tokio::test]
#[ignore = "the other tests start it"]
async fn the_agent_s_own_process() {
    if std::env::var_os(TOKEN).is_some() {
        agent::run(AgentConfig::from_env().unwrap()).await.unwrap();
    }
}

fn runs(pid_file: &Path) -> bool {
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

/// A job whose child and grandchild, like itself, do not listen to SIGTERM.
const DEAF: &str = "trap '' TERM
    sh -c 'echo $$ > $DIR/child; sh -c \"echo \\$\\$ > $DIR/grandchild; echo ready; while :; do sleep 1; done\"; :' &
    wait; while :; do sleep 1; done";

async fn none_is_left(stage: &Stage) {
    for name in ["child", "grandchild"] {
        stage.until("processes are left", || !runs(&stage.file(name))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_ends_the_whole_group_also_with_a_lease_shorter_than_the_grace() {
    let options = QueueOptions { lease: Duration::from_secs(2), ..QueueOptions::default() };
    let stage = Stage::new(&["sh", "-c", DEAF], Some(1_000), options).await;
    let job = stage.ended().await;
    assert_eq!((job.state, job.attempts), (JobState::Failed, 1), "{job:?}");
    assert_eq!(job.cause.unwrap(), "ended after its timeout of 1 s");
    none_is_left(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_ends_the_whole_group() {
    let stage = Stage::shell(DEAF, None).await;
    stage.says("ready").await;
    stage.queue.cancel(1).unwrap();
    assert_eq!(stage.ended().await.state, JobState::Cancelled);
    none_is_left(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_lost_its_job_ends_the_group_and_exits() {
    let mut stage = Stage::shell(DEAF, None).await;
    stage.says("ready").await;
    stage.queue.remove("x", true).unwrap();
    assert_eq!(stage.job().state, JobState::Queued);
    let began = Instant::now();
    while stage.agent.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE, "the agent does not exit");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    none_is_left(&stage).await;
    assert_eq!(stage.job().state, JobState::Queued, "it reported a job that is not its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_sees_nothing_of_the_enrolment() {
    let stage = Stage::shell("env; echo end", None).await;
    assert_eq!(stage.ended().await.state, JobState::Succeeded);
    let log = String::from_utf8(stage.log()).unwrap();
    assert!(log.contains("DIR=") && !log.contains("KUBESTACK_"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_to_the_agent_reaches_the_job_and_its_result_is_told() {
    let stage =
        Stage::shell("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.1; done", None).await;
    stage.says("ready").await;
    let pid = rustix::process::Pid::from_child(&stage.agent);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let job = stage.ended().await;
    assert_eq!((job.state, job.exit_code), (JobState::Failed, Some(7)));
    assert_eq!(job.cause.unwrap(), "exit status 7, after SIGTERM to its agent");
    assert!(stage.log().ends_with(b"bye\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_pipe_of_a_process_left_behind_does_not_hold_up_the_end() {
    // In the group it is ended with the job; out of it, by setsid, it is nobody's here.
    for start in ["sleep 100 &", "setsid sleep 100 & echo $! > $DIR/stray;"] {
        let stage = Stage::shell(&format!("{start} echo done; exit 4"), None).await;
        let job = stage.ended().await;
        assert_eq!(job.exit_code, Some(4), "{job:?}");
        assert_eq!(stage.log(), b"done\n");
        if let Ok(pid) = std::fs::read_to_string(stage.file("stray")) {
            let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_streamed_while_the_job_runs() {
    let stage =
        Stage::shell("echo first; until [ -e $DIR/go ]; do sleep 0.05; done; echo last >&2", None).await;
    stage.says("first").await;
    assert_eq!(stage.job().state, JobState::Running);
    std::fs::write(stage.file("go"), "").unwrap();
    stage.ended().await;
    assert_eq!(stage.log(), b"first\nlast\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_output_and_endless_lines_arrive_whole() {
    // Ends right after its last write, with a full pipe behind it.
    let script = "printf '\\377\\000\\376'; head -c 3000000 /dev/zero | tr '\\000' x; printf '\\300'";
    let stage = Stage::shell(script, None).await;
    assert_eq!(stage.ended().await.state, JobState::Succeeded);
    let mut wanted = b"\xff\x00\xfe".to_vec();
    wanted.extend(std::iter::repeat_n(b'x', 3_000_000));
    wanted.push(0xc0);
    assert!(stage.log() == wanted, "{} of {} bytes", stage.log().len(), wanted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_does_not_exist_is_a_failed_job() {
    let stage = Stage::new(&["/no/such/command"], None, QueueOptions::default()).await;
    let job = stage.ended().await;
    assert_eq!((job.state, job.exit_code), (JobState::Failed, None));
    assert!(job.cause.unwrap().starts_with("/no/such/command cannot be started: No such file"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_gets_no_second_job() {
    let mut stage = Stage::shell("exit 0", None).await;
    stage.ended().await;
    stage.agent.wait().unwrap();
    let second = stage.queue.submit(stage.job().submission).unwrap();
    assert!(stage.queue.lease("x").is_err());
    assert_eq!(stage.queue.job(second.id).unwrap().state, JobState::Queued);
}
