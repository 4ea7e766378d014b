//! Label expressions: what a job asks of a node, as Jenkins writes and reads it
//! (`hudson/model/labels/LabelExpression{Lexer,Parser}.g4`).
//!
//! ```text
//!  iff     = implies { "<->" implies }         lowest
//!  implies = or [ "->" or ]                    at most one
//!  or      = and { "||" and }
//!  and     = not { "&&" not }
//!  not     = "!" primary | primary             `!!a` is no expression
//!  primary = atom | "string" | "(" iff ")"     highest
//! ```

use std::collections::BTreeSet;
use std::fmt;

/// Parentheses within parentheses beyond this are no expression that anybody wrote.
const MAX_DEPTH: usize = 100;

/// Characters that end an atom.
const ENDS: &str = "&|!<>() \t\"'";

/// Characters for which Jenkins puts an atom of an expression in quotes.
const QUOTED: &str = "?*/\\%!@#$^&|<>[]:; ()\t\n\"'";

/// What a job asks of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expression {
    /// The node has this label, or this name.
    Atom(String),
    /// Not that.
    Not(Box<Self>),
    /// All of these.
    And(Vec<Self>),
    /// At least one of these.
    Or(Vec<Self>),
    /// Not the first, or the second.
    Implies(Box<Self>, Box<Self>),
    /// Equal, from left to right.
    Iff(Vec<Self>),
}

impl Expression {
    /// Reads a text as Jenkins does: what is no expression is one atom.
    pub fn parse(text: &str) -> Self {
        Self::strict(text).unwrap_or_else(|| Self::Atom(text.trim().to_owned()))
    }

    /// Reads an expression; `None` if it is none.
    fn strict(text: &str) -> Option<Self> {
        let tokens = tokens(text)?;
        let mut parser = Parser { tokens: &tokens, depth: 0 };
        let expression = parser.iff()?;
        parser.tokens.is_empty().then_some(expression)
    }

    /// Whether a node with these labels will do.
    pub fn matches(&self, labels: &BTreeSet<String>) -> bool {
        match self {
            Self::Atom(name) => labels.contains(name),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(all) => all.iter().all(|one| one.matches(labels)),
            Self::Or(all) => all.iter().any(|one| one.matches(labels)),
            Self::Implies(a, b) => !a.matches(labels) || b.matches(labels),
            Self::Iff(all) => {
                let mut values = all.iter().map(|one| one.matches(labels));
                let first = values.next().unwrap_or(true);
                values.fold(first, |left, right| left == right)
            }
        }
    }

    /// All names in it.
    pub fn atoms(&self) -> Vec<&str> {
        match self {
            Self::Atom(name) => vec![name],
            Self::Not(inner) => inner.atoms(),
            Self::And(all) | Self::Or(all) | Self::Iff(all) => all.iter().flat_map(Self::atoms).collect(),
            Self::Implies(a, b) => [a.atoms(), b.atoms()].concat(),
        }
    }

