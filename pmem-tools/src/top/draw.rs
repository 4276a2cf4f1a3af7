//! The picture: a header, requests beside journal, page cache and space, then pins and who waits.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Clear, Gauge, Paragraph, Row, Sparkline, Table};

use super::state::{Order, State};
use crate::live::{OperationTimes, PinHeld, Waiting};
use crate::size::{Size, float, short_time};

const ACCENT: Color = Color::Cyan;
const QUIET: Color = Color::DarkGray;
/// Filled by more than this, a gauge warns.
const WARN: f64 = 0.75;
const ALARM: f64 = 0.92;

/// Draws `state` on all of the frame.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let area = frame.area();
    let (beside, below) = (
        if area.width >= 96 { 36 } else { 28 },
        if area.height >= 30 { 9 } else { 6 },
    );
    let [head, middle, pins, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Min(8),
        Constraint::Length(below),
        Constraint::Length(1),
    ])
    .areas(area);
    header(frame, head, state);
    let [requests, side] =
        Layout::horizontal([Constraint::Min(40), Constraint::Length(beside)]).areas(middle);
    operations(frame, requests, state);
    gauges(frame, side, state);
    let [held, waiting] = Layout::horizontal([Constraint::Fill(5), Constraint::Fill(4)]).areas(pins);
    pins_held(frame, held, state);
    waiters(frame, waiting, state);
    footer(frame, foot, state);
    if state.is_helping {
        help(frame);
    }
}

fn panel(title: &str) -> Block<'_> {
    Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().fg(QUIET))
        .title(Span::styled(
            format!(" {title} "),
            Style::new().fg(ACCENT).add_modifier(Modifier::BOLD),
        ))
}

fn header(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let now = &state.now;
    let label = match now.pool.label.as_str() {
        "" => String::new(),
        label => format!(" ({})", crate::name::escaped(label.as_bytes())),
    };
    let place = match &now.mount {
        Some(mount) if mount.is_read_only => format!("on {}, read-only", mount.directory),
        Some(mount) => format!("on {}", mount.directory),
        None => "not mounted, in use".to_owned(),
    };
    let process = now
        .process
        .map_or_else(String::new, |pid| format!(", process {pid}"));
    let mut spans = vec![
        Span::styled(
            format!(" {}", now.pool.path),
            Style::new().add_modifier(Modifier::BOLD),
        ),
        Span::raw(format!("{label}  {place}{process}")),
        Span::styled(
            format!("  open for {}", short_time(now.open_nanoseconds)),
            Style::new().fg(QUIET),
        ),
    ];
    if let Some(damage) = &now.damage {
        let alarm = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
        spans.push(Span::styled(format!("  {damage}"), alarm));
    }
    if state.is_paused {
        let paused = Style::new().fg(Color::Black).bg(Color::Yellow);
        spans.push(Span::raw("  "));
        spans.push(Span::styled(" paused ", paused));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)).block(panel("udax top")), area);
}

fn operations(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let [table, chart] = Layout::vertical([Constraint::Min(5), Constraint::Length(4)]).areas(area);
    let columns = Column::fitting(panel("").inner(table).width);
    let header = columns.iter().map(|column| column.title(state.order));
    let widths = columns.iter().map(|column| column.width());
    let rows = state.recent.iter().map(|operation| {
        let cells = columns.iter().map(|column| column.cell(operation, state));
        Row::new(cells)
    });
    let shown = Table::new(rows, widths)
        .header(Row::new(header))
        .block(panel("requests"));
    frame.render_widget(shown, table);
    let latest = state.rates.back().copied().unwrap_or(0);
    let title = format!("requests a second: {latest}");
    let block = panel(&title);
    let width = usize::from(block.inner(chart).width);
    let from = state.rates.len().saturating_sub(width);
    let data: Vec<u64> = state.rates.iter().skip(from).copied().collect();
    let line = Sparkline::default()
        .data(data)
        .style(Style::new().fg(ACCENT))
        .block(block);
    frame.render_widget(line, chart);
}

