//! Pages for people.

use crate::{
    large,
    node::{KIND_NAMES, Node, Stored, get_u64, layout::*},
    seal,
};
use std::fmt::Write;

/// What a page of this crate holds, line by line; says so when it is no such page, or a damaged one. Never panics.
pub fn dump_page(page: &[u8]) -> String {
    let mut out = String::new();
    if let Err(why) = seal::page_check(page) {
        let _ = writeln!(out, "not a sound page: {why}");
        return out;
    }
    let name = KIND_NAMES.iter().find(|(kind, _)| *kind == page[KIND]).map_or("not a page of a tree", |(_, name)| name);
    let _ = writeln!(
        out,
        "{name}: page {}, stamp {}, kind {}, level {}",
        get_u64(page, 8),
        get_u64(page, 16),
        page[KIND],
        page[LEVEL]
    );
    match page[KIND] {
        KIND_LEAF | KIND_BRANCH => dump_node(&mut out, &Node::new(page)),
        KIND_HEAD | KIND_CHUNKS => large::dump(&mut out, page),
        _ => {}
    }
    out
}

fn dump_node(out: &mut String, node: &Node<'_>) {
    let _ = writeln!(
        out,
        "table {}, {} slots, {} bytes used, {} free, {} with extents, prefix \"{}\"",
        node.table().0,
        node.count(),
        node.used(),
        node.free(),
        node.with_extents(),
        node.prefix().escape_ascii()
    );
    let child = |out: &mut String, i: usize| {
        let child = node.child(i);
        let extents = if child.extents { ", extents below" } else { "" };
        let _ = writeln!(out, "-> {:?} {:?}, {} entries{extents}", child.ptr.page, child.ptr.stamp, child.entries);
    };
    if !node.is_leaf() {
        let _ = write!(out, "  first ");
        child(out, 0);
    }
    for slot in 0..node.count() {
        let _ = write!(out, "  \"{}\" ", node.key(slot).to_vec().escape_ascii());
        if !node.is_leaf() {
            child(out, slot + 1);
            continue;
        }
        let _ = match node.value(slot) {
            Stored::Inline(value) if value.len() <= 32 => writeln!(out, "= \"{}\"", value.escape_ascii()),
            Stored::Inline(value) => writeln!(out, "= \"{}\"... {} bytes", value[..32].escape_ascii(), value.len()),
            Stored::Large(large) => {
                writeln!(out, "= {} bytes at {:?} {:?}", large.bytes, large.head.page, large.head.stamp)
            }
        };
    }
}
