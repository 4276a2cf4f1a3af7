//! The terminal: raw mode, another screen, keys. However it ends, the terminal is as it was.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::iterator::Signals;

use super::state::{Next, State, Wish};
use crate::live::find::Connection;

/// How long a key is waited for before signals are looked at.
const PATIENCE: Duration = Duration::from_millis(200);

/// Gives the terminal back, also when a panic unwinds.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows `state` until a key, a signal or the end of the process that tells of it ends that.
///
/// # Errors
/// No terminal; the process that tells of the pool has ended.
pub(super) fn run(connection: &mut Connection, state: &mut State, interval: Duration) -> Result<ExitCode> {
    // A signal must not leave the terminal raw: it ends this like a key.
    let mut signals = Signals::new([SIGTERM, SIGHUP])?;
    // A panic restores it before its message is written.
    let mut terminal = ratatui::try_init().context("standard output: no terminal to draw on")?;
    let restored = Restored;
    let result = watch(&mut terminal, connection, state, (interval, &mut signals));
    drop(restored);
    result.map(|()| ExitCode::SUCCESS)
}

fn watch(
    terminal: &mut DefaultTerminal,
    connection: &mut Connection,
    state: &mut State,
    (interval, signals): (Duration, &mut Signals),
) -> Result<()> {
    let mut next = Instant::now() + interval;
    loop {
        terminal.draw(|frame| super::draw::draw(frame, state))?;
        loop {
            if signals.pending().next().is_some() {
                return Ok(());
            }
            let rest = next.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                let gone = "the process that had the pool open has ended";
                state.update(connection.next().context(gone)?);
                next = Instant::now() + interval;
                break;
            }
            if event::poll(rest.min(PATIENCE))? {
                match event::read()? {
                    Event::Key(key) => {
                        if let Some(wish) = wish(key)
                            && state.obey(wish) == Next::Quit
                        {
                            return Ok(());
                        }
                    }
                    Event::Resize(..) => {}
                    _ => continue,
                }
                break;
            }
        }
    }
}

fn wish(key: KeyEvent) -> Option<Wish> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::Quit),
        KeyCode::Char('q') => Some(Wish::Quit),
        KeyCode::Esc => Some(Wish::Back),
        KeyCode::Char('p' | ' ') => Some(Wish::Pause),
        KeyCode::Char('s') => Some(Wish::Sort),
        KeyCode::Char('?' | 'h') => Some(Wish::Help),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_help_says() {
        let key = |code| wish(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(key(KeyCode::Char('q')), Some(Wish::Quit));
        assert_eq!(key(KeyCode::Char('p')), Some(Wish::Pause));
        assert_eq!(key(KeyCode::Char('s')), Some(Wish::Sort));
        assert_eq!(key(KeyCode::Char('?')), Some(Wish::Help));
        assert_eq!(key(KeyCode::Char('c')), None);
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(wish(control), Some(Wish::Quit));
    }
}