/// A column of the table of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Column {
    Name,
    Rate,
    P50,
    P99,
    P999,
    Max,
    Bytes,
}

impl Column {
    const ALL: [Self; 7] = [
        Self::Name,
        Self::Rate,
        Self::P50,
        Self::P99,
        Self::P999,
        Self::Max,
        Self::Bytes,
    ];
    /// Columns of characters that all of them take, with the spaces between.
    const ROOM: u16 = 56;

    /// Those for which there is room: where it is narrow, that between two others goes.
    fn fitting(room: u16) -> Vec<Self> {
        let fits = |column: &Self| room >= Self::ROOM || *column != Self::P999;
        Self::ALL.into_iter().filter(fits).collect()
    }

    fn width(self) -> Constraint {
        match self {
            Self::Name => Constraint::Min(10),
            Self::Rate => Constraint::Length(6),
            Self::P50 | Self::P99 | Self::P999 | Self::Max => Constraint::Length(7),
            Self::Bytes => Constraint::Length(7),
        }
    }

    fn title(self, order: Order) -> Line<'static> {
        let (title, sorted_by) = match self {
            Self::Name => ("request", Some(Order::Name)),
            Self::Rate => ("/s", Some(Order::Rate)),
            Self::P50 => ("p50", Some(Order::P50)),
            Self::P99 => ("p99", Some(Order::P99)),
            Self::P999 => ("p99.9", None),
            Self::Max => ("max", Some(Order::Max)),
            Self::Bytes => ("bytes/s", Some(Order::Bytes)),
        };
        let style = match sorted_by == Some(order) {
            true => Style::new()
                .fg(ACCENT)
                .add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            false => Style::new().fg(QUIET),
        };
        Line::styled(title, style).alignment(self.alignment())
    }

    fn alignment(self) -> Alignment {
        match self {
            Self::Name => Alignment::Left,
            _ => Alignment::Right,
        }
    }

    fn cell(self, operation: &OperationTimes, state: &State) -> Line<'static> {
        let (text, is_notable) = match self {
            Self::Name => (operation.operation.clone(), operation.errors > 0),
            Self::Rate => (short_rate(state.rate(operation.count)), false),
            Self::P50 => slow(operation.p50_nanoseconds),
            Self::P99 => slow(operation.p99_nanoseconds),
            Self::P999 => slow(operation.p999_nanoseconds),
            Self::Max => slow(operation.longest_nanoseconds),
            Self::Bytes if operation.bytes == 0 => (String::new(), false),
            Self::Bytes => (short_size(state.rate(operation.bytes)), false),
        };
        let style = match is_notable {
            true => Style::new().fg(Color::Yellow),
            false => Style::new(),
        };
        Line::styled(text, style).alignment(self.alignment())
    }
}

/// A time, and whether people notice it.
fn slow(nanoseconds: u64) -> (String, bool) {
    (short_time(nanoseconds), nanoseconds >= 100_000_000)
}

fn short_rate(rate: f64) -> String {
    if rate < 10.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}

/// Bytes in five characters or so.
fn short_size(bytes: f64) -> String {
    let mut value = bytes;
    let mut unit = "B";
    for next in ["K", "M", "G", "T"] {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 10.0 && unit != "B" {
        format!("{value:.1}{unit}")
    } else {
        format!("{value:.0}{unit}")
    }
}

/// A gauge: its name, how much of how much, and in words.
struct Level<'l> {
    name: &'l str,
    used: u64,
    of: u64,
    words: String,
}

