//! From the bytes of a question to the bytes of an answer.
//!
//! 1. What is no DNS, or an answer, is dropped: an error sent to an answer could go round for ever.
//! 2. What is not one question of class IN is refused with the code that RFC 1035 has for it.
//! 3. Names of ours are answered at once; others are for the [`super::forward::Forwarder`].
//! 4. The answer is cut to what fits, with TC set, so that the client asks again over TCP.
//!
//! The question goes back byte for byte as it came, so that clients that mix upper and lower case against forgers find it.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Record, RecordType},
};
use rand::Rng;

use super::{
    answer::{Answer, Verdict, answer},
    zone::Zone,
};
use crate::{
    limits::{MAX_QUERY_BYTES, MAX_UDP_ANSWER_BYTES, PLAIN_UDP_ANSWER_BYTES},
    stats::Counters,
};

/// Length of the fixed header (RFC 1035 §4.1.1).
const HEADER_LEN: usize = 12;

/// How a question came; what fits an answer depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// Whether names that are not ours are looked up for whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recursion {
    Offered,
    Refused,
}

/// What is done about some bytes.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing.
    Drop,
    /// Send this.
    Reply(Vec<u8>),
    /// Ask another resolver, then [`Request::finish`].
    Forward(Request),
}

/// A question that is worth an answer.
#[derive(Debug)]
pub(crate) struct Request {
    message: Message,
    transport: Transport,
    recursion: Recursion,
}

/// Decides about a message. `zone` is None while control has told no names.
pub(crate) fn respond(
    bytes: &[u8],
    transport: Transport,
    recursion: Recursion,
    zone: Option<&Zone>,
    counters: &Counters,
    random: &mut impl Rng,
) -> Step {
    if bytes.len() < HEADER_LEN || bytes.len() > MAX_QUERY_BYTES {
        counters.malformed.add();
        return Step::Drop;
    }
    let id = u16::from_be_bytes([bytes[0], bytes[1]]);
    let question_count = u16::from_be_bytes([bytes[4], bytes[5]]);
    if bytes[2] & 0x80 != 0 {
        counters.unasked.add();
        return Step::Drop;
    }
    let op_code = OpCode::from_u8((bytes[2] >> 3) & 0x0f);
    if op_code != OpCode::Query {
        counters.not_implemented.add();
        return Step::Reply(bare(id, op_code, ResponseCode::NotImp));
    }
    // RFC 9619: a query has one question. Looked at before the decoder makes room for as many as are announced.
    let message = if question_count == 1 { Message::from_vec(bytes).ok() } else { None };
    let Some(message) = message else {
        counters.malformed.add();
        return Step::Reply(bare(id, op_code, ResponseCode::FormErr));
    };
    Request { message, transport, recursion }.decide(zone, counters, random)
}

impl Request {
    /// The question.
    pub(crate) fn query(&self) -> &Query {
        &self.message.queries[0]
    }

    /// Whether the client wants signatures passed on.
    pub(crate) fn wants_dnssec(&self) -> bool {
        self.message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
    }

    /// The answer of another resolver, or none, as an answer to this question.
    pub(crate) fn finish(&self, found: Option<&Message>, counters: &Counters) -> Vec<u8> {
        let mut reply = self.reply(ResponseCode::ServFail);
        if let Some(found) = found {
            reply.metadata.response_code = found.metadata.response_code;
            reply.metadata.authentic_data = found.metadata.authentic_data;
            reply.answers.clone_from(&found.answers);
            reply.authorities.clone_from(&found.authorities);
            reply.additionals.clone_from(&found.additionals);
            // As the client wrote it, so that its own name is found again in the answer.
            let asked = self.query().name();
            for record in reply.answers.iter_mut().filter(|record| record.name == *asked) {
                record.name = asked.clone();
            }
        }
        self.encode(reply, counters)
    }

