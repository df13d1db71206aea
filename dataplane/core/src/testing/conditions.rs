//! What an underlay does to datagrams: loses, delays, reorders, duplicates, damages and refuses them.

use std::time::Duration;

/// Probabilities are between 0 and 1.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// Probability that a datagram is lost.
    pub loss: f64,
    /// Probability that one is lost besides that leaves in one send with others: a card that damages what it cuts.
    pub joined_loss: f64,
    /// Probability that it arrives twice.
    pub duplicate: f64,
    /// Probability that one bit of it arrives flipped.
    pub damage: f64,
    /// Time on the way.
    pub delay: Duration,
    /// Up to this much more, drawn for each datagram: reorders.
    pub jitter: Duration,
    /// Longest UDP payload that passes; longer ones vanish.
    pub max_datagram: usize,
    /// Longest that a host's own link takes; longer ones are refused when they are sent.
    pub max_sent: usize,
    /// Probability that a send finds the host's own socket full and is refused.
    pub full: f64,
}

impl Conditions {
    /// A quiet local network: 0.1 ms, nothing lost, Ethernet's MTU.
    pub fn lan() -> Self {
        Self {
            loss: 0.0,
            joined_loss: 0.0,
            duplicate: 0.0,
            damage: 0.0,
            delay: Duration::from_micros(100),
            jitter: Duration::ZERO,
            max_datagram: 1472,
            max_sent: usize::MAX,
            full: 0.0,
        }
    }

    /// A bad path: loss, duplicates, damage and jitter that reorders.
    pub fn rough() -> Self {
        Self {
            loss: 0.05,
            joined_loss: 0.0,
            duplicate: 0.02,
            damage: 0.01,
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(5),
            max_datagram: 1400,
            max_sent: usize::MAX,
            full: 0.0,
        }
    }
}
