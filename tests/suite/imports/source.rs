//! One source file for the graph: its children, its imports, and the paths in its code. `cfg(test)` is skipped.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

/// A piece of source with its line.
type Token = (usize, String);

/// A module, which is a file.
pub(super) struct Module {
    /// `["rotation", "plan"]`; the root has no name.
    pub(super) path: Vec<String>,
    pub(super) file: PathBuf,
    pub(super) children: BTreeSet<String>,
    /// Items that it defines itself.
    pub(super) items: BTreeSet<String>,
    pub(super) imports: Vec<Import>,
    pub(super) paths: Vec<Named>,
    /// Types, constants and called names, outside `use`: a re-exported item may be used here too.
    pub(super) words: BTreeSet<String>,
}

pub(super) struct Import {
    pub(super) name: String,
    pub(super) what: Named,
    pub(super) is_public: bool,
}

/// A path as written in the source.
pub(super) struct Named {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

impl Module {
    /// Returns all modules of a package; `main.rs` beside it is one more, at the top.
    pub(super) fn tree(root: &Path) -> Vec<Self> {
        let mut found = Vec::new();
        let mut todo = VecDeque::from([(root.to_owned(), Vec::new())]);
        let main = root.with_file_name("main.rs");
        if main.is_file() {
            todo.push_back((main, vec!["main".to_owned()]));
        }
        while let Some((file, path)) = todo.pop_front() {
            let text = fs::read_to_string(&file)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let module = Self::parse(&text, &file, path);
            let folder = if module.path.is_empty() {
                file.parent().unwrap_or(root).to_owned()
            } else {
                file.with_extension("")
            };
            for child in &module.children {
                let path = [module.path.as_slice(), std::slice::from_ref(child)].concat();
                todo.push_back((folder.join(format!("{child}.rs")), path));
            }
            found.push(module);
        }
        found
    }

