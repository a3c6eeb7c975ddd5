//! The screen: three lines about the node, its peers, and below, where there is room, device and attachments. The smaller
//! it is the less is shown; there is no size at which it does not work.

use super::model::{Model, PeerRow, Sample};
use crate::cli::json::key;
use crate::cli::table::{age, size};
use crate::ipc::wire::{AttachmentState, Severity};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table};
use std::net::IpAddr;

/// Lines of the part below, and how high a screen has to be for it.
const BELOW_LINES: u16 = 9;
const HEIGHT_WITH_BELOW: u16 = 20;

/// How high one has to be to spare a line for the keys.
const HEIGHT_WITH_KEYS: u16 = 6;

/// How wide one has to be for attachments beside the device.
const WIDTH_WITH_ATTACHMENTS: u16 = 70;

const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);
const GOOD: Style = Style::new().fg(Color::Green);
const BAD: Style = Style::new().fg(Color::Red);
const SOSO: Style = Style::new().fg(Color::Yellow);

/// Columns of the peers, and their width; those that find no room are left out from the right.
const COLUMNS: [(&str, u16); 9] = [
    ("PEER", 12),
    ("IN", 10),
    ("OUT", 10),
    ("HANDSHAKE", 12),
    ("HEALTH", 7),
    ("ENDPOINT", 22),
    ("RECEIVED", 10),
    ("SENT", 10),
    ("ALLOWED IPS", 24),
];

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let area = frame.area();
    let keys = u16::from(area.height >= HEIGHT_WITH_KEYS);
    let below = if area.height >= HEIGHT_WITH_BELOW && model.latest().is_some() { BELOW_LINES } else { 0 };
    let rows = [Constraint::Max(3), Constraint::Fill(1), Constraint::Length(below), Constraint::Length(keys)];
    let [head, peers, low, foot] = area.layout(&Layout::vertical(rows));
    frame.render_widget(Paragraph::new(header(model)), head);
    draw_peers(frame, peers, model);
    if let Some(sample) = model.latest().filter(|_| below > 0) {
        let attachments = if low.width >= WIDTH_WITH_ATTACHMENTS { Constraint::Fill(1) } else { Constraint::Length(0) };
        let [left, right] = low.layout(&Layout::horizontal([Constraint::Fill(1), attachments]));
        draw_list(frame, left, "device", device(model, sample));
        draw_list(frame, right, "attachments", workloads(sample));
    }
    let order = model.order().name();
    let paused = if model.is_paused() { "  PAUSED" } else { "" };
    let text = format!("q quit  s sort ({order})  r reverse  p pause  ↑↓ scroll{paused}");
    frame.render_widget(Line::styled(text, Style::new().add_modifier(Modifier::DIM)), foot);
}

fn header(model: &Model) -> Vec<Line<'static>> {
    let Some(sample) = model.latest() else {
        let waiting = Line::styled("ginnel top", HEAD);
        let what = model.failure().map(|failure| Line::styled(failure.to_owned(), BAD));
        return std::iter::once(waiting).chain(what).collect();
    };
    let status = &sample.status;
    let interface = status.interface.as_deref().unwrap_or("no overlay");
    let address = status.node_ip.map(|ip| format!("  {ip}")).unwrap_or_default();
    let version = status.version.as_deref().unwrap_or_default();
    let attached = status.attachment_count.unwrap_or(0);
    let leases = status.lease_count.unwrap_or(0);
    let first = format!(
        "ginnel {version}  {interface}{address}  peers {}  services {}  attached {attached}  leases {leases}",
        status.peer_count, status.service_count
    );
    let (received, sent) = model.traffic();
    let drops = model.rate(|status| Some(status.drops.values().sum()));
    let workers = status.workers.map(|workers| format!("  workers {workers}")).unwrap_or_default();
    let second = format!("in {}  out {}  drops {}{workers}", bits(received), bits(sent), per_second(drops));
    vec![Line::styled(first, HEAD), Line::raw(second), health(model, sample)]
}

