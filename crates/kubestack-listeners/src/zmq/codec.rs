//! The wire of a subscriber, without a socket: bytes in, what was said and what to say out.
//!
//! [ZMTP 2.0](https://rfc.zeromq.org/spec/15/) (jeromq before 0.4, which is what the plugin of Jenkins carries; libzmq
//! 3) and [ZMTP 3.x](https://rfc.zeromq.org/spec/37/) (libzmq 4, later jeromq), without encryption. Who speaks first says
//! only the signature: old peers hang up on a greeting that is longer than theirs.

/// What both sides begin with: nine bytes that are a frame's length to peers of version 1, and a mark.
pub(super) const SIGNATURE: [u8; 10] = [0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f];

/// An event has some hundred bytes, and a build's parameters. Nothing beyond this is read into memory.
pub(super) const MAX_FRAME: usize = 1 << 20;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// A message of the subscriber, in every version since 2.0: 1 for "subscribe", and a prefix, which is empty.
const SUBSCRIBE_TO_ALL: [u8; 3] = [0, 1, 1];

/// What came, or is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// To be sent.
    Send(Vec<u8>),
    /// Both sides know each other, and the subscription is on its way.
    Ready,
    /// A message of one frame.
    Message(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Signature,
    Revision,
    /// Version 2: the type of its socket, and its name, which is a frame.
    OldType,
    OldIdentity,
    /// Version 3: what it can, then a first command.
    Abilities,
    FirstCommand,
    /// What was to be said last before messages come, is said.
    Greeted,
    Messages {
        dropping: bool,
    },
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Codec {
    state: State,
    buffer: Vec<u8>,
    /// How much of the buffer is done with.
    done: usize,
}

impl Codec {
    /// Of a connection on which [`SIGNATURE`] is sent.
    pub fn new() -> Self {
        Self { state: State::Signature, buffer: Vec::new(), done: 0 }
    }

    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..std::mem::take(&mut self.done));
        self.buffer.extend_from_slice(bytes);
    }

    /// The next thing, or nothing until more is read, or why this cannot go on.
    pub fn next(&mut self) -> Result<Option<Said>, String> {
        loop {
            let (state, said) = match self.state {
                State::Signature => {
                    let Some(signature) = self.take(SIGNATURE.len()) else { return self.early() };
                    // What comes between is an old length, or zeros, or anything.
                    if (signature.first(), signature.last().map(|byte| byte & 1)) != (Some(&0xff), Some(1)) {
                        return Err(no_zmq(&signature));
                    }
                    // Ours; each side goes down to the other's.
                    (State::Revision, Some(vec![3]))
                }
                State::Revision => match self.take(1).as_deref() {
                    None => return Ok(None),
                    Some([0]) => return Err(too_old()),
                    // The type of our socket, and an empty name.
                    Some([1 | 2]) => (State::OldType, Some(vec![2, 0, 0])),
                    Some(_) => {
                        let mut abilities = vec![0; 53];
                        abilities.splice(1..5, *b"NULL");
                        (State::Abilities, Some(abilities))
                    }
                },
                State::OldType => match self.take(1).as_deref() {
                    None => return Ok(None),
                    Some([1 | 9]) => (State::OldIdentity, None),
                    Some(other) => return Err(no_publisher(&format!("a socket of type {other:?}"))),
                },
                State::OldIdentity => match self.frame()? {
                    None => return Ok(None),
                    Some(_) => (State::Greeted, Some(SUBSCRIBE_TO_ALL.to_vec())),
                },
                State::Abilities => {
                    let Some(abilities) = self.take(53) else { return Ok(None) };
                    let mechanism = abilities.get(1..21).unwrap_or_default();
                    let mechanism = String::from_utf8_lossy(mechanism).trim_end_matches('\0').to_owned();
                    if mechanism != "NULL" {
                        return Err(format!(
                            "it takes none without {mechanism:?}, which KubeStack does not speak"
                        ));
                    }
                    let ready = command("READY", &property("Socket-Type", "SUB"));
                    (State::FirstCommand, Some(ready))
                }
                State::FirstCommand => match self.frame()? {
                    None => return Ok(None),
                    Some((flags, body)) if flags & COMMAND != 0 => {
                        is_publisher(&body)?;
                        (State::Greeted, Some(SUBSCRIBE_TO_ALL.to_vec()))
                    }
                    Some(_) => return Err("it sent a message before it was asked".to_owned()),
                },
                State::Greeted => {
                    self.state = State::Messages { dropping: false };
                    return Ok(Some(Said::Ready));
                }
                State::Messages { dropping } => {
                    let Some((flags, body)) = self.frame()? else { return Ok(None) };
                    if flags & COMMAND != 0 {
                        match pong(&body) {
                            Some(pong) => (self.state, Some(pong)),
                            None => continue,
                        }
                    } else {
                        // No event has more than one frame; those that do are somebody else's, and dropped whole.
                        self.state = State::Messages { dropping: flags & MORE != 0 };
                        if dropping || flags & MORE != 0 {
                            continue;
                        }
                        return Ok(Some(Said::Message(body)));
                    }
                }
            };
            self.state = state;
            if let Some(bytes) = said {
                return Ok(Some(Said::Send(bytes)));
            }
        }
    }

    /// Less than a signature: one that is no such thing is known by its first byte.
    fn early(&self) -> Result<Option<Said>, String> {
        match self.buffer.get(self.done..) {
            Some([first, ..]) if *first == 1 => Err(too_old()),
            Some(said @ [first, ..]) if *first != 0xff => Err(no_zmq(said)),
            _ => Ok(None),
        }
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        let taken = self.buffer.get(self.done..self.done.checked_add(length)?)?.to_vec();
        self.done += length;
        Some(taken)
    }

    /// One frame: flags, its length in one byte or eight, and its body.
    fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, String> {
        let begin = self.done;
        let frame = self.whole_frame();
        if !matches!(frame, Ok(Some(_))) {
            self.done = begin;
        }
        frame
    }

    fn whole_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, String> {
        let Some([flags]) = self.take(1).as_deref().and_then(|flags| <[u8; 1]>::try_from(flags).ok()) else {
            return Ok(None);
        };
        if flags & !(MORE | LONG | COMMAND) != 0 {
            return Err(format!("a frame has flags {flags:#04x}, which no version has"));
        }
        let Some(length) = self.take(if flags & LONG == 0 { 1 } else { 8 }) else { return Ok(None) };
        let length = length.iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= MAX_FRAME) else {
            return Err(format!("a frame has {length} bytes, and at most {MAX_FRAME} are read"));
        };
        Ok(self.take(length).map(|body| (flags, body)))
    }
}

