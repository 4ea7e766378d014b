//! A port of loopback, offered on one more address.

use anyhow::{Context, Result};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Takes connections until it is dropped; those that are there end with one of their ends.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Relay {
    /// Listens there (0 for a free port), and passes on to `port` of loopback.
    pub fn start(listen: (&str, u16), port: u16) -> Result<Self> {
        let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen:?}"))?;
        let address = listener.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                if let Ok(client) = client {
                    thread::spawn(move || pass(&client, port));
                }
            }
        });
        Ok(Self { address, over })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // It waits for a connection, so it gets one.
        let _ = TcpStream::connect(self.address);
    }
}

/// Both ways, until both are at their end. Who cannot be served finds the connection closed.
fn pass(client: &TcpStream, port: u16) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
    thread::scope(|scope| {
        scope.spawn(|| one_way(client, &server));
        one_way(&server, client);
    });
}

fn one_way(mut from: &TcpStream, mut to: &TcpStream) {
    let ended = io::copy(&mut from, &mut to);
    // The end of what is said is passed on; after an error there is nothing left to say, either way.
    let _ = to.shutdown(if ended.is_ok() { Shutdown::Write } else { Shutdown::Both });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::time::Duration;

    /// Far more than it takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_said_passes_both_ways_until_it_is_dropped() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay::start(("127.0.0.2", 0), server.local_addr().unwrap().port()).unwrap();
        assert_eq!(relay.address().ip().to_string(), "127.0.0.2");
        let mut client = TcpStream::connect(relay.address()).unwrap();
        let (mut served, _) = server.accept().unwrap();
        for stream in [&client, &served] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        served.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "question");
        served.write_all(b"answer").unwrap();
        drop(served);
        heard.clear();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "answer");

        let address = relay.address();
        drop(relay);
        crate::wait("end of the relay", PATIENCE, || Ok(TcpStream::connect(address).is_err().then_some(())))
            .unwrap();
    }

    #[test]
    fn whoever_asks_while_there_is_no_server_finds_the_connection_closed() {
        const NOBODYS: u16 = 1;
        let relay = Relay::start(("127.0.0.2", 0), NOBODYS).unwrap();
        let mut client = TcpStream::connect(relay.address()).unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap_or_default(), 0);
    }
}
