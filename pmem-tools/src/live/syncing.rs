//! Syncs of a pool in use: who is about to unmount it asks whether all of it can be written.
//!
//! A request is [`REQUEST`], the answer a line of JSON, an [`Answer`]. Nobody else is answered meanwhile.

use std::io;
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};
use udax::Filesystem;

use super::send_line;

/// What a request is.
pub(super) const REQUEST: u8 = b'w';

/// What came of it.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// Everything is durable.
    Done,
    /// Why it is not.
    Failed(String),
}

/// Makes the pool durable, and tells `client`.
///
/// # Errors
/// It has gone.
pub(super) fn answer(client: &mut UnixStream, filesystem: &Filesystem) -> io::Result<()> {
    let answer = match filesystem.sync() {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Failed(error.to_string()),
    };
    send_line(client, &answer)
}
