//! The check a page passes once, when it is loaded.

/// Validates the structure of one page, so that the code that searches it may index without fear: kinds, counts, every
/// offset and length, order of keys, cells that do not overlap. This is the `page_check` for
/// [`FileOptions`](spinney_file::FileOptions). Pages of kinds below 16 belong to the file layer and pass.
///
/// # Errors
/// What does not fit, in words.
pub fn page_check(page: &[u8]) -> Result<(), &'static str> {
    unimplemented!()
}
