//! A picture without a terminal: as text, and with its colours as an SVG image.

use std::fmt::Write as _;

use anyhow::Result;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

use super::state::State;

/// Pixels of a character in the image: those of a size of 13.29 in most fonts whose characters have all one width.
const WIDTH: u32 = 8;
const HEIGHT: u32 = 17;
/// Pixels around it.
const MARGIN: u32 = 8;
const BACKGROUND: &str = "#16181d";
const FOREGROUND: &str = "#d4d4d4";

/// Draws `state` in so many columns and lines.
pub(super) fn draw(state: &State, columns: u16, lines: u16) -> Result<Buffer> {
    // It draws into memory.
    let mut terminal = Terminal::new(TestBackend::new(columns, lines))?;
    terminal.draw(|frame| super::draw::draw(frame, state))?;
    Ok(terminal.backend().buffer().clone())
}

/// The lines of a picture.
fn rows(buffer: &Buffer) -> impl Iterator<Item = &[Cell]> {
    buffer.content().chunks(usize::from(buffer.area.width).max(1))
}

/// The picture as text.
pub(super) fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for row in rows(buffer) {
        let line: String = row.iter().map(Cell::symbol).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The picture as an SVG image.
pub(super) fn svg(buffer: &Buffer) -> String {
    let width = u32::from(buffer.area.width) * WIDTH + 2 * MARGIN;
    let height = u32::from(buffer.area.height) * HEIGHT + 2 * MARGIN;
    let mut image = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" \
         font-size=\"13.29\">\n<title>udax top</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{BACKGROUND}\"/>\n"
    );
    for (row, y) in rows(buffer).zip((0..).map(|line| MARGIN + line * HEIGHT)) {
        for (from, run) in runs(row) {
            write_run(&mut image, (MARGIN + from * WIDTH, y), run);
        }
    }
    image.push_str("</svg>\n");
    image
}

/// Cells that look alike, with their column.
fn runs(row: &[Cell]) -> Vec<(u32, &[Cell])> {
    let mut at = 0;
    let mut runs = Vec::new();
    for run in row.chunk_by(|one, other| one.style() == other.style()) {
        runs.push((at, run));
        at += u32::try_from(run.len()).unwrap_or(0);
    }
    runs
}

fn write_run(image: &mut String, (x, y): (u32, u32), run: &[Cell]) {
    let Some(first) = run.first() else {
        return;
    };
    let columns = u32::try_from(run.len()).unwrap_or(0);
    let width = columns * WIDTH;
    // Strings take what they are given.
    if let Some(fill) = colour(first.bg) {
        let _ = writeln!(
            image,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{HEIGHT}\" fill=\"{fill}\"/>"
        );
    }
    let baseline = y + HEIGHT - 4;
    let mut from = x;
    // Word by word: not every viewer has a font of just this width.
    for word in run.chunk_by(|one, other| (one.symbol() == " ") == (other.symbol() == " ")) {
        let width = u32::try_from(word.len()).unwrap_or(0) * WIDTH;
        if first_symbol(word) != " " {
            write_word(image, (from, baseline, width), word);
        }
        from += width;
    }
}

fn first_symbol(cells: &[Cell]) -> &str {
    cells.first().map_or(" ", Cell::symbol)
}

fn write_word(image: &mut String, (x, y, width): (u32, u32, u32), word: &[Cell]) {
    let Some(first) = word.first() else {
        return;
    };
    let fill = colour(first.fg).unwrap_or(FOREGROUND);
    let weight = match first.modifier.contains(Modifier::BOLD) {
        true => " font-weight=\"bold\"",
        false => "",
    };
    let text: String = word.iter().map(Cell::symbol).collect();
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        image,
        "<text x=\"{x}\" y=\"{y}\" textLength=\"{width}\" fill=\"{fill}\"{weight}>{text}</text>"
    );
}

/// A colour of a terminal's; none where it is the usual one.
fn colour(colour: Color) -> Option<&'static str> {
    Some(match colour {
        Color::Black => "#23262e",
        Color::Red => "#e06c75",
        Color::Green => "#7fb069",
        Color::Yellow => "#e5c07b",
        Color::Cyan => "#56b6c2",
        Color::Gray => "#abb2bf",
        Color::DarkGray => "#6b7280",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::state::Order;
    use super::*;
    use crate::live::snapshot_example;

    #[test]
    fn an_image_has_the_text_and_nothing_that_is_markup() {
        let mut snapshot = snapshot_example();
        snapshot.pool.path = "<a&b>".to_owned();
        let image = svg(&draw(&State::new(snapshot, Order::Rate), 100, 34).unwrap());
        assert!(image.contains("&lt;a&amp;b&gt;") && !image.contains("<a&b>"));
        assert!(image.contains("truncate") && image.ends_with("</svg>\n"));
        assert_eq!(image.matches("<text").count(), image.matches("</text>").count());
    }
}
