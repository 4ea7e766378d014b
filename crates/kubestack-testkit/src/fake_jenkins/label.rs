//! Label expressions of the fake itself, so that a plugin's own reader is judged by another.
//! Grammar: `hudson/model/labels/LabelExpressionParser.g4`; lowest first: `<->`, `->`, `||`, `&&`, `!`.

use std::collections::BTreeSet;

/// Characters that end a bare name.
const ENDS: &str = "&|!<>() \t\"'";
/// A name with one of these is written in quotes within an expression.
const QUOTED: &str = "?*/\\%!@#$^&|<>[]:; ()\t\n\"'";

/// A longer text is one name: nobody wrote it, and its parentheses could be deeper than the stack.
const LONGEST: usize = 2_000;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Atom(String),
    Not(Box<Self>),
    Group(Box<Self>),
    Two(&'static str, Box<Self>, Box<Self>),
}

/// What a job asks of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label(Node);

impl Label {
    /// Reads a text; what is no expression is one name. Nothing where there is no text.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut reader = Reader { rest: text };
        let read = if text.len() <= LONGEST { reader.level(0) } else { None };
        let read = read.filter(|_| reader.rest.trim().is_empty());
        (!text.is_empty()).then(|| Self(read.unwrap_or_else(|| Node::Atom(text.to_owned()))))
    }

    /// Whether a node with these labels will do.
    pub fn matches(&self, labels: &BTreeSet<String>) -> bool {
        self.0.matches(labels)
    }

    /// As Jenkins names it: a lone name without quotes, an expression without blanks.
    pub fn name(&self) -> String {
        match &self.0 {
            Node::Atom(name) => name.clone(),
            other => other.text(),
        }
    }
}

impl Node {
    fn matches(&self, labels: &BTreeSet<String>) -> bool {
        match self {
            Self::Atom(name) => labels.contains(name),
            Self::Not(inner) => !inner.matches(labels),
            Self::Group(inner) => inner.matches(labels),
            Self::Two(operator, left, right) => {
                let (left, right) = (left.matches(labels), right.matches(labels));
                match *operator {
                    "<->" => left == right,
                    "->" => !left || right,
                    "||" => left || right,
                    _ => left && right,
                }
            }
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Atom(name) if name.contains(|it| QUOTED.contains(it)) => {
                format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
            }
            Self::Atom(name) => name.clone(),
            Self::Not(inner) => format!("!{}", inner.text()),
            Self::Group(inner) => format!("({})", inner.text()),
            Self::Two(operator, left, right) => format!("{}{operator}{}", left.text(), right.text()),
        }
    }
}

/// Operators, lowest first.
const LEVELS: [&str; 4] = ["<->", "->", "||", "&&"];

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start_matches([' ', '\t']);
        rest.strip_prefix(token).map(|rest| self.rest = rest).is_some()
    }

    fn level(&mut self, level: usize) -> Option<Node> {
        let Some(operator) = LEVELS.get(level) else { return self.not() };
        let mut left = self.level(level + 1)?;
        while self.take(operator) {
            let right = self.level(level + 1)?;
            left = Node::Two(operator, Box::new(left), Box::new(right));
            if *operator == "->" {
                break;
            }
        }
        Some(left)
    }

    fn not(&mut self) -> Option<Node> {
        if self.take("!") { Some(Node::Not(Box::new(self.primary()?))) } else { self.primary() }
    }

    fn primary(&mut self) -> Option<Node> {
        if self.take("(") {
            let inner = self.level(0)?;
            return self.take(")").then(|| Node::Group(Box::new(inner)));
        }
        if self.take("\"") {
            let mut name = String::new();
            let mut characters = self.rest.chars();
            loop {
                match characters.next()? {
                    '"' => break,
                    '\\' => name.push(characters.next()?),
                    other => name.push(other),
                }
            }
            self.rest = characters.as_str();
            return Some(Node::Atom(name));
        }
        self.rest = self.rest.trim_start_matches([' ', '\t']);
        let arrow = self.rest.find("->").unwrap_or(self.rest.len());
        let end = self.rest.find(|it| ENDS.contains(it)).unwrap_or(self.rest.len()).min(arrow);
        let (name, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!name.is_empty()).then(|| Node::Atom(name.to_owned()))
    }
}

/// The labels in the text of a node: between blanks, or in quotes.
pub(super) fn of_node(text: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut name = String::new();
            let mut characters = quoted.chars();
            while let Some(character) = characters.next() {
                match character {
                    '"' => break,
                    '\\' => name.extend(characters.next()),
                    other => name.push(other),
                }
            }
            labels.insert(name);
            rest = characters.as_str().trim_start();
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (name, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
            labels.insert(name.to_owned());
            rest = after.trim_start();
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_evaluated_and_named_as_jenkins_does() {
        let labels = of_node("a \"b c\" x-y");
        assert_eq!(labels.len(), 3, "{labels:?}");
        for (text, name, matches) in [
            ("a", "a", true),
            ("\"b c\"", "b c", true),
            (" a && \"b c\" ", "a&&\"b c\"", true),
            ("!a || z", "!a||z", false),
            ("( a||z ) && x-y", "(a||z)&&x-y", true),
            ("z->a", "z->a", true),
            ("a <-> z", "a<->z", false),
            ("a && !z || q", "a&&!z||q", true),
            ("z && z || a", "z&&z||a", true),
            ("a -> z || a", "a->z||a", true),
            // No expressions: one name.
            ("!!a", "!!a", false),
            ("a b", "a b", false),
            ("a->z->a", "a->z->a", false),
        ] {
            let label = Label::parse(text).unwrap();
            assert_eq!((label.name().as_str(), label.matches(&labels)), (name, matches), "{text}");
        }
        assert_eq!(Label::parse("  "), None);
    }
}
