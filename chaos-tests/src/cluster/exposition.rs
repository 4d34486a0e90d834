//! Prometheus' text format, as far as it is read here.

/// The sum of a metric over all its labels; nothing where the text does not have it.
pub fn metric_sum(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        // Not a metric whose name only begins so.
        let is_it = rest.starts_with(' ') || rest.starts_with('{');
        is_it.then(|| rest.rsplit_once(' ')?.1.parse::<f64>().ok()).flatten()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_metric_are_added() {
        let text = "# TYPE a counter\na{x=\"1 2\"} 3\na{x=\"2\"} 4\na_total 9\nb 1.5\n";
        assert_eq!(metric_sum(text, "a"), Some(7.0));
        assert_eq!(metric_sum(text, "b"), Some(1.5));
        assert_eq!(metric_sum(text, "c"), None);
    }
}
