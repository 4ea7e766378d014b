//! Stands between the daemon and `kubectl proxy`, which speaks plain HTTP and carries the rights of the daemon's account;
//! so whatever a bad network or an API server under pressure does to a request can be done to it. One request a
//! connection.

use kubestack_testbed::Cluster;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What is done to each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is answered late.
    Delay,
    /// The connection is closed without an answer, after the request was read.
    NoAnswer,
    /// The answer is cut in the middle of its body.
    CutBody,
    /// 429, with a `Retry-After` of a second.
    TooManyRequests,
    /// 500.
    InternalError,
    /// Reads and watches are told that their version is gone (410).
    Gone,
    /// It is never answered.
    Hang,
}

/// The proxy, and the `kubectl proxy` behind it.
pub struct FaultProxy {
    pub url: String,
    fault: Arc<Mutex<Fault>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    kubectl: Child,
}

impl FaultProxy {
    /// For the account of that kubeconfig.
    pub fn start(cluster: &Cluster, kubeconfig: &Path) -> Self {
        let mut kubectl = Command::new(kubestack_testbed::binaries().unwrap().join("kubectl"))
            .args(["proxy", "--port=0", "--kubeconfig"])
            .arg(kubeconfig)
            .env("HOME", cluster.directory())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(kubectl.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let behind = line.trim().rsplit(' ').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (fault, open) = (Arc::new(Mutex::new(Fault::None)), Arc::new(Mutex::new(Vec::new())));
        let (shared, streams) = (fault.clone(), open.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                streams.lock().unwrap().push(stream.try_clone().unwrap());
                let (shared, behind) = (shared.clone(), behind.clone());
                // What the daemon or the server breaks off is no matter of the test's.
                thread::spawn(move || drop(serve(&stream, &behind, &shared)));
            }
        });
        Self { url, fault, open, kubectl }
    }

    /// From now on that happens; what is open, watches too, is cut.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

fn serve(stream: &TcpStream, behind: &str, fault: &Mutex<Fault>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line == "\r\n" || line.is_empty() {
            break;
        }
        // The account is that of the proxy behind.
        if !["connection:", "authorization:", "accept-encoding:"].iter().any(|name| lower.starts_with(name)) {
            head += &line;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let fault = *fault.lock().unwrap();
    let status = |code: u16, reason: &str| {
        let body = format!(
            r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","code":{code},"reason":"{reason}","message":"made by the test: {reason}"}}"#
        );
        let more = if code == 429 { "retry-after: 1\r\n" } else { "" };
        let text = format!(
            "HTTP/1.1 {code} x\r\ncontent-type: application/json\r\n{more}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        (&*stream).write_all(text.as_bytes())
    };
    match fault {
        Fault::Delay => thread::sleep(Duration::from_millis(300)),
        Fault::NoAnswer => return stream.shutdown(Shutdown::Both),
        Fault::TooManyRequests => return status(429, "TooManyRequests"),
        Fault::InternalError => return status(500, "InternalError"),
        Fault::Gone if head.starts_with("GET") => return status(410, "Expired"),
        Fault::Hang => {
            // Until the other side, or the next fault, ends it.
            let _ = (&*stream).read(&mut [0]);
            return Ok(());
        }
        Fault::None | Fault::Gone | Fault::CutBody => {}
    }
    let mut server = TcpStream::connect(behind)?;
    server.write_all(format!("{head}connection: close\r\n\r\n").as_bytes())?;
    server.write_all(&body)?;
    if fault == Fault::CutBody {
        let mut answer = Vec::new();
        if head.contains("watch=1") {
            // A watch has no end: cut as soon as it is open.
            answer.resize(4096, 0);
            let read = server.read(&mut answer)?;
            answer.truncate(read);
        } else {
            server.read_to_end(&mut answer)?;
        }
        let body = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(0) + 4;
        let half = body + answer.len().saturating_sub(body) / 2;
        (&*stream).write_all(answer.get(..half).unwrap_or_default())?;
        return stream.shutdown(Shutdown::Both);
    }
    std::io::copy(&mut server, &mut &*stream)?;
    stream.shutdown(Shutdown::Both)
}
