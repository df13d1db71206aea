//! Writes families of samples: one line for each set of labels.

use std::fmt;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};

/// Labels of a sample: names and values.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

/// The page that is being written.
#[derive(Debug)]
pub(super) struct Page<'a>(DescriptorEncoder<'a>);

impl<'a> Page<'a> {
    pub(super) fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// Counters of one name, without `_total` behind it. Nothing is written when there is no sample.
    pub(super) fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, sentence(help), None, MetricType::Counter)?;
        samples.try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter::<Labels<'l>, u64, u64>(&value, None)
        })
    }

    /// The same for counters of seconds.
    pub(super) fn seconds<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, sentence(help), None, MetricType::Counter)?;
        samples.into_iter().try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter::<Labels<'l>, f64, u64>(&value, None)
        })
    }

    /// Values that go up and down. Nothing is written when there is no sample.
    pub(super) fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, sentence(help), None, MetricType::Gauge)?;
        samples.try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    /// Histograms: how many there are up to each bound, in seconds, each by itself, the last one without a bound; and their sum.
    pub(super) fn histograms<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, Vec<(f64, u64)>, f64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, sentence(help), None, MetricType::Histogram)?;
        samples.try_for_each(|(labels, buckets, sum)| {
            let count = buckets.iter().map(|(_, count)| count).sum();
            family.encode_family(&labels)?.encode_histogram::<Labels<'l>>(sum, count, &buckets, None)
        })
    }

    /// One value without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauges(name, help, [(Labels::new(), value)])
    }
}

/// The encoder puts a full stop behind.
fn sentence(help: &str) -> &str {
    help.trim_end_matches('.')
}

/// 1 for true.
pub(super) fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// A count as a sample: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "every sample of the format is a double")]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}