/// The worst that is wrong.
fn health(model: &Model, sample: &Sample) -> Line<'static> {
    if let Some(failure) = model.failure() {
        return Line::styled(failure.to_owned(), BAD);
    }
    let conditions = &sample.status.health;
    match conditions.iter().max_by_key(|condition| condition.severity) {
        None => Line::styled("nothing is wrong", GOOD),
        Some(worst) => {
            let more = if conditions.len() > 1 { format!(" (+{})", conditions.len() - 1) } else { String::new() };
            let style = if worst.severity == Severity::Error { BAD } else { SOSO };
            Line::styled(format!("{} {}: {}{more}", worst.severity.name(), worst.code, worst.text), style)
        }
    }
}

fn draw_peers(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let Some(sample) = model.latest() else { return };
    let mut room = area.width;
    let fits = |(_, width): &&(&str, u16)| {
        let taken = room.checked_sub(*width);
        room = taken.map_or(0, |left| left.saturating_sub(1));
        taken.is_some()
    };
    // The first is there however narrow it gets.
    let columns = COLUMNS.iter().take_while(fits).count().max(1);
    let last = columns == COLUMNS.len();
    let width =
        |at: usize| if last && at == columns - 1 { Constraint::Fill(1) } else { Constraint::Length(COLUMNS[at].1) };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let head = Row::new(COLUMNS[..columns].iter().map(|column| column.0)).style(HEAD);
    let rows = model.peers();
    let rows = rows.iter().skip(model.skipped()).take(area.height.into());
    let rows = rows.map(|row| Row::new(cells(row, sample.now).into_iter().take(columns)).style(style_of(row)));
    frame.render_widget(Table::new(rows, widths).header(head), area);
}

fn cells(row: &PeerRow<'_>, now: i64) -> [String; 9] {
    let peer = row.peer;
    let total = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), size);
    let health = match peer.healthy {
        Some(true) => "ok",
        Some(false) => "silent",
        None => "-",
    };
    [
        key(&peer.public_key).chars().take(11).collect(),
        bits(row.received),
        bits(row.sent),
        age(peer.last_handshake_unix_secs, now),
        health.to_owned(),
        if peer.endpoint.is_empty() { "-".to_owned() } else { peer.endpoint.clone() },
        total(peer.rx_bytes),
        total(peer.tx_bytes),
        peer.allowed_ips.clone(),
    ]
}

fn style_of(row: &PeerRow<'_>) -> Style {
    match row.peer.healthy {
        Some(false) => BAD,
        Some(true) => Style::new(),
        None => SOSO,
    }
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, title: &'static str, lines: Vec<Line<'static>>) {
    let block = Block::new().borders(Borders::TOP).title(title);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// What drops most, and the offloads.
fn device(model: &Model, sample: &Sample) -> Vec<Line<'static>> {
    let offloads = sample.status.offloads.iter().map(|offload| {
        let style = match offload.state.as_str() {
            "on" => GOOD,
            "untested" => Style::new(),
            _ => SOSO,
        };
        Line::styled(format!("{:<19}{}", offload.name, offload.state), style)
    });
    let mut drops: Vec<_> = sample.status.drops.iter().collect();
    drops.sort_by_key(|drop| std::cmp::Reverse(drop.1));
    let drops = drops.into_iter().map(|(reason, packets)| {
        let rate = model.rate(|status| Some(status.drops.get(reason).copied().unwrap_or(0)));
        Line::raw(format!("{reason:<27}{packets:>9}  {}", per_second(rate)))
    });
    // Of so few lines, half are for what changes.
    drops.take(4).chain(offloads).collect()
}

fn workloads(sample: &Sample) -> Vec<Line<'static>> {
    let line = |item: &crate::ipc::wire::AttachmentItem| {
        let addresses: Vec<_> = item.addresses.iter().map(IpAddr::to_string).collect();
        let style = if item.state == AttachmentState::Attached { Style::new() } else { SOSO };
        Line::styled(format!("{:<18} {:<12} {}", item.attachment, item.service, addresses.join(",")), style)
    };
    sample.attachments.iter().map(line).collect()
}

/// Bytes per second as people count them on a network.
fn bits(bytes_per_second: Option<f64>) -> String {
    let Some(bytes) = bytes_per_second else { return "-".to_owned() };
    let mut value = bytes * 8.0;
    for unit in ["b/s", "kb/s", "Mb/s"] {
        // What would be rounded up to four digits belongs to the next unit.
        if value < 999.5 {
            return if unit == "b/s" { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.2} Gb/s")
}

fn per_second(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}/s"))
}

#[cfg(test)]
mod tests;
