//! The config file in use: read, tried on the plugins, and followed while the daemon runs.

use crate::{Exit, assemble, control};
use anyhow::{Result, bail};
use kubestack_core::error::ErrorKind;
use kubestack_engine::Handle;
use kubestack_engine::config::{Config, Problems};
use kubestack_engine::secrets::SecretFiles;
use std::path::Path;
use std::time::Duration;

/// How often the config file is looked at. A poll sees a file that is swapped by a link as well.
const POLL: Duration = Duration::from_secs(1);

/// A config that every plugin takes.
pub(crate) struct Loaded {
    pub config: Config,
    look: Look,
}

/// The files behind a config as one look showed them.
#[derive(Clone, PartialEq)]
struct Look {
    text: Result<String, String>,
    secrets: SecretFiles,
}

impl Look {
    fn take(path: &Path, secrets: &SecretFiles) -> Self {
        Self { text: Config::read(path).map_err(|problems| problems.to_string()), secrets: secrets.now() }
    }
}

impl Loaded {
    /// Reads the file and tries each plugin's part of it on the plugin. Starts nothing.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(Config::read(path).map_err(Exit::from)?, path)
    }

    fn parse(text: String, path: &Path) -> Result<Self> {
        let (config, mut problems) = Config::examine(&text, &path.display().to_string());
        problems.0.extend(config.iter().flat_map(assemble::problems));
        problems.0.extend(config.iter().filter_map(|config| control::problem(&config.state_dir)));
        let Some(config) = config.filter(|_| problems.0.is_empty()) else {
            return Err(Exit::from(problems).into());
        };
        let wrong = |error: anyhow::Error| Exit::from(Problems(vec![error.to_string()]));
        let (builder, secrets) = assemble::builder(&config).map_err(wrong)?;
        builder.build().map_err(|error| wrong(error.into()))?;
        Ok(Self { config, look: Look { text: Ok(text), secrets } })
    }
}

/// What to do about the files as they are now.
enum Next {
    Nothing,
    /// Labels, limits or policy changed.
    Reconfigure(Box<Loaded>),
    /// What the running plugins were built from changed.
    Restart,
    /// They cannot be used, for that reason.
    Refuse(String),
}

/// What is in use, and what was seen since.
struct Follower<'a> {
    path: &'a Path,
    used: Loaded,
    last: Option<Look>,
    /// Why what is there now is not in use.
    refused: Option<String>,
    /// What was said to take a restart.
    told: Option<Look>,
}

impl Follower<'_> {
    fn judge(&mut self, now: Look) -> Next {
        // A file may be half written, and secrets may be swapped one after the other: only what two looks
        // show alike is taken for whole.
        let settled = self.last.as_ref() == Some(&now);
        self.last = Some(now.clone());
        if !settled || now == self.used.look {
            self.refused = None;
            return Next::Nothing;
        }
        // What was refused is tried again at each look: what it lacks, such as a secret's file, may come later.
        match self.try_on(now) {
            Ok(loaded) => {
                self.refused = None;
                let same = loaded.config.has_plugins_of(&self.used.config);
                if same && loaded.look.secrets == self.used.look.secrets {
                    Next::Reconfigure(Box::new(loaded))
                } else if self.told.as_ref() == Some(&loaded.look) {
                    Next::Nothing
                } else {
                    self.told = Some(loaded.look);
                    Next::Restart
                }
            }
            Err(error) => {
                let error = format!("{error:#}");
                if self.refused.replace(error.clone()).as_ref() == Some(&error) {
                    return Next::Nothing;
                }
                Next::Refuse(error)
            }
        }
    }

    fn try_on(&self, now: Look) -> Result<Loaded> {
        let loaded = Loaded::parse(now.text.map_err(anyhow::Error::msg)?, self.path)?;
        let (new, old) = (&loaded.config, &self.used.config);
        if (&new.state_dir, &new.setup.instance) != (&old.state_dir, &old.setup.instance) {
            bail!(
                "`instance` and `state_dir` cannot change while agents carry them; \
                 let all agents go (`kubestack drain-all`), then restart the daemon"
            );
        }
        Ok(loaded)
    }
}

