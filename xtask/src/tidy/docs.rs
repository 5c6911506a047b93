//! What the pages under `docs/` must say, and where the links of every page must lead.
//!
//! A link whose text is a name in backquotes and whose target is a source file promises that the name is defined
//! there: so the tables that say which test holds which promise cannot name a test that is gone.

use crate::workspace::LAYERS;
use std::{fs, path::Path};

/// What a crate must never know cannot be read from its code, so the architecture says it, per crate:
/// below a heading that names the crate, lines that begin with **Invariant:**.
pub(super) fn states_invariants(architecture: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for layer in LAYERS {
        let heading = format!("`{layer}`");
        let mut in_section = false;
        let mut has_section = false;
        let mut has_invariant = false;
        for line in architecture.lines() {
            if line.starts_with('#') {
                in_section = line.contains(&heading);
                has_section |= in_section;
            }
            has_invariant |= in_section && line.starts_with("**Invariant:**");
        }
        if !has_section {
            complaints.push(format!("docs/architecture.md: no heading names {heading}"));
        } else if !has_invariant {
            complaints.push(format!("docs/architecture.md: no line under {heading} begins with **Invariant:**"));
        }
    }
    complaints
}

/// Every link to a file leads to one, and a link named after an item to the file that defines it.
pub(super) fn links_lead_somewhere(name: &str, page: &Path, text: &str) -> Vec<String> {
    let folder = page.parent().unwrap_or(page);
    let mut complaints = Vec::new();
    for (line, label, target) in links(text) {
        if target.contains("://") || target.starts_with('#') || target.starts_with("mailto:") {
            continue;
        }
        let target = target.split('#').next().unwrap_or(target);
        let path = folder.join(target);
        if !path.exists() {
            complaints.push(format!("{name}:{line}: nothing at {target}"));
        } else if let Some(item) = label.strip_prefix('`').and_then(|label| label.strip_suffix('`'))
            && path.extension().is_some_and(|extension| extension == "rs")
            && !fs::read_to_string(&path).is_ok_and(|source| defines(&source, item))
        {
            complaints.push(format!("{name}:{line}: {target} defines no {item}"));
        }
    }
    complaints
}

/// Line from 1, label and target of each inline link outside code blocks.
fn links(text: &str) -> Vec<(usize, &str, &str)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        let mut rest = if in_code { "" } else { line };
        while let Some((before, after)) = rest.split_once("](") {
            let label = before.rsplit_once('[').map_or(before, |(_, label)| label);
            let Some((target, after)) = after.split_once(')') else { break };
            found.push((index + 1, label, target));
            rest = after;
        }
    }
    found
}

/// Whether the source holds a definition of the last part of `path`, such as `Type::NAME`; anything that is not
/// a path of names (a file's own name, say) needs none.
fn defines(source: &str, path: &str) -> bool {
    const KEYWORDS: [&str; 9] = ["fn", "struct", "enum", "trait", "const", "static", "type", "mod", "macro_rules!"];
    let item = path.rsplit("::").next().unwrap_or(path);
    let is_name = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_');
    if !is_name(item) {
        return true;
    }
    let mut words = source.split_whitespace();
    let mut previous = "";
    words.any(|word| {
        let name = word.split(|c: char| !(c.is_alphanumeric() || c == '_')).next();
        let is_definition = KEYWORDS.contains(&previous) && name == Some(item);
        previous = word;
        is_definition
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_without_an_invariant_is_caught() {
        let section = |layer: &str| format!("## `{layer}`: does something\n\n**Invariant:** it never does another.\n");
        let whole: String = LAYERS.map(section).concat();
        assert_eq!(states_invariants(&whole), Vec::<String>::new());
        for layer in LAYERS {
            let without_section = whole.replace(&format!("`{layer}`"), "`something`");
            assert_eq!(states_invariants(&without_section).len(), 1, "{layer}");
        }
        let without_line = whole.replacen("**Invariant:**", "Invariant:", 1);
        assert_eq!(states_invariants(&without_line).len(), 1);
    }

    #[test]
    fn a_link_to_nowhere_is_caught() {
        let home = tempfile::tempdir().expect("a temporary folder");
        fs::write(home.path().join("tests.rs"), "#[test]\nfn it_holds() {}\nconst LIMIT: u8 = 1;\n").expect("written");
        let page = home.path().join("page.md");
        let complaints = |text: &str| links_lead_somewhere("page.md", &page, text).len();
        assert_eq!(complaints("[a](https://example.org) [b](#here) [`it_holds`](tests.rs) [d](tests.rs#L2)"), 0);
        assert_eq!(complaints("[`Type::LIMIT`](tests.rs) [`tests.rs`](tests.rs)\n```\n[e](gone.rs)\n```"), 0);
        assert_eq!(complaints("[`it_held`](tests.rs)"), 1);
        assert_eq!(complaints("[`it`](tests.rs)"), 1);
        assert_eq!(complaints("a [gone](gone.rs), b [gone](gone/)"), 2);
    }
}
