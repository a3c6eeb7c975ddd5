//! Screens of several sizes, from fixed data.

use super::*;
use crate::cli::top::model::Press;
use crate::cli::top::model::tests::sample;
use crate::ipc::wire::{AttachmentItem, Condition};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

/// Two looks at a node, two seconds apart.
fn model() -> Model {
    let mut model = Model::default();
    for mut sample in [sample(1, 1_000), sample(3, 3_001_000)] {
        sample.status.peer_count = 2;
        sample.attachments = vec![AttachmentItem {
            attachment: "linux_pid:4711".into(),
            service: "web".into(),
            state: AttachmentState::Attached,
            addresses: vec!["10.200.5.3".parse().unwrap()],
            owner: None,
            isolation_network: None,
            since_unix_secs: 5,
        }];
        model.take(Ok(sample));
    }
    model
}

/// The lines of a screen, without what is empty at their ends.
fn screen(model: &Model, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

#[test]
fn a_large_screen() {
    assert_eq!(
        screen(&model(), 132, 20).join("\n"),
        "\
ginnel 0.1.0  zl-prod-0-g  10.200.5.1  peers 2  services 1  attached 0  leases 0
in 12.0 Mb/s  out 0 b/s  drops 10/s  workers 2
nothing is wrong
PEER         IN         OUT        HANDSHAKE    HEALTH  ENDPOINT               RECEIVED   SENT       ALLOWED IPS
CQkJCQkJCQk  12.0 Mb/s  0 b/s      1m 5s ago    ok      192.0.2.50:51420       2.8 MiB    5.0 GiB    10.200.9.0/28,fd00::/64
odd          -          -          never        -       -                      -          -




device────────────────────────────────────────────────────────────attachments───────────────────────────────────────────────────────
outbound_unrouted                 34  10/s                        linux_pid:4711     web          10.200.5.3
tun_udp            off






q quit  s sort (rate)  r reverse  p pause  ↑↓ scroll"
    );
}

#[test]
fn a_small_screen() {
    assert_eq!(
        screen(&model(), 40, 7).join("\n"),
        "\
ginnel 0.1.0  zl-prod-0-g  10.200.5.1  p
in 12.0 Mb/s  out 0 b/s  drops 10/s  wor
nothing is wrong
PEER         IN         OUT
CQkJCQkJCQk  12.0 Mb/s  0 b/s
odd          -          -
q quit  s sort (rate)  r reverse  p paus"
    );
}

#[test]
fn tiny_screens() {
    let small = ["ginnel 0.1.0", "in 12.0 Mb/s", "nothing is wro", "PEER", "CQkJCQkJCQk"];
    assert_eq!(screen(&model(), 14, 5), small);
    assert_eq!(screen(&model(), 6, 1), ["ginnel"]);
}

#[test]
fn no_size_is_too_small_or_odd() {
    let empty = Model::default();
    let full = model();
    for width in (1..=90).chain([300]) {
        for height in (1..=24).chain([100]) {
            screen(&empty, width, height);
            screen(&full, width, height);
        }
    }
}

#[test]
fn what_is_wrong_is_told() {
    let mut model = Model::default();
    model.take(Err("no daemon answers".into()));
    assert_eq!(screen(&model, 30, 3), ["ginnel top", "no daemon answers", ""]);
    let mut wrong = sample(1, 0);
    let condition = |severity, text: &str| Condition {
        code: "c".into(),
        subject: None,
        severity,
        text: text.into(),
        hint: None,
        since_unix_secs: 1,
    };
    wrong.status.health = vec![condition(Severity::Info, "i"), condition(Severity::Error, "e")];
    model.take(Ok(wrong));
    assert_eq!(screen(&model, 30, 3)[2], "error c: e (+1)");
    model.take(Err("the daemon went away".into()));
    assert_eq!(screen(&model, 30, 3)[2], "the daemon went away");
}

#[test]
fn keys_show_on_the_screen() {
    let mut model = model();
    let first = |model: &Model| screen(model, 40, 8)[4].clone();
    assert!(first(&model).starts_with("CQkJ"), "{}", first(&model));
    model.press(Press::Scroll(1));
    assert!(first(&model).starts_with("odd"), "{}", first(&model));
    model.press(Press::Pause);
    model.press(Press::Sort);
    let foot = screen(&model, 90, 8)[7].clone();
    assert!(foot.contains("sort (handshake)") && foot.ends_with("PAUSED"), "{foot}");
}

#[test]
fn rates_in_words() {
    for (bytes, words) in [
        (None, "-"),
        (Some(0.0), "0 b/s"),
        (Some(124.9), "999 b/s"),
        (Some(125.0), "1.0 kb/s"),
        (Some(124_950.0), "1.0 Mb/s"),
        (Some(125e6), "1.00 Gb/s"),
        (Some(12.5e9), "100.00 Gb/s"),
    ] {
        assert_eq!(bits(bytes), words);
    }
}
