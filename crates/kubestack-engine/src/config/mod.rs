//! The config file: read, checked, and turned into what the engine runs. The form of 2015 stays valid.

mod form;
mod tree;

use crate::engine::Setup;
use crate::secrets::HostSecrets;
use form::{CoordinationForm, EntryForm, LabelForm, LimitForm, Names, PolicyForm, SECTIONS};
use kubestack_core::config::{Fragment, Positions, SecretRef};
use kubestack_core::context::Secrets;
use kubestack_core::label::LabelSpec;
use kubestack_core::name::{InstanceName, MasterName, ProviderName, slug};
use kubestack_core::registry::{Build, PluginKind, find, nearest, verify};
use kubestack_core::resources::Resources;
use kubestack_core::time::Span;
use kubestack_planner::settings::{LabelSettings, Limit, MasterSettings, ProviderSettings, SourceSettings};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A config is read by people; one that is larger is something else.
const MAX_FILE: u64 = 1 << 20;

/// What a short form means besides, as in 2015: section, key, value.
const SHORT_DEFAULTS: [(&str, &str, &str); 1] = [("jenkins", "attach", "swarm-client")];

/// A checked configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Labels, limits and policy.
    pub setup: Setup,
    /// Masters, in the order of the file.
    pub masters: Vec<PluginEntry>,
    /// Providers, in the order of the file.
    pub providers: Vec<PluginEntry>,
    /// Demand sources that belong to no master.
    pub demand: Vec<PluginEntry>,
    /// Completion sources that belong to no master.
    pub completion: Vec<PluginEntry>,
    /// Where this installation keeps what must survive it on this host.
    pub state_dir: PathBuf,
    /// The provider that keeps who leads. Default: `state_dir` keeps it.
    pub coordination: Option<ProviderCoordination>,
}

/// Who leads is kept by a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProviderCoordination {
    /// Which one.
    pub provider: ProviderName,
    /// How long a leader that is not heard of keeps the lead.
    pub lease: Duration,
}

/// The same as that of Kubernetes' own components.
const DEFAULT_LEASE: Duration = Duration::from_secs(15);
/// Seconds: one leaves no time for a lost renewal; a lease of hours is a mistake.
const LEASES: RangeInclusive<u64> = 2..=3600;

/// One plugin to build.
#[derive(Clone)]
#[non_exhaustive]
pub struct PluginEntry {
    /// Its name.
    pub name: String,
    /// Its type.
    pub type_name: String,
    /// Its own part of the file.
    pub fragment: Fragment,
    /// Of a listener: the masters that it serves.
    pub masters: BTreeSet<MasterName>,
    /// Of a demand listener: it is one of several views of one queue.
    pub merge_group: Option<String>,
}

impl fmt::Debug for PluginEntry {
    /// Without the fragment: it may hold secrets in the clear.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginEntry")
            .field("name", &self.name)
            .field("type_name", &self.type_name)
            .field("masters", &self.masters)
            .field("merge_group", &self.merge_group)
            .finish_non_exhaustive()
    }
}

/// All that is wrong with a file, a line each: file, line, column, key, and what to do.
#[derive(Clone, Debug, Default, thiserror::Error)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Config {
    /// Reads and checks a file. Starts nothing.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        Self::parse(&Self::read(path)?, &path.display().to_string())
    }

    /// Reads a file as it is.
    ///
    /// # Errors
    /// If it cannot be read, or is no text of a config's size.
    pub fn read(path: &Path) -> Result<String, Problems> {
        let shown = path.display().to_string();
        let problem = |text: String| Problems(vec![format!("{shown}: {text}")]);
        let unread =
            |error: std::io::Error| problem(format!("cannot be read: {error}; name another file with -c"));
        let mut text = String::new();
        // Not by its size: a device or a pipe tells none.
        let file = std::fs::File::open(path).map_err(unread)?.take(MAX_FILE + 1);
        std::io::BufReader::new(file).read_to_string(&mut text).map_err(unread)?;
        if text.len() as u64 > MAX_FILE {
            return Err(problem(format!("is larger than {MAX_FILE} bytes; a config is not")));
        }
        Ok(text)
    }

    /// Checks the text of a file; `file` is its name in messages.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn parse(text: &str, file: &str) -> Result<Self, Problems> {
        match Self::examine(text, file) {
            (Some(config), problems) if problems.0.is_empty() => Ok(config),
            (_, problems) => Err(problems),
        }
    }

    /// The same for whoever has more to check: all that is wrong, and a config of what is not. It is fit to
    /// be run only if nothing is wrong.
    pub fn examine(text: &str, file: &str) -> (Option<Self>, Problems) {
        let (value, positions) = match tree::read(text, file) {
            Ok(read) => read,
            Err(text) => return (None, Problems(vec![text])),
        };
        let Value::Object(root) = value else {
            return (None, Problems(vec![format!("{file}: must be a map of sections such as `labels:`")]));
        };
        let mut reader = Reader { root, positions: Arc::new(positions), problems: Vec::new() };
        let config = reader.config();
        (Some(config), Problems(reader.problems))
    }

    /// Whether `other` asks for the very same plugins: what was built for one of them serves the other.
    pub fn has_plugins_of(&self, other: &Self) -> bool {
        let same = |ours: &[PluginEntry], theirs: &[PluginEntry]| {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(our, their)| our.is(their))
        };
        same(&self.masters, &other.masters)
            && same(&self.providers, &other.providers)
            && same(&self.demand, &other.demand)
            && same(&self.completion, &other.completion)
            && self.coordination == other.coordination
    }
}

