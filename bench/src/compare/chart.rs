//! The headline figures as a picture: a panel for each, a bar for each side, a thin line from the smallest to the
//! largest turn.
//!
//! SVG by hand, because a dozen rectangles are no reason for a library. Colours suit light and dark pages.

use std::fmt::Write as _;

use super::{
    record::{Better, Results},
    summary::{Line, Table, heading, readable, tables},
};

/// Figures that have a panel, if they were measured.
const HEADLINES: &[&str] = &[
    "TCP, 1 stream",
    "TCP, 8 streams",
    "UDP 64 B, less than 0.1 % lost",
    "HTTP, keep-alive",
    "ping, median",
    "CPU of the machine, TCP, 1 stream",
];

/// All in pixels.
const WIDTH: usize = 960;
const COLUMN_COUNT: usize = 2;
const MARGIN: usize = 16;
const COLUMN_WIDTH: usize = (WIDTH - MARGIN) / COLUMN_COUNT;
const LABEL_WIDTH: usize = 150;
/// Room for the value behind the longest bar.
const VALUE_WIDTH: usize = 60;
const BAR_HEIGHT: usize = 16;
const BAR_PITCH: usize = 20;
const TITLE_HEIGHT: usize = 34;
const HEADING_HEIGHT: usize = 34;
/// Longer names of sides are cut.
const MAX_LABEL_LEN: usize = 22;

const STYLE: &str = "<style>text{font:12px system-ui,sans-serif;fill:#57606a}.title{font-weight:600;fill:#1f2328}\
    .bar{fill:#8b949e}.ours{fill:#2f81f7}.spread{stroke:#57606a;stroke-width:1.5}\
    @media(prefers-color-scheme:dark){text{fill:#9198a1}.title{fill:#f0f6fc}.bar{fill:#656c76}.spread{stroke:#d1d7e0}}\
    </style>\n";

/// The picture, or nothing to show.
pub(super) fn svg(results: &Results, reference: &str) -> String {
    let tables = tables(results, reference);
    let (mut body, mut top) = (String::new(), HEADING_HEIGHT);
    for table in &tables {
        let lines: Vec<&Line> =
            HEADLINES.iter().filter_map(|headline| table.lines.iter().find(|line| line.figure == *headline)).collect();
        for row in lines.chunks(COLUMN_COUNT) {
            for (column, line) in row.iter().enumerate() {
                panel(&mut body, table, line, (MARGIN + column * COLUMN_WIDTH, top));
            }
            top += TITLE_HEIGHT + table.sides.len() * BAR_PITCH + MARGIN;
        }
    }
    let machine = heading(&results.machines);
    let machine = escaped(machine.lines().next().unwrap_or_default());
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top}\" width=\"{WIDTH}\" height=\"{top}\">\n\
         {STYLE}<text x=\"{MARGIN}\" y=\"20\">{machine}</text>\n{body}</svg>\n"
    )
}

fn panel(body: &mut String, table: &Table, line: &Line, (left, top): (usize, usize)) {
    let largest = line.cells.iter().filter_map(|cell| cell.value).map(|value| value.max).fold(0.0, f64::max);
    let (scale, decimals, unit) = readable(&line.unit, largest);
    let direction = if line.better == Better::Higher { "more is better" } else { "less is better" };
    let title = format!("{}, between {} — {unit}, {direction}", line.figure, table.between);
    let _ = writeln!(body, "<text class=\"title\" x=\"{left}\" y=\"{}\">{}</text>", top + 18, escaped(&title));
    let (start, room) = (left + LABEL_WIDTH, (COLUMN_WIDTH - LABEL_WIDTH - VALUE_WIDTH) as u32);
    let pixels = |value: f64| if largest > 0.0 { f64::from(room) * value / largest } else { 0.0 };
    for (number, (side, cell)) in table.sides.iter().zip(&line.cells).enumerate() {
        let y = top + TITLE_HEIGHT + number * BAR_PITCH;
        let label: String = side.chars().take(MAX_LABEL_LEN).collect();
        let (label_x, text_y, middle) = (start - 8, y + 12, y + BAR_HEIGHT / 2);
        let label = escaped(&label);
        let _ = writeln!(body, "<text x=\"{label_x}\" y=\"{text_y}\" text-anchor=\"end\">{label}</text>");
        let Some(value) = cell.value else {
            let _ = writeln!(body, "<text x=\"{start}\" y=\"{text_y}\">not measured</text>");
            continue;
        };
        let class = if side.starts_with("weaved") { "bar ours" } else { "bar" };
        let [width, from, to] = [value.median, value.min, value.max].map(pixels);
        let x = f64::from(start as u32);
        let _ = writeln!(
            body,
            "<rect class=\"{class}\" x=\"{start}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\"/>\
             <line class=\"spread\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
             <text x=\"{:.1}\" y=\"{text_y}\">{:.decimals$}</text>",
            x + from,
            x + to,
            x + to + 6.0,
            value.median * scale,
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{super::record::Measurement, *};

    #[test]
    fn each_side_has_a_bar_as_long_as_its_value() {
        let measured = |side: &str, value| Measurement {
            between: "guests".into(),
            row: "tcp1".into(),
            figure: "TCP, 1 stream".into(),
            side: side.into(),
            pair: 0,
            value,
            unit: "bit/s".into(),
            better: Better::Higher,
        };
        let measurements = vec![measured("a<b", 2e9), measured("weaved", 1e9)];
        let svg = svg(&Results { measurements, ..Results::default() }, "a<b");
        let room = COLUMN_WIDTH - LABEL_WIDTH - VALUE_WIDTH;
        assert!(svg.contains(&format!("width=\"{room}.0\"")) && svg.contains(&format!("width=\"{}.0\"", room / 2)));
        assert!(svg.contains("a&lt;b") && svg.contains("class=\"bar ours\"") && svg.ends_with("</svg>\n"), "{svg}");
    }
}
