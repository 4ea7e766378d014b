//! Why an item waits, in Jenkins' own words (`hudson/model/Messages.properties`), and what that tells of its label.

/// What one reason tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// That label is asked for.
    Label(String),
    /// That is a label, or the one node that has it.
    LabelOrNode(String),
    /// It waits for that node, or was refused by it: the only one that has the label.
    Node(String),
    /// Nothing of labels: none is asked for, or Jenkins has no agents at all and drops it.
    Plain,
}

/// Reads `why`: all that it tells, best first. Quotes are curly since 2.125, straight or none before.
pub fn hints(why: &str) -> Vec<Hint> {
    let mut hints: Vec<Hint> = why.split("; ").filter_map(|part| hint(part.trim())).collect();
    hints.sort_by_key(|hint| match hint {
        Hint::Label(_) => 0,
        Hint::LabelOrNode(_) => 1,
        Hint::Node(_) => 2,
        Hint::Plain => 3,
    });
    hints
}

fn hint(part: &str) -> Option<Hint> {
    let between = |before: &str, after: &str| {
        let inner = part.strip_prefix(before)?.strip_suffix(after)?;
        (!inner.is_empty()).then(|| unquoted(inner))
    };
    if part == "Waiting for next available executor" {
        return Some(Hint::Plain);
    }
    let label = between("There are no nodes with the label ", "")
        .or_else(|| between("All nodes of label ", " are offline"));
    if let Some(label) = label {
        return Some(Hint::Label(label));
    }
    for word in [" doesn’t have label ", " doesn't have label "] {
        if let Some((_, label)) = part.split_once(word) {
            return Some(Hint::Label(unquoted(label)));
        }
    }
    if let Some(name) = between("Waiting for next available executor on ", "") {
        return Some(Hint::LabelOrNode(name));
    }
    if part.ends_with(" is reserved for jobs with matching label expression") {
        // Only a job without a label is turned away so; still, others that are asked for may stand beside it.
        return Some(Hint::Plain);
    }
    between("", " is offline").or_else(|| between("", " is not accepting tasks")).map(Hint::Node)
}

fn unquoted(text: &str) -> String {
    let pairs = [('‘', '’'), ('\'', '\'')];
    let inner = pairs.into_iter().find_map(|(open, close)| text.strip_prefix(open)?.strip_suffix(close));
    inner.unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_form_no_real_server_of_today_checked_them() {
        let label = |name: &str| Hint::Label(name.into());
        let either = |name: &str| Hint::LabelOrNode(name.into());
        let node = |name: &str| Hint::Node(name.into());
        for (why, told) in [
            ("Waiting for next available executor", vec![Hint::Plain]),
            ("Waiting for next available executor on ‘a b’", vec![either("a b")]),
            ("Waiting for next available executor on a", vec![either("a")]),
            ("All nodes of label ‘a&&b’ are offline", vec![label("a&&b")]),
            ("All nodes of label 'a' are offline", vec![label("a")]),
            ("There are no nodes with the label ‘it’s’", vec![label("it’s")]),
            ("‘ks-1’ is offline", vec![node("ks-1")]),
            ("ks-1 is offline", vec![node("ks-1")]),
            ("‘Built-In Node’ doesn’t have label ‘X’", vec![label("X")]),
            ("master doesn't have label X", vec![label("X")]),
            ("‘n’ is not accepting tasks", vec![node("n")]),
            (
                "‘n’ is reserved for jobs with matching label expression; ‘m’ is offline",
                vec![node("m"), Hint::Plain],
            ),
            ("‘m’ is offline; ‘n’ doesn’t have label ‘X’; ... and 3 more", vec![label("X"), node("m")]),
            ("In the quiet period. Expires in 4.9 sec", vec![]),
            ("Finished waiting", vec![]),
            ("Jenkins is about to shut down", vec![]),
            ("Blocked by ‘x’", vec![]),
            ("A build is already in progress", vec![]),
            ("‘u’ lacks permission to run on ‘n’", vec![]),
            ("Executor slot already in use", vec![]),
            ("???", vec![]),
            ("", vec![]),
            (" is offline", vec![]),
        ] {
            assert_eq!(hints(why), told, "{why}");
        }
    }

    #[test]
    fn what_hudson_1_395_says_on_a_real_server() {
        assert_eq!(hints("All nodes of label 'plainlabel' are offline"), [Hint::Label("plainlabel".into())]);
    }
}