impl PluginEntry {
    /// Whether both say the same, wherever they stand in the file.
    fn is(&self, other: &Self) -> bool {
        let all = |entry: &Self| {
            let (name, type_name) = (entry.name.clone(), entry.type_name.clone());
            (name, type_name, entry.masters.clone(), entry.merge_group.clone())
        };
        all(self) == all(other) && self.fragment.value() == other.fragment.value()
    }
}

/// What is wrong with a name that nothing carries.
fn dangling(what: &str, name: &str, known: &[String]) -> Option<String> {
    if known.iter().any(|known| known == name) {
        return None;
    }
    let near = nearest(name, known.iter().map(String::as_str));
    let hint = near.map_or(String::new(), |near| format!(", did you mean `{near}`?"));
    Some(format!("there is no {what} called `{name}`{hint} (known: {})", known.join(", ")))
}

struct Reader {
    root: Map<String, Value>,
    positions: Arc<Positions>,
    problems: Vec<String>,
}

impl Reader {
    fn problem(&mut self, path: &str, text: impl fmt::Display) {
        self.problems.push(self.positions.message(path, text));
    }

    fn section<T: serde::de::DeserializeOwned + Default>(&mut self, name: &str) -> T {
        let Some(value) = self.root.get(name).cloned() else { return T::default() };
        self.form(name, value).unwrap_or_default()
    }

    /// The value as a `T`, or what of it is one.
    fn form<T: serde::de::DeserializeOwned>(&mut self, path: &str, value: Value) -> Option<T> {
        let (form, problems) = Fragment::new(value, path, self.positions.clone()).parse_all();
        self.problems.extend(problems);
        form
    }

