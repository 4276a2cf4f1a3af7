//! The output of a dump: a stream of records, so that its length does not matter. In JSON they are one array.

use std::fmt::Display;
use std::io::Write as _;

use serde_json::Value;

use crate::output::Output;

/// A record's fields, in order.
pub(crate) type Fields = Vec<(&'static str, Value)>;

/// Where records go.
pub(crate) struct Records<'o> {
    output: &'o mut Output,
    is_json: bool,
    written: u64,
    problems: u64,
}

impl<'o> Records<'o> {
    /// An empty stream.
    pub(crate) fn new(output: &'o mut Output, is_json: bool) -> anyhow::Result<Self> {
        if is_json {
            output.write_all(b"[")?;
        }
        Ok(Self {
            output,
            is_json,
            written: 0,
            problems: 0,
        })
    }

    /// A record of few fields: one line of text.
    pub(crate) fn line(&mut self, kind: &'static str, fields: Fields) -> anyhow::Result<()> {
        if self.is_json {
            return self.json(kind, fields);
        }
        write!(self.output, "{kind}")?;
        for (name, value) in &fields {
            write!(self.output, "  {name} {}", text(value))?;
        }
        writeln!(self.output)?;
        Ok(())
    }

    /// A record of many fields: a line of text for each.
    pub(crate) fn block(&mut self, kind: &'static str, fields: Fields) -> anyhow::Result<()> {
        if self.is_json {
            return self.json(kind, fields);
        }
        writeln!(self.output, "{kind}")?;
        for (name, value) in &fields {
            writeln!(self.output, "  {name:<20} {}", text(value))?;
        }
        Ok(())
    }

    /// Something is damaged or cannot be read.
    pub(crate) fn problem(&mut self, what: impl Display) -> anyhow::Result<()> {
        self.problems += 1;
        let what = what.to_string();
        if self.is_json {
            return self.json("problem", vec![("what", what.into())]);
        }
        writeln!(self.output, "! {what}")?;
        Ok(())
    }

    fn json(&mut self, kind: &'static str, fields: Fields) -> anyhow::Result<()> {
        let separator = if self.written == 0 { "\n" } else { ",\n" };
        self.written += 1;
        let object: serde_json::Map<String, Value> =
            std::iter::once(("record".to_owned(), Value::from(kind.trim_start())))
                .chain(fields.into_iter().map(|(name, value)| (name.to_owned(), value)))
                .collect();
        let object = serde_json::to_string(&object)?;
        write!(self.output, "{separator}{object}")?;
        Ok(())
    }

    /// Ends the stream; gives the number of problems.
    pub(crate) fn finish(self) -> anyhow::Result<u64> {
        if self.is_json {
            self.output.write_all(b"\n]\n")?;
        }
        Ok(self.problems)
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
