//! What every source file must open with, and what it must not hold. Looks at tokens, not at lines, so that
//! a word in a comment or a string is no word.

use anyhow::{Context, anyhow};
use proc_macro2::{TokenStream, TokenTree};

/// A file says first what it is.
pub(super) fn opens_with_header(name: &str, text: &str) -> Option<String> {
    (!text.starts_with("//!")).then(|| format!("{name}:1: does not open with `//!`"))
}

/// The keyword `unsafe` stands nowhere in the file, tests and macros included.
pub(super) fn has_no_unsafe(name: &str, text: &str) -> anyhow::Result<Vec<String>> {
    let mut tokens = Vec::new();
    flatten(parse(name, text)?, &mut tokens);
    let lines = tokens.iter().filter(|token| token.text == "unsafe").map(|token| token.line);
    Ok(lines.map(|line| format!("{name}:{line}: `unsafe` where it may not be")).collect())
}

/// The crate root forbids `unsafe` to the whole crate.
pub(super) fn forbids_unsafe(name: &str, text: &str) -> anyhow::Result<Option<String>> {
    let attribute = ["#", "!", "[", "forbid", "(", "unsafe_code", ")", "]"];
    let mut tokens = Vec::new();
    flatten(parse(name, text)?, &mut tokens);
    let found = tokens.windows(attribute.len()).any(|window| window.iter().map(|token| &token.text).eq(attribute));
    Ok((!found).then(|| format!("{name}:1: does not say `#![forbid(unsafe_code)]`")))
}

/// What a crate offers is a list of names, never "everything in there".
pub(super) fn re_exports_are_lists(name: &str, text: &str) -> anyhow::Result<Vec<String>> {
    let mut tokens = Vec::new();
    flatten(parse(name, text)?, &mut tokens);
    let mut complaints = Vec::new();
    let mut rest = tokens.as_slice();
    while let Some(at) = rest.windows(2).position(|pair| pair[0].text == "pub" && pair[1].text == "use") {
        let end = rest[at..].iter().position(|token| token.text == ";").map_or(rest.len(), |length| at + length);
        if rest[at..end].iter().any(|token| token.text == "*") {
            complaints.push(format!("{name}:{}: re-exports everything: list the names", rest[at].line));
        }
        rest = &rest[end..];
    }
    Ok(complaints)
}

/// A token of a file with all groups opened; brackets are tokens too.
struct Token {
    text: String,
    /// From 1.
    line: usize,
}

fn parse(name: &str, text: &str) -> anyhow::Result<TokenStream> {
    text.parse().map_err(|error| anyhow!("{error}")).with_context(|| format!("{name} is not Rust"))
}

fn flatten(stream: TokenStream, into: &mut Vec<Token>) {
    use proc_macro2::Delimiter::{Brace, Bracket, None, Parenthesis};
    for tree in stream {
        let line = tree.span().start().line;
        if let TokenTree::Group(group) = tree {
            let (open, close) = match group.delimiter() {
                Brace => ("{", "}"),
                Bracket => ("[", "]"),
                Parenthesis => ("(", ")"),
                None => ("", ""),
            };
            into.push(Token { text: open.to_owned(), line });
            flatten(group.stream(), into);
            into.push(Token { text: close.to_owned(), line: group.span_close().start().line });
        } else {
            into.push(Token { text: tree.to_string(), line });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_header_is_caught() {
        assert_eq!(opens_with_header("a.rs", "//! Says what it is.\n"), None);
        assert!(opens_with_header("a.rs", "// Says what it is.\n").is_some());
        assert!(opens_with_header("a.rs", "").is_some());
    }

    #[test]
    fn unsafe_is_caught_in_code_and_only_there() {
        let harmless =
            "//! unsafe\n#![forbid(unsafe_code)]\n/* unsafe */ const A: &str = \"unsafe\"; fn not_unsafe() {}";
        assert_eq!(has_no_unsafe("a.rs", harmless).expect("parses"), Vec::<String>::new());
        for (code, line) in [
            ("fn f() {\n unsafe { g() }\n}", 2),
            ("unsafe impl Send for A {}", 1),
            ("macro_rules! m {\n() => {\n unsafe { g() } } }", 3),
            ("#[unsafe(no_mangle)]\nfn f() {}", 1),
        ] {
            let complaints = has_no_unsafe("a.rs", code).expect("parses");
            assert_eq!(complaints.len(), 1, "{code}");
            assert!(complaints[0].starts_with(&format!("a.rs:{line}:")), "{complaints:?}");
        }
    }

    #[test]
    fn a_crate_root_that_does_not_forbid_unsafe_is_caught() {
        for enough in
            ["#![forbid(unsafe_code)]", "//! A\n#![warn(missing_docs)]\n#! [ forbid ( unsafe_code ) ]\nmod a;"]
        {
            assert_eq!(forbids_unsafe("lib.rs", enough).expect("parses"), None, "{enough}");
        }
        for too_little in ["", "#![deny(unsafe_code)]", "// #![forbid(unsafe_code)]", "#[forbid(unsafe_code)] mod a {}"]
        {
            assert!(forbids_unsafe("lib.rs", too_little).expect("parses").is_some(), "{too_little}");
        }
    }

    #[test]
    fn a_re_export_of_everything_is_caught() {
        let lists = "use spinney_file::*; pub use a::{B, C}; fn f() -> u8 { 2 * 3 }";
        assert_eq!(re_exports_are_lists("lib.rs", lists).expect("parses"), Vec::<String>::new());
        let everything = "pub use a::B;\npub use spinney_file::{c::*, D};";
        assert_eq!(re_exports_are_lists("lib.rs", everything).expect("parses").len(), 1);
    }
}
