//! Results on standard output, as text or as JSON.
//!
//! Nothing here panics when the reader goes away: a write fails with `BrokenPipe`, the command stops, and
//! [`crate::failure`] ends the process quietly.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// The choice between text and JSON, as an argument of the commands that read something.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputArgs {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl OutputArgs {
    /// Whether JSON is wanted.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }
}

/// Buffered standard output.
pub(crate) struct Output {
    to: BufWriter<StdoutLock<'static>>,
    is_terminal: bool,
}

impl Output {
    /// Standard output, locked for the life of the value.
    pub(crate) fn stdout() -> Self {
        let stdout = io::stdout();
        Self {
            is_terminal: stdout.is_terminal(),
            to: BufWriter::new(stdout.lock()),
        }
    }

    /// `value` as JSON, ended by a newline.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        // Through a string: an error while writing must stay an I/O error, to be recognised as a broken pipe.
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        self.write_all(text.as_bytes())?;
        Ok(())
    }

    /// A file's name: escaped on a terminal, as it is for a program.
    pub(crate) fn name(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_terminal {
            self.write_all(crate::name::escaped(bytes).as_bytes())
        } else {
            self.write_all(bytes)
        }
    }

    /// A table without frame, ended by a newline.
    pub(crate) fn table(&mut self, table: &Table) -> io::Result<()> {
        for line in table.lines() {
            writeln!(self, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes).map_err(|error| named(&error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush().map_err(|error| named(&error))
    }
}

/// The error with the name of what could not be written. The kind stays, by which a broken pipe is known.
fn named(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: cannot write: {error}"))
}

/// An empty table with `header`, whose columns after the first `left` are aligned to the right.
pub(crate) fn table(header: &[&str], left: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header.iter().copied());
    }
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 1));
    }
    for index in left..header.len() {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
