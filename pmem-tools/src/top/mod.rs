//! `udax top`: what a pool is doing, again and again.
//!
//! [`state`] keeps the last two snapshots and what keys have changed, [`draw`] makes a picture of that, [`screen`]
//! has the terminal. Without a terminal, or with `--once`, one picture is printed as text.

mod draw;
mod picture;
mod screen;
mod state;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use crate::live::find::{self, Connection, Found};
use crate::output::Output;
use state::{Order, State};

/// Columns and lines of a picture where there is no terminal.
const PICTURE: (u16, u16) = (100, 34);
/// Intervals before an image: it shows the chart too.
const IMAGE_INTERVALS: u32 = 30;
/// Seconds between pictures, at least and at most.
const MIN_INTERVAL: f64 = 0.1;
const MAX_INTERVAL: f64 = 3600.0;

/// Watch what a pool is doing: requests and their times, journal, page cache, pins and who waits for them
///
/// Keys: q or Ctrl-C quits, p pauses, s sorts by the next column, ? helps.
#[derive(Args, Debug)]
pub(crate) struct Top {
    /// Seconds between pictures
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = parse_interval)]
    interval: Duration,
    /// Print one picture, of what happens during one interval, and end; so it is also where standard output is no
    /// terminal
    #[arg(long)]
    once: bool,
    /// What requests are sorted by
    #[arg(long, value_enum, default_value_t = Order::Rate)]
    sort: Order,
    /// With --once: write the picture with its colours as an SVG image instead, after some intervals
    #[arg(long, hide = true, requires = "once")]
    svg: bool,
    /// A directory where a pool is mounted, or the pool's file or device
    #[arg(value_name = "DIR|POOL")]
    place: PathBuf,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(MIN_INTERVAL..=MAX_INTERVAL).contains(&seconds) {
        return Err(format!("seconds from {MIN_INTERVAL} to {MAX_INTERVAL}"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Whether the terminal has a cursor that can be moved, as far as `TERM` tells.
fn has_cursor() -> bool {
    std::env::var_os("TERM").is_some_and(|terminal| !terminal.is_empty() && terminal != "dumb")
}

impl Top {
    /// Runs the command.
    pub(crate) fn run(self, output: &mut Output) -> anyhow::Result<ExitCode> {
        let shown = crate::name::shown(&self.place);
        let mut connection = match find::find(&self.place)? {
            Found::Live(connection) => connection,
            Found::Nobody => bail!(
                "{shown}: nobody has it mounted; mount it with 'udax mount', or see 'udax stats {shown}'"
            ),
        };
        let mut state = State::new(connection.next()?, self.sort);
        if self.once || !std::io::stdout().is_terminal() || !has_cursor() {
            self.print(&mut connection, state, output)?;
            return Ok(ExitCode::SUCCESS);
        }
        screen::run(&mut connection, &mut state, self.interval)
    }

    fn print(
        &self,
        connection: &mut Connection,
        mut state: State,
        output: &mut Output,
    ) -> anyhow::Result<()> {
        let intervals = if self.svg { IMAGE_INTERVALS } else { 1 };
        for _ in 0..intervals {
            udax_sync::thread::sleep(self.interval);
            state.update(connection.next()?);
        }
        let (columns, lines) = PICTURE;
        let buffer = picture::draw(&state, columns, lines)?;
        let text = match self.svg {
            true => picture::svg(&buffer),
            false => picture::text(&buffer),
        };
        Ok(output.write_all(text.as_bytes())?)
    }
}
