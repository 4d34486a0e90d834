//! What pictures of runs and of loads have in common. SVG, pure.

use std::fmt::Write as _;

/// Begins a picture of this size.
pub(crate) fn begin(width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    )
}

/// Ends it.
pub(crate) fn end(mut svg: String) -> String {
    svg.push_str("</svg>\n");
    svg
}

/// A line through points, each where `place` puts it.
pub(crate) fn curve(
    svg: &mut String,
    points: &[(f64, f64)],
    colour: &str,
    place: impl Fn((f64, f64)) -> (f64, f64),
) {
    let mut path = String::new();
    for point in points {
        let (x, y) = place(*point);
        // Writing to a string cannot fail.
        let _ = write!(path, "{x:.1},{y:.1} ");
    }
    let _ = writeln!(
        svg,
        "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.3\"/>"
    );
}

/// Where a text stands by its place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// A text.
pub(crate) fn text(svg: &mut String, (x, y): (f64, f64), anchor: Anchor, colour: &str, text: &str) {
    let anchor = match anchor {
        Anchor::Start => "start",
        Anchor::Middle => "middle",
        Anchor::End => "end",
    };
    let text = escape(text);
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>"
    );
}

/// A straight line.
pub(crate) fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
    );
}

/// A dot, with what is shown when the pointer is on it.
pub(crate) fn dot(svg: &mut String, (x, y): (f64, f64), colour: &str, title: &str) {
    let title = escape(title);
    let _ = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{title}</title></circle>"
    );
}

/// A text as it must be written in XML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_points_are_placed() {
        let mut svg = begin(10.0, 10.0);
        text(&mut svg, (1.0, 2.0), Anchor::End, "black", "a<b & \"c\"");
        curve(&mut svg, &[(1.0, 1.0), (2.0, 3.0)], "red", |(x, y)| (x * 10.0, y));
        let svg = end(svg);
        assert!(svg.contains("text-anchor=\"end\"") && svg.contains("a&lt;b &amp; &quot;c&quot;"));
        assert!(svg.contains("points=\"10.0,1.0 20.0,3.0 \"") && svg.ends_with("</svg>\n"));
    }
}