    /// How loosely it binds.
    fn level(&self) -> u8 {
        match self {
            Self::Iff(_) => 0,
            Self::Implies(..) => 1,
            Self::Or(_) => 2,
            Self::And(_) => 3,
            Self::Not(_) => 4,
            Self::Atom(_) => 5,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, at_least: u8) -> fmt::Result {
        if self.level() < at_least {
            f.write_str("(")?;
            self.write(f, 0)?;
            return f.write_str(")");
        }
        match self {
            Self::Atom(name) if name.contains("->") || name.is_empty() || name.contains(is_quoted) => {
                f.write_str("\"")?;
                for character in name.chars() {
                    match character {
                        '"' | '\\' => write!(f, "\\{character}")?,
                        '\t' => f.write_str("\\t")?,
                        '\n' => f.write_str("\\n")?,
                        _ => write!(f, "{character}")?,
                    }
                }
                f.write_str("\"")
            }
            Self::Atom(name) => f.write_str(name),
            Self::Not(inner) => {
                f.write_str("!")?;
                inner.write(f, 5)
            }
            Self::And(all) => join(f, all, "&&", 4),
            Self::Or(all) => join(f, all, "||", 3),
            Self::Iff(all) => join(f, all, "<->", 1),
            Self::Implies(a, b) => {
                a.write(f, 2)?;
                f.write_str("->")?;
                b.write(f, 2)
            }
        }
    }
}

/// As Jenkins shows it: without spaces, with as few parentheses as it takes.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

fn join(f: &mut fmt::Formatter<'_>, all: &[Expression], operator: &str, at_least: u8) -> fmt::Result {
    for (index, one) in all.iter().enumerate() {
        if index > 0 {
            f.write_str(operator)?;
        }
        one.write(f, at_least)?;
    }
    Ok(())
}

fn is_quoted(character: char) -> bool {
    QUOTED.contains(character)
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Not,
    And,
    Or,
    Implies,
    Iff,
    Open,
    Close,
}

/// `None` where a character stands that no token begins with.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let fixed = [
            ("<->", Token::Iff),
            ("->", Token::Implies),
            ("&&", Token::And),
            ("||", Token::Or),
            ("!", Token::Not),
            ("(", Token::Open),
            (")", Token::Close),
        ];
        if matches!(first, ' ' | '\t') {
            rest = rest.get(1..)?;
        } else if let Some((word, token)) = fixed.into_iter().find(|(word, _)| rest.starts_with(word)) {
            tokens.push(token);
            rest = rest.get(word.len()..)?;
        } else if first == '"' {
            let (name, after) = string(rest.get(1..)?)?;
            tokens.push(Token::Name(name));
            rest = after;
        } else {
            // A `-` belongs to the name unless an arrow begins with it.
            let ends = |(at, character): &(usize, char)| {
                ENDS.contains(*character)
                    || (*character == '-' && rest.get(*at..).is_some_and(|tail| tail.starts_with("->")))
            };
            let end = rest.char_indices().find(ends).map_or(rest.len(), |(at, _)| at);
            if end == 0 {
                return None;
            }
            tokens.push(Token::Name(rest.get(..end)?.to_owned()));
            rest = rest.get(end..)?;
        }
    }
    Some(tokens)
}

/// The string whose opening quote is behind us, and what follows it.
fn string(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((name, text.get(at + 1..)?)),
            '\\' => name.push(match characters.next()?.1 {
                'b' => '\u{8}',
                't' => '\t',
                'n' => '\n',
                'f' => '\u{c}',
                'r' => '\r',
                escaped @ ('"' | '\'' | '\\') => escaped,
                _ => return None,
            }),
            other => name.push(other),
        }
    }
    None
}

struct Parser<'a> {
    tokens: &'a [Token],
    depth: usize,
}