    /// The items of a list, each with its path.
    fn list(&mut self, name: &str) -> Vec<(String, Value)> {
        match self.root.get(name).cloned() {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| (format!("{name}[{index}]"), item))
                .collect(),
            Some(_) => {
                self.problem(name, "must be a list; begin each item with `- `");
                Vec::new()
            }
        }
    }

    fn config(&mut self) -> Config {
        self.problems.extend(verify().err().map(|error| error.message));
        for key in self.root.keys().cloned().collect::<Vec<_>>() {
            if !SECTIONS.contains(&key.as_str()) {
                let near = nearest(&key, SECTIONS);
                let hint = near.map_or(String::new(), |near| format!(", did you mean `{near}`?"));
                self.problem(&key, format!("there is no section `{key}`{hint}"));
            }
        }
        let (masters, master_limits) = self.plugins("masters", "jenkins", PluginKind::Master);
        let (providers, provider_limits) = self.plugins("providers", "kubernetes", PluginKind::Provider);
        let master_names: Vec<String> = masters.iter().map(|entry| entry.name.clone()).collect();
        let provider_names: Vec<String> = providers.iter().map(|entry| entry.name.clone()).collect();
        let (mut demand, _) = self.listeners("demand-listeners", PluginKind::DemandSource, &master_names);
        let mut merge_groups = BTreeMap::new();
        demand.retain(|entry| !self.is_of_master(entry, &masters, &mut merge_groups));
        let (completion, _) =
            self.listeners("destroy-listeners", PluginKind::CompletionSource, &master_names);
        let policy: PolicyForm = self.section("policy");
        self.not_zero("policy", policy.never_zero());
        let limits: LimitForm = self.section("limits");
        let coordination: CoordinationForm = self.section("coordination");
        let instance = self.instance(&masters);
        let state_dir = match self.root.get("state_dir") {
            None => None,
            Some(Value::String(path)) if !path.is_empty() => Some(PathBuf::from(path)),
            Some(_) => {
                self.problem("state_dir", "must be the path of a directory");
                None
            }
        };
        let coordination_by = self.coordination(&coordination, &provider_names);
        let state_dir = coordination.dir.or(state_dir);
        let state_dir = state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/kubestack"));
        if self.root.contains_key("console") {
            self.problem("console", "there is no console in this version; remove the section");
        }
        let mut setup = Setup::new(instance);
        setup.settings.limit = limits.limit();
        setup.settings.policy = policy.policy();
        setup.master_poll = policy.master_poll.map_or(setup.master_poll, |span| span.0);
        setup.stop_grace = policy.stop_grace.map_or(setup.stop_grace, |span| span.0);
        let zip = |entries: &[PluginEntry], limits: Vec<Limit>| -> Vec<(String, Limit)> {
            entries.iter().map(|entry| entry.name.clone()).zip(limits).collect()
        };
        for (name, limit) in zip(&masters, master_limits) {
            setup.settings.masters.insert(name.into(), MasterSettings { limit, ..MasterSettings::default() });
        }
        for (name, limit) in zip(&providers, provider_limits) {
            setup
                .settings
                .providers
                .insert(name.into(), ProviderSettings { limit, ..ProviderSettings::default() });
        }
        for entry in &demand {
            let source =
                SourceSettings { masters: entry.masters.clone(), merge_group: entry.merge_group.clone() };
            setup.settings.sources.insert(entry.name.as_str().into(), source);
        }
        for (master, group) in merge_groups {
            let source =
                SourceSettings { merge_group: Some(group), masters: BTreeSet::from([master.clone()]) };
            setup.settings.sources.insert(master.as_str().into(), source);
        }
        self.labels(&mut setup, &master_names, &provider_names);
        if providers.is_empty() {
            self.problem("providers", "there is no provider; agents need a place to run");
        }
        Config { setup, masters, providers, demand, completion, state_dir, coordination: coordination_by }
    }

    /// The provider that keeps who leads, if it is one.
    fn coordination(
        &mut self,
        form: &CoordinationForm,
        providers: &[String],
    ) -> Option<ProviderCoordination> {
        let Some(provider) = form.provider.clone() else {
            if form.lease_duration.is_some() {
                self.problem("coordination.lease_duration", "is for `provider`, which is not there");
            }
            return None;
        };
        if !providers.contains(&provider) {
            let near = nearest(&provider, providers.iter().map(String::as_str));
            let hint = near.map_or(String::new(), |near| format!(", did you mean `{near}`?"));
            self.problem("coordination.provider", format!("there is no provider `{provider}`{hint}"));
        }
        if form.dir.is_some() {
            self.problem("coordination.dir", "and `provider` both say where; use one of the two");
        }
        let lease = form.lease_duration.map_or(DEFAULT_LEASE, |span| span.0);
        if lease.subsec_nanos() != 0 || !LEASES.contains(&lease.as_secs()) {
            let (least, most) = LEASES.into_inner();
            let text = format!("must be whole seconds, from {least}s to {}", Span(Duration::from_secs(most)));
            self.problem("coordination.lease_duration", text);
        }
        Some(ProviderCoordination { provider: provider.as_str().into(), lease })
    }

    /// Whether a demand listener only names what its master brings along anyway.
    fn is_of_master(
        &mut self,
        entry: &PluginEntry,
        masters: &[PluginEntry],
        merge_groups: &mut BTreeMap<MasterName, String>,
    ) -> bool {
        let Ok(plugin) = find(PluginKind::DemandSource, &entry.type_name) else { return false };
        let Build::DemandOfMaster(master_type) = plugin.build else { return false };
        if let Some(key) = entry.fragment.value().as_object().and_then(|own| own.keys().next()) {
            let text = format!("`{}` has no further keys; its master has the address", entry.type_name);
            self.problems.push(entry.fragment.error(key, text).message);
        }
        let mut served = masters
            .iter()
            .filter(|master| master.type_name == master_type && entry.masters.contains(master.name.as_str()))
            .peekable();
        if served.peek().is_none() {
            let text = format!("there is no master of type `{master_type}` whose queue it could be");
            self.problems.push(entry.fragment.error("type", text).message);
        }
        if let Some(group) = &entry.merge_group {
            merge_groups.extend(served.map(|master| (MasterName::new(&master.name), group.clone())));
        }
        true
    }

    /// The entries of a section, or the one entry of its short form.
    fn plugins(&mut self, section: &str, short: &str, kind: PluginKind) -> (Vec<PluginEntry>, Vec<Limit>) {
        let mut items = self.list(section);
        if let Some(value) = self.root.get(short).cloned() {
            if items.is_empty() {
                match value {
                    Value::Object(mut map) => {
                        map.insert("name".into(), short.into());
                        map.insert("type".into(), short.into());
                        for (section, key, value) in SHORT_DEFAULTS {
                            if section == short {
                                map.entry(key).or_insert_with(|| value.into());
                            }
                        }
                        items.push((short.to_owned(), Value::Object(map)));
                    }
                    _ => self.problem(short, "must be a map"),
                }
            } else {
                self.problem(
                    short,
                    format!("`{short}:` is short for one entry of `{section}:`; use one of the two"),
                );
            }
        }
        self.entries(items, kind)
    }

    fn listeners(
        &mut self,
        section: &str,
        kind: PluginKind,
        masters: &[String],
    ) -> (Vec<PluginEntry>, Vec<Limit>) {
        let items = self.list(section);
        let (mut entries, limits) = self.entries(items, kind);
        for entry in &mut entries {
            if entry.masters.is_empty() {
                entry.masters = masters.iter().map(MasterName::new).collect();
            }
            for name in entry.masters.clone() {
                if let Some(text) = dangling("master", name.as_str(), masters) {
                    self.problems.push(entry.fragment.error("masters", text).message);
                }
            }
        }
        (entries, limits)
    }

    fn entries(&mut self, items: Vec<(String, Value)>, kind: PluginKind) -> (Vec<PluginEntry>, Vec<Limit>) {
        let mut entries: Vec<PluginEntry> = Vec::new();
        let mut limits = Vec::new();
        for (path, item) in items {
            let Some(form) = self.form::<EntryForm>(&path, item.clone()) else { continue };
            self.name(&path, &form.name);
            if entries.iter().any(|entry| entry.name == form.name) {
                self.problem(
                    &format!("{path}.name"),
                    format!("there are two entries called `{}`", form.name),
                );
            }
            if let Err(error) = find(kind, &form.type_name) {
                self.problem(&format!("{path}.type"), error);
            }
            let mut own = item.as_object().cloned().unwrap_or_default();
            for key in ["name", "type", "limits", "masters", "merge_group"] {
                own.remove(key);
            }
            entries.push(PluginEntry {
                name: form.name,
                type_name: form.type_name,
                fragment: Fragment::new(Value::Object(own), path, self.positions.clone()),
                masters: form.masters.iter().flat_map(Names::list).map(MasterName::new).collect(),
                merge_group: form.merge_group,
            });
            limits.push(form.limits.limit());
        }
        (entries, limits)
    }

    fn name(&mut self, path: &str, name: &str) {
        if name.is_empty() || name.chars().count() > 200 || name.chars().any(char::is_control) {
            self.problem(
                &format!("{path}.name"),
                "a name has 1 to 200 characters, none of them control characters",
            );
        }
    }

    fn not_zero<const N: usize>(&mut self, path: &str, spans: [(&str, Option<Span>); N]) {
        for (key, _) in spans.iter().filter(|(_, span)| span.is_some_and(|span| span.0.is_zero())) {
            self.problem(&format!("{path}.{key}"), "must be longer than zero");
        }
    }

    /// Without a name of its own, an installation is named after its masters' addresses: two installations
    /// never adopt each other's agents.
    fn instance(&mut self, masters: &[PluginEntry]) -> InstanceName {
        match self.root.get("instance") {
            Some(Value::String(name)) if slug(name) == *name && name.len() <= 20 => {
                return name.as_str().into();
            }
            Some(_) => self.problem("instance", "must be 1 to 20 characters of a-z, 0-9 and single `-`"),
            None => {}
        }
        let address = |entry: &PluginEntry| {
            let value = entry.fragment.value();
            let url = value.get("external_url").or_else(|| value.get("url")).and_then(Value::as_str);
            url.unwrap_or(&entry.name).to_owned()
        };
        let addresses: BTreeSet<String> = masters.iter().map(address).collect();
        let text = addresses.into_iter().collect::<Vec<_>>().join("\n");
        let mut spec = LabelSpec::new("instance");
        spec.image = Some(text);
        let hash = spec.template_hash();
        InstanceName::new(format!("ks-{}", hash.get(..8).unwrap_or(&hash)))
    }

    fn labels(&mut self, setup: &mut Setup, masters: &[String], providers: &[String]) {
        let items = self.list("labels");
        if items.is_empty() {
            self.problem("labels", "there is no label; without one nothing is ever launched");
        }
        let mut unlabelled: BTreeMap<String, String> = BTreeMap::new();
        for (path, item) in items {
            let Some(form) = self.form::<LabelForm>(&path, item) else { continue };
            self.name(&path, &form.name);
            if setup.labels.contains_key(form.name.as_str()) {
                self.problem(&format!("{path}.name"), format!("there are two labels called `{}`", form.name));
                continue;
            }
            let mut choose = |names: &Option<Names>, known: &[String], key: &str, what: &str| match names {
                Some(names) => {
                    let names = names.list();
                    for text in names.iter().filter_map(|name| dangling(what, name, known)) {
                        self.problem(&format!("{path}.{key}"), text);
                    }
                    names
                }
                None if known.len() <= 1 => known.to_vec(),
                None => {
                    let text = format!("there are several {what}s; say which of them ({})", known.join(", "));
                    self.problem(&format!("{path}.{key}"), text);
                    Vec::new()
                }
            };
            let providers = choose(&form.provider, providers, "provider", "provider");
            let masters = choose(&form.masters, masters, "masters", "master");
            for master in masters.iter().filter(|_| form.unlabelled) {
                if let Some(other) = unlabelled.insert(master.clone(), form.name.clone()) {
                    let text =
                        format!("`{other}` takes the jobs without a label of master `{master}` already");
                    self.problem(&format!("{path}.unlabelled"), text);
                }
            }
            if form.max.is_some_and(|max| max < form.min_ready) {
                self.problem(
                    &format!("{path}.min_ready"),
                    "is larger than `max`, so it can never be reached",
                );
            }
            if form.weight == Some(0) {
                self.problem(&format!("{path}.weight"), "must be at least 1");
            }
            self.not_zero(
                &path,
                [("launch_timeout", form.launch_timeout), ("max_lifetime", form.max_lifetime)],
            );
            self.secrets(&path, &form.env);
            let spec = self.spec(&path, &form);
            let settings = settings(&form, &spec, &providers, &masters);
            setup.settings.labels.insert(spec.name.clone(), settings);
            setup.labels.insert(spec.name.clone(), spec);
        }
    }

    fn secrets(&mut self, path: &str, env: &BTreeMap<String, SecretRef>) {
        for (name, secret) in env {
            if let Err(error) = HostSecrets.resolve(secret) {
                self.problem(&format!("{path}.env.{name}"), error);
            }
        }
    }

    fn spec(&self, path: &str, form: &LabelForm) -> LabelSpec {
        let mut spec = LabelSpec::new(form.name.as_str());
        spec.provides.extend(form.provides.iter().cloned());
        spec.unlabelled = form.unlabelled;
        spec.image.clone_from(&form.image);
        let resources = [("cpu", form.cpu), ("memory", form.memory)];
        let resources = resources.into_iter().filter_map(|(name, amount)| Some((name.to_owned(), amount?)));
        spec.resources = Resources(resources.collect());
        spec.attach.clone_from(&form.attach);
        spec.env.clone_from(&form.env);
        let pod = form.pod.clone();
        spec.pod = pod.map(|pod| Fragment::new(pod, format!("{path}.pod"), self.positions.clone()));
        spec
    }
}

fn settings(form: &LabelForm, spec: &LabelSpec, providers: &[String], masters: &[String]) -> LabelSettings {
    let default = LabelSettings::default();
    let span = |span: Option<Span>, default: Duration| span.map_or(default, |span| span.0);
    LabelSettings {
        template: spec.template_hash(),
        resources: spec.resources.clone(),
        limit: Limit { agents: form.max, ..Limit::default() },
        min_ready: form.min_ready,
        weight: form.weight.unwrap_or(1),
        providers: providers.iter().map(|name| name.as_str().into()).collect(),
        masters: masters.iter().map(|name| name.as_str().into()).collect(),
        idle_timeout: span(form.idle_timeout, default.idle_timeout),
        launch_timeout: span(form.launch_timeout, default.launch_timeout),
        max_lifetime: form.max_lifetime.map(|span| span.0),
        hold_on_failure: form.hold_on_failure,
    }
}
