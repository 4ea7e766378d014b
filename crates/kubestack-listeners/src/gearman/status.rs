//! The answer to `status`: `FUNCTION<tab>TOTAL<tab>RUNNING<tab>WORKERS`, where the total counts those that run.

use std::collections::BTreeMap;

/// Jobs of one function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Jobs {
    pub waiting: u32,
    pub running: u32,
}

/// What one server has, or several, by function.
pub(super) type Queued = BTreeMap<String, Jobs>;

/// There are these as well.
pub(super) fn add(queued: &mut Queued, function: &str, jobs: Jobs) {
    let sum = queued.entry(function.to_owned()).or_default();
    sum.waiting = sum.waiting.saturating_add(jobs.waiting);
    sum.running = sum.running.saturating_add(jobs.running);
}

/// Reads a whole answer, or says what it is instead. Nothing is left out: fewer jobs would be a wrong answer.
pub(super) fn parse(answer: &[u8]) -> Result<Queued, String> {
    let text = String::from_utf8_lossy(answer);
    let mut queued = Queued::default();
    for line in text.lines() {
        if line == "." {
            return Ok(queued);
        }
        let (function, jobs) = row(line).ok_or_else(|| format!("the line `{}`", excerpt(line)))?;
        add(&mut queued, function, jobs);
    }
    Err(format!("`{}`", excerpt(&text)))
}

fn row(line: &str) -> Option<(&str, Jobs)> {
    // From the right: a name may have a tab, and is refused later for that.
    let mut fields = line.rsplitn(4, '\t');
    let mut number = || fields.next()?.parse::<u64>().ok();
    let (_workers, running, total) = (number()?, number()?, number()?);
    let bounded = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Some((
        fields.next()?,
        Jobs { waiting: bounded(total.saturating_sub(running)), running: bounded(running) },
    ))
}

/// The beginning of what a server said, fit for a message.
fn excerpt(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_waits_is_the_total_without_those_that_run() {
        // Verbatim from gearmand 1.1.20, "one running".
        let said = b"build:myjob\t3\t0\t1\nbuild:nolabel:other\t1\t0\t0\nbuild:myjob:mylabel\t1\t1\t1\n.\n";
        let answer = parse(said).unwrap();
        let waiting: Vec<_> =
            answer.iter().map(|(name, jobs)| (name.as_str(), jobs.waiting, jobs.running)).collect();
        assert_eq!(
            waiting,
            [("build:myjob", 3, 0), ("build:myjob:mylabel", 0, 1), ("build:nolabel:other", 1, 0)]
        );
        assert_eq!(parse(b".\r\n").unwrap(), Queued::new());
        assert_eq!(parse(b"a\t1\t0\t0\r\na\t2\t1\t0\n.\n").unwrap()["a"], Jobs { waiting: 2, running: 1 });
        // More run than there are: a server that counts at two moments.
        assert_eq!(parse(b"a\t1\t2\t0\n.\n").unwrap()["a"].waiting, 0);
        assert_eq!(parse(b"a\t99999999999\t0\t0\n.\n").unwrap()["a"].waiting, u32::MAX);
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_no_smaller_demand() {
        for (said, expected) in [
            ("a\t-1\t0\t0\n.\n", "the line `a\\t-1\\t0\\t0`"),
            ("a\t1\t0\t0\nhalf a row\n.\n", "the line `half a row`"),
            (
                "ERR UNKNOWN_COMMAND Unknown+server+command\r\n",
                "the line `ERR UNKNOWN_COMMAND Unknown+server+command`",
            ),
            ("a\t1\t0\t0\n", "`a\\t1\\t0\\t0\\n`"),
            ("HTTP/1.1 400 Bad Request\r\n.\n", "the line `HTTP/1.1 400 Bad Request`"),
        ] {
            assert_eq!(parse(said.as_bytes()).unwrap_err(), expected);
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer: Vec<u8>) {
            let _ = parse(&answer);
        }

        #[test]
        fn rows_come_back_as_they_were(rows in proptest::collection::btree_map("[a-z:]{1,9}", (0u32..9, 0u32..9), 0..9)) {
            let text: String = rows
                .iter()
                .map(|(name, (waiting, running))| format!("{name}\t{}\t{running}\t0\n", waiting + running))
                .chain([".\n".to_owned()])
                .collect();
            let expected: Queued =
                rows.into_iter().map(|(name, (waiting, running))| (name, Jobs { waiting, running })).collect();
            prop_assert_eq!(parse(text.as_bytes()).unwrap(), expected);
        }
    }
}