impl Parser<'_> {
    fn eat(&mut self, wanted: &Token) -> bool {
        match self.tokens.split_first() {
            Some((token, rest)) if token == wanted => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    fn chain(
        &mut self,
        operator: &Token,
        part: fn(&mut Self) -> Option<Expression>,
        whole: fn(Vec<Expression>) -> Expression,
    ) -> Option<Expression> {
        let first = part(self)?;
        if !self.eat(operator) {
            return Some(first);
        }
        let mut all = vec![first, part(self)?];
        while self.eat(operator) {
            all.push(part(self)?);
        }
        Some(whole(all))
    }

    fn iff(&mut self) -> Option<Expression> {
        self.chain(&Token::Iff, Self::implies, Expression::Iff)
    }

    fn implies(&mut self) -> Option<Expression> {
        let first = self.or()?;
        if !self.eat(&Token::Implies) {
            return Some(first);
        }
        Some(Expression::Implies(Box::new(first), Box::new(self.or()?)))
    }

    fn or(&mut self) -> Option<Expression> {
        self.chain(&Token::Or, Self::and, Expression::Or)
    }

    fn and(&mut self) -> Option<Expression> {
        self.chain(&Token::And, Self::not, Expression::And)
    }

    fn not(&mut self) -> Option<Expression> {
        if self.eat(&Token::Not) {
            return Some(Expression::Not(Box::new(self.primary()?)));
        }
        self.primary()
    }

    fn primary(&mut self) -> Option<Expression> {
        if self.eat(&Token::Open) {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return None;
            }
            let inner = self.iff()?;
            self.depth -= 1;
            return self.eat(&Token::Close).then_some(inner);
        }
        let (Token::Name(name), rest) = self.tokens.split_first()? else { return None };
        self.tokens = rest;
        Some(Expression::Atom(name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(labels: &[&str]) -> BTreeSet<String> {
        labels.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn precedence_and_meaning() {
        for (text, labels, met) in [
            ("a", &["a"][..], true),
            ("a", &["b"], false),
            ("!a", &[], true),
            ("a && b", &["a"], false),
            ("a&&b", &["a", "b"], true),
            ("a || b && c", &["a"], true),
            ("(a || b) && c", &["a"], false),
            ("!a && b", &["b"], true),
            ("!(a && b)", &["b"], true),
            ("a -> b", &[], true),
            ("a -> b", &["a"], false),
            ("a->b||c", &["a", "c"], true),
            ("a <-> b", &[], true),
            ("a <-> b", &["a"], false),
            ("a <-> b <-> c", &["a"], true),
            ("a <-> b -> c", &["a", "b"], false),
            ("\"a b\" && c", &["a b", "c"], true),
            ("\"a\\\"b\"", &["a\"b"], true),
            ("a-b", &["a-b"], true),
            ("a- && -b", &["a-", "-b"], true),
            ("x:y/z=1,2.3", &["x:y/z=1,2.3"], true),
            ("ünï", &["ünï"], true),
        ] {
            assert_eq!(Expression::parse(text).matches(&set(labels)), met, "{text} for {labels:?}");
        }
    }

    #[test]
    fn what_is_no_expression_is_one_label() {
        let deep = "(".repeat(100_000) + "a" + &")".repeat(100_000);
        for text in [
            "a b",
            "!!a",
            "a &",
            "a & b",
            "a -> b -> c",
            "(a",
            "a)",
            "\"a",
            "a'b",
            "a<b",
            "&&",
            "",
            deep.as_str(),
        ] {
            assert_eq!(Expression::parse(text), Expression::Atom(text.to_owned()), "{text:.20}");
        }
        assert_eq!(Expression::parse(" a b "), Expression::Atom("a b".to_owned()));
    }

    #[test]
    fn it_is_shown_as_jenkins_shows_it() {
        for (text, shown) in [
            (" a  ||  b ", "a||b"),
            ("(a || b) && c", "(a||b)&&c"),
            ("((a)) && b", "a&&b"),
            ("! a", "!a"),
            ("a -> b", "a->b"),
            ("\"a b\" && c", "\"a b\"&&c"),
            ("\"plain\"", "plain"),
        ] {
            assert_eq!(Expression::parse(text).to_string(), shown);
        }
    }

    #[test]
    fn a_chain_of_a_hundred_thousand_is_no_recursion() {
        let text = vec!["a"; 100_000].join("||");
        assert!(Expression::parse(&text).matches(&set(&["a"])));
    }

    fn expressions() -> impl Strategy<Value = Expression> {
        let atom = "[a-c]|[ -~]{1,4}|[äß\t\n\"\\\\-]{1,3}|->";
        let leaf = atom.prop_map(Expression::Atom);
        leaf.prop_recursive(4, 24, 3, |inner| {
            let two = proptest::collection::vec(inner.clone(), 2..4);
            prop_oneof![
                inner.clone().prop_map(|one| Expression::Not(Box::new(one))),
                two.clone().prop_map(Expression::And),
                two.clone().prop_map(Expression::Or),
                two.prop_map(Expression::Iff),
                (inner.clone(), inner).prop_map(|(a, b)| Expression::Implies(Box::new(a), Box::new(b))),
            ]
        })
    }

    /// The same by another road: one value for each node, no short cuts.
    fn truth(expression: &Expression, labels: &BTreeSet<String>) -> bool {
        let of = |one: &Expression| truth(one, labels);
        match expression {
            Expression::Atom(name) => labels.iter().any(|label| label == name),
            Expression::Not(one) => !of(one),
            Expression::And(all) => all.iter().map(of).filter(|met| *met).count() == all.len(),
            Expression::Or(all) => all.iter().map(of).filter(|met| *met).count() > 0,
            // An odd number of false ones makes it false.
            Expression::Iff(all) => all.iter().map(of).filter(|met| !met).count() % 2 == 0,
            Expression::Implies(a, b) => u8::from(of(a)) <= u8::from(of(b)),
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(expression in expressions()) {
            let shown = expression.to_string();
            let labels: Vec<String> = expression.atoms().iter().map(ToString::to_string).collect();
            let read = Expression::strict(&shown).expect("an expression");
            // Each subset of the first few names.
            for chosen in 0..1_u32 << labels.len().min(6) {
                let has = labels.iter().enumerate().filter(|(at, _)| *at < 6 && chosen >> at & 1 == 1);
                let has: BTreeSet<String> = has.map(|(_, label)| label.clone()).collect();
                prop_assert_eq!(read.matches(&has), truth(&expression, &has), "{} for {:?}", shown, has);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "[a-b&|!<>() \"'\\\\-]{0,40}|.{0,30}") {
            let _ = Expression::parse(&text).matches(&set(&["a"]));
        }
    }
}