fn gauges(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let (space, journal, cache) = (state.now.space, state.now.journal, state.now.cache);
    let used = space.total_bytes.saturating_sub(space.available_bytes);
    let mut levels = vec![
        Level {
            name: "space",
            used,
            of: space.total_bytes,
            words: format!(
                "{} free of {}",
                Size(space.available_bytes),
                Size(space.total_bytes)
            ),
        },
        Level {
            name: "journal",
            used: journal.used_bytes,
            of: journal.capacity_bytes,
            words: format!("{} of {}", Size(journal.used_bytes), Size(journal.capacity_bytes)),
        },
        Level {
            name: "cached",
            used: cache.cached_bytes,
            of: cache.budget_bytes,
            words: format!("{} of {}", Size(cache.cached_bytes), Size(cache.budget_bytes)),
        },
        Level {
            name: "dirty",
            used: cache.dirty_bytes,
            of: cache.dirty_limit_bytes,
            words: format!("{} of {}", Size(cache.dirty_bytes), Size(cache.dirty_limit_bytes)),
        },
    ];
    if let Some(device) = space.device {
        let level = Level {
            name: "data device",
            used: device.total_bytes.saturating_sub(device.free_bytes),
            of: device.total_bytes,
            words: format!("{} free of {}", Size(device.free_bytes), Size(device.total_bytes)),
        };
        levels.insert(1, level);
    }
    let block = panel("pool");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let heights = levels.iter().map(|_| Constraint::Length(2));
    let places = Layout::vertical(heights.chain([Constraint::Min(0)])).split(inner);
    for (level, place) in levels.iter().zip(places.iter()) {
        gauge(frame, *place, level);
    }
    let looks = cache.hits.saturating_add(cache.misses);
    let hits = match looks {
        0 => "no reads".to_owned(),
        looks => format!("{:.1} % hits", 100.0 * float(cache.hits) / float(looks)),
    };
    let lines = [
        format!("{} records, {} checkpoints", journal.records, journal.checkpoints),
        format!("fullest lane {}", Size(journal.fullest_lane_bytes)),
        format!("page cache: {hits}"),
        format!("being written {}", Size(cache.under_write_bytes)),
        format!("{} throttled writes", cache.throttled_writes),
        format!("{} inodes, {}", space.inodes, Size(space.total_bytes)),
    ];
    let quiet = lines.map(|line| Line::styled(line, Style::new().fg(Color::Gray)));
    let facts = places.last().copied().unwrap_or_default();
    frame.render_widget(Paragraph::new(quiet.to_vec()), facts);
}

fn gauge(frame: &mut Frame<'_>, area: Rect, level: &Level<'_>) {
    let [name, bar] = Layout::vertical([Constraint::Length(1); 2]).areas(area);
    frame.render_widget(Paragraph::new(level.name), name);
    frame.render_widget(Line::raw(level.words.as_str()).alignment(Alignment::Right), name);
    let ratio = match level.of {
        0 => 0.0,
        of => (float(level.used) / float(of)).clamp(0.0, 1.0),
    };
    let colour = if ratio >= ALARM {
        Color::Red
    } else if ratio >= WARN {
        Color::Yellow
    } else {
        Color::Green
    };
    let gauge = Gauge::default()
        .ratio(ratio)
        .label(format!("{:.0} %", ratio * 100.0))
        .use_unicode(true)
        .gauge_style(Style::new().fg(colour).bg(Color::Black));
    frame.render_widget(gauge, bar);
}

fn pins_held(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let pins = &state.now.pins;
    let title = format!("pins: {} held, {}", pins.held, Size(pins.held_bytes));
    let row = |pin: &PinHeld| {
        let term = if pin.is_long_term { ", long" } else { "" };
        Row::new([
            pin.holder.clone(),
            format!("{}{term}", pin.access),
            format!("{}", pin.inode),
            range(pin.offset_bytes, pin.length_bytes),
            short_time(pin.age_nanoseconds),
        ])
    };
    let widths = [
        Constraint::Fill(2),
        Constraint::Length(11),
        Constraint::Length(7),
        Constraint::Fill(3),
        Constraint::Length(7),
    ];
    let header = Row::new(["holder", "to", "inode", "bytes", "for"]).style(Style::new().fg(QUIET));
    let table = Table::new(pins.oldest.iter().map(row), widths)
        .header(header)
        .block(panel(&title));
    frame.render_widget(table, area);
}

fn range(offset: u64, length: u64) -> String {
    format!("{} at {}", Size(length), Size(offset))
}