    fn decide(self, zone: Option<&Zone>, counters: &Counters, random: &mut impl Rng) -> Step {
        let refusal = match (self.query().query_class(), self.query().query_type()) {
            _ if self.message.edns.as_ref().is_some_and(|edns| edns.version() != 0) => Some(ResponseCode::BADVERS),
            (_, RecordType::AXFR | RecordType::IXFR) => Some(ResponseCode::Refused),
            (DNSClass::IN, _) => None,
            _ => Some(ResponseCode::Refused),
        };
        if let Some(code) = refusal {
            counters.refused.add();
            return Step::Reply(self.encode(self.reply(code), counters));
        }
        let Some(zone) = zone else {
            counters.no_state.add();
            return Step::Reply(self.encode(self.reply(ResponseCode::ServFail), counters));
        };
        match answer(zone, self.query(), random) {
            Verdict::Own(answer) => Step::Reply(self.own(answer, counters)),
            // RFC 8482: what could be used to amplify is not passed on either.
            Verdict::Foreign
                if self.recursion == Recursion::Refused || self.query().query_type() == RecordType::ANY =>
            {
                counters.refused.add();
                Step::Reply(self.encode(self.reply(ResponseCode::Refused), counters))
            }
            Verdict::Foreign => {
                counters.foreign.add();
                Step::Forward(self)
            }
        }
    }

    fn own(&self, answer: Answer, counters: &Counters) -> Vec<u8> {
        match (answer.code, answer.answers.is_empty()) {
            (ResponseCode::NoError, false) => counters.answered.add(),
            (ResponseCode::NoError, true) => counters.no_data.add(),
            _ => counters.no_name.add(),
        }
        let mut reply = self.reply(answer.code);
        reply.metadata.authoritative = true;
        (reply.answers, reply.authorities, reply.additionals) =
            (answer.answers, answer.authorities, answer.additionals);
        self.encode(reply, counters)
    }

    fn reply(&self, code: ResponseCode) -> Message {
        let asked = &self.message.metadata;
        let mut reply = Message::new(asked.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_desired = asked.recursion_desired;
        reply.metadata.recursion_available = self.recursion == Recursion::Offered;
        reply.metadata.checking_disabled = asked.checking_disabled;
        reply.metadata.response_code = code;
        reply.queries.push(self.query().clone());
        if self.message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP_ANSWER_BYTES as u16).set_dnssec_ok(self.wants_dnssec());
            reply.edns = Some(edns);
        }
        reply
    }

    /// Bytes that fit an answer.
    fn room(&self) -> usize {
        match self.transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => {
                let offered =
                    self.message.edns.as_ref().map_or(PLAIN_UDP_ANSWER_BYTES, |edns| edns.max_payload().into());
                offered.clamp(PLAIN_UDP_ANSWER_BYTES, MAX_UDP_ANSWER_BYTES)
            }
        }
    }

    /// Cuts until it fits. What only helps goes first, and without a word; records that were asked for set TC.
    fn encode(&self, mut reply: Message, counters: &Counters) -> Vec<u8> {
        let room = self.room();
        loop {
            let bytes =
                reply.to_vec().unwrap_or_else(|_| bare(reply.metadata.id, OpCode::Query, ResponseCode::ServFail));
            if bytes.len() <= room {
                return bytes;
            }
            if !reply.additionals.is_empty() {
                reply.additionals.clear();
                continue;
            }
            if !reply.metadata.truncation {
                reply.metadata.truncation = true;
                counters.truncated.add();
            }
            cut(&mut reply.authorities, bytes.len(), room);
            cut(&mut reply.answers, bytes.len(), room);
        }
    }
}

/// Leaves about as many records as fit, at least one less than before.
fn cut(records: &mut Vec<Record>, len: usize, room: usize) {
    let fitting = records.len() * room / len;
    records.truncate(fitting.min(records.len().saturating_sub(1)));
}

/// A header and nothing else.
fn bare(id: u16, op_code: OpCode, code: ResponseCode) -> Vec<u8> {
    let message = Message::error_msg(id, op_code, code);
    message.to_vec().unwrap_or_default()
}

#[cfg(test)]
mod tests;