/// Takes changes of the file into use, for ever.
#[expect(clippy::disallowed_methods, reason = "the daemon's own process, in real time")]
pub(crate) async fn follow(path: &Path, used: Loaded, handle: &Handle) {
    const RESTART: &str = "masters, providers, listeners, their secrets or the pace of looks have changed: \
                           restart the daemon to use the new config; agents and their jobs go on meanwhile";
    let mut follower = Follower { path, used, last: None, refused: None, told: None };
    loop {
        tokio::time::sleep(POLL).await;
        match follower.judge(Look::take(path, &follower.used.look.secrets)) {
            Next::Nothing => {}
            Next::Reconfigure(loaded) => match handle.reconfigure(loaded.config.setup.clone()).await {
                Ok(()) => follower.used = *loaded,
                Err(error) if error.kind == ErrorKind::Conflict => {
                    if follower.told.as_ref() != Some(&loaded.look) {
                        tracing::error!("{RESTART}");
                    }
                    follower.told = Some(loaded.look);
                }
                // It stands by; tried again at each look, the config is in use as soon as it leads.
                Err(error) if error.kind == ErrorKind::Transient => {}
                Err(error) => tracing::error!(%error, "the new config is not taken into use"),
            },
            Next::Restart => tracing::error!("{RESTART}"),
            Next::Refuse(error) => tracing::error!(
                "the config has changed and cannot be used; the old one stays in use: {error}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
instance: t
masters: [{name: q, type: queue, url: 'http://127.0.0.1:1', token: {file: TOKEN}}]
providers: [{name: l, type: local}]
labels: [{name: a}]
";

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let files = Self { dir: tempfile::tempdir().unwrap() };
            files.write("token", "one");
            files.config(&files.text());
            files
        }

        fn text(&self) -> String {
            TEXT.replace("TOKEN", self.dir.path().join("token").to_str().unwrap())
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.dir.path().join(name), text).unwrap();
        }

        fn config(&self, text: &str) {
            self.write("c.yaml", text);
        }
    }

    /// What the looks make of the files, in one word each.
    fn looks<const N: usize>(follower: &mut Follower<'_>) -> [&'static str; N] {
        [(); N].map(|()| match follower.judge(Look::take(follower.path, &follower.used.look.secrets)) {
            Next::Nothing => "nothing",
            Next::Reconfigure(_) => "reconfigure",
            Next::Restart => "restart",
            Next::Refuse(_) => "refuse",
        })
    }

    fn with_follower(test: impl FnOnce(&Files, &mut Follower<'_>)) {
        let files = Files::new();
        let path = files.dir.path().join("c.yaml");
        let used = Loaded::read(&path).unwrap();
        let mut follower = Follower { path: &path, used, last: None, refused: None, told: None };
        assert_eq!(looks(&mut follower), ["nothing"; 3]);
        test(&files, &mut follower);
    }

    #[test]
    fn another_label_is_taken_in_and_another_address_takes_a_restart() {
        with_follower(|files, follower| {
            files.config(&files.text().replace("[{name: a}]", "[{name: a}, {name: b}]"));
            assert_eq!(looks(follower), ["nothing", "reconfigure"]);
            for (from, to) in [("127.0.0.1:1", "127.0.0.1:2"), ("type: local", "type: local, term_grace: 9s")]
            {
                files.config(&files.text());
                let _: [_; 2] = looks(follower);
                files.config(&files.text().replace(from, to));
                assert_eq!(looks(follower), ["nothing", "restart"], "{to}");
            }
        });
    }

    #[test]
    fn a_rotated_secret_takes_a_restart() {
        with_follower(|files, follower| {
            files.write("token", "two");
            assert_eq!(looks(follower), ["nothing", "restart"]);
        });
    }

    /// Cut at each line: what is there is often valid, and must not be taken for the whole.
    #[test]
    fn a_file_that_grows_is_taken_once_it_stands_still() {
        with_follower(|files, follower| {
            let text = format!("{}  \n# more\nlimits: {{agents: 3}}\n", files.text());
            for end in text.match_indices('\n').map(|(end, _)| end) {
                files.config(&text[..end]);
                assert_eq!(looks(follower), ["nothing"], "{}", &text[..end]);
            }
            assert_eq!(looks(follower), ["reconfigure"]);
        });
    }

    #[test]
    fn a_bad_file_is_told_once_and_taken_when_what_it_lacks_has_come() {
        with_follower(|files, follower| {
            let late = files.dir.path().join("late");
            files.config(
                &files
                    .text()
                    .replace(files.dir.path().join("token").to_str().unwrap(), late.to_str().unwrap()),
            );
            assert_eq!(looks(follower), ["nothing", "refuse", "nothing", "nothing"]);
            files.write("late", "three");
            assert_eq!(looks(follower), ["restart"]);
            files.config("labels: [");
            assert_eq!(looks(follower), ["nothing", "refuse", "nothing"]);
            files.config(&files.text());
            assert_eq!(looks(follower), ["nothing"; 3]);
            files.config("labels: [");
            assert_eq!(looks(follower), ["nothing", "refuse"], "it is news again");
        });
    }

    #[test]
    fn the_name_and_the_place_of_what_runs_do_not_change() {
        with_follower(|files, follower| {
            files.config(&files.text().replace("instance: t", "instance: u"));
            assert_eq!(looks(follower), ["nothing", "refuse"]);
            files.config(&format!("{}state_dir: /elsewhere\n", files.text()));
            assert_eq!(looks(follower), ["nothing", "refuse"]);
        });
    }
}
