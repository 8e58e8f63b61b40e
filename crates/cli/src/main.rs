//! firn: the client.

fn main() {}
