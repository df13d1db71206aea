//! A service in a colour, and clients that notice everything that goes wrong while it is switched.
//!
//! Every answer names the colour that gave it and the checksum of the request's body, so that a client knows who has answered
//! and that nothing was cut. Upgraded connections echo bytes until their client ends.

mod client;
mod message;
mod server;

pub(crate) use self::{
    client::{Load, hold, load},
    server::serve,
};