fn waiters(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let title = format!("waiting for pins: {}", state.now.waiters.len());
    let row = |waiting: &Waiting| {
        let age = waiting.age_nanoseconds;
        let style = match age >= 1_000_000_000 {
            true => Style::new().fg(Color::Yellow),
            false => Style::new(),
        };
        let cells = [
            waiting.operation.clone(),
            waiting.inode.to_string(),
            format!("{} at {}", waiting.obstacle, Size(waiting.offset_bytes)),
            short_time(age),
        ];
        Row::new(cells).style(style)
    };
    let widths = [
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Fill(1),
        Constraint::Length(7),
    ];
    let header = Row::new(["who", "inode", "what for", "for"]).style(Style::new().fg(QUIET));
    let rows = state.now.waiters.iter().map(row);
    let table = Table::new(rows, widths).header(header).block(panel(&title));
    frame.render_widget(table, area);
}

fn footer(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let text = format!(
        " q quit   p pause   s sort   ? help      over the last {:.1} s",
        state.seconds
    );
    frame.render_widget(Paragraph::new(Line::styled(text, Style::new().fg(QUIET))), area);
}

const HELP: [&str; 13] = [
    "q, Ctrl-C   quit",
    "p           pause, and go on",
    "s           sort requests by the next column",
    "?           this, and back",
    "",
    "Times of requests are from the moment that the daemon takes one",
    "to its answer. p99: one in a hundred took longer.",
    "A yellow name: requests were refused. A yellow time: 0.1 s and more.",
    "",
    "journal     what waits for a checkpoint",
    "dirty       how much until writers have to wait",
    "pins        memory of files that may not move, the oldest first",
    "waiting     truncations and others that need what is pinned",
];

fn help(frame: &mut Frame<'_>) {
    let lines = u16::try_from(HELP.len()).unwrap_or(u16::MAX);
    let area = frame.area();
    let width = area.width.min(74);
    let height = area.height.min(lines.saturating_add(2));
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, place);
    let text: Vec<Line<'_>> = HELP.iter().map(|line| Line::raw(*line)).collect();
    frame.render_widget(Paragraph::new(text).block(panel("help")), place);
}

#[cfg(test)]
mod tests {
    use super::super::picture;
    use super::super::state::Wish;
    use super::*;
    use crate::live::snapshot_example;

    fn picture(state: &State, columns: u16, lines: u16) -> String {
        picture::text(&picture::draw(state, columns, lines).unwrap())
    }

    #[test]
    fn a_pool_in_use() {
        let state = State::new(snapshot_example(), Order::Rate);
        insta::assert_snapshot!(picture(&state, 100, 34));
    }

    #[test]
    fn help_is_over_the_picture() {
        let mut state = State::new(snapshot_example(), Order::Rate);
        state.obey(Wish::Help);
        let helping = picture(&state, 100, 34);
        for line in HELP {
            assert!(helping.contains(line), "{line}");
        }
        state.obey(Wish::Help);
        assert!(!picture(&state, 100, 34).contains(HELP[2]));
    }

    #[test]
    fn damage_and_pause_are_told() {
        let mut snapshot = snapshot_example();
        snapshot.damage = Some("media error in a node".to_owned());
        snapshot.pool.label.clear();
        let mut state = State::new(snapshot, Order::Rate);
        state.obey(Wish::Pause);
        let told = picture(&state, 120, 30);
        assert!(
            told.contains("media error in a node") && told.contains("paused"),
            "{told}"
        );
    }

    #[test]
    fn no_terminal_is_too_small_to_draw_on() {
        let mut state = State::new(snapshot_example(), Order::Rate);
        state.obey(Wish::Help);
        for (columns, lines) in [(1, 1), (10, 3), (40, 10), (300, 100)] {
            picture(&state, columns, lines);
        }
    }

    #[test]
    fn sizes_are_short() {
        let texts = [999.0, 1000.0, 4096.0, 1.5e6, 2e9].map(short_size);
        assert_eq!(texts, ["999B", "1.0K", "4.0K", "1.4M", "1.9G"]);
    }
}