    pub(super) fn parse(text: &str, file: &Path, path: Vec<String>) -> Self {
        let tokens = without_tests(tokens(text));
        let mut module = Self {
            path,
            file: file.to_owned(),
            children: BTreeSet::new(),
            items: items(&tokens),
            imports: Vec::new(),
            paths: Vec::new(),
            words: BTreeSet::new(),
        };
        let word = |at: usize| tokens.get(at).map_or("", |(_, text)| text.as_str());
        let mut at = 0;
        while at < tokens.len() {
            let starts = at;
            if word(at) == "mod" && word(at + 2) == ";" {
                module.children.insert(word(at + 1).to_owned());
                at += 3;
            } else if word(at) == "use" && word(at + 1) != "<" {
                let is_public = at > 0 && matches!(word(at - 1), "pub" | ")");
                at += 1;
                let mut found = Vec::new();
                use_tree(&tokens, &mut at, &[], &mut found);
                module
                    .imports
                    .extend(found.into_iter().map(|(name, what)| Import {
                        name,
                        what,
                        is_public,
                    }));
            } else if is_name(word(at)) {
                let mut path = vec![word(at).to_owned()];
                while word(at + 1) == "::" && is_name(word(at + 2)) {
                    path.push(word(at + 2).to_owned());
                    at += 2;
                }
                let is_called =
                    matches!(word(at + 1), "(" | "!") && starts > 0 && word(starts - 1) != "fn";
                if is_called || path.len() > 1 || path[0].starts_with(char::is_uppercase) {
                    module.words.insert(path[0].clone());
                }
                let follows = starts > 0 && matches!(word(starts - 1), "::" | ".");
                if path.len() > 1 && !follows {
                    module.paths.push(Named {
                        path,
                        line: tokens[starts].0,
                    });
                }
                at += 1;
            } else {
                at += 1;
            }
        }
        module
    }
}

/// Returns the functions, types and constants outside braces.
fn items(tokens: &[Token]) -> BTreeSet<String> {
    const WORDS: [&str; 8] = [
        "fn", "struct", "enum", "trait", "type", "const", "static", "union",
    ];
    let mut depth = 0_usize;
    let mut found = BTreeSet::new();
    for pair in tokens.windows(2) {
        match pair[0].1.as_str() {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            word if depth == 0 && WORDS.contains(&word) => {
                found.insert(pair[1].1.clone());
            }
            _ => {}
        }
    }
    found
}

/// Collects every name that a `use` imports, up to its semicolon or the end of its braces.
fn use_tree(tokens: &[Token], at: &mut usize, before: &[String], found: &mut Vec<(String, Named)>) {
    let mut path = before.to_vec();
    let line = tokens.get(*at).map_or(0, |token| token.0);
    let mut alias = None;
    while let Some((_, text)) = tokens.get(*at) {
        match text.as_str() {
            ";" | "," | "}" => break,
            "::" => {}
            "as" => {
                *at += 1;
                alias = tokens.get(*at).map(|token| token.1.clone());
            }
            "{" => {
                while tokens.get(*at).is_some_and(|token| token.1 != "}") {
                    *at += 1;
                    use_tree(tokens, at, &path, found);
                }
                *at += 1;
                return;
            }
            "self" if !path.is_empty() => {}
            name => path.push(name.to_owned()),
        }
        *at += 1;
    }
    if path.len() > before.len()
        || (path.len() > 1 && alias.is_some())
        || tokens.get(*at - 1).is_some_and(|token| token.1 == "self")
    {
        let name = alias.or_else(|| path.last().cloned()).unwrap_or_default();
        found.push((name, Named { path, line }));
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Returns names, numbers, `::` and single characters, with their lines. Comments are dropped; texts and characters become `""`.
fn tokens(text: &str) -> Vec<Token> {
    let of_a_name = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut rest, mut line) = (Vec::new(), text, 1);
    while let Some(first) = rest.chars().next() {
        let name = rest.find(|c| !of_a_name(c)).unwrap_or(rest.len());
        let hashes = rest[name..]
            .bytes()
            .take_while(|byte| *byte == b'#')
            .count();
        let is_text = rest[name + hashes..].starts_with('"')
            && matches!(&rest[..name], "" | "b" | "c" | "r" | "br" | "cr");
        let end = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if is_text && (hashes == 0 || name > 0) {
            let begin = name + hashes + 1;
            let is_raw = rest[..name].ends_with('r');
            begin + end_of_text(&rest[begin..], is_raw.then_some(hashes))
        } else if first == '\'' {
            // A character, otherwise a lifetime.
            let body = if rest[1..].starts_with('\\') {
                3
            } else {
                1 + rest[1..].chars().next().map_or(0, char::len_utf8)
            };
            rest.get(body..)
                .and_then(|after| after.find('\''))
                .filter(|end| *end == 0 || body == 3 && *end < 10)
                .map_or(1, |end| body + end + 1)
        } else if name > 0 {
            name
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let token = &rest[..end];
        if token.starts_with("//") || token.starts_with("/*") || first.is_whitespace() {
        } else if is_text || first == '\'' {
            found.push((line, "\"\"".to_owned()));
        } else {
            found.push((line, token.to_owned()));
        }
        line += token.matches('\n').count();
        rest = &rest[end..];
    }
    found
}

/// Returns the length of a text including its closing quote; a raw one ends with that many hashes.
fn end_of_text(text: &str, raw: Option<usize>) -> usize {
    if let Some(hashes) = raw {
        let end = format!("\"{}", "#".repeat(hashes));
        return text.find(&end).map_or(text.len(), |at| at + end.len());
    }
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Removes code under `#[cfg(test)]`: an item, a field, a variant, an arm or a statement.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let is = |at: usize, wanted: &[&str]| {
        wanted
            .iter()
            .enumerate()
            .all(|(n, text)| tokens.get(at + n).is_some_and(|it| it.1 == *text))
    };
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is(at, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            at += 7;
            while is(at, &["#"]) {
                at = end_of_item(&tokens, at + 1, true);
            }
            at = end_of_item(&tokens, at, false);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Returns the end of what begins here: after its first pair of braces, its semicolon, or the comma of a field, variant or arm.
fn end_of_item(tokens: &[Token], from: usize, is_attribute: bool) -> usize {
    const ITEMS: [&str; 12] = [
        "async", "const", "enum", "fn", "impl", "mod", "pub", "static", "struct", "trait", "type",
        "use",
    ];
    let is_item = tokens
        .get(from)
        .is_some_and(|it| ITEMS.contains(&it.1.as_str()));
    let mut depth = 0_usize;
    for (at, (_, text)) in tokens.iter().enumerate().skip(from) {
        match text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return at,
            ")" | "]" | "}" => {
                depth -= 1;
                if depth == 0 && (text == "}" || is_attribute) {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            "," if depth == 0 && !is_item => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

#[test]
fn imports_are_found_where_they_stand_and_tests_are_left_out() {
    let text = r##"
        //! use crate::comment::A;
        pub(crate) use self::child::{self, A as B, deeper::{C, D}};
        use super::e::*; /* use crate::no; */
        #[cfg(test)]
        mod tests { use crate::tests::F; fn f<A, B>() { crate::g::h() } }
        enum Kind { #[cfg(test)] Model(crate::model::World), Real }
        const TEXT: &str = "crate::i::j"; const RAW: &str = r#"" crate::k::l"#; const QUOTE: char = '"';
        fn m<'a>(n: &'a child::N) -> Kind { Kind::Real }
    "##;
    let module = Module::parse(text, Path::new("x.rs"), vec!["x".to_owned()]);
    let imports: Vec<String> = module
        .imports
        .iter()
        .map(|it| format!("{} = {}", it.name, it.what.path.join("::")))
        .collect();
    assert_eq!(
        imports,
        [
            "child = self::child",
            "B = self::child::A",
            "C = self::child::deeper::C",
            "D = self::child::deeper::D",
            "* = super::e::*"
        ]
    );
    let paths: Vec<String> = module.paths.iter().map(|it| it.path.join("::")).collect();
    assert_eq!(paths, ["child::N", "Kind::Real"]);
}