fn no_zmq(said: &[u8]) -> String {
    let said: String = String::from_utf8_lossy(said).chars().take(40).flat_map(char::escape_debug).collect();
    format!("it is no ZeroMQ socket: it says `{said}`")
}

fn no_publisher(what: &str) -> String {
    format!("it is {what}, and no publisher")
}

fn too_old() -> String {
    "it speaks ZMTP 1.0 (libzmq 2), which is not understood; libzmq 3.2 and jeromq 0.2 are old enough"
        .to_owned()
}

/// A command in the form for up to 255 bytes.
fn command(name: &str, rest: &[u8]) -> Vec<u8> {
    let mut body = vec![u8::try_from(name.len()).unwrap_or(0)];
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(rest);
    let mut frame = vec![COMMAND, u8::try_from(body.len()).unwrap_or(0)];
    frame.append(&mut body);
    frame
}

fn property(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(name.len()).unwrap_or(0)];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(value.as_bytes());
    bytes
}

/// Splits a command's name from what follows.
fn named(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = body.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// Whether the command that opens a connection tells of a publisher.
fn is_publisher(body: &[u8]) -> Result<(), String> {
    match named(body) {
        Some((b"READY", mut rest)) => {
            while let Some((name, after)) = named(rest) {
                let Some((length, after)) = after.split_first_chunk::<4>() else { break };
                let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                let Some((value, after)) = after.split_at_checked(length) else { break };
                if name.eq_ignore_ascii_case(b"Socket-Type") {
                    return match value {
                        b"PUB" | b"XPUB" => Ok(()),
                        other => {
                            let kind: String = String::from_utf8_lossy(other).chars().take(20).collect();
                            Err(no_publisher(&format!("a socket of type {kind:?}")))
                        }
                    };
                }
                rest = after;
            }
            Err(no_publisher("a socket of no type"))
        }
        Some((b"ERROR", reason)) => {
            let reason = named(reason).map_or(&[][..], |(reason, _)| reason);
            Err(format!("it refuses: {:?}", String::from_utf8_lossy(reason)))
        }
        _ => Err("it does not say what it is".to_owned()),
    }
}

/// The answer to a heartbeat: what follows its time to live comes back, at most 16 bytes (ZMTP 3.1).
fn pong(body: &[u8]) -> Option<Vec<u8>> {
    let (name, rest) = named(body)?;
    let context = rest.get(2..)?;
    (name == b"PING").then(|| command("PONG", context.get(..16).unwrap_or(context)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What jeromq 0.2.0 sends, byte for byte (`testbed/zmq/README.md`), and one event.
    const JEROMQ: &[u8] = b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x01\0\0\0\x05hello";

    fn libzmq() -> Vec<u8> {
        let mut said = SIGNATURE.to_vec();
        said.extend([3, 1]);
        said.extend(*b"NULL");
        said.extend([0; 48]);
        said.extend(command("READY", &[property("Identity", ""), property("socket-type", "PUB")].concat()));
        said.extend(command("PING", b"\x00\x0acontext"));
        said.extend(b"\x01\x01a\x00\x01b");
        said.extend(b"\x02\0\0\0\0\0\0\0\x05world");
        said
    }

    /// All that is said, and how it ends.
    fn run(parts: &[&[u8]]) -> (Vec<Said>, Option<String>) {
        let (mut codec, mut all) = (Codec::new(), Vec::new());
        for part in parts {
            codec.push(part);
            loop {
                match codec.next() {
                    Ok(Some(said)) => all.push(said),
                    Ok(None) => break,
                    Err(error) => return (all, Some(error)),
                }
            }
        }
        (all, None)
    }

    #[test]
    fn a_publisher_of_version_2_is_greeted_step_by_step() {
        let expected = vec![
            Said::Send(vec![3]),
            Said::Send(vec![2, 0, 0]),
            Said::Send(vec![0, 1, 1]),
            Said::Ready,
            Said::Message(b"hello".to_vec()),
        ];
        assert_eq!(run(&[JEROMQ]), (expected, None));
    }

    #[test]
    fn a_publisher_of_version_3_is_answered_its_heartbeat_and_messages_of_parts_are_dropped() {
        let (said, error) = run(&[&libzmq()]);
        assert_eq!(error, None);
        let ready = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB";
        assert_eq!(said.get(2), Some(&Said::Send(ready.to_vec())));
        assert_eq!(
            said.get(3..).unwrap(),
            [
                Said::Send(SUBSCRIBE_TO_ALL.to_vec()),
                Said::Ready,
                Said::Send(b"\x04\x0c\x04PONGcontext".to_vec()),
                Said::Message(b"world".to_vec()),
            ]
        );
    }

    #[test]
    fn what_is_no_publisher_is_said() {
        let v3 = |kind: &str| {
            let mut said = libzmq().get(..64).unwrap().to_vec();
            said.extend(command("READY", &property("Socket-Type", kind)));
            said
        };
        let curve = [&SIGNATURE[..], b"\x03\x01CURVE", &[0; 47]].concat();
        let refused = [libzmq().get(..64).unwrap(), &command("ERROR", b"\x04no!!")].concat();
        let huge = [JEROMQ, b"\x02\0\0\0\x01\0\0\0\0"].concat();
        for (said, expected) in [
            (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "no ZeroMQ socket: it says `HTTP/1.1 4"),
            (b"x".to_vec(), "no ZeroMQ socket: it says `x`"),
            (b"\x01\0".to_vec(), "ZMTP 1.0"),
            (b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x03".to_vec(), "a socket of type [3], and no publisher"),
            (v3("PUSH"), "a socket of type \"PUSH\", and no publisher"),
            (curve, "none without \"CURVE\""),
            (refused, "it refuses: \"no!!\""),
            (huge, "a frame has 4294967296 bytes"),
            ([JEROMQ, b"\xf0"].concat(), "flags 0xf0"),
        ] {
            let (_, error) = run(&[&said]);
            assert!(error.as_ref().is_some_and(|error| error.contains(expected)), "{error:?}: {expected}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_keep_more_than_a_frame(parts: Vec<Vec<u8>>, greeted: bool) {
            let first = if greeted { JEROMQ } else { &[] };
            let mut all = vec![first];
            all.extend(parts.iter().map(Vec::as_slice));
            let _ = run(&all);
        }

        #[test]
        fn how_bytes_are_cut_changes_nothing(cuts in proptest::collection::vec(1..9_usize, 0..64), old: bool) {
            let whole = if old { JEROMQ.to_vec() } else { libzmq() };
            let (mut rest, mut parts) = (whole.as_slice(), Vec::new());
            for cut in cuts {
                let (part, after) = rest.split_at(cut.min(rest.len()));
                parts.push(part);
                rest = after;
            }
            parts.push(rest);
            prop_assert_eq!(run(&parts), run(&[&whole]));
        }
    }
}
