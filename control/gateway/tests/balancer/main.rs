//! The balancer with real sockets on loopback.

#[cfg(test)]
mod abuse;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod gone;
#[cfg(test)]
mod handover;
#[cfg(test)]
mod http;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod protocols;
#[cfg(test)]
mod shared;
#[cfg(test)]
mod switch;
