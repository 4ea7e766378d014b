//! The daemon follows its config file and its secrets.
#![expect(clippy::unwrap_used, reason = "a test stops where its own set-up fails")]
#![expect(clippy::disallowed_methods, reason = "a real daemon in real time")]

mod common;

use common::Daemon;
use std::fs;

#[test]
fn a_rotated_token_and_another_address_are_said_to_take_a_restart() {
    let daemon = Daemon::running();
    daemon.status();
    fs::write(daemon.path("token"), "two").unwrap();
    daemon.said("restart the daemon to use the new config");
    daemon.configure(|text| text.replace("type: local", "type: local, term_grace: 9s"));
    daemon.until("a second word", || {
        (daemon.log().matches("restart the daemon to use").count() == 2).then_some(())
    });
    assert!(!daemon.log().contains("new configuration in use"), "{}", daemon.log());
}

#[test]
fn a_bad_file_keeps_the_old_config_and_a_good_one_is_taken() {
    let daemon = Daemon::running();
    daemon.status();
    daemon.configure(|text| text.replace("name: a", "nmae: a"));
    daemon.said("unknown field `nmae`");
    assert!(daemon.log().contains("the old one stays in use"), "{}", daemon.log());
    daemon.configure(|text| text + "  - {name: b}\n");
    daemon.until("label b", || {
        daemon.command("create").arg("b").output().unwrap().status.success().then_some(())
    });
}
